"""The counterfactual view: groups of popularity, similar items of other groups and weighted draws, by slow oracles."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import permutations, product
from typing import Literal

import pytest
import torch
from scipy.stats import chi2

from recgraph.augment.counterfactual import Counterfactual, popularity_groups
from recgraph.augment.similar import nearest_tokens
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged

# item 6 is in no history, item 5 alone with its user
HISTORIES = [[0, 2], [1, 3], [0, 1, 4], [3, 2], [3, 4], [3, 4], [0, 4], [5], [2, 4, 2], [4, 3, 0], [4]]
N_ITEMS = 7
COUNTS = torch.bincount(torch.tensor([item for history in HISTORIES for item in history]), minlength=N_ITEMS).tolist()


def _groups(n_groups: int) -> list[int]:
    total = sum(COUNTS)
    groups = []
    for count in COUNTS:
        rarer, equal = sum(c for c in COUNTS if c < count), sum(c for c in COUNTS if c == count)
        groups.append(min(math.floor(n_groups * (rarer + Fraction(equal, 2)) / total), n_groups - 1))
    return groups


def _swaps(n_groups: int, n_similar: int, swap: str) -> dict[int, list[int]]:
    """Token -> the tokens that it may become."""
    part = Part(Ragged.from_lists(HISTORIES), N_ITEMS)
    nearest, groups = nearest_tokens(part, N_ITEMS).tolist(), [None, *_groups(n_groups)]
    swaps: dict[int, list[int]] = {0: []}
    for token in range(1, N_ITEMS + 1):
        own = groups[token]
        fits = [
            other
            for other in nearest[token]
            if other and (groups[other] != own if swap == "other" else groups[other] < own)  # type: ignore[operator]
        ]
        swaps[token] = fits[:n_similar]
    return swaps


def _likely(
    row: tuple[int, ...], count: int, power: float, swaps: dict[int, list[int]]
) -> dict[tuple[int, ...], float]:
    """Every view with its probability: all orders of draws, all choices of similar items."""
    weight = [0.0 if token == 0 else float(COUNTS[token - 1]) ** power for token in row]
    likely: Counter[tuple[int, ...]] = Counter()
    for drawn in permutations(range(len(row)), count):
        probability, left = 1.0, sum(weight)
        for place in drawn:
            probability *= weight[place] / left if left else 0.0
            left -= weight[place]
        choices = [swaps[row[place]] or [row[place]] for place in drawn]
        for chosen in product(*choices):
            view = list(row)
            for place, token in zip(drawn, chosen, strict=True):
                view[place] = token
            likely[tuple(view)] += probability / math.prod(map(len, choices))  # type: ignore[assignment]
    return {view: probability for view, probability in likely.items() if probability > 0}


@pytest.mark.parametrize("n_groups", [2, 3, 5, 50])
def test_groups_hold_about_the_same_number_of_interactions(n_groups: int, device: torch.device) -> None:
    counts = torch.tensor(COUNTS, device=device)
    assert popularity_groups(counts, n_groups).tolist() == _groups(n_groups)
    many = torch.arange(1, 2_001, device=device)
    mass = torch.zeros(n_groups, device=device, dtype=torch.int64).index_add(0, popularity_groups(many, n_groups), many)
    assert bool(((mass - many.sum() / n_groups).abs() <= many.max()).all())
    assert popularity_groups(counts * 0, n_groups).tolist() == [0] * N_ITEMS


@pytest.mark.parametrize("row", [(5, 4, 1), (1, 0, 5, 6), (4, 5, 3, 2)])
@pytest.mark.parametrize(("ratio", "power"), [(0.1, 1.0), (0.5, 1.0), (0.5, 0.0), (0.8, 2.0)])
@pytest.mark.parametrize("swap", ["other", "rarer"])
def test_every_outcome_has_its_probability(
    row: tuple[int, ...], ratio: float, power: float, swap: Literal["other", "rarer"]
) -> None:
    view = Counterfactual(ratio=ratio, n_groups=3, n_similar=2, popularity_power=power, swap=swap)
    view.setup(Part(Ragged.from_lists(HISTORIES), N_ITEMS))
    count = max(math.floor(ratio * len(row)), 1)
    likely = _likely(row, count, power, _swaps(3, 2, swap))
    assert abs(sum(likely.values()) - 1) < 1e-12

    batch = Ragged.from_lists([row, (1, 2, 3, 4, 5, 1)] * 3_000)
    drawn = [tuple(made) for made in view(batch, torch.Generator().manual_seed(len(row))).to_lists()[::2]]
    seen = Counter(drawn)
    assert seen.keys() <= likely.keys()
    statistic = sum((seen[out] - p * len(drawn)) ** 2 / (p * len(drawn)) for out, p in likely.items())
    assert statistic <= chi2.ppf(1 - 1e-4, max(len(likely) - 1, 1))


def test_rarer_items_take_the_place_of_popular_ones() -> None:
    draw = torch.Generator().manual_seed(0)
    popularity = 1 / torch.arange(1, 61, dtype=torch.float64)
    lengths = torch.full((200,), 12)
    items = torch.multinomial(popularity, int(lengths.sum()), replacement=True, generator=draw)
    part = Part(Ragged.from_lengths(items, lengths), 60)
    view, counts = Counterfactual(ratio=0.5, swap="rarer"), part.item_counts()
    view.setup(part)
    made = view(part.items.with_values(part.items.values + 1), draw).values - 1
    assert bool((counts[made] <= counts[items]).all())
    assert float(counts[made].double().mean()) < 0.8 * float(counts[items].double().mean())


def test_without_setup_a_counterfactual_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"call setup\(train\)"):
        Counterfactual()(Ragged.from_lists([[1, 2]]), torch.Generator())
