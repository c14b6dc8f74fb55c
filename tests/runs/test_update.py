"""``run.update``: what is kept, what is trained on, what is refused, and what the record says."""

from __future__ import annotations

import json
import logging
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import PairBatches, sequence_batches
from recgraph.data.interactions import Interactions
from recgraph.data.part import Part
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import ClosedFormModel, Space
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.heterogeneous.base import GraphModel, HoldsGraph
from recgraph.rng import Generators
from recgraph.runs.new_log import Joined, newest
from recgraph.runs.run import Run
from recgraph.runs.update import UpdateRefused, _training
from recgraph.runs.update_options import UpdateOptions
from recgraph.sparse.ragged import Ragged
from recgraph.train import checkpoint as checkpoints
from recgraph.train.trackers import MLflow, Tracker

SMALL: dict[str, Any] = {
    "hidden_dim": 8, "max_len": 8, "inner_dim": 8, "n_heads": 1, "n_layers": 1, "n_negatives": 4, "max_iter": 100,
}  # fmt: skip
UPDATABLE = [name for name in registry.names("model") if registry.load("model", name).updated_by]
FIXED = [
    name
    for name in registry.names("model")
    if not registry.load("model", name).updated_by and not issubclass(registry.load("model", name), GraphModel)
]


def frame(users: range, steps: range, shift: int = 0, n_items: int = 12) -> pl.DataFrame:
    """Users who go through the items in circles, one each time."""
    rows = [(f"u{user}", 100 + (user + step + shift) % n_items, step) for user in users for step in steps]
    return pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")


def log_of(rows: pl.DataFrame) -> Interactions:
    return Interactions.from_frame(rows, user="who", item="what", timestamp="when")


OLD = frame(range(10), range(7))
# two new users, two new items; times go on
NEW = pl.concat([frame(range(8, 12), range(7, 12), shift=-3, n_items=14), frame(range(3), range(7, 10))])


def fitted(name: str, out: Path | None = None, **more: Any) -> Run:
    cls = registry.load("model", name)
    small = SMALL | ({"n_layers": 2} if name == "xsimgcl" else {})  # it contrasts two layers
    model = cls(**with_small(cls, small, {}))
    training: dict[str, Any] = {} if issubclass(cls, ClosedFormModel) else {"max_epochs": 2, "batch_size": 16}
    return rg.fit(model, log_of(OLD).split(), seed=0, out=out, device="cpu", **training, **more)


@pytest.mark.parametrize("name", UPDATABLE)
def test_every_model_takes_in_new_interactions_users_and_items(name: str, tmp_path: Path) -> None:
    run = fitted(name, tmp_path / "old")
    before = run.recommender
    new = run.update(log_of(NEW), out=tmp_path / "new", force=True, valid=0.3, device="cpu")
    for again in (new, Run.open(tmp_path / "new")):
        assert isinstance(again, Run)
        made = again.recommender
        assert made.users.ids(range(len(before.users))).to_list() == before.users.ids(range(10)).to_list()
        assert made.items.ids(range(len(before.items))).to_list() == before.items.ids(range(12)).to_list()
        assert set(made.users.values) - set(before.users.values) == {"u10", "u11"}
        assert set(made.items.values) - set(before.items.values) == {112, 113}
        # what was known (without the sealed test part) and then all that is new, oldest first
        user = int(made.users.index(["u8"])[0])
        known = before.seen.row(int(before.users.index(["u8"])[0])).tolist()
        news = NEW.filter(pl.col("who") == "u8").sort("when")["what"]
        assert made.seen.row(user).tolist() == [*known, *made.items.index(news).tolist()]
        answer = again.recommend(users=["u0", "u11"], k=3)
        assert answer["who"].to_list() == ["u0"] * 3 + ["u11"] * 3
        assert answer["what"].is_in(made.items.values.to_list()).all()
        assert again.record.update == new.record.update
    update = new.record.update
    assert update is not None
    assert new.record.fitted_on == "update"
    assert update["by"] == registry.load("model", name).updated_by
    assert (update["new_users"], update["new_items"], update["new_interactions"]) == (2, 2, len(NEW))
    assert np.isfinite([update["valid"]["before"], update["valid"]["after"]]).all()
    assert update["parent"]["folder"] == str(tmp_path / "old")
    assert len(update["parent"]["digest"]) == 64
    if update["by"] == "training":
        assert update["optimiser"] == "kept"
        assert update["epochs"] == 2
    # the third day goes on from the second
    third = new.update(frame(range(3, 6), range(20, 25)), valid=0.3, force=True, device="cpu")
    assert len(third.recommender.users) == 12
    assert third.record.update is not None
    assert (update["parent"]["generation"], update["parent"]["parent"]) == (0, None)
    parent = third.record.update["parent"]
    assert (parent["generation"], parent["parent"]) == (1, update["parent"]["digest"])


@pytest.mark.parametrize("name", ["sasrec", "bprmf", "ease"])
def test_a_bundle_alone_is_enough(name: str, tmp_path: Path) -> None:
    fitted(name, tmp_path / "run")
    assert len(Run.of_bundle(tmp_path / "run").recommender.users) == 10, "its bundle is in it"
    assert len(rg.Recommender.load(tmp_path / "run").users) == 10
    (tmp_path / "run" / "bundle").rename(tmp_path / "bundle")
    run = Run.of_bundle(tmp_path / "bundle")
    new = run.update(NEW, valid=0.3, force=True, device="cpu")
    assert len(new.recommender.users) == 12
    assert new.record.update is not None
    assert new.record.update["parent"]["folder"] is None
    assert new.record.update["optimiser"] == (None if name == "ease" else "fresh: the run has no checkpoint")


@pytest.mark.parametrize("name", FIXED)
def test_a_model_that_cannot_says_so(name: str) -> None:
    run = fitted(name)
    message = (
        f"{type(run.model).__name__} cannot be updated; fit it again on everything. The models that can: bert4rec,"
    )
    with pytest.raises(ValueError, match=message):
        run.update(NEW)


class OfItemPaths(HoldsGraph, CollaborativeModel):
    """A model of a user's own that reads the graph, and says nothing of updates."""

    reads_graph = True

    def _build(self, space: Any) -> None:
        super()._build(space)
        self._adjacency = MetaPath("item-user-item")(space.graph)

    def nodes(self) -> torch.Tensor:
        return self.embedding.weight


@pytest.mark.parametrize(
    "model",
    [
        lambda: rg.models.SASRec(hidden_dim=8, n_heads=1, n_layers=1, max_len=6, item_graph="meta_paths"),
        lambda: OfItemPaths(hidden_dim=4),
    ],
)
def test_a_model_that_reads_a_graph_says_so_whatever_its_class_can(model: Any) -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "kind": [["x"], ["y"], ["x"]]})
    frame = pl.DataFrame({"user": [1, 1, 1, 2, 2], "item": list("abcab"), "time": range(5)})
    names = {"user": "user", "item": "item", "timestamp": "time"}
    log = rg.Interactions.from_frame(frame, **names, item_features=items)
    run = rg.fit(model(), log, seed=0, max_epochs=1, device="cpu")
    with pytest.raises(ValueError, match="cannot be updated: as it is set, it reads a typed graph"):
        run.update(pl.DataFrame({"user": [2], "item": ["c"], "time": [9]}))


@pytest.mark.parametrize("name", ["ease", "itemknn", "popularity", "ials", "slim"])
def test_closed_form_models_are_fitted_to_everything_exactly(name: str) -> None:
    run = fitted(name)
    new = run.update(NEW, valid=0.3, force=True)
    known = new.recommender
    whole = type(run.model)(run.model.config).build(new.model.space, run.model.seed)
    whole.fit(Part(known.seen, len(known.items)))
    assert all(torch.equal(value, new.model.state_dict()[key]) for key, value in whole.state_dict().items())


def test_the_run_that_is_updated_stays_as_it_is(tmp_path: Path) -> None:
    run = fitted("sasrec", tmp_path / "old")
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    files = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    run.update(NEW, out=tmp_path / "new", valid=0.3, force=True, epochs=2, device="cpu")
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in weights.items())
    assert {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()} == files


def test_an_update_is_repeated_exactly_by_its_seed() -> None:
    run = fitted("sasrec")
    one, two, other = (
        run.update(NEW, valid=0.3, force=True, seed=seed, device="cpu").model.state_dict() for seed in (4, 4, 5)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_refused_model_in_closed_form_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = rg.fit("popularity", log_of(OLD).split(), seed=0, device="cpu")
    cls, fitted = type(run.model), []
    fit = cls.fit
    monkeypatch.setattr(cls, "fit", lambda model, part: (fitted.append(part), fit(model, part))[1])
    monkeypatch.setattr("recgraph.runs.update.validation", lambda *_, **__: {"ndcg@10": 1.0 - len(fitted)})
    with pytest.raises(UpdateRefused):
        run.update(NEW, valid=0.3, device="cpu")
    assert len(fitted) == 1
    run.update(NEW, valid=0.3, device="cpu", force=True)
    assert len(fitted) == 3, "forced: once without the newest slice and once with it"


def test_a_worse_result_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    # users go on in circles, which the run has learned, and the update is at a rate that breaks it
    run = rg.fit(
        registry.load("model", "sasrec")(hidden_dim=16, n_heads=1, n_layers=1, max_len=8, dropout=0.0),
        log_of(OLD).split(), seed=0, device="cpu", max_epochs=60, batch_size=4, learning_rate=0.01,
    )  # fmt: skip
    news = frame(range(10), range(7, 11))
    broken: dict[str, Any] = {"learning_rate": 5.0, "valid": 0.3, "device": "cpu"}
    out = tmp_path / "deep" / "new"
    message = r"ndcg@10 on the newest slice of the new log \(10 users\) is 0\.\d{4} after the update and \S+ before it"
    with pytest.raises(UpdateRefused, match=message):
        run.update(news, out=out, **broken)
    assert not list(tmp_path.iterdir())
    forced = run.update(news, out=out, force=True, **broken)
    assert forced.record.update is not None
    numbers = forced.record.update["valid"]
    assert numbers["after"] < numbers["before"]
    assert forced.record.update["forced"]
    good = run.update(news, learning_rate=1e-4, valid=0.3, device="cpu")
    assert good.record.update is not None
    assert good.record.update["valid"]["after"] >= good.record.update["valid"]["before"] == numbers["before"]


def test_the_numbers_before_and_after_are_those_of_the_slice() -> None:
    """Counted again by hand: the mean reciprocal of the ranks among items not seen, unknown items at the end."""
    run = fitted("sasrec", metric="mrr@20")
    new = run.update(NEW, valid=0.3, force=True, fold_in=False, device="cpu")
    joined = Joined.of(run.recommender, log_of(NEW), 0.3)
    cases = joined.cases()
    found: dict[str, list[float]] = {"before": [], "after": []}
    for place in range(len(cases)):
        history, truth = cases.history.row(place).tolist(), set(cases.truth.row(place).tolist())
        sides = {"before": (run, 12), "after": (new, 14)}
        for side, (one, n_items) in sides.items():
            known = [item for item in history if item < n_items]
            answer = one.recommend(histories={"x": one.recommender.items.ids(known).to_list()}, k=14)
            order = one.recommender.items.index(answer["what"]).tolist()
            ranks = [rank for rank, item in enumerate(order, 1) if item in truth]
            found[side].append(1 / ranks[0] if ranks else 0.0)
    assert new.record.update is not None
    numbers = new.record.update["valid"]
    assert numbers["metric"] == "mrr@20"
    assert numbers["before"] == pytest.approx(np.mean(found["before"]), abs=0.02)
    assert numbers["after"] == pytest.approx(np.mean(found["after"]), abs=1e-5)
    assert new.recommender.seen.values.numel() == joined.trained.values.numel()


@pytest.mark.parametrize("name", ["sasrec", "bprmf"])
def test_an_update_is_validated_by_the_metric_that_selected_the_run(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of a refit, which trains without a validation, from its bundle, and behind an update without one."""
    refit = fitted(name, tmp_path / "refit", metric="mrr@20", refit=True)
    unchecked = refit.update(NEW, valid=0, force=True, device="cpu", epochs=1)
    for run in (refit, Run.of_bundle(tmp_path / "refit"), unchecked, Run.of_bundle(_saved(unchecked, tmp_path))):
        new = run.update(NEW, valid=0.3, force=True, device="cpu", epochs=1)
        assert new.record.update is not None
        assert new.record.update["valid"]["metric"] == new.record.training["metric"] == "mrr@20"
        assert "mrr@20" in new.history[0]
    told = "names no metric that selected it: ndcg@10 validates the update"
    assert told not in caplog.text
    unselected = fitted(name, metric="last", patience=None).update(NEW, valid=0.3, force=True, device="cpu", epochs=1)
    assert unselected.record.training["metric"] == "ndcg@10"
    assert told in caplog.text
    # the next update has a metric to go on with; a refit of an earlier version has not
    caplog.clear()
    unselected.update(NEW, valid=0.3, force=True, device="cpu", epochs=1)
    assert told not in caplog.text
    earlier = Run.of_bundle(tmp_path / "refit")
    earlier.recommender.record.pop("selection")
    earlier.update(NEW, valid=0.3, force=True, device="cpu", epochs=1)
    assert told in caplog.text


def _saved(run: Run, folder: Path) -> Path:
    run.save(folder / "bundle")
    return folder / "bundle"


def test_the_slice_is_not_trained_on() -> None:
    """An item that only the slice has gets no gradient: but for weight decay of Adam (none) it stays as it grew."""
    news = pl.concat([NEW, pl.DataFrame({"who": ["u3"], "what": [777], "when": [99]})])
    run = fitted("bprmf")
    model = run.update(news, valid=0.05, force=True, device="cpu", replay=0.0)
    joined = Joined.of(run.recommender, log_of(news), 0.05)
    index = int(joined.items.index([777])[0])
    assert bool((joined.new.values[joined.in_slice] == index).any())
    assert not bool((joined.trained.values == index).any())
    assert bool((model.recommender.seen.values == index).any()), "but it is history once the update is accepted"


def test_the_newest_are_chosen_by_time_or_in_each_row() -> None:
    log = log_of(pl.DataFrame({"who": ["a", "b", "a", "b"], "what": [1, 2, 3, 4], "when": [5, 9, 7, 7]}))
    # ordered: a's 5 and 7, b's 7 and 9
    assert newest(log.ordered, 0.25).tolist() == [False, False, False, True]
    assert newest(log.ordered, 0.5).tolist() == [False, False, True, True], "of equal times the later row"
    plain = Interactions.from_frame(log.to_frame().drop("when"), user="who", item="what")
    assert newest(plain.ordered, 0.1).tolist() == [False, True, False, True]
    with pytest.raises(ValueError, match=r"share = 1 must lie in"):
        newest(log.ordered, 1)


def test_samples_have_new_targets_or_are_replayed() -> None:
    part = Part(Ragged.from_lists([[0, 1, 2, 3], [2, 3], [1, 2, 3]]), 5)
    old = torch.tensor([2, 2, 0])
    generators = Generators(0)
    pairs = PairBatches(part, 8, generators)
    users, places = pairs.places()
    pairs.keep(places >= old[users])
    (batch,) = pairs.epoch(0)
    assert sorted(zip(batch.users.tolist(), batch.items.tolist(), strict=True)) == [
        (0, 2), (0, 3), (2, 1), (2, 2), (2, 3),
    ]  # fmt: skip
    for regime, expected in (("prefix", [[1, 2], [1, 2, 3], [2], [2, 3]]), ("causal", [[1, 2, 3], [2, 3]])):
        batches = sequence_batches(part, regime, batch_size=8, max_len=9, generators=generators)  # type: ignore[arg-type]
        users, places = batches.places()
        batches.keep(places >= old[users])
        (made,) = batches.epoch(0)
        assert sorted(made.sequences.to_lists()) == expected


@pytest.mark.parametrize(("replay", "n_samples"), [(0.0, 5), (1.0, 12)])
def test_replay_adds_old_sequences(replay: float, n_samples: int) -> None:
    news = frame(range(8, 13), range(7, 12))
    run = fitted("sasrec")
    new = run.update(news, replay=replay, valid=0.1, force=True, device="cpu")
    assert new.record.update is not None
    # u8, u9 and three new users have new items; of the ten old users the other eight are replayed, or none
    assert new.record.update["samples"] == n_samples + (1 if replay else 0)


def test_the_optimiser_goes_on_where_its_state_is_there(tmp_path: Path) -> None:
    fitted("bprmf", tmp_path / "old")
    found = checkpoints.read_latest(tmp_path / "old" / "checkpoints")
    assert found is not None
    steps = float(found[1].optimisers["model/0/step"])
    Run.open(tmp_path / "old").update(NEW, out=tmp_path / "new", valid=0.3, force=True, device="cpu")
    after = checkpoints.read_latest(tmp_path / "new" / "checkpoints")
    assert after is not None
    assert float(after[1].optimisers["model/0/step"]) > steps
    assert after[1].optimisers["model/0/exp_avg"].shape == (12 + 14, 8)


@pytest.mark.parametrize(
    ("news", "message"),
    [
        (
            NEW.with_columns(pl.col("who").str.slice(1).cast(pl.Int64)),
            "column 'who' of the new log .* are integers, but",
        ),
        (
            NEW.with_columns(pl.col("what").cast(pl.String)),
            "column 'what' of the new log .* are texts, but .* integers",
        ),
        (NEW.drop("what"), "no column 'item'"),
        (12, "new_log is a int; give a log, a frame or a file"),
        (NEW.filter(pl.col("who") == "u11").head(1), "newest interactions are of users of whom nothing else is known"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(news: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("popularity").update(news)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"replay": 1.5}, "replay = 1.5 must be a share from 0 to 1"),
        ({"valid": 1.0}, "valid = 1.0 must be a share from 0 to 0.9"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0 must be above 0"),
        ({"valid": 0.0}, "valid = 0 leaves nothing to compare with what there was; give a share, or force=True"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted("popularity").update(NEW, **setting)


def test_without_a_slice_it_is_kept_unvalidated() -> None:
    new = fitted("sasrec").update(NEW, valid=0.0, force=True, device="cpu")
    assert new.record.update is not None
    assert new.record.update["valid"]["after"] is None


def test_a_log_that_is_known_already_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        fitted("popularity").update(OLD, force=True)
    assert "interactions of new_log are in the run's histories already" in caplog.text


def test_features_of_items_are_merged() -> None:
    titles = pl.DataFrame({"what": [100, 101], "title": ["old", "kept"]})
    log = log_of(OLD).with_features(item_features=titles)
    run = rg.fit("popularity", log.split(), seed=0)
    later = pl.DataFrame({"what": [100, 113], "title": ["renewed", "new"], "year": [1, 2]})
    new = run.update(log_of(NEW).with_features(item_features=later), valid=0.3, force=True)
    features = new.recommender.item_features
    assert features is not None
    assert dict(features.select("what", "title").iter_rows()) == {100: "renewed", 101: "kept", 113: "new"}
    assert "title" in new.recommend(users=["u11"], k=14, item_columns=["title"]).columns


@pytest.mark.parametrize("item_id_embedding", [True, False])
def test_new_items_are_encoded_by_the_features_that_the_run_has_learnt(item_id_embedding: bool, tmp_path: Path) -> None:
    kinds = pl.DataFrame({"what": range(100, 112), "kind": ["even", "odd"] * 6})
    model = registry.load("model", "sasrec")(
        hidden_dim=8, n_heads=1, n_layers=1, item_features=["kind"], item_id_embedding=item_id_embedding
    )
    log = log_of(OLD).with_features(item_features=kinds)
    run = rg.fit(model, log.split(), seed=0, device="cpu", max_epochs=1)
    later = pl.DataFrame({"what": [112, 113], "kind": ["even", "new"]})
    news = log_of(NEW).with_features(item_features=later)
    run.update(news, out=tmp_path / "new", valid=0.3, force=True, device="cpu")
    made = Run.open(tmp_path / "new")
    assert isinstance(made, Run)
    known, space = made.recommender, made.model.space
    assert space is not None
    rows = space.features.entries.to_dense()[known.items.index([100, 112, 113])]
    assert torch.equal(rows[0], rows[1])
    assert rows[2].tolist() == [1, 0, 0], "a kind that the run has not learnt is no kind"


def test_files_are_read(tmp_path: Path) -> None:
    run = fitted("popularity")
    plain = NEW.rename({"who": "user_id", "what": "item_id", "when": "timestamp"})  # names that are guessed
    known = run.update(NEW, valid=0.3, force=True).recommender.seen.values
    for name, frame in (("new.parquet", NEW), ("new.csv", NEW), ("guessed.csv", plain)):
        frame.write_parquet(tmp_path / name) if name.endswith("parquet") else frame.write_csv(tmp_path / name)
        assert torch.equal(run.update(tmp_path / name, valid=0.3, force=True).recommender.seen.values, known)
    (tmp_path / "new.txt").write_text("u0 107 108\n")  # without the times that the run has; it has seen 60
    assert len(run.update(tmp_path / "new.txt", valid=0, force=True).recommender.seen.values) == 62
    texts = log_of(OLD.with_columns(pl.col("what").cast(pl.String)))  # ids that a reader of CSV takes for integers
    run = rg.fit("popularity", texts.split(), seed=0)
    assert len(run.update(tmp_path / "new.csv", valid=0.3, force=True).recommender.items) == 14


@pytest.mark.parametrize("kind", ["frame", "csv"])
def test_times_of_a_new_log_are_read_as_those_of_the_run(kind: str, tmp_path: Path) -> None:
    def rows(user: str) -> pl.DataFrame:  # the order of the texts is another one than that of the days
        return pl.DataFrame({"who": [user] * 3, "what": [7, 8, 9], "when": ["28012024", "03022024", "01032024"]})

    old = Interactions.from_frame(rows("a"), user="who", item="what", timestamp="when", time_format="%d%m%Y")
    run = rg.fit("popularity", old, seed=0)
    news: Any = rows("b")
    if kind == "csv":
        news = tmp_path / "new.csv"
        rows("b").write_csv(news)
    updated = run.update(news, valid=0, force=True).recommender
    assert updated.time_format == "%d%m%Y"
    for user in ("a", "b"):
        assert updated.items.ids(updated.seen.row(int(updated.users.index([user])[0]))).to_list() == [7, 8, 9]


@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl", "frame"])
def test_ids_of_a_new_log_stay_texts_as_those_of_the_run(kind: str, tmp_path: Path) -> None:
    old = pl.DataFrame({"who": ["1000.0"] * 3 + ["x"] * 3, "what": ["a", "7", "7.0"] * 2, "when": [1, 2, 3] * 2})
    run = rg.fit("popularity", log_of(old).split(), seed=0)
    news: Any = pl.DataFrame({"who": ["1000.0", "2000.0"], "what": ["7.0", "7"], "when": [4, 5]})
    if kind != "frame":
        frame, news = news, tmp_path / f"new.{kind}"
        if kind == "txt":
            news.write_text("1000.0 7.0\n2000.0 7\n")
        else:
            (frame.write_csv if kind == "csv" else frame.write_ndjson)(news)
    updated = run.update(news, valid=0, force=True).recommender
    assert updated.users.values.to_list() == ["1000.0", "x", "2000.0"]
    assert updated.items.values.to_list() == ["a", "7", "7.0"]
    # also where all are of whole floats
    run = rg.fit("popularity", log_of(old.with_columns(pl.lit("1000.0").alias("who"))).split(), seed=0)
    assert run.update(news, valid=0, force=True).recommender.users.values.to_list() == ["1000.0", "2000.0"]


def test_files_hold_ids_of_dates_as_texts(tmp_path: Path) -> None:
    days = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 1, 9), eager=True)
    old = pl.DataFrame({"who": ["a"] * 5 + ["b"] * 4, "what": days, "when": range(9)})
    run = rg.fit("popularity", log_of(old).split(), seed=0)
    news = tmp_path / "new.csv"
    news.write_text("who,what,when\na,2026-01-09,20\nc,2026-02-01,21\n")
    items = run.update(news, valid=0, force=True).recommender.items.values
    assert items.dtype == pl.Date
    assert f"{items[-1]}" == "2026-02-01"
    news.write_text("who,what,when\na,soon,20\n")
    with pytest.raises(
        ValueError, match="column 'what' of the new log: 'soon' is none of the run's ids, which are Date"
    ):
        run.update(news, valid=0, force=True)
    news.write_text("someone,what\na,2026-01-09\n")
    with pytest.raises(ValueError, match=r"new.csv: its columns .* are not known; call them 'who' and 'what'"):
        run.update(news, valid=0, force=True)


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    run = fitted("popularity", tmp_path / "old")
    record = json.loads((tmp_path / "old" / "record.json").read_text())
    with pytest.raises(ValueError, match="holds a run already"):
        run.update(NEW, out=tmp_path / "old", valid=0.3, force=True)
    assert json.loads((tmp_path / "old" / "record.json").read_text()) == record


def test_a_closed_form_begins_with_the_seed_that_is_given() -> None:
    run, log = fitted("ials"), log_of(NEW)
    updated = run.update(log, seed=5, force=True)
    assert (updated.model.seed, updated.record.seed) == (5, 5)
    assert run.update(log, force=True).model.seed == run.model.seed == 0


def test_an_update_says_that_it_has_no_split(tmp_path: Path) -> None:
    fitted("popularity").update(log_of(NEW), out=tmp_path / "b", force=True)
    made = Run.open(tmp_path / "b")
    assert isinstance(made, Run)
    with pytest.raises(ValueError, match=r"is an update of another and has no split .* record\.update\['valid'\]"):
        made.evaluate()
    with pytest.raises(ValueError, match="was not fitted to a split"):
        Run.open(tmp_path / "b", log_of(OLD).split())


def test_an_update_that_was_killed_while_it_wrote_is_written_again(tmp_path: Path) -> None:
    run = fitted("sasrec", tmp_path / "old")
    options: dict[str, Any] = {"valid": 0.3, "force": True, "epochs": 1, "device": "cpu"}
    run.update(NEW, out=tmp_path / "new", **options)
    (tmp_path / "new" / "record.json").unlink()  # the last file that is written
    run.update(NEW, out=tmp_path / "new", **options)
    assert Run.open(tmp_path / "new").record.update is not None
    left = tmp_path / "new" / ".record.json.0123456789ab.recgraph"
    left.mkdir()
    with pytest.raises(ValueError, match="holds a run already"):
        run.update(NEW, out=tmp_path / "new", **options)
    assert not left.exists()


def test_a_run_that_was_compiled_is_updated_without_an_accelerator() -> None:
    run = fitted("lightgcn")
    run.record.training["compile"] = True
    run.recommender.record["training"]["compile"] = True
    new = run.update(log_of(NEW), force=True, valid=0.3, device="cpu")
    assert new.record.training["compile"] is False


def test_the_rate_of_updates_stays_from_day_to_day() -> None:
    runs = [fitted("bpr-mf", learning_rate=0.01)]
    for day in range(3):
        news = frame(range(12), range(12 + day, 14 + day), shift=-3, n_items=14)
        runs.append(runs[-1].update(log_of(news), force=True, valid=0.3, device="cpu"))
    assert [run.record.training["learning_rate"] for run in runs] == [0.01, 0.0025, 0.0025, 0.0025]
    given = runs[-1].update(log_of(frame(range(12), range(20, 22))), force=True, valid=0.3, learning_rate=0.1)
    assert given.record.training["learning_rate"] == 0.1


def test_an_update_tells_no_tracker_that_the_training_told() -> None:
    """A service that updates a model has neither the tracker's package nor its account."""
    training = {"track": "mlflow", "track_folder": True, "tensorboard": True}
    parent = SimpleNamespace(record={"training": training}, model=None)
    settings = _training(parent, UpdateOptions())  # type: ignore[arg-type]
    assert (settings.track, settings.track_folder, settings.tensorboard) == (None, False, False)


def test_a_user_of_an_earlier_slice_alone_is_not_taken_for_trained() -> None:
    """Two groups of users with items of their own; some users begin in the slice of the second day and stay away."""
    drawn = np.random.default_rng(0)

    def rows(users: range, times: range, n: int = 1) -> list[tuple[int, int, int]]:
        return [(u, int(drawn.integers(20)) + 20 * (u % 2), time) for u in users for time in times for _ in range(n)]

    def log(found: list[tuple[int, int, int]]) -> Interactions:
        return log_of(pl.DataFrame(found, schema=["who", "what", "when"], orient="row"))

    run = rg.fit(
        registry.load("model", "bprmf")(hidden_dim=8), log(rows(range(60), range(8))),
        seed=0, device="cpu", max_epochs=40, batch_size=64, learning_rate=0.02,
    )  # fmt: skip
    late = range(60, 70)
    two = run.update(log(rows(range(30), range(10, 14)) + rows(late, range(13, 14), 4)), valid=0.4, force=True)
    returning = range(60, 61)
    news = rows(range(30, 60), range(20, 23)) + rows(returning, range(20, 21), 3)
    three = two.update(log(news), valid=0.1, force=True, replay=0.5)
    index = three.recommender.users.index(list(late))
    for one, n_trained in ((two, 0), (three, 1)):
        assert int(one.model.known_users[index].sum()) == n_trained
        lists = one.recommend(users=[user for user in late if user not in returning], k=5)
        assert all((item >= 20) == (user % 2 == 1) for user, item in lists.select("who", "what").iter_rows())
    four = two.update(log(rows(returning, range(20, 21), 4)), valid=0.2, force=True, replay=0.0)
    assert four.record.update is not None
    assert four.record.update["samples"] == 4 + 3, "what was known of the user, and what is new without the slice"


def test_a_bundle_that_no_fit_made_has_the_models_own_training() -> None:
    data = log_of(OLD)
    model = registry.load("model", "lightgcn")(hidden_dim=8)
    model.build(Space(n_users=data.n_users, n_items=data.n_items))
    training = _training(rg.Recommender.for_log(model, data), UpdateOptions())
    assert (training.batch_size, training.learning_rate) == (4096, 1e-2 / 4)


def test_observers_are_told_of_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in closed form is fitted twice, without the slice and with it; a tracker gets the folder at the end."""
    told, sent = [], []

    class Here(MLflow):
        def __init__(self) -> None:
            Tracker.__init__(self, "here", folder_too=True)

        def start(self, record: Any, reference: Any) -> dict[str, Any]:
            told.append("begin")
            return {"uri": "here", "run_id": "a"}

        def end_epoch(self, row: Any) -> None:
            pass

        def close(self) -> None:
            told.append("close")

    monkeypatch.setattr(MLflow, "keep", classmethod(lambda _, reference, folder: sent.append(sorted(folder.iterdir()))))
    for name in ("popularity", "bprmf"):
        told.clear(), sent.clear()
        fitted(name).update(NEW, out=tmp_path / name, valid=0.3, force=True, device="cpu", observers=(Here(),))
        assert told == ["begin", "close"]
        assert [path.name for path in sent[0]][-1] == "record.json"
        assert len(sent) == 1


def test_a_slice_that_is_most_of_the_log_is_named(caplog: pytest.LogCaptureFixture) -> None:
    bare = Interactions.from_frame(NEW.drop("when").unique("who", maintain_order=True), user="who", item="what")
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        fitted("popularity").update(NEW, force=True)
        assert "holds" not in caplog.text
        fitted("popularity").update(bare, force=True)
    assert "valid = 0.1 holds 7 of the 7 interactions of new_log back from the training: it has no times" in caplog.text


def test_an_id_that_is_no_uuid_is_refused_where_all_are(tmp_path: Path) -> None:
    users, items = ([uuid.UUID(int=base + place) for place in range(6)] for base in (1, 100))
    rows = [(user, items[(place + step) % 6], step) for place, user in enumerate(users) for step in range(4)]
    columns = [list(each) for each in zip(*rows, strict=True)]
    old = pl.DataFrame(
        [pl.Series(name, each, dtype=pl.Object) for name, each in zip(("who", "what"), columns, strict=False)]
    )
    run = rg.fit("popularity", log_of(old.with_columns(pl.Series("when", columns[2]))).split(), seed=0)
    news = tmp_path / "new.csv"
    other = uuid.UUID(int=7)
    for wrong in ("someone", other.hex):
        news.write_text(f"who,what,when\n{users[0]},{items[5]},20\n{wrong},{items[4]},21\n")
        with pytest.raises(
            ValueError, match=f"column 'who' of the new log does not fit the run: ids: '{wrong}' is no UUID"
        ):
            run.update(news, valid=0, force=True)
    news.write_text(f"who,what,when\n{users[0]},{items[5]},20\n{str(other).upper()},{items[4]},21\n")
    run.update(news, out=tmp_path / "new", valid=0, force=True)
    served = rg.load(tmp_path / "new")
    assert isinstance(served, rg.Recommender)
    assert served.users.ids([6]).to_list() == [other]


def test_a_run_whose_rate_fell_by_steps_is_updated() -> None:
    run = fitted("sasrec", schedule="step", drop_after=[1], drop_factor=0.5)
    made = run.update(log_of(NEW), epochs=1, force=True, valid=0.3, device="cpu")
    assert (made.record.training["schedule"], made.record.training["drop_factor"]) == ("constant", 0.1)
