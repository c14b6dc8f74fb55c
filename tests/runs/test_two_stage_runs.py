"""Runs of two stages: what they may see, members of all kinds, bundles, updates, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl
import pytest
import torch
from torch import Tensor, nn

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.errors import DataError
from recgraph.data.interactions import Interactions
from recgraph.data.item_features import FeatureWish
from recgraph.data.part import Part
from recgraph.data.samples import Query
from recgraph.data.split import Split
from recgraph.leaderboard.board import EntrySpec, SheetSpec
from recgraph.leaderboard.entry import entry_of
from recgraph.leaderboard.plan import jobs_of
from recgraph.models.base import ModelConfig, Space
from recgraph.models.members import Member, Plan, PlannedModel, models_in
from recgraph.models.two_stage.model import TwoStage
from recgraph.runs.inner_split import inner_split
from recgraph.runs.run import Run

N_USERS, N_ITEMS = 40, 30
SMALL: dict[str, Any] = {"hidden_dim": 8, "max_epochs": 2, "batch_size": 32}
SASREC = {"name": "sasrec", **SMALL, "max_len": 6, "n_layers": 1, "inner_dim": 16}
ALL_KINDS: tuple[Any, ...] = ("itemknn", SASREC, {"name": "bprmf", **SMALL}, {"name": "meowrec", **SMALL})


def rows(seed: int = 0) -> list[tuple[int, int, int]]:
    """(user, item, time); the first user has had all items, so that ids are numbered alike whatever the others do."""
    draw = torch.Generator().manual_seed(seed)
    made = [(0, item, item) for item in range(N_ITEMS)]
    for user in range(1, N_USERS):
        near = (torch.randperm(12, generator=draw) + 3 * (user % 6)) % N_ITEMS
        made += [(user, int(item), 100 + 10 * place + user % 7) for place, item in enumerate(near[: 8 + user % 4])]
    return made


def log_of(made: list[tuple[int, int, int]], **features: Any) -> Interactions:
    frame = pl.DataFrame(made, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time", **features)


def sides() -> dict[str, pl.DataFrame]:
    return {
        "item_features": pl.DataFrame({"item": range(N_ITEMS), "genre": [f"g{i % 3}" for i in range(N_ITEMS)]}),
        "user_features": pl.DataFrame({"user": range(N_USERS), "age": [20.0 + u % 5 for u in range(N_USERS)]}),
    }


def state(run: Run) -> dict[str, Tensor]:
    return run.model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- what it may see --------------------------------------------------------------------------------


def with_other_ends(made: list[tuple[int, int, int]], n_kept: dict[int, int]) -> list[tuple[int, int, int]]:
    """The same where what comes after the first ``n_kept`` of each user is of other items."""
    seen: dict[int, int] = {}
    changed = []
    for user, item, time in made:
        place = seen[user] = seen.get(user, -1) + 1
        changed.append((user, (item + 7) % N_ITEMS if place >= n_kept[user] else item, time))
    return changed


@pytest.mark.parametrize(("strategy", "params"), [("leave-one-out", {}), ("ratio", {"order": "time", "test": 0.2})])
def test_valid_and_test_are_not_read(strategy: str, params: dict[str, Any]) -> None:
    """Whatever is in them, the same model comes out."""
    made = rows()
    split = log_of(made, **sides()).split(strategy, **params)
    n_kept = dict(enumerate(split.train.items.lengths.tolist()))
    n_kept[0] = N_ITEMS
    other = log_of(with_other_ends(made, n_kept), **sides()).split(strategy, **params)
    assert torch.equal(split.train.items.values, other.train.items.values)
    assert not torch.equal(split.valid.truth.values, other.valid.truth.values)
    settings: dict[str, Any] = {
        "models": ALL_KINDS,
        "candidates": 8,
        "item_features": "all",
        "user_features": ["age"],
        "ranker_options": {"max_iter": 10, "min_samples_leaf": 5},
    }
    one, two = (rg.fit(TwoStage(**settings), each, seed=3, device="cpu") for each in (split, other))
    assert bool(state(one)["is_taught"])
    assert len(state(one)["features.of_items"]) == 4 * N_ITEMS
    assert same(state(one), state(two))
    again = rg.fit(TwoStage(**settings), split, seed=4, device="cpu")
    assert not same(state(one), state(again))


def test_a_member_is_what_it_is_alone() -> None:
    split = log_of(rows()).split()
    whole = rg.fit(TwoStage(models=("ease", SASREC)), split, seed=5, device="cpu")
    assert isinstance(whole.model, TwoStage)
    ease = rg.fit("ease", split, seed=5, device="cpu")
    assert same(whole.model.stages[0].state_dict(), ease.model.state_dict())  # type: ignore[union-attr]
    own = {name: value for name, value in SASREC.items() if name in rg.models.SASRec.Config.model_fields}
    training = {name: SASREC[name] for name in ("max_epochs", "batch_size")}
    alone = rg.fit(rg.models.SASRec(**own), split, seed=5, device="cpu", metric="last", **training)
    assert same(whole.model.stages[1].state_dict(), alone.model.state_dict())  # type: ignore[union-attr]


def test_graphs_of_the_inner_part_do_not_know_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fresh = TwoStage._fresh

    def kept(self: TwoStage, member: Any, space: Any) -> Any:
        made = fresh(self, member, space)
        seen.append(made.space.graph.edges["user", "interacts", "item"].adj.nnz)  # type: ignore[union-attr]
        return made

    monkeypatch.setattr(TwoStage, "_fresh", kept)
    split = log_of(rows()).split()
    rg.fit(TwoStage(models=({"name": "meowrec", **SMALL},)), split, seed=0, device="cpu")
    whole = split.train.n_interactions
    assert seen == [whole, whole - N_USERS]


# --- the inner split --------------------------------------------------------------------------------

INNER: list[tuple[str, dict[str, Any]]] = [
    ("leave-one-out", {}),
    ("leave-one-out", {"n_folds": 2, "fold": 1}),
    ("time", {"test": 0.2}),
    ("time", {"valid_from": 160, "test_from": 180}),
    ("ratio", {}),
    ("ratio", {"order": "time"}),
    ("users", {"test": 0.3}),
    ("all", {}),
]


@pytest.mark.parametrize(("strategy", "params"), INNER)
def test_the_training_part_is_split_as_the_data_set_is(strategy: str, params: dict[str, Any]) -> None:
    split = log_of(rows()).split(strategy, **params)
    log = split.interactions.masked((split.labels == 0).numpy())
    train, cases = inner_split(log, split.strategy, seed=1)
    assert len(cases)
    asked = cases.truth.values.numel()
    assert train.n_items == N_ITEMS
    assert train.n_users == N_USERS
    of_log = log.ordered
    if strategy in ("leave-one-out", "all"):
        assert cases.truth.lengths.tolist() == [1] * N_USERS
        last = of_log.items.values[of_log.items.offsets[1:] - 1]
        assert torch.equal(cases.truth.values, last)
    if strategy == "time":
        assert train.times is not None
        assert cases.times is not None
        assert of_log.times is not None
        later = of_log.times > train.times.max()
        assert int(later.sum()) >= asked
        assert asked >= 0.1 * of_log.n_interactions - N_USERS
    if params.get("order") == "time":
        for row, user in enumerate(cases.users.tolist()):
            assert of_log.items.row(user).tolist() == cases.history.row(row).tolist() + cases.truth.row(row).tolist()
    if strategy == "users":
        assert train.items.lengths[cases.users].tolist() == [0] * len(cases)
        assert len(cases) < len(split.train.items.lengths)
    else:
        assert train.n_interactions + asked <= of_log.n_interactions
    assert bool((cases.history.lengths > 0).all())


def test_users_of_two_interactions_in_training_teach() -> None:
    data = log_of([(user, (3 * user + n) % 12, 10 * user + n) for user in range(60) for n in range(4)])
    run = rg.fit("twostage", data.split(), seed=0, device="cpu")
    assert bool(state(run)["is_taught"])


def test_parts_that_were_given_give_a_tenth() -> None:
    frame = pl.DataFrame(rows(), schema=["user", "item", "time"], orient="row")
    split = Split.from_parts(frame[:300], frame[300:330], frame[330:], user="user", item="item", timestamp="time")
    run = rg.fit("twostage", split, seed=0, device="cpu")
    assert bool(state(run)["is_taught"])


def test_a_training_part_that_cannot_be_split_says_so() -> None:
    data = log_of([(user, item, 5) for user in range(4) for item in range(3)] + [(0, 3, 6), (1, 3, 7)])
    with pytest.raises(ConfigError, match="cannot be split once more, for the second stage: valid = 0 and test"):
        rg.fit("twostage", data.split("time", valid=0.1, test=0.1), seed=0, device="cpu")


def test_a_log_is_read_as_a_whole() -> None:
    data = log_of(rows())
    run = rg.fit("twostage", data, seed=0, device="cpu")
    counts = state(run)["features.counts"]
    assert int(counts.sum()) == len(data)
    assert run.record.fitted_on == "all"
    split = data.split()
    more = rg.fit("twostage", split, seed=0, device="cpu", fit_on="train+valid")
    assert int(state(more)["features.counts"].sum()) == len(data) - N_USERS


# --- the rest of the library ------------------------------------------------------------------------


def test_a_run_of_all_kinds_is_opened_again(tmp_path: Path) -> None:
    data = log_of(rows(), **sides())
    settings: dict[str, Any] = {"models": ALL_KINDS, "candidates": 8, "item_features": ["genre"]}
    run = rg.fit(TwoStage(**settings), data.split(), seed=0, out=tmp_path / "run", device="cpu")
    found = run.evaluate("valid")
    again = rg.load(tmp_path / "run")
    asked = {"users": [1, 2, 3], "k": 5}
    assert run.recommend(**asked).equals(again.recommend(**asked))
    assert again.recommend(histories={"new": [3, 4]}, k=3).height == 3
    assert Run.open(tmp_path / "run", data.split()).evaluate("valid")[0].metrics == found[0].metrics
    assert not list((tmp_path / "run").rglob("*.pkl"))
    with pytest.raises(ValueError, match="TwoStage cannot be updated; fit it again on everything"):
        run.update(log_of([(1, 2, 500)]))
    with pytest.raises(ValueError, match="TwoStage"):
        run.recommender.export(tmp_path / "exported")


def saved_needs(run: Run, folder: Path) -> list[tuple[str, str]]:
    """Save a bundle; kind and name of each class of the user's own that it says it needs."""
    run.recommender.save(folder)
    needs = json.loads((folder / "config.json").read_text())["model"]["needs"]
    return [(need["kind"], need["name"]) for need in needs]


class OwnModel(rg.models.Popularity):
    pass


def test_a_bundle_tells_the_models_that_it_needs_and_their_revisions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered, ("model", "ownmodel"), OwnModel)
    run = rg.fit(TwoStage(models=("ease", "OwnModel")), log_of(rows()).split(), seed=0, device="cpu")
    assert saved_needs(run, tmp_path / "bundle") == [("model", "ownmodel")]
    with monkeypatch.context() as patch:
        patch.setattr(OwnModel, "revision", 3)
        assert TwoStage(models=("ease", "ownmodel")).revision == 3
        assert TwoStage(models=("ease",)).revision == 1
        with pytest.raises(ValueError, match="holds revision 1 of TwoStage, here it is revision 3"):
            rg.load(tmp_path / "bundle")
    assert rg.load(tmp_path / "bundle").recommend(users=[1], k=3).equals(run.recommend(users=[1], k=3))
    monkeypatch.delitem(registry._registered, ("model", "ownmodel"))
    with pytest.raises(ValueError, match=r"needs the model 'ownmodel' of .*, which is not imported"):
        rg.load(tmp_path / "bundle")


def test_a_whole_log_in_the_order_of_items_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame(sorted({(user, item) for user, item, _ in rows()}), schema=["user", "item"], orient="row")
    data = Interactions.from_frame(frame, user="user", item="item")
    with caplog.at_level(logging.WARNING, "recgraph"):
        rg.fit(TwoStage(models=("popularity",)), data, seed=0, device="cpu")
    assert "no times, and its file is sorted by item" in caplog.text


class OwnContrast(rg.models.SimGCL):
    pass


def test_a_bundle_of_several_stages_tells_the_model_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._registered, ("model", "owncontrast"), OwnContrast)
    model = rg.models.Multistage(base="OwnContrast", stages=2, stage_epochs=1, base_options={"hidden_dim": 8})
    run = rg.fit(model, log_of(rows()).split(), seed=0, device="cpu", max_epochs=2)
    assert saved_needs(run, tmp_path / "bundle") == [("model", "owncontrast")]


def test_what_is_done_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "recgraph"):
        rg.fit("twostage", log_of(rows()).split(), seed=0, device="cpu")
    assert f"of {N_USERS} targets of {N_USERS} users are among their candidates" in caplog.text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"item_features": "all"}, DataError, r"item_features = 'all': the log has no item features; give them"),
        ({"user_features": ["age"]}, DataError, r"user_features = \('age',\): the log has no user features"),
        ({"models": [{"name": "bprmf", "max_epoch": 3}]}, ConfigError, "unknown setting 'max_epoch'; did you mean max"),
        ({"models": [{"name": "bprmf", "metric": "ndcg@10"}]}, ConfigError, "no part validates"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_fitted(
    settings: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TwoStage, "fit", lambda self, train: pytest.fail("fitted"))
    with pytest.raises(error, match=message):
        rg.fit(TwoStage(**settings), log_of(rows()).split(), seed=0, device="cpu")


def test_side_information_of_too_many_columns_is_refused() -> None:
    wide = pl.DataFrame(
        {"item": range(N_ITEMS), "words": [[f"w{i * 20 + n}" for n in range(20)] for i in range(N_ITEMS)]}
    )
    split = log_of(rows(), item_features=wide).split()
    with pytest.raises(ConfigError, match="as columns these are 561, above 256"):
        rg.fit(TwoStage(item_features=["words"]), split, seed=0, device="cpu")


def note_on_a_board(model: str, **settings: Any) -> str:
    spec = EntrySpec(model=model, settings=settings)
    sheet = SheetSpec(dataset="synthetic", seeds=(0,), models=(spec,))
    return entry_of(spec, jobs_of(sheet, spec), {}).note


def test_a_board_names_the_models_of_a_row() -> None:
    found = note_on_a_board("twostage", models=["ease", {"name": "itemknn", "k": 5}])
    assert found == "An ensemble: boosted_trees over the candidates of ease, itemknn."
    assert note_on_a_board("ease") == ""


# --- another model that is made of others: runs, boards and bundles know it by what it says of itself -----


class MeanConfig(ModelConfig):
    parts: tuple[str, ...] = ("ease",)


class Mean(PlannedModel):
    """The mean of the scores of several models."""

    Config = MeanConfig

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.members = [Member.of(name, 1) for name in self.config.parts]
        self.plans: list[Plan | None] = []

    @classmethod
    def models_of(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return models_in(settings.get("parts", ()))

    @classmethod
    def said_of(cls, settings: Mapping[str, Any]) -> str:
        return f"A mean of {' and '.join(settings['parts'])}."

    @property
    def side_information(self) -> Mapping[Literal["item", "user"], FeatureWish]:
        return {"item": "all"}

    def _build(self, space: Space) -> None:
        self.stages = nn.ModuleList(member.make().build(space) for member in self.members)

    def fit(self, train: Part) -> Self:
        self.plans.append(self.plan)
        assert self.plan is not None
        for member, model in zip(self.members, self.stages, strict=True):
            self.plan.fit(model, train, member)  # type: ignore[arg-type]
        return self

    def score(self, query: Query) -> Tensor:
        return torch.stack([model.score(query) for model in self.stages]).mean(0)  # type: ignore[operator]


def test_another_model_that_is_made_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cls in (("mean", Mean), ("ownmodel", OwnModel)):
        monkeypatch.setitem(registry._registered, ("model", name), cls)
    log = log_of(rows(), item_features=sides()["item_features"])
    run = rg.fit(Mean(parts=("OwnModel", "ease")), log.split(), seed=0, device="cpu")
    assert isinstance(run.model, Mean)
    (plan,) = run.model.plans
    assert plan is not None
    assert (len(plan.cases), plan.of_users) == (N_USERS, None)
    assert plan.of_items is not None
    assert plan.of_items.shape == (N_ITEMS, 4)
    ease = rg.fit("ease", log.split(), seed=0, device="cpu")
    assert same(run.model.stages[1].state_dict(), ease.model.state_dict())  # type: ignore[union-attr]
    assert saved_needs(run, tmp_path / "bundle") == [("model", "mean"), ("model", "ownmodel")]
    assert rg.load(tmp_path / "bundle").recommend(users=[1], k=3).equals(run.recommend(users=[1], k=3))
    assert note_on_a_board("mean", parts=["OwnModel", "ease"]) == "A mean of OwnModel and ease."


def test_models_name_those_that_they_are_made_of() -> None:
    assert rg.models.EASE.models_of({}) == ()
    assert TwoStage.models_of({}) == ("ease", "itemknn", "popularity")
