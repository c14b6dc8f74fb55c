"""Insert and substitute: the table of similar items and the distribution of views, against slow oracles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from recgraph.augment.similar import Insert, SimilarityAugmentation, Substitute
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged

# item 5 is alone with its user, item 6 is in no history
HISTORIES = [[0, 2], [1, 3], [0, 1, 4], [3, 2], [3, 4], [3, 4], [0, 4], [5], [2, 4, 2]]
N_ITEMS = 7


def _ranked() -> dict[int, list[int]]:
    """Token -> tokens of similar items, most similar first, by the published formula in plain loops."""
    common, users = np.zeros((N_ITEMS, N_ITEMS)), np.zeros(N_ITEMS)
    for history in map(set, HISTORIES):
        for i in history:
            users[i] += 1
            for j in history - {i}:
                common[i, j] += 1 / math.log(1 + len(history))
    ranked = {0: []}
    for i in range(N_ITEMS):
        value = {j: common[i, j] / math.sqrt(users[i] * users[j]) for j in range(N_ITEMS) if common[i, j]}
        assert len(set(value.values())) == len(value), "no ties in this data"
        ranked[i + 1] = [j + 1 for j in sorted(value, key=lambda j: -value[j])]
    return ranked


def _substituted(row: tuple[int, ...], chosen: tuple[int, ...], of: dict[int, int]) -> tuple[int, ...]:
    return tuple(of.get(token, token) if place in chosen else token for place, token in enumerate(row))


def _inserted(row: tuple[int, ...], chosen: tuple[int, ...], of: dict[int, int]) -> tuple[int, ...]:
    out: list[int] = []
    for place, token in enumerate(row):
        out += [of[token]] if place in chosen and token in of else []
        out.append(token)
    return tuple(out)


@pytest.mark.parametrize("n_similar", [1, 2, 20])
def test_similar_items_are_drawn_from_the_nearest(n_similar: int, device: torch.device) -> None:
    view = Substitute(n_similar=n_similar)
    view.setup(Part(Ragged.from_lists(HISTORIES, device), N_ITEMS))
    generator = torch.Generator(device).manual_seed(0)
    tokens = torch.arange(N_ITEMS + 1, device=device).repeat(400)
    drawn = view.similar(tokens, generator).view(400, -1).T.tolist()
    for token, expected in _ranked().items():
        assert set(drawn[token]) == (set(expected[:n_similar]) or {0})


@pytest.mark.parametrize(("row", "ratio"), [((1, 2), 0.1), ((3, 6, 1), 1.0), ((4, 0, 5, 3, 7), 0.4), ((6, 7), 0.4)])
@pytest.mark.parametrize(("kind", "oracle"), [(Substitute, _substituted), (Insert, _inserted)])
def test_every_outcome_has_its_probability(
    kind: type[SimilarityAugmentation], oracle: Callable[..., tuple[int, ...]], row: tuple[int, ...], ratio: float
) -> None:
    view = kind(ratio=ratio)
    view.setup(Part(Ragged.from_lists(HISTORIES), N_ITEMS))
    nearest = {token: found[0] for token, found in _ranked().items() if found}
    count = max(math.floor(ratio * len(row)), 1)
    likely = Counter(oracle(row, chosen, nearest) for chosen in combinations(range(len(row)), count))

    batch = Ragged.from_lists([row, (1, 2, 3, 4, 5, 1)] * 3_000)
    drawn = [tuple(made) for made in view(batch, torch.Generator().manual_seed(len(row))).to_lists()[::2]]
    seen = Counter(drawn)
    assert seen.keys() <= likely.keys()
    scale = len(drawn) / likely.total()
    statistic = sum((seen[out] - n * scale) ** 2 / (n * scale) for out, n in likely.items())
    assert statistic <= chi2.ppf(1 - 1e-4, max(len(likely) - 1, 1))
