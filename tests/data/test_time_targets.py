"""Targets after a cut of time: against a slow version, nothing later than the cut or the target is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.split import SealedSplit
from recgraph.models import ItemKNN

ONE = ("last", "first", "random")


def _log(seed: int = 0, n: int = 300, n_items: int = 40) -> rg.Interactions:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {"u": rng.integers(0, 25, n), "i": rng.integers(0, n_items, n), "t": rng.integers(0, 90, n)}  # many ties
    )
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t")


def _slow(data: rg.Interactions, cut: int, end: int, choose: Any, known: set[int] | None) -> dict[int, Any]:
    """User -> (history, truth) of the targets at the times ``cut <= t < end``."""
    found = {}
    for user in range(data.n_users):
        own = sorted((r["time"], r["row"], r["item"]) for r in data.log.iter_rows(named=True) if r["user"] == user)
        before = [item for time, _, item in own if time < cut]
        after = [item for time, _, item in own if cut <= time < end and (known is None or item in known)]
        if not after:
            continue
        place = choose(user, len(after))
        history, truth = before + after[:place], [after[place]]
        if history:
            found[user] = (history, truth)
    return found


def _cases(cases: Any) -> dict[int, Any]:
    lists = zip(cases.history.to_lists(), cases.truth.to_lists(), strict=True)
    return dict(zip(cases.users.tolist(), lists, strict=True))


@pytest.mark.parametrize("unknown_items", ["keep", "drop"])
@pytest.mark.parametrize("targets", ["last", "first"])
def test_one_target_of_a_user_against_a_slow_version(targets: str, unknown_items: str) -> None:
    data = _log()
    cuts = {"valid_from": 60, "test_from": 75}
    split = data.split("time", targets=targets, unknown_items=unknown_items, **cuts)
    place = {"last": lambda user, n: n - 1, "first": lambda user, n: 0}[targets]
    drop = unknown_items == "drop"
    rows = list(data.log.iter_rows(named=True))
    for part, cut, end in (("valid", 60, 75), ("test", 75, 10**9)):
        known = {row["item"] for row in rows if row["time"] < cut} if drop else None
        expected = _slow(data, cut, end, place, known)
        assert _cases(getattr(split, part)) == expected
    assert split.train.n_interactions == sum(row["time"] < 60 for row in rows)
    assert split.fit_part("train+valid").n_interactions == sum(row["time"] < 75 for row in rows)
    assert split.fit_part("all").n_interactions == len(rows)


@pytest.mark.parametrize("targets", ["all", *ONE])
def test_nothing_at_or_after_a_cut_is_trained_on_and_no_history_is_later_than_its_target(targets: str) -> None:
    data = _log(1)
    split = data.split("time", valid=0.1, test=0.1, targets=targets, seed=4)
    moments = data.log["time"].sort()
    cuts = {"valid": moments[len(data) - 60], "test": moments[len(data) - 30]}
    assert split.train.times is not None
    assert int(split.train.times.max()) < cuts["valid"]
    both = split.fit_part("train+valid").times
    assert both is not None
    assert int(both.max()) < cuts["test"]
    assert split.sealed().interactions.log.filter(pl.col("time") >= cuts["test"]).is_empty()
    for part, cases in (("valid", split.valid), ("test", split.test)):
        assert len(cases)
        assert cases.times is not None
        for row, user in enumerate(cases.users.tolist()):
            target = data.log.filter(pl.col("user") == user, pl.col("time") >= cuts[part])["time"]
            known = cases.times.to_lists()[row]
            latest = {"first": target.min(), "all": cuts[part]}.get(targets, target.max())
            assert not known or max(known) <= latest


def test_a_random_target_is_drawn_by_the_recorded_seed() -> None:
    data = _log(2)
    cuts = {"valid_from": 50, "test_from": 70, "targets": "random"}
    splits = [data.split("time", seed=seed, **cuts) for seed in (0, 0, 1)]
    assert splits[0].hash == splits[1].hash != splits[2].hash
    assert [split.seed for split in splits] == [0, 0, 1]
    last = _cases(data.split("time", **{**cuts, "targets": "last"}).test)
    for split in splits:
        found = _cases(split.test)
        assert all(len(truth) == 1 for _, truth in found.values())
        for user, (history, truth) in found.items():
            whole = [*last[user][0], *last[user][1]]
            assert whole[: len(history) + 1] == [*history, *truth]
    counts = np.mean([len(history) for history, _ in _cases(splits[0].test).values()])
    assert counts < np.mean([len(history) for history, _ in last.values()])


def test_numbers_say_their_targets_and_saved_splits_keep_them(tmp_path: Any) -> None:
    split = _log(4).split("time", targets="last", unknown_items="drop")
    run = rg.fit(ItemKNN(), split, seed=0)
    (result,) = run.evaluate(seen="exclude", cutoffs=(5,))
    assert json.loads(result.protocol.split_facts) == {"targets": "last", "unknown_items": "drop"}
    split.save(tmp_path / "split")
    loaded = SealedSplit.load(tmp_path / "split").unseal("compare")
    assert _cases(loaded.test) == _cases(split.test)
    assert torch.equal(loaded.labels, split.labels)
