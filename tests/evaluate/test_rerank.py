"""Every re-ranker against a slow oracle, and the contract of the kind."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.evaluate.rerank import (
    CoOccurrence,
    Cosine,
    Jaccard,
    Reranker,
    Reranking,
    Similarity,
    pick,
    reranker_of,
)
from recgraph.sparse.ragged import Ragged

N_ITEMS = 60
NAMES = sorted(registry.members("reranker").values())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(width: int = 8) -> Tensor:
    return torch.randn(N_ITEMS, width, generator=generator())


def rankings(n_rows: int, width: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Rankings of different lengths, -1 behind the last, with some equal scores."""
    scores = torch.randn(n_rows, N_ITEMS, generator=generator(seed)).double().mul(4).round() / 4
    best, items = scores.sort(dim=1, descending=True, stable=True)
    items, best = items[:, :width].clone(), best[:, :width].clone()
    for row in range(n_rows):
        length = (row * 7) % (width + 1)
        items[row, width - length :] = -1
        best[row, width - length :] = float("-inf")
    return items, best


def similarities(similarity: Similarity) -> np.ndarray:
    """[n_items, n_items] float64, 1 of an item with itself."""
    compare = similarity.of(torch.arange(N_ITEMS)[None].expand(N_ITEMS, -1))
    full = compare(torch.arange(N_ITEMS)).numpy().copy()
    np.fill_diagonal(full, 1.0)
    return full


def relevance_of(scores: list[float], how: str) -> list[float]:
    if how == "probability":
        shares = [math.exp(score - max(scores)) for score in scores]
        return [share / sum(shares) for share in shares]
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def oracle(
    reranker: Reranker, full: np.ndarray, items: list[int], scores: list[float], k: int
) -> list[int]:
    """One list, from the definitions: the gain of every candidate anew at every step."""
    config = reranker.config
    there = [(item, score) for item, score in zip(items, scores, strict=True) if item >= 0]
    pool = there[: config.pool]
    if not pool:
        return []
    relevance = dict(
        zip([i for i, _ in pool], relevance_of([s for _, s in pool], config.relevance), strict=True)
    )
    chosen: list[int] = []
    while len(chosen) < min(k, len(pool)):
        best, most = None, -math.inf
        for item, _ in pool:
            if item in chosen:
                continue
            if isinstance(reranker, registry.load("reranker", "dpp")):
                value = (1 - config.strength) * relevance[item] + config.strength * gain(
                    full, chosen, item
                )
            else:
                near = max((full[item, other] for other in chosen), default=0.0)
                value = (1 - config.strength) * relevance[item] - config.strength * near
            if value > most + 1e-12:
                best, most = item, value
        assert best is not None
        chosen.append(best)
    return (chosen + [item for item, _ in there[config.pool :]])[:k]


def gain(full: np.ndarray, chosen: list[int], item: int) -> float:
    """The log of what an item adds to the determinant."""
    whole = np.linalg.det(full[np.ix_([*chosen, item], [*chosen, item])])
    return math.log(
        max(whole / np.linalg.det(full[np.ix_(chosen, chosen)]) if chosen else whole, 1e-6)
    )


def picked(
    specification: dict[str, Any],
    items: Tensor,
    scores: Tensor,
    k: int,
    similarity: Similarity | None = None,
) -> list[list[int]]:
    reranking = Reranking(reranker_of(specification), similarity or Cosine(vectors()))
    places, short_mask = pick(items, scores, k, reranking=reranking)
    assert short_mask.tolist() == ((places[:, -1] < 0) & (items[:, -1] >= 0)).tolist()
    found = torch.where(places < 0, -1, items.gather(1, places.clamp(min=0)))
    return [[item for item in row if item >= 0] for row in found.tolist()]


def users() -> Ragged:
    """Who has which item; no one has the last ten."""
    drawn = torch.rand(30, N_ITEMS, generator=generator(3))
    return Ragged.from_lists(
        [(row[: N_ITEMS - 10] > 0.7).nonzero().flatten().tolist() for row in drawn]
    )


def codes() -> list[Tensor]:
    """Two columns with up to three and exactly one value; some items have none of the first."""
    drawn = torch.stack(
        [torch.randperm(9, generator=generator(item))[:3] for item in range(N_ITEMS)]
    )
    lengths = torch.arange(N_ITEMS) % 4
    return [
        drawn.masked_fill(torch.arange(3) >= lengths[:, None], -1),
        (torch.arange(N_ITEMS) % 5)[:, None],
    ]


#: as many dimensions as items that are picked: volumes stay above the least
SIMILARITIES = {
    "vectors": Cosine(vectors(16)),
    "users": CoOccurrence(users(), N_ITEMS),
    "features": Jaccard(codes()),
}


@pytest.mark.parametrize("name", ["mmr", "dpp"])
@pytest.mark.parametrize(("relevance", "similarity", "strength", "k", "pool"), [
    ("min_max", "vectors", 0.05, 6, 25), ("min_max", "vectors", 0.6, 12, 8), ("probability", "vectors", 0.6, 6, 25),
    ("probability", "vectors", 0.05, 12, 8), ("min_max", "users", 0.4, 6, 20), ("min_max", "features", 0.4, 6, 20),
])  # fmt: skip
def test_lists_are_those_of_the_oracle(
    name: str, relevance: str, similarity: str, strength: float, k: int, pool: int
) -> None:
    reranker = reranker_of(
        {"name": name, "relevance": relevance, "strength": strength, "pool": pool}
    )
    items, scores = rankings(14, 30)
    found = picked(reranker.specification, items, scores, k, SIMILARITIES[similarity])
    full = similarities(SIMILARITIES[similarity])
    for row, own in enumerate(found):
        assert own == oracle(reranker, full, items[row].tolist(), scores[row].tolist(), k)


def test_similarities_are_their_definitions() -> None:
    table = vectors()
    table[7] = 0.0
    wanted = np.zeros((N_ITEMS, N_ITEMS))
    first, second = (column.tolist() for column in codes())
    sets = [
        {(at, v) for at, of in enumerate((first, second)) for v in of[i] if v >= 0}
        for i in range(N_ITEMS)
    ]
    lists = users().to_lists()
    have = [{row for row in range(30) if i in lists[row]} for i in range(N_ITEMS)]
    for kind in (Cosine(table), Jaccard(codes()), CoOccurrence(users(), N_ITEMS)):
        for i in range(N_ITEMS):
            for j in range(N_ITEMS):
                if isinstance(kind, Cosine):
                    a, b = table[i].double(), table[j].double()
                    wanted[i, j] = float(a @ b) / max(float(a.norm() * b.norm()), 1e-300)
                elif isinstance(kind, Jaccard):
                    wanted[i, j] = len(sets[i] & sets[j]) / max(len(sets[i] | sets[j]), 1)
                else:
                    wanted[i, j] = len(have[i] & have[j]) / max(
                        math.sqrt(len(have[i]) * len(have[j])), 1
                    )
        np.fill_diagonal(wanted, 1.0)
        assert np.abs(similarities(kind) - wanted).max() < 2e-7
        assert np.linalg.eigvalsh(similarities(kind)).min() > -1e-6


@pytest.mark.parametrize("name", NAMES)
def test_picks_are_a_permutation_and_a_list_is_the_beginning_of_a_longer_one(name: str) -> None:
    items, scores = rankings(11, 20)
    whole = picked({"name": name, "strength": 0.5, "pool": 12}, items, scores, 20)
    for row, own in enumerate(whole):
        assert sorted(own) == sorted(item for item in items[row].tolist() if item >= 0)
    for k in (1, 5, 15):
        assert picked({"name": name, "strength": 0.5, "pool": 12}, items, scores, k) == [
            own[:k] for own in whole
        ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("relevance", ["min_max", "probability"])
def test_strength_0_leaves_the_ranking(name: str, relevance: str) -> None:
    items, scores = rankings(11, 20)
    scores[:, 3:] -= 2000  # probabilities of 0
    found = picked({"name": name, "strength": 0.0, "relevance": relevance}, items, scores, 20)
    assert found == [[item for item in row if item >= 0] for row in items.tolist()]


@pytest.mark.parametrize("name", NAMES)
def test_a_reranker_is_made_from_its_text(name: str) -> None:
    made = reranker_of({"name": name, "strength": 0.25, "columns": ["genre"]})
    assert json.loads(str(made))["name"] == name
    again = reranker_of(str(made))
    assert type(again) is type(made)
    assert again.config == made.config
    assert reranker_of(made) is made
    with refused("strenght"):
        reranker_of({"name": name, "strenght": 1})
    with refused("strength"):
        reranker_of({"name": name, "strength": 1.5})
