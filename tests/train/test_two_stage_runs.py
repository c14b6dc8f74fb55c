"""Runs of two stages: what they may see, members of all kinds, bundles, updates, and what is
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from torch import Tensor

import recgraph as rg
from recgraph.data.split import Interactions
from recgraph.models.two_stage import TwoStage
from recgraph.train.run import Run

N_USERS, N_ITEMS = 40, 30
SMALL: dict[str, Any] = {"hidden_dim": 8, "max_epochs": 2, "batch_size": 32}
SASREC = {"name": "sasrec", **SMALL, "max_len": 6, "encoder": {"n_layers": 1, "inner_dim": 16}}
ALL_KINDS: tuple[Any, ...] = ("itemknn", SASREC, {"name": "bprmf", **SMALL})


def rows(seed: int = 0) -> list[tuple[int, int, int]]:
    """(user, item, time); the first user has had all items, so that ids are numbered alike whatever
    the others do.
    """
    draw = torch.Generator().manual_seed(seed)
    made = [(0, item, item) for item in range(N_ITEMS)]
    for user in range(1, N_USERS):
        near = (torch.randperm(12, generator=draw) + 3 * (user % 6)) % N_ITEMS
        made += [
            (user, int(item), 100 + 10 * place + user % 7)
            for place, item in enumerate(near[: 8 + user % 4])
        ]
    return made


def log_of(made: list[tuple[int, int, int]], **features: Any) -> Interactions:
    frame = pl.DataFrame(made, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time", **features)


def sides() -> dict[str, pl.DataFrame]:
    return {
        "item_features": pl.DataFrame(
            {"item": range(N_ITEMS), "genre": [f"g{i % 3}" for i in range(N_ITEMS)]}
        ),
        "user_features": pl.DataFrame(
            {"user": range(N_USERS), "age": [20.0 + u % 5 for u in range(N_USERS)]}
        ),
    }


def state(run: Run) -> dict[str, Tensor]:
    return run.model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


# --- what it may see


def with_other_ends(
    made: list[tuple[int, int, int]], n_kept: dict[int, int]
) -> list[tuple[int, int, int]]:
    """The same where what comes after the first ``n_kept`` of each user is of other items."""
    seen: dict[int, int] = {}
    changed = []
    for user, item, time in made:
        place = seen[user] = seen.get(user, -1) + 1
        changed.append((user, (item + 7) % N_ITEMS if place >= n_kept[user] else item, time))
    return changed


def test_valid_and_test_are_not_read() -> None:
    """Whatever is in them, the same model comes out."""
    made = rows()
    split = log_of(made, **sides()).split("leave-one-out")
    n_kept = dict(enumerate(split.train.items.lengths.tolist()))
    n_kept[0] = N_ITEMS
    other = log_of(with_other_ends(made, n_kept), **sides()).split("leave-one-out")
    assert torch.equal(split.train.items.values, other.train.items.values)
    assert not torch.equal(split.valid.truth.values, other.valid.truth.values)
    settings: dict[str, Any] = {
        "models": ALL_KINDS,
        "candidates": 8,
        "ranker": {"max_iter": 10, "min_samples_leaf": 5},
    }
    one, two = (rg.fit(TwoStage(**settings), each, seed=3, device="cpu") for each in (split, other))
    assert bool(state(one)["is_taught"])
    assert same(state(one), state(two))
    again = rg.fit(TwoStage(**settings), split, seed=4, device="cpu")
    assert not same(state(one), state(again))


def test_graphs_of_the_inner_part_do_not_know_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


# --- the rest of the library


def test_a_run_of_all_kinds_is_opened_again(tmp_path: Path) -> None:
    data = log_of(rows(), **sides())
    settings: dict[str, Any] = {"models": ALL_KINDS, "candidates": 8}
    run = rg.fit(TwoStage(**settings), data.split(), seed=0, out=tmp_path / "run", device="cpu")
    found = run.evaluate("valid")
    again = rg.load(tmp_path / "run")
    asked = {"users": [1, 2, 3], "k": 5}
    assert run.recommend(**asked).equals(again.recommend(**asked))
    assert again.recommend(histories={"new": [3, 4]}, k=3).height == 3
    assert Run.open(tmp_path / "run", data.split()).evaluate("valid")[0].metrics == found[0].metrics
    assert not list((tmp_path / "run").rglob("*.pkl"))
    with refused("TwoStage"):
        run.update(log_of([(1, 2, 500)]))
    with refused("TwoStage"):
        run.recommender.export(tmp_path / "exported")
