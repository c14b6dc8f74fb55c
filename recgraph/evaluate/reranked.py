"""Lists that a re-ranker picks from the rankings of a model, to be measured."""

from __future__ import annotations

from functools import partial

import torch

from recgraph.data.item_columns import ItemColumns
from recgraph.data.part import Part
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.ranking import Ranker, item_vectors_of
from recgraph.evaluate.topk import Lists
from recgraph.rerank.base import reranker_of
from recgraph.rerank.bind import bind
from recgraph.rerank.pick import Reranking, pick
from recgraph.rerank.similarity import CoOccurrence, Cosine
from recgraph.shards import has_shards
from recgraph.sparse.ragged import Ragged

__all__ = ["reranked", "reranking_of"]


def reranking_of(
    protocol: Protocol, model: Ranker, n_items: int, fit_part: Part | None, columns: ItemColumns | None
) -> Reranking | None:
    """What picks the lists of a protocol; None where they are the best of the ranking.

    Raises:
        ValueError: the similarity of its settings cannot be had.
    """
    if not protocol.rerank:
        return None
    # rows of shards are with several processes
    by_vectors = partial(_by_vectors, model) if model.has_vectors and not has_shards(model) else None
    in_common = None if fit_part is None else CoOccurrence(fit_part.items, n_items)
    return bind(
        reranker_of(protocol.rerank), "rerank", model, by_vectors=by_vectors, in_common=in_common, columns=columns
    )


def _by_vectors(model: Ranker) -> Cosine:
    found = item_vectors_of(model)
    assert found is not None
    return Cosine(found.detach().float().to("cpu"))


def reranked(lists: Lists, k: int, reranking: Reranking, history: Ragged) -> Lists:
    """Pick lists of at most ``k`` items.

    Args:
        lists: best first, at least as long as the pool where there are so many items; on the host.
        history: what each user did, oldest first.
    """
    places, _ = pick(lists.items, lists.scores.double(), k, reranking=reranking, history=history)
    at = places.clamp(min=0)
    scores = lists.scores.gather(1, at).masked_fill(places < 0, float("-inf"))
    return Lists(torch.where(places < 0, places, lists.items.gather(1, at)), scores)
