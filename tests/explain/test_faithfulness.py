"""Agreement and faithfulness beside their definitions, and the sentence beside the table that it is made from."""

from __future__ import annotations

import math
import random
import re
from itertools import combinations, pairwise

import pytest
import torch
from attributed_models import GRAPHS, SEQUENCES, histories, model_of, recommender_of, subject_of

import recgraph as rg
from recgraph.explain.attribution.agreement import kendall, ordered, overlap, spearman
from recgraph.explain.attribution.faithfulness import BINS, Faithfulness, faithfulness, random_orders
from recgraph.explain.attribution.result import (
    Attributed,
    MethodAttribution,
    MethodPair,
    Removal,
    agreement_rows,
    faithfulness_rows,
)
from recgraph.explain.attribution.sentence import sentence_of
from recgraph.explain.item import Item, Node

ROWS = histories()


def draws(seed: int, n: int) -> tuple[list[float], list[float]]:
    own = random.Random(seed)
    return [own.randint(0, 6) / 2 for _ in range(n)], [own.randint(0, 6) / 2 for _ in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_agreement_by_counting(seed: int) -> None:
    a, b = draws(seed, 9)

    def ranks(values: list[float]) -> list[float]:
        return [sum(x < y for x in values) + (sum(x == y for x in values) + 1) / 2 for y in values]

    first, second = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(first, second, strict=True))
    spread = math.prod(math.sqrt(sum((x - mean) ** 2 for x in each)) for each in (first, second))
    assert spearman(a, b) == pytest.approx(covariance / spread)
    pairs = [(a[i] - a[j], b[i] - b[j]) for i, j in combinations(range(len(a)), 2)]
    surplus = sum(((x > 0) - (x < 0)) * ((y > 0) - (y < 0)) for x, y in pairs)
    untied = [sum(pair[side] != 0 for pair in pairs) for side in (0, 1)]
    assert kendall(a, b) == pytest.approx(surplus / math.sqrt(untied[0] * untied[1]))
    by_hand = sorted(range(len(a)), key=lambda place: (-a[place], -place))
    assert ordered(a) == by_hand
    assert overlap(a, b, 3) == len({*by_hand[:3]} & {*ordered(b)[:3]}) / 3


def test_agreement_of_little() -> None:
    assert (spearman([1.0], [2.0]), kendall([1.0, 1.0], [1.0, 2.0])) == (None, None)
    assert overlap([1.0, 2.0], [2.0, 1.0], 5) == 1
    with pytest.raises(ValueError, match="k = 0 must be at least 1"):
        overlap([1.0], [1.0], 0)


@pytest.mark.parametrize("name", ["sasrec", "meowrec"])
def test_faithfulness_point_by_point(name: str) -> None:
    model = model_of(name, ROWS, **{**SEQUENCES, **GRAPHS}[name])
    subject = subject_of(model, ROWS, 4)
    n = subject.n_events
    orders = random_orders(n, 2, torch.Generator().manual_seed(1))
    found = faithfulness(subject, 1, orders)

    def value(kept: list[int]) -> float:
        keep_mask = torch.tensor([[place in kept for place in range(n)]])
        return float(subject.values(keep_mask)[0, 1])

    full = value(list(range(n)))
    for order, one in zip(orders.tolist(), found, strict=True):
        without = [value(order[round(q * n / 10) :]) for q in range(11)]
        alone = [value(order[: round(q * n / 10)]) for q in range(11)]
        assert one.deletion == pytest.approx(sum((a + b) / 20 for a, b in pairwise(without)))
        assert one.insertion == pytest.approx(sum((a + b) / 20 for a, b in pairwise(alone)))
        taken = [order[: math.ceil(share * n)] for share in BINS]
        gone = [full - value([place for place in order if place not in each]) for each in taken]
        left = [full - value(each) for each in taken]
        assert one.comprehensiveness == pytest.approx(sum(gone) / len(BINS))
        assert one.sufficiency == pytest.approx(sum(left) / len(BINS))


def test_leaving_out_the_best_first_is_more_faithful_than_chance() -> None:
    """Of a model whose value is a sum over the history the order by leave-one-out is the best of all."""
    model = model_of("ease", ROWS, double=False)
    found = rg.explain.attribute(recommender_of(model, ROWS), "u4", ["i1", "i20"], ["leave_one_out"], of="score")
    for each in found:
        (own,) = each.methods
        assert own.faithfulness.deletion <= each.by_chance.deletion
        assert own.faithfulness.insertion >= each.by_chance.insertion
        assert own.faithfulness.comprehensiveness >= each.by_chance.comprehensiveness
        assert own.faithfulness.sufficiency <= each.by_chance.sufficiency


@pytest.fixture(scope="module")
def found() -> tuple[Attributed, ...]:
    recommender = recommender_of(model_of("sasrec", ROWS, **SEQUENCES["sasrec"]), ROWS)
    return rg.explain.attribute(recommender, "u4", methods=["leave_one_out", "integrated_gradients", "attention"], k=6)


def test_the_table_follows_from_the_values(found: tuple[Attributed, ...]) -> None:
    for each in found:
        for one in each.methods:
            above = sum(max(value, 0) for value in one.values)
            assert sum(one.shares) == pytest.approx(1 if above else 0)
            assert list(one.order) == ordered(one.values)
            held = [sum(one.shares[place] for place in one.order[:n]) for n in range(len(one.order) + 1)]
            assert one.n_half == (next(n for n, share in enumerate(held) if share >= 0.5 - 1e-9) if above else 0)
        pairs = combinations(each.methods, 2)
        for pair, (a, b) in zip(each.agreement, pairs, strict=True):
            assert (pair.first, pair.second) == (a.method, b.method)
            assert (pair.spearman, pair.kendall) == (spearman(a.values, b.values), kendall(a.values, b.values))
    (row, *_) = agreement_rows(found)
    known = [each.agreement[0].kendall for each in found if each.agreement[0].kendall is not None]
    assert row["Kendall"] == pytest.approx(sum(known) / len(known))
    rows = {row["method"]: row for row in faithfulness_rows(found)}
    by_chance = [each.by_chance.insertion for each in found]
    assert rows["random order"]["insertion"] == pytest.approx(sum(by_chance) / len(by_chance))
    assert (agreement_rows([]), faithfulness_rows([])) == ([], [])


def test_the_removal_is_that_of_the_model(found: tuple[Attributed, ...]) -> None:
    model = model_of("sasrec", ROWS, **SEQUENCES["sasrec"])
    unseen_mask = torch.ones(30, dtype=torch.bool)
    unseen_mask[ROWS[4]] = False
    for each in found:
        if each.removal is None:
            continue
        target = int(each.item.id[1:])
        subject = subject_of(model, ROWS, 4, [target], unseen_mask=unseen_mask)
        keep_mask = subject.full_mask()
        assert each.removal.rank == int(subject.ranks(keep_mask)[0, 0])
        keep_mask[0, list(each.removal.places)] = False
        assert each.removal.rank_without == int(subject.ranks(keep_mask)[0, 0])
        assert list(each.removal.places) == list(each.methods[0].order[: min(each.methods[0].n_half, 3)])


def check_claims(each: Attributed) -> None:
    """Read every claim out of the sentence, and find it in the table."""
    lead, n, text = each.methods[0], len(each.events), each.sentence
    title = re.escape(each.item.title)
    assert text.startswith(f"By {lead.method.replace('_', ' ')}, ")
    if each.removal is None:
        assert all(value <= 0 for value in lead.values)
        assert re.search(f"nothing in the history speaks for {title}", text)
        assert "without" not in text
    else:
        (names, share) = re.search(rf", (.+?) carr(?:y|ies) (\d+)% of what speaks for {title};", text).groups()  # type: ignore[union-attr]
        named = re.split(", | and ", names)
        assert named == [each.events[place].title for place in each.removal.places]
        assert int(share) == pytest.approx(100 * sum(lead.shares[place] for place in each.removal.places), abs=0.51)
        half = re.search(r"half of it lies on (\d+) of (\d+) items: it is (\w+)", text)
        if half is None:
            assert n == 1
        else:
            assert (int(half[1]), int(half[2])) == (lead.n_half, n)
            assert half[3] == ("concentrated" if lead.n_half <= n / 5 or (lead.n_half == 1 and n > 2) else "spread")
        (counted, moved) = re.search(rf"without (it|these \d+) {title} (.*)\.$", text).groups()  # type: ignore[union-attr]
        assert counted == ("it" if len(named) == 1 else f"these {len(named)}")
        before, after = each.removal.rank, each.removal.rank_without
        if before == after:
            assert moved == f"stays at rank {before}"
        else:
            assert f"moves from rank {before} to {after}" in moved
            assert ("leaves the first" in moved) == (before <= each.k < after)
            assert ("stays among the first" in moved) == (before <= each.k and after <= each.k)
            assert ("enters the first" in moved) == (after <= each.k < before)
    if len(each.methods) > 1:
        known = [pair.spearman for pair in each.agreement if pair.spearman is not None]
        (words, value) = re.search(r"methods (\D+?) \(mean rank correlation (-?\d\.\d\d)\)", text).groups()  # type: ignore[union-attr]
        mean = sum(known) / len(known)
        assert float(value) == pytest.approx(mean, abs=0.00501)
        assert words == ("agree" if mean >= 0.7 else "agree in part" if mean >= 0.3 else "hardly agree")
        first = {one.order[0] for one in each.methods}
        assert ("they put different items first" in text) == (len(first) > 1)
        if len(first) == 1:
            assert f"all put {each.events[first.pop()].title} first" in text
    else:
        assert "methods" not in text


def test_sentences_of_a_model(found: tuple[Attributed, ...]) -> None:
    for each in found:
        check_claims(each)


@pytest.mark.parametrize("seed", range(12))
def test_sentences_of_random_tables(seed: int) -> None:
    own = random.Random(seed)
    n, n_methods = own.randint(1, 9), own.randint(1, 3)
    if n == 1:
        n_methods = 1
    none = Faithfulness(0, 0, 0, 0)
    methods = []
    for number in range(n_methods):
        values = [own.uniform(-1 if seed % 3 else -2, 1 if seed % 3 else -0.1) for _ in range(n)]
        above = sum(max(value, 0) for value in values)
        shares = [max(value, 0) / above if above else 0.0 for value in values]
        order = ordered(values)
        sums = [sum(shares[place] for place in order[:k]) for k in range(n + 1)]
        n_half = next(k for k, held in enumerate(sums) if held >= 0.5 - 1e-9) if above else 0
        methods.append(MethodAttribution(f"method_{number}", tuple(values), tuple(shares), tuple(order), n_half, none))
    pairs = tuple(
        MethodPair(a.method, b.method, spearman(a.values, b.values), kendall(a.values, b.values), 0, 5)
        for a, b in combinations(methods, 2)
    )
    places = methods[0].order[: min(methods[0].n_half, 3)]
    removal = Removal(places, own.randint(1, 9), own.randint(1, 40)) if places else None
    events = tuple(Node("item", place, f"Event {place}") for place in range(n))
    made = Attributed(Item(7, "Film"), "score", 1.0, events, 0, tuple(methods), pairs, none, removal, 5)
    check_claims(rg.explain.Attributed(**{**vars(made), "sentence": sentence_of(made)}))


def test_a_method_that_gives_all_the_same_is_said_to() -> None:
    none = Faithfulness(0, 0, 0, 0)
    flat = MethodAttribution("a", (1.0, 1.0), (0.5, 0.5), (1, 0), 1, none)
    pair = MethodPair("a", "b", None, None, 1.0, 5)
    events = (Node("item", 0, "Same"), Node("item", 0, "Same"))
    made = Attributed(Item(7, "Film"), "score", 1.0, events, 0, (flat, flat), (pair,), none, Removal((1,), 1, 1), 5)
    assert "cannot be compared, as one gives all items the same" in sentence_of(made)
    # an item that stands twice is named once
    both = Attributed(Item(7, "Film"), "score", 1.0, events, 0, (flat,), (), none, Removal((1, 0), 1, 1), 5)
    assert sentence_of(both).startswith("By a, Same carries 100% of what speaks for Film;")
