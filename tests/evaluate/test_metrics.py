"""A contract for every metric that the registry finds, and worked examples that can be checked by hand."""

from __future__ import annotations

import inspect
import math
import pickle
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgraph import registry
from recgraph.evaluate.metrics.base import Facts, Metric, RankedHits, RelevantRanks
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.metrics.discounts import EXPONENTIAL, LATE, RANK, Discount
from recgraph.evaluate.metrics.rank import NDCG
from recgraph.evaluate.protocol import CONVENTIONS
from recgraph.sparse.ragged import Ragged

NAMES = registry.names("metric")
#: those that ask how many relevant items are found, and are 1 for the best possible ranking
ACCURACY = [
    name
    for name in NAMES
    if registry.load("metric", name).needs_truth and name not in ("dcg", "partialauc", "stratifiedrecall")
]
FROM_HITS = [name for name in ACCURACY if not registry.load("metric", name)().needs]


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
    facts = Facts(n_items, counts, 20, torch.rand(n_items, 4, generator=generator))
    known = torch.rand(n_users, k, generator=generator) < 0.3
    return RankedHits(
        hits[:, :k],
        relevant.lengths,
        lengths=torch.full((n_users,), k),
        items=items[:, :k],
        known=known,
        trained=torch.ones(n_users, dtype=torch.bool),
        relevant=relevant,
        relevant_ranks=places,
        facts=facts,
    )


def test_found_under_its_own_name(metric: Metric) -> None:
    assert registry.load("metric", metric.name) is type(metric)
    assert metric.label == metric.name


def test_every_convention_has_a_value_and_others_are_refused(metric: Metric) -> None:
    for convention in CONVENTIONS:
        if convention not in metric.conventions:
            with pytest.raises(ValueError, match=f"not defined under convention '{convention}'"):
                type(metric)(convention=convention)
            continue
        own = type(metric)(convention=convention)
        values = own(complete(), 7)
        assert values.dtype == torch.float64
        assert values.shape == ((6,) if own.per_user else ())
        assert math.isfinite(own.mean(values, complete()))


def test_users_are_independent(metric: Metric) -> None:
    if not metric.per_user:
        pytest.skip("one value for all users")
    every = complete(20)
    single = torch.cat([metric(every.rows(user, user + 1), 5) for user in range(20)])
    torch.testing.assert_close(metric(every, 5), single, rtol=1e-12, atol=1e-12)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = torch.cat([metric(every.rows(int(user), int(user) + 1), 5) for user in order])
    assert torch.equal(shuffled, single[order])


def test_what_is_not_known_is_asked_for(metric: Metric) -> None:
    plain = ranked([[1, 0, 1]], [2])
    if metric.needs:
        with pytest.raises(ValueError, match=f"needs {min(metric.needs)}"):
            metric(plain, 3)


@pytest.mark.parametrize("k", [0, 11])
def test_impossible_cutoffs(metric: Metric, k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k}"):
        metric(complete(), k)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_perfect_is_one_and_nothing_is_zero(of_hits: Metric, k: int, device: torch.device) -> None:
    # as many relevant items as places, so that recall and precision can both be perfect
    best = RankedHits(torch.ones(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device))
    assert of_hits(best, k).tolist() == pytest.approx([1.0] * 4)
    worst = RankedHits(torch.zeros(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device))
    values = of_hits(worst, k)
    assert values.tolist() == [0.0] * 4
    assert values.dtype == torch.float64
    assert values.device.type == device.type


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 5), st.integers(1, 6), st.integers(0, 4))
def test_in_range_and_monotone(hits: list[bool], place: int, k: int, missed: int) -> None:
    for name in FROM_HITS:
        metric = registry.load("metric", name)()
        n_relevant = max(sum(hits) + missed, 1)
        value = float(metric(ranked([hits], [n_relevant]), k))
        assert 0 <= value <= 1 + 1e-12
        if place and hits[place] and not hits[place - 1]:
            better = [*hits[: place - 1], True, False, *hits[place + 1 :]]
            assert float(metric(ranked([better], [n_relevant]), k)) >= value - 1e-12


@given(st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 4))
def test_longer_lists_find_more(hits: list[bool], missed: int) -> None:
    example = ranked([hits], [max(sum(hits) + missed, 1)])
    for name in ("recall", "hit_rate", "mrr", "dcg"):
        metric = registry.load("metric", name)()
        values = [float(metric(example, k)) for k in range(1, 7)]
        assert values == sorted(values)


def test_users_without_relevant_items_have_no_value_or_zero(of_hits: Metric) -> None:
    example = ranked([[0, 0, 0], [1, 1, 1]], [0, 3])
    for convention in of_hits.conventions:
        own = type(of_hits)(convention=convention)
        if own.needs:
            continue
        value = float(own(example, 3)[0])
        if convention in ("replay", "torchmetrics", "ranx") or (of_hits.name, convention) == ("precision", "lenskit"):
            assert value == 0
        else:
            assert math.isnan(value)
    assert of_hits.mean(of_hits(example, 3), example) == 1


def value_of(name: str, example: RankedHits, k: int | None, convention: str = "recgraph", **options: object) -> float:
    metric = registry.load("metric", name)(convention=convention, **options)
    return metric.mean(metric(example, k), example)


# one user, five places, hits at ranks 2 and 4, three relevant items
HITS = [[0, 1, 0, 1, 0]]
D = [1 / math.log2(rank + 1) for rank in range(1, 6)]
WORKED = {
    ("recall", "recgraph"): 2 / 3,
    ("precision", "recgraph"): 2 / 5,
    ("hit_rate", "recgraph"): 1.0,
    ("hit_rate", "recpack"): 2.0,
    ("mrr", "recgraph"): 1 / 2,
    ("f1", "recgraph"): 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
    ("map", "recgraph"): (1 / 2 + 2 / 4) / 3,
    ("map", "torchmetrics"): (1 / 2 + 2 / 4) / 2,
    ("ndcg", "recgraph"): (D[1] + D[3]) / sum(D[:3]),
    ("ndcg", "rectools"): (D[1] + D[3]) / sum(D),
    ("ndcg", "lenskit"): (1 + 1 / 2) / (1 + 1 + 1 / math.log2(3)),
    ("dcg", "recgraph"): D[1] + D[3],
    ("ncrr", "recgraph"): (1 / 2 + 1 / 4) / (1 + 1 / 2 + 1 / 3),
    ("rbp", "recgraph"): (0.85 + 0.85**3) / (1 + 0.85 + 0.85**2),
    ("rbp", "lenskit"): 0.15 * (0.85 + 0.85**3),
    ("r_precision", "recgraph"): 1 / 3,
    # three misses, of which one and two stand above the hits
    ("auc", "replay"): 1 - (1 + 2) / 6,
    ("auc", "torchmetrics"): 1 - (1 + 2) / 6,
    # hits come after one and two misses: (5 - 1) + (5 - 2), over 5 times three relevant items
    ("partial_auc", "rectools"): 7 / 15,
}


@pytest.mark.parametrize(("name", "convention"), WORKED, ids="-".join)
def test_a_worked_example(name: str, convention: str) -> None:
    assert value_of(name, ranked(HITS, [3]), 5, convention) == pytest.approx(WORKED[name, convention], abs=1e-12)


def test_conventions_differ_for_short_lists_and_many_relevant_items() -> None:
    # two items listed, one of them a hit, seven relevant items, k = 5
    short = replace(ranked([[1, 0, 0, 0, 0]], [7]), lengths=torch.tensor([2]))
    assert value_of("precision", short, 5) == 1 / 5
    assert value_of("precision", short, 5, "lenskit") == 1 / 2
    assert value_of("precision", short, 5, "rectools", divide_by="relevant") == 1 / 5
    assert value_of("recall", short, 5) == 1 / 7
    assert value_of("recall", short, 5, "lenskit") == value_of("recall", short, 5, "recpack", bounded=True) == 1 / 5
    assert value_of("map", short, 5) == 1 / 5
    assert value_of("map", short, 5, "rectools") == value_of("map", short, 5, "ranx") == 1 / 7
    assert value_of("map", short, 5, "lenskit") == 1 / 2
    assert value_of("map", short, 5, "rectools", divide_by="k") == 1 / 5


def test_grades() -> None:
    hits = torch.tensor([[True, False, True]])
    gains = torch.tensor([[1.0, 0.0, 3.0]], dtype=torch.float64)
    ideal = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    example = RankedHits(hits, torch.tensor([3]), gains, ideal, torch.tensor([6.0], dtype=torch.float64))
    log3 = math.log2(3)
    assert value_of("ndcg", example, 3) == pytest.approx((1 + 3 / 2) / (3 + 2 / log3 + 1 / 2), abs=1e-12)
    exponential = (1 + 7 / 2) / (7 + 3 / log3 + 1 / 2)
    assert value_of("ndcg", example, 3, "ranx", gain="exponential") == pytest.approx(exponential, abs=1e-12)
    assert value_of("recall", example, 3, "pyg", weighted=True) == pytest.approx(4 / 6, abs=1e-12)
    assert value_of("rbp", example, 3, "ranx") == pytest.approx(0.15 * (1 + 3 * 0.85**2), abs=1e-12)
    best = (1 + 3 * 0.85**2) / (3 + 2 * 0.85 + 0.85**2)
    assert value_of("rbp", example, 3, graded=True) == pytest.approx(best, abs=1e-12)
    # a cut-off beyond the last item of the catalogue
    beyond = replace(example, facts=Facts(3))
    assert value_of("rbp", beyond, 10, graded=True) == pytest.approx(best, abs=1e-12)


def test_discounts_and_gains_are_objects_or_names() -> None:
    sqrt = Discount("sqrt", torch.rsqrt)
    expected = (2**-0.5 + 4**-0.5) / (1 + 2**-0.5 + 3**-0.5)
    assert value_of("ndcg", ranked(HITS, [3]), 5, discount=sqrt) == pytest.approx(expected, abs=1e-12)
    assert NDCG(discount=sqrt).label == "ndcg(discount=sqrt)"
    assert NDCG(gain="exponential", discount="late") == NDCG(gain=EXPONENTIAL, discount=LATE)
    assert NDCG(gain="exponential").label == "ndcg(gain=exponential)"
    with pytest.raises(ValueError, match="discount = 'early' must be one of rank, late"):
        NDCG(discount="early")


def test_a_convention_sets_the_options_that_are_not_given() -> None:
    usual = NDCG(convention="lenskit")
    assert (usual.discount, usual.label) == (LATE, "ndcg")
    chosen = NDCG(convention="lenskit", discount="rank")
    assert (chosen.discount, chosen.label) == (RANK, "ndcg(discount=rank)")
    assert value_of("ndcg", ranked(HITS, [3]), 5, "lenskit", discount="rank") == value_of("ndcg", ranked(HITS, [3]), 5)
    for name, library in LIBRARIES.items():
        for metric, options in library.metrics.items():
            own = registry.load("metric", metric)(convention=name)
            assert {option: getattr(own, option) for option in options} == options


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_is_given_stays_also_where_it_is_the_default_one(name: str) -> None:
    cls = registry.load("metric", name)
    own = {field.name for field in fields(cls)}
    assert list(inspect.signature(cls).parameters) == [field.name for field in fields(cls)]
    for convention in cls.conventions:
        assert cls(convention).label == cls.name
        for option in own.intersection(LIBRARIES[convention].metrics.get(cls.name, {})):
            default = getattr(cls, option)
            if default is None:  # not given
                assert cls(convention, **{option: None}) == cls(convention)
                continue
            chosen = cls(convention, **{option: default})
            assert getattr(chosen, option) == default
            assert chosen.label == f"{cls.name}({option}={default})"
            assert pickle.loads(pickle.dumps(chosen)) == replace(chosen) == chosen


def test_what_an_option_that_is_given_does() -> None:
    # one of five listed items is a hit, of seven relevant ones
    example = ranked([[1, 0, 0, 0, 0]], [7])
    assert value_of("recall", example, 5, "lenskit", bounded=False) == 1 / 7
    assert registry.load("metric", "recall")("lenskit", False).bounded is False
    assert value_of("hit_rate", ranked([[1, 1]], [2]), 2, "recpack", count=False) == 1
    assert value_of("precision", example, 5, "lenskit", divide_by=None) == value_of("precision", example, 5, "lenskit")
    assert value_of("gini", LISTS, 2, "recbole", padding_item=False) == LISTED["gini", "recgraph"]
    ours = LISTED["intra_list_diversity", "recgraph"]
    assert value_of("intra_list_diversity", LISTS, 2, "rectools", distance="cosine") == pytest.approx(ours)


def test_a_metric_elsewhere_may_have_the_name_of_one_here() -> None:
    class Other(Metric):
        name = "ndcg"

        def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
            return ranked.hits[:, 0].double()

    assert Other.conventions == CONVENTIONS
    assert Other(convention="lenskit")(ranked([[1, 0]], [1]), 2).tolist() == [1]


# two users, two places, four items seen 4, 2, 2 and 0 times by eight users; the first item of each list is a hit
LISTS = RankedHits(
    torch.tensor([[True, False], [True, False]]),
    torch.tensor([1, 2]),
    items=torch.tensor([[0, 1], [0, 3]]),
    known=torch.tensor([[True, False], [False, False]]),
    trained=torch.tensor([True, True]),
    relevant=Ragged.from_lists([[0], [0, 2]]),
    facts=Facts(4, torch.tensor([4, 2, 2, 0]), 8, torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 2]])),
)
LISTED = {
    ("catalogue_coverage", "recgraph"): 3 / 4,
    ("catalogue_coverage", "recbole"): 3 / 5,
    ("catalogue_coverage", "rectools"): 3.0,
    ("catalogue_coverage", "replay"): 2 / 3,
    # shown 0, 1, 1, 2 times: (-3*0 - 1*1 + 1*1 + 3*2) / (4 * 4)
    ("gini", "recgraph"): 6 / 16,
    ("gini", "recbole"): (-2 * 0 + 0 * 1 + 2 * 1 + 4 * 2) / (5 * 4),
    ("entropy", "recgraph"): (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(4),
    ("entropy", "recbole"): (0.5 * math.log(2) + 0.5 * math.log(4)) / 3,
    ("personalization", "recgraph"): 1 / 2,
    ("average_popularity", "recgraph"): (3 + 2) / 2,
    # ranks among the three items with interactions: 3, 1.5, 1.5 of 3; 0 for the fourth
    ("average_popularity", "lenskit"): ((1 + 0.5) / 2 + 1 / 2) / 2,
    ("tail_share", "recgraph"): (1 / 2 + 0) / 2,
    ("novelty", "recgraph"): ((1 + 2) / 2 + (1 + 3) / 2) / 2,
    ("novelty", "replay"): ((1 + 2) / 6 + (1 + 3) / 6) / 2,
    ("new_items", "recgraph"): (1 / 2 + 1) / 2,
    # the two most popular items are 0 and, of the equally popular ones, 1
    ("unexpectedness", "recgraph"): (0 + 1 / 2) / 2,
    # the most popular item at the first rank is no surprise
    ("serendipity", "recgraph"): 0.0,
    # 4^-0.5 of 4^-0.5, and of 4^-0.5 + 2^-0.5
    ("stratified_recall", "recgraph"): (1 + 0.5 / (0.5 + 2**-0.5)) / 2,
    ("stratified_recall", "recpack"): 2.0,
    ("intra_list_diversity", "recgraph"): ((1 - 1 / math.sqrt(2)) + 1) / 2,
    ("intra_list_diversity", "rectools"): (1 + 2) / 2,
    ("intra_list_diversity", "recpack"): (1 / 2 + 1) / 2,
    ("intra_list_diversity", "pyg"): (0 + 1) / 2,
    ("intra_list_diversity", "replay"): (1 / 2 + 1) / 2,
}


@pytest.mark.parametrize(("name", "convention"), LISTED, ids="-".join)
def test_a_worked_example_of_lists(name: str, convention: str) -> None:
    if (name, convention) == ("intra_list_diversity", "recpack"):  # whose features are 0 or 1
        example = replace(LISTS, facts=replace(LISTS.facts, features=LISTS.facts.features.clamp(max=1)))
    else:
        example = LISTS
    assert value_of(name, example, 2, convention) == pytest.approx(LISTED[name, convention], abs=1e-9)


def test_a_worked_example_of_places() -> None:
    # six candidates; two relevant ones: one at the top, one of three tied candidates behind one other
    places = RelevantRanks(
        Ragged.from_lists([[0, 2]]),
        torch.tensor([1, 3]),
        torch.tensor([0, 2]),
        torch.tensor([True, True]),
        torch.tensor([6]),
    )
    example = replace(ranked([[1, 0, 0, 0, 1, 0]], [2]), relevant_ranks=places)
    # pairs with four others: all won, and one lost, two tied, one won
    assert value_of("auc", example, None) == pytest.approx((4 + 1 + 2 * 0.5) / 8)
    assert value_of("auc", example, None, "cornac") == pytest.approx((4 + 1) / 8)
    assert value_of("r_precision", example, None) == 1 / 2
    assert value_of("map", example, None, "cornac") == pytest.approx((1 / 1 + 2 / 5) / 2)
    lost = replace(example, relevant_ranks=replace(places, reachable=torch.tensor([True, False])))
    assert value_of("auc", lost, None) == pytest.approx(1 / 2)
