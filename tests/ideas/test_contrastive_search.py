"""Contrastive search against its definition, loaded as a user loads it."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from recgraph.evaluate.rerank import Cosine, Reranking, pick, reranker_of
from recgraph.registry import import_file

IDEA = Path(__file__).parents[2] / "experiments" / "ideas" / "contrastive_search.py"


def oracle(items: list[int], scores: list[float], similarity: torch.Tensor, strength: float, k: int) -> list[int]:
    """The gain of every candidate anew at every step."""
    weights = [math.exp(score - max(scores)) for score in scores]
    chosen: list[int] = []
    while len(chosen) < k:
        gains = {
            item: (1 - strength) * weight / sum(weights)
            - strength * max((float(similarity[item, other]) for other in chosen), default=0.0)
            for item, weight in zip(items, weights, strict=True)
            if item not in chosen
        }
        chosen.append(max(gains, key=lambda item: gains[item]))
    return chosen


def test_lists_are_those_of_the_oracle() -> None:
    import_file(IDEA)
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 8, generator=draw)
    unit = torch.nn.functional.normalize(vectors.double())
    scores, items = (3 * torch.randn(12, 40, generator=draw)).double().sort(1, descending=True)
    for strength in (0.0, 0.1, 0.6):
        reranker = reranker_of({"name": "contrastive_search", "strength": strength, "pool": 15})
        places, _ = pick(items, scores, 7, reranking=Reranking(reranker, Cosine(vectors)))
        for row in range(12):
            own = items[row, :15].tolist()
            wanted = oracle(own, scores[row, :15].tolist(), unit @ unit.T, strength, 7)
            assert items[row][places[row]].tolist() == wanted
