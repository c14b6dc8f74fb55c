"""A contract for every metric that the registry finds, worked examples, and other libraries' values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgraph import registry
from recgraph.evaluate.metrics.base import Metric, RankedHits

NAMES = registry.names("metric")


@pytest.fixture(params=NAMES)
def metric(request: pytest.FixtureRequest) -> Metric:
    return registry.load("metric", request.param)()


def ranked(rows: list[list[int]], n_relevant: list[int]) -> RankedHits:
    return RankedHits(torch.tensor(rows, dtype=torch.bool), torch.tensor(n_relevant))


def test_found_under_its_own_name(metric: Metric) -> None:
    assert registry.load("metric", metric.name) is type(metric)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_perfect_is_one_and_nothing_is_zero(metric: Metric, k: int, device: torch.device) -> None:
    # as many relevant items as places, so that recall and precision can both be perfect
    best = RankedHits(torch.ones(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device))
    assert metric(best, k).tolist() == pytest.approx([1.0] * 4)
    worst = RankedHits(torch.zeros(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device))
    values = metric(worst, k)
    assert values.tolist() == [0.0] * 4
    assert values.dtype == torch.float64
    assert values.device.type == device.type


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 5), st.integers(1, 6), st.integers(0, 4))
def test_in_range_and_monotone(hits: list[bool], place: int, k: int, missed: int) -> None:
    for name in NAMES:
        metric = registry.load("metric", name)()
        n_relevant = max(sum(hits) + missed, 1)
        value = float(metric(ranked([hits], [n_relevant]), k))
        assert 0 <= value <= 1 + 1e-12
        if place and hits[place] and not hits[place - 1]:
            better = [*hits[: place - 1], True, False, *hits[place + 1 :]]
            assert float(metric(ranked([better], [n_relevant]), k)) >= value - 1e-12


def test_users_are_independent(metric: Metric) -> None:
    generator = torch.Generator().manual_seed(0)
    hits = torch.rand(50, 10, generator=generator) < 0.3
    every = RankedHits(hits, hits.sum(1).clamp(min=1) + 2)
    single = torch.cat([metric(every.rows(user, user + 1), 5) for user in range(50)])
    assert torch.equal(metric(every, 5), single)


@pytest.mark.parametrize("k", [0, 8])
def test_impossible_cutoffs(metric: Metric, k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        metric(ranked([[1] * 7], [1]), k)


def test_a_worked_example() -> None:
    example = ranked([[0, 1, 0, 1, 0]], [3])
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "recall": 2 / 3,
        "precision": 2 / 5,
        "hit_rate": 1.0,
        "mrr": 1 / 2,
        "map": (1 / 2 + 2 / 4) / 3,
        "ndcg": gain / best,
    }
    for name, value in expected.items():
        assert float(registry.load("metric", name)()(example, 5)) == pytest.approx(value, abs=1e-12)


def test_graded_ndcg() -> None:
    hits = torch.tensor([[True, False, True]])
    gains = torch.tensor([[1.0, 0.0, 3.0]], dtype=torch.float64)
    ideal = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    value = registry.load("metric", "ndcg")()(RankedHits(hits, torch.tensor([3]), gains, ideal), 3)
    assert float(value) == pytest.approx((1 + 3 / 2) / (3 + 2 / math.log2(3) + 1 / 2), abs=1e-12)


#: the peers whose definition is ours
PEERS = {
    ("recbole", "Recall"): "recall",
    ("recbole", "Precision"): "precision",
    ("recbole", "Hit"): "hit_rate",
    ("recbole", "MRR"): "mrr",
    ("recbole", "MAP"): "map",
    ("recbole", "NDCG"): "ndcg",
    ("replay-rec", "Recall"): "recall",
    ("replay-rec", "MAP"): "map",
    ("replay-rec", "NDCG"): "ndcg",
    ("cornac", "NDCG"): "ndcg",
    ("recpack", "NDCGK"): "ndcg",
    ("recpack", "ReciprocalRankK"): "mrr",
}


def test_peers_with_the_same_definition_agree(shared: Path) -> None:
    folder = shared / "golden" / "metrics"
    cases = {case["id"]: case for case in json.loads((folder / "cases_public.json").read_text())["cases"]}
    compared = 0
    for record in json.loads((folder / "parity_public.json").read_text()):
        name = PEERS.get((record["peer"], record["metric"]))
        if name is None or record["k"] is None or record["params"] or "ties" in record["case"]:
            continue
        users = cases[record["case"]]["users"]
        by_id = {str(user["user"]): user for user in users} if isinstance(users, list) else users
        for user, value in record["per_user"].items():
            case = by_id[user]
            if not case.get("relevant") or "recs" not in case or len(case["recs"]) < record["k"]:
                continue
            hits = [item in case["relevant"] for item in case["recs"][: record["k"]]]
            own = float(registry.load("metric", name)()(ranked([hits], [len(case["relevant"])]), record["k"]))
            assert own == pytest.approx(value, abs=1e-6), (record["peer"], record["metric"], record["case"], user)
            compared += 1
    assert compared > 1000
