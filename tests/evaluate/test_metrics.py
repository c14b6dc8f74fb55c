"""A contract for every metric that the registry finds, and worked examples that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusing import refused

from recgraph import registry
from recgraph.evaluate.metrics import AUC, DCG, F1, NDCG, Metric, RankedHits, RelevantRanks, RPrecision
from recgraph.sparse.ragged import Ragged

NAMES = registry.names("metric")
#: those that read hits alone, and are 1 for the best possible ranking
FROM_HITS = [name for name in NAMES if (of := registry.load("metric", name)).needs_truth and not of.needs and of != DCG]


@pytest.fixture(params=NAMES)
def metric(request: pytest.FixtureRequest) -> Metric:
    return registry.load("metric", request.param)()


@pytest.fixture(params=FROM_HITS)
def of_hits(request: pytest.FixtureRequest) -> Metric:
    return registry.load("metric", request.param)()


def ranked(rows: list[list[int]], n_relevant: list[int]) -> RankedHits:
    return RankedHits(torch.tensor(rows, dtype=torch.bool), torch.tensor(n_relevant))


def complete(n_users: int = 6, n_items: int = 30, k: int = 10, seed: int = 0) -> RankedHits:
    """Random lists with all that any metric reads."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.rand(n_users, n_items, generator=generator).argsort(1)
    is_relevant = torch.rand(n_users, n_items, generator=generator) < 0.2
    is_relevant[:, 0] = True
    hits = is_relevant.gather(1, items)
    relevant = Ragged.from_lists([row.nonzero().flatten().tolist() for row in is_relevant])
    rank = items.argsort(1)[relevant.rows, relevant.values]
    ones = torch.ones_like(rank)
    places = RelevantRanks(relevant.with_values(rank), ones, 0 * ones, ones.bool(), torch.full((n_users,), n_items))
    counts = torch.randint(0, 9, (n_items,), generator=generator)
    features = torch.rand(n_items, 4, generator=generator)
    known = torch.rand(n_users, k, generator=generator) < 0.3
    return RankedHits(
        hits[:, :k], relevant.lengths, items=items[:, :k], known=known, relevant_ranks=places,
        n_items=n_items, counts=counts, n_users=20, features=features,
    )  # fmt: skip


def test_found_under_its_own_name(metric: Metric) -> None:
    assert registry.load("metric", metric.name) is type(metric)
    assert metric.label == metric.name
    assert F1(beta=2.0).label == "f1(beta=2.0)"


def test_a_value_for_each_user_whoever_else_is_there(metric: Metric) -> None:
    every = complete(20)
    values = metric(every, 5)
    assert values.dtype == torch.float64
    assert math.isfinite(metric.mean(values))
    assert values.shape == ((20,) if metric.per_user else ())
    if metric.per_user:
        single = torch.cat([metric(every.rows(user, user + 1), 5) for user in range(20)])
        torch.testing.assert_close(values, single, rtol=1e-12, atol=1e-12)


def test_what_is_not_known_is_asked_for(metric: Metric) -> None:
    if metric.needs:
        with refused(metric.name, min(metric.needs)):
            metric(ranked([[1, 0, 1]], [2]), 3)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_perfect_is_one_and_nothing_is_zero(of_hits: Metric, k: int, device: torch.device) -> None:
    # as many relevant items as places, so that recall and precision can both be perfect
    best = RankedHits(torch.ones(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device))
    assert of_hits(best, k).tolist() == pytest.approx([1.0] * 4)
    values = of_hits(replace(best, hits=~best.hits), k)
    assert values.tolist() == [0.0] * 4
    assert (values.dtype, values.device.type) == (torch.float64, device.type)


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 5), st.integers(1, 6), st.integers(0, 4))
def test_in_range_and_monotone(hits: list[bool], place: int, k: int, missed: int) -> None:
    n_relevant = max(sum(hits) + missed, 1)
    for name in FROM_HITS:
        metric = registry.load("metric", name)()
        value = float(metric(ranked([hits], [n_relevant]), k))
        assert 0 <= value <= 1 + 1e-12
        if place and hits[place] and not hits[place - 1]:
            better = [*hits[: place - 1], True, False, *hits[place + 1 :]]
            assert float(metric(ranked([better], [n_relevant]), k)) >= value - 1e-12


def test_users_without_relevant_items_have_no_value(of_hits: Metric) -> None:
    values = of_hits(ranked([[0, 0, 0], [1, 1, 1]], [0, 3]), 3)
    assert values.isnan().tolist() == [True, False]
    assert of_hits.mean(values) == 1
    assert math.isnan(of_hits.mean(values[:1]))


def value_of(name: str, example: RankedHits, k: int) -> float:
    metric = registry.load("metric", name)()
    return metric.mean(metric(example, k))


# one user, five places, hits at ranks 2 and 4, three relevant items
D = [1 / math.log2(rank + 1) for rank in range(1, 6)]
WORKED = {
    "recall": 2 / 3,
    "precision": 2 / 5,
    "hit_rate": 1.0,
    "mrr": 1 / 2,
    "f1": 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
    "map": (1 / 2 + 2 / 4) / 3,
    "ndcg": (D[1] + D[3]) / sum(D[:3]),
    "dcg": D[1] + D[3],
    "rbp": (0.85 + 0.85**3) / (1 + 0.85 + 0.85**2),
    "r_precision": 1 / 3,
}


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_example(name: str) -> None:
    assert value_of(name, ranked([[0, 1, 0, 1, 0]], [3]), 5) == pytest.approx(WORKED[name], abs=1e-12)


def test_grades() -> None:
    gains = torch.tensor([[1.0, 0.0, 3.0]], dtype=torch.float64)
    ideal = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    example = RankedHits(gains > 0, torch.tensor([3]), gains, ideal)
    log3 = math.log2(3)
    assert value_of("ndcg", example, 3) == pytest.approx((1 + 3 / 2) / (3 + 2 / log3 + 1 / 2), abs=1e-12)
    exponential = NDCG(gain="exponential")
    assert exponential.label == "ndcg(gain=exponential)"
    assert exponential(example, 3).tolist() == pytest.approx([(1 + 7 / 2) / (7 + 3 / log3 + 1 / 2)], abs=1e-12)


# two users, two places, four items seen 4, 2, 2 and 0 times by eight users; the first item of each list is a hit
LISTS = RankedHits(
    torch.tensor([[True, False], [True, False]]),
    torch.tensor([1, 2]),
    items=torch.tensor([[0, 1], [0, 3]]),
    known=torch.tensor([[True, False], [False, False]]),
    n_items=4,
    counts=torch.tensor([4, 2, 2, 0]),
    n_users=8,
    features=torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 2]]),
)
LISTED = {
    "catalogue_coverage": 3 / 4,
    # shown 0, 1, 1, 2 times: (-3*0 - 1*1 + 1*1 + 3*2) / (4 * 4)
    "gini": 6 / 16,
    "entropy": (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(4),
    "personalization": 1 / 2,
    "average_popularity": (3 + 2) / 2,
    # bits 1, 2, 2 and, as if seen once, 3
    "novelty": ((1 + 2) / 2 + (1 + 3) / 2) / 2,
    "new_items": (1 / 2 + 1) / 2,
    # the two most popular ones are 0 and 1
    "unexpectedness": (0 + 1 / 2) / 2,
    # the first place is expected of item 0: 1 - 1
    "serendipity": 0.0,
    # the tail is the least popular of three items with an interaction, the first of two equals: item 1
    "tail_share": (1 / 2 + 0) / 2,
    "intra_list_diversity": (1 - 1 / math.sqrt(2) + 1) / 2,
}


@pytest.mark.parametrize("name", LISTED)
def test_a_worked_example_of_lists(name: str) -> None:
    assert value_of(name, LISTS, 2) == pytest.approx(LISTED[name], abs=1e-7)


def test_the_whole_ranking() -> None:
    """Two relevant items of six: above one stands nothing, above the other one irrelevant item and two are equal."""
    places = RelevantRanks(
        Ragged.from_lists([[0, 2]]), torch.tensor([1, 3]), torch.tensor([0, 1]), torch.tensor([True, True]),
        torch.tensor([6]),
    )  # fmt: skip
    example = replace(ranked([[1, 0, 0, 1, 0, 0]], [2]), relevant_ranks=places)
    assert AUC()(example).tolist() == pytest.approx([(4 + 1 + 2 * 0.5) / 8])
    assert RPrecision()(example).tolist() == [1 / 2]
    lost = replace(example, relevant_ranks=replace(places, reachable=torch.tensor([True, False])))
    assert AUC()(lost).tolist() == pytest.approx([1 / 2])
