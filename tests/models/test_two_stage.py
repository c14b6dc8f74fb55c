"""Two stages: candidates and features against loops, second stages against scikit-learn,
specifications.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
from every_model import SPACE, part
from refusing import refused
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.two_stage import (
    BoostedTrees,
    Features,
    Ranker,
    TwoStage,
    above_the_rest,
    best_of,
    last_held_out,
    union,
)
from recgraph.sparse.ragged import Ragged
from recgraph.train.fit import inner_split


def labelled(n: int = 3000, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Features with missing values, labels that follow from two of them, users of ten rows."""
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(n, width, generator=draw)
    chance = torch.sigmoid(2 * features[:, 0] - features[:, 3].abs() - 1)
    features[torch.rand(features.shape, generator=draw) < 0.3] = math.nan
    labels = (torch.rand(n, generator=draw) < chance).float()
    return features, labels, torch.full((n // 10,), 10)


def query(rows: list[list[int]], times: list[list[int]] | None = None) -> Query:
    known = None if times is None else Ragged.from_lists(times)
    return Query(torch.arange(len(rows)), Ragged.from_lists(rows), known)


# --- second stages


@pytest.mark.parametrize(
    "settings", [{}, {"max_leaf_nodes": 31, "min_samples_leaf": 5, "max_iter": 30}]
)
def test_trees_give_the_scores_of_scikit_learn(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    monkeypatch.setattr("recgraph.models.two_stage._ROWS", 700)
    features, labels, groups = labelled()
    mine = BoostedTrees(**settings)
    mine.fit(features, labels, groups)
    config = mine.config
    theirs = HistGradientBoostingClassifier(
        learning_rate=config.learning_rate,
        max_iter=config.max_iter,
        max_leaf_nodes=config.max_leaf_nodes,
        min_samples_leaf=config.min_samples_leaf,
        l2_regularization=config.l2,
        early_stopping=False,
    ).fit(features.numpy(), labels.numpy())
    other = torch.randn(2000, 5, generator=torch.Generator().manual_seed(2)) * 3
    other[::3, 0], other[::5, 3] = math.nan, math.nan
    np.testing.assert_allclose(
        mine.score(other).numpy(),
        theirs.decision_function(other.numpy()),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", registry.names("ranker"))
def test_every_second_stage_learns_and_goes_through_safetensors(
    name: str, device: torch.device
) -> None:
    features, labels, groups = (each.to(device) for each in labelled())
    ranker = registry.make("ranker", name).to(device)
    ranker.fit(features, labels, groups)
    scores = ranker.score(features)
    assert scores.shape == (len(features),)
    right, wrong = scores[labels > 0].mean(), scores[labels == 0].mean()
    assert right > wrong + 0.3
    torch.testing.assert_close(ranker.score(features[:7]), scores[:7])
    assert ranker.score(features[:0]).shape == (0,)
    assert all(bool(value.isfinite().all()) for value in ranker.state_dict().values())
    other = registry.make("ranker", name).to(device)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(ranker.state_dict())))
    assert torch.equal(other.score(features), scores)


# --- candidates and features


def test_candidates_against_loops() -> None:
    draw = torch.Generator().manual_seed(0)
    models = [torch.rand(4, 9, generator=draw) for _ in range(2)]
    asked, able = query([[1, 2], [], [0, 3, 3, 8], [4]]), torch.tensor([True, False, True, True])
    for repeats in (False, True):
        found = [
            best_of(scores, asked, k, able, repeats)
            for scores, k in zip(models, (2, 4), strict=True)
        ]
        every = union(found)
        wanted: dict[int, list[list[float]]] = {}
        for column, (scores, k) in enumerate(zip(models, (2, 4), strict=True)):
            for row in range(4):
                had = set() if repeats else set(asked.history.row(row).tolist())
                best = sorted(set(range(9)) - had, key=lambda item: -float(scores[row, item]))[:k]
                for place, item in enumerate(best if able[row] else []):
                    cell = wanted.setdefault(9 * row + item, [[math.nan, 0.0], [math.nan, 0.0]])
                    cell[column] = [float(scores[row, item]), 1 / (place + 1)]
        assert every.keys.tolist() == sorted(wanted)
        table = torch.tensor([wanted[key] for key in sorted(wanted)])
        torch.testing.assert_close(every.scores, table[:, :, 0], equal_nan=True)
        torch.testing.assert_close(every.ranks, table[:, :, 1])


@pytest.mark.parametrize("scale", [1.0, 1e8])
def test_candidates_come_before_all_others_in_the_order_of_the_first_model(scale: float) -> None:
    first = torch.tensor([[5.0, 9.0, 1.0, 7.0], [0.0, 0.0, 0.0, 0.0]])
    first = first.T.contiguous().T  # as models that rank column by column give them
    scores = above_the_rest(first, torch.tensor([0, 2]), torch.tensor([-3.0, -2.0]) * scale)
    assert scores[0].argsort(descending=True).tolist() == [2, 0, 1, 3]
    assert len(scores[0].unique()) == 4
    assert len(scores[1].unique()) == 1, "what ties for the first model ties"


def test_features_against_loops() -> None:
    train = Part(
        Ragged.from_lists([[0, 1], [1], [2, 1, 2]]), 5, times=torch.tensor([10, 20, 30, 5, 40, 70])
    )
    features = Features(5, repeats=True).fit(train)
    asked = Query(
        torch.tensor([2, -1]),
        Ragged.from_lists([[2, 1, 2], []]),
        Ragged.from_lists([[5, 40, 90], []]),
    )
    found = features(torch.tensor([1, 2, 5 + 4]), asked)
    plain = found[:, :5].expm1()
    # item 1: three interactions, the last at 40 of 70; the user has three items and was there after
    # the newest
    torch.testing.assert_close(plain[0], torch.tensor([3.0, 3.0, 1.0, 30.0, 0.0]))
    torch.testing.assert_close(plain[1], torch.tensor([2.0, 3.0, 2.0, 0.0, 0.0]))
    torch.testing.assert_close(
        plain[2], torch.tensor([0.0, 0.0, 0.0, math.nan, math.nan]), equal_nan=True
    )
    without = Query(asked.users, asked.history)
    assert bool(features(torch.tensor([1]), without)[0, 4].isnan()), (
        "times of the history are not known"
    )
    untimed = Features(5).fit(Part(train.items, 5))
    assert untimed(torch.tensor([1]), without).shape == (1, 2)
    assert (bool(features.knows_times), bool(untimed.knows_times)) == (True, False)


def test_the_last_item_of_each_user_is_held_out() -> None:
    train = Part(Ragged.from_lists([[0, 1, 2], [4], [], [3, 3]]), 5, times=torch.arange(6))
    inner, cases = last_held_out(train)
    assert inner.items.to_lists() == [[0, 1], [4], [], [3]]
    assert cases.users.tolist() == [0, 3]
    assert cases.history.to_lists() == [[0, 1], [3]]
    assert cases.truth.to_lists() == [[2], [3]]
    assert cases.times is not None
    assert cases.times.to_lists() == [[0, 1], [4]]


# --- the whole


class Seen(Ranker):
    """Keeps what it was taught with, and ranks by the first column."""

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        self.taught = features, labels, groups
        return self

    def score(self, features: Tensor) -> Tensor:
        return features[:, 0].nan_to_num(-1.0)


def test_users_with_a_right_candidate_teach_drawn_by_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(registry._registered, ("ranker", "seen"), (Seen, "seen"))

    def taught(seed: int, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        model = TwoStage(models=("itemknn",), candidates=20, ranker="seen", **settings).build(
            SPACE, seed=seed
        )
        return model.fit(part()).ranker.taught  # type: ignore[attr-defined,no-any-return]

    features, labels, groups = taught(0)
    assert [int(rows.sum()) for rows in labels.split(groups.tolist())] == [1] * len(groups)
    few = taught(0, max_users=5)
    assert 0 < len(few[2]) <= 5
    assert torch.equal(few[0].nan_to_num(), taught(0, max_users=5)[0].nan_to_num())
    assert {*map(tuple, few[0].nan_to_num().tolist())} <= {
        *map(tuple, features.nan_to_num().tolist())
    }


def test_a_second_fit_forgets_the_first() -> None:
    times = torch.arange(part().n_interactions)
    timed = Part(part().items, SPACE.n_items, times=times)
    model = TwoStage(models=("popularity",)).build(SPACE).fit(timed)
    assert model.reads_times
    assert bool(model.is_taught)
    nothing = Part(Ragged.from_lists([[1]] * SPACE.n_users), SPACE.n_items)
    with pytest.warns(UserWarning, match="second stage"):
        model.fit(nothing)
    assert not model.reads_times
    assert not bool(model.is_taught)


def test_repeats_are_candidates_where_they_are_asked_for() -> None:
    rows = [[0, 1, 0, 1, 0], [2, 3, 2, 3, 2], [4, 5, 4, 5, 4]] * 12
    train, asked = (
        Part(Ragged.from_lists(rows), 8),
        Query(torch.tensor([0]), Ragged.from_lists([rows[0]])),
    )
    for repeats in (False, True):
        model = TwoStage(models=("popularity",), candidates=8, repeats=repeats).build(
            Space(n_users=36, n_items=8)
        )
        if repeats:
            model.fit(train)
            assert set(model.score(asked)[0].topk(2).indices.tolist()) == {0, 1}
        else:
            with pytest.warns(UserWarning, match="second stage"):
                model.fit(train)
            assert not {0, 1} & set(model.score(asked)[0].topk(6).indices.tolist())


def test_models_may_be_given_as_objects() -> None:
    model = TwoStage(models=[rg.models.EASE(l2=7.0), "popularity"])
    first, second = model.config.models
    assert (first["name"], first["l2"], second) == ("ease", 7.0, "popularity")
    assert TwoStage.Config.of(model.config.model_dump(mode="json")) == model.config


def test_a_trained_member_needs_a_run() -> None:
    model = TwoStage(models=("ease", {"name": "bprmf", "max_epochs": 2})).build(SPACE)
    with refused("bprmf"):
        model.fit(part())


@pytest.mark.parametrize(
    ("strategy", "params", "draws"),
    [
        ("leave-one-out", {}, False),
        ("ratio", {}, True),
        ("ratio", {"order": "time"}, False),
        ("time", {"test": 0.2}, False),
        ("users", {"test": 0.3}, True),
    ],
)
def test_the_inner_split_leaks_no_row_and_follows_its_seed(
    strategy: str, params: dict[str, Any], draws: bool
) -> None:
    draw = np.random.default_rng(0)
    rows = [
        (user, int(item), 10 * user + n)
        for user in range(30)
        for n, item in enumerate(draw.permutation(20)[:8])
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    split = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time").split(
        strategy, **params
    )
    of_train = split.interactions.masked((split.labels == 0).numpy())

    def pairs(rows: Ragged, users: Tensor) -> list[tuple[int, int]]:
        return sorted(zip(users[rows.rows].tolist(), rows.values.tolist(), strict=True))

    every = pairs(of_train.ordered.items, torch.arange(of_train.ordered.items.n_rows))
    made = []
    for seed in (1, 1, 2):
        inner, cases = inner_split(of_train, split.strategy, seed)
        fitted, asked = (
            pairs(inner.items, torch.arange(inner.items.n_rows)),
            pairs(cases.truth, cases.users),
        )
        assert asked
        assert not {*fitted} & {*asked}, "what is asked for is fitted to"
        assert not {*pairs(cases.history, cases.users)} & {*asked}, (
            "what is asked for is in the history"
        )
        assert {*fitted, *asked, *pairs(cases.history, cases.users)} <= {*every}, (
            "rows of valid or test"
        )
        made.append((fitted, asked))
    assert made[0] == made[1]
    assert (made[0] != made[2]) == draws
