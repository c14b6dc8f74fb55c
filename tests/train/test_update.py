"""``run.update``: what is kept, what is trained on, what is refused, and what the record says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from refusing import refused
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.models.base import ClosedFormModel
from recgraph.train import checkpoint as checkpoints
from recgraph.train.run import Run
from recgraph.train.update import Joined, UpdateRefused

SMALL: dict[str, Any] = {
    "hidden_dim": 8, "max_len": 8, "encoder.inner_dim": 8, "encoder.n_heads": 1, "encoder.n_layers": 1, "n_layers": 1,
    "loss.n_negatives": 4, "max_iter": 100,
}  # fmt: skip


UPDATABLE = [name for name in registry.names("model") if registry.load("model", name).updated_by]


def frame(users: range, steps: range, shift: int = 0, n_items: int = 12) -> pl.DataFrame:
    """Users who go through the items in circles, one each time."""
    rows = [
        (f"u{user}", 100 + (user + step + shift) % n_items, step)
        for user in users
        for step in steps
    ]
    return pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")


def log_of(rows: pl.DataFrame) -> Interactions:
    return Interactions.from_frame(rows, user="who", item="what", timestamp="when")


OLD = frame(range(10), range(7))


# two new users, two new items; times go on
NEW = pl.concat(
    [frame(range(8, 12), range(7, 12), shift=-3, n_items=14), frame(range(3), range(7, 10))]
)


def fitted(name: str, out: Path | None = None, **more: Any) -> Run:
    cls = registry.load("model", name)
    small = SMALL | ({"n_layers": 2} if name == "xsimgcl" else {})  # it contrasts two layers
    model = cls(**with_small(cls, small, {}))
    training: dict[str, Any] = (
        {} if issubclass(cls, ClosedFormModel) else {"max_epochs": 2, "batch_size": 16}
    )
    return rg.fit(model, log_of(OLD).split(), seed=0, out=out, device="cpu", **training, **more)


#: one of each way to be updated, and of each kind of table
SOME = ("sasrec", "mclrec", "bprmf", "lightgcn", "ease")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in UPDATABLE],
)
def test_every_model_takes_in_new_interactions_users_and_items(name: str, tmp_path: Path) -> None:
    run = fitted(name, tmp_path / "old")
    before = run.recommender
    new = run.update(log_of(NEW), out=tmp_path / "new", force=True, valid=0.3, device="cpu")
    for again in (new, Run.open(tmp_path / "new")):
        assert isinstance(again, Run)
        made = again.recommender
        assert (
            made.users.ids(range(len(before.users))).to_list()
            == before.users.ids(range(10)).to_list()
        )
        assert (
            made.items.ids(range(len(before.items))).to_list()
            == before.items.ids(range(12)).to_list()
        )
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
    assert (update["new_users"], update["new_items"], update["new_interactions"]) == (
        2,
        2,
        len(NEW),
    )
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
    assert new.record.update["optimiser"] == (
        None if name == "ease" else "fresh: the run has no checkpoint"
    )


@pytest.mark.parametrize("name", ["ease", "itemknn", "popularity", "ials", "slim"])
def test_closed_form_models_are_fitted_to_everything_exactly(name: str) -> None:
    run = fitted(name)
    new = run.update(NEW, valid=0.3, force=True)
    known = new.recommender
    whole = type(run.model)(run.model.config).build(new.model.space, run.model.seed)
    whole.fit(Part(known.seen, len(known.items)))
    assert all(
        torch.equal(value, new.model.state_dict()[key]) for key, value in whole.state_dict().items()
    )


def test_the_run_that_is_updated_stays_as_it_is(tmp_path: Path) -> None:
    run = fitted("sasrec", tmp_path / "old")
    weights = {name: value.clone() for name, value in run.model.state_dict().items()}
    files = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    run.update(NEW, out=tmp_path / "new", valid=0.3, force=True, epochs=2, device="cpu")
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in weights.items())
    assert {
        path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()
    } == files


def test_a_worse_result_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    # users go on in circles, which the run has learned, and the update is at a rate that breaks it
    run = rg.fit(
        registry.load("model", "sasrec")(hidden_dim=16, encoder={"n_heads": 1, "n_layers": 1}, max_len=8, dropout=0.0),
        log_of(OLD).split(), seed=0, device="cpu", max_epochs=60, batch_size=4, learning_rate=0.01,
    )  # fmt: skip
    news = frame(range(10), range(7, 11))
    broken: dict[str, Any] = {"learning_rate": 5.0, "valid": 0.3, "device": "cpu"}
    out = tmp_path / "deep" / "new"
    with refused("ndcg@10", by=UpdateRefused):
        run.update(news, out=out, **broken)
    assert not out.exists()
    forced = run.update(news, out=out, force=True, **broken)
    assert forced.record.update is not None
    numbers = forced.record.update["valid"]
    assert numbers["after"] < numbers["before"]
    assert forced.record.update["forced"]
    good = run.update(news, learning_rate=1e-4, valid=0.3, device="cpu")
    assert good.record.update is not None
    assert (
        good.record.update["valid"]["after"]
        >= good.record.update["valid"]["before"]
        == numbers["before"]
    )


def test_the_numbers_before_and_after_are_those_of_the_slice() -> None:
    """Counted again by hand: the mean reciprocal of the ranks among items not seen, unknown items
    at the end.
    """
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
            answer = one.recommend(
                histories={"x": one.recommender.items.ids(known).to_list()}, k=14
            )
            order = one.recommender.items.index(answer["what"]).tolist()
            ranks = [rank for rank, item in enumerate(order, 1) if item in truth]
            found[side].append(1 / ranks[0] if ranks else 0.0)
    assert new.record.update is not None
    numbers = new.record.update["valid"]
    assert numbers["metric"] == "mrr@20"
    assert numbers["before"] == pytest.approx(np.mean(found["before"]), abs=0.02)
    assert numbers["after"] == pytest.approx(np.mean(found["after"]), abs=1e-5)
    assert new.recommender.seen.values.numel() == joined.trained.items.values.numel()


def test_the_optimiser_goes_on_where_its_state_is_there(tmp_path: Path) -> None:
    fitted("bprmf", tmp_path / "old")
    found = checkpoints.read_latest(tmp_path / "old" / "checkpoints")
    assert found is not None
    steps = float(found[1].optimisers["model/0/step"])
    Run.open(tmp_path / "old").update(
        NEW, out=tmp_path / "new", valid=0.3, force=True, device="cpu"
    )
    after = checkpoints.read_latest(tmp_path / "new" / "checkpoints")
    assert after is not None
    assert float(after[1].optimisers["model/0/step"]) > steps
    assert after[1].optimisers["model/0/exp_avg"].shape == (12 + 14, 8)


@pytest.mark.parametrize("id_embedding", [True, False])
def test_new_items_are_encoded_by_the_features_that_the_run_has_learnt(
    id_embedding: bool, tmp_path: Path
) -> None:
    kinds = pl.DataFrame({"what": range(100, 112), "kind": ["even", "odd"] * 6})
    model = registry.load("model", "sasrec")(
        hidden_dim=8,
        encoder={"n_heads": 1, "n_layers": 1},
        items={"features": ["kind"], "id_embedding": id_embedding},
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


def test_what_does_not_fit_is_refused() -> None:
    run = fitted("popularity")
    for news, named in [
        (NEW.with_columns(pl.col("who").str.slice(1).cast(pl.Int64)), "ids"),
        (NEW.drop("what"), "item"),
        (NEW.filter(pl.col("who") == "u11").head(1), "valid"),
    ]:
        with refused(named):
            run.update(news)
    for setting in ({"epochs": 0}, {"replay": 1.5}, {"valid": 1.0}):
        (named,) = setting
        with refused(named):
            run.update(NEW, **setting)
    whole = rg.fit(rg.models.TwoStage(models=("popularity",)), log_of(OLD).split(), seed=0)
    with refused("TwoStage"):
        whole.update(NEW)


def test_an_update_that_was_killed_while_it_wrote_is_written_again(tmp_path: Path) -> None:
    run = fitted("sasrec", tmp_path / "old")
    options: dict[str, Any] = {"valid": 0.3, "force": True, "epochs": 1, "device": "cpu"}
    run.update(NEW, out=tmp_path / "new", **options)
    (tmp_path / "new" / "record.json").unlink()  # the last file that is written
    run.update(NEW, out=tmp_path / "new", **options)
    assert Run.open(tmp_path / "new").record.update is not None
    with refused("holds a run already"):
        run.update(NEW, out=tmp_path / "new", **options)


ITEMS = pl.DataFrame({"what": range(100, 114), "kind": [f"k{item % 3}" for item in range(14)]})


def timed_frame(users: range, steps: range, n_items: int = 12, shift: int = 0) -> pl.DataFrame:
    rows = [
        (f"u{user}", 100 + (user + step + shift) % n_items, 1000 * step + user)
        for user in users
        for step in steps
    ]
    return pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")


def side_log(rows: pl.DataFrame, items: pl.DataFrame = ITEMS) -> rg.Interactions:
    return rg.Interactions.from_frame(
        rows, user="who", item="what", timestamp="when", item_features=items
    )


TIMED_OLD, TIMED_NEW = (
    timed_frame(range(10), range(7)),
    timed_frame(range(8, 12), range(7, 12), n_items=14, shift=-4),
)


def test_times_and_features_go_on(tmp_path: Path) -> None:
    model = rg.models.SASRec(
        hidden_dim=8,
        encoder={"n_heads": 1, "n_layers": 1, "inner_dim": 8},
        max_len=8,
        items={"features": ["kind"]},
        time_gaps=True,
    )
    run = rg.fit(
        model,
        side_log(TIMED_OLD, ITEMS.head(12)),
        seed=0,
        max_epochs=2,
        batch_size=8,
        out=tmp_path / "a",
    )
    before = run.recommender
    assert before.items.index([112, 113]).max() < 0
    made = run.update(side_log(TIMED_NEW), out=tmp_path / "b", force=True, valid=0.3, epochs=2)
    after = rg.load(tmp_path / "b" / "bundle")
    times = dict(
        pl.concat([TIMED_OLD, TIMED_NEW]).sort("when").group_by("who").agg("when").iter_rows()
    )
    assert after.times is not None
    for name, when in zip(after.users.values, after.times.to_lists(), strict=True):
        assert when == times[name]
    tower = after.model.item_tower
    assert tower.known_items.shape == (14,)
    assert bool(tower.known_items[after.items.index([112, 113])].any())
    users = torch.arange(len(after.users))
    with torch.no_grad():
        timed = after.model.score(Query(users, after.seen, after.times))
        blind = after.model.score(Query(users, after.seen))
    assert not torch.allclose(timed, blind)
    answer = made.recommend(users=["u0", "u11"], k=3)
    assert answer.equals(after.recommend(users=["u0", "u11"], k=3))
