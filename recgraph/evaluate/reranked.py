"""Lists that a re-ranker picks from the rankings of a model, to be measured."""

from __future__ import annotations

from functools import cached_property

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
from recgraph.sparse.ragged import Ragged

__all__ = ["Rerankings", "reranked"]


class Rerankings:
    """What picks the lists of protocols; what several of them compare items by is made once.

    Args:
        model: ranks.
        n_items: the size of the catalogue.
        fit_part: the log of users in common; None: not known.
        columns: of the item features; None: not known.
    """

    def __init__(self, model: Ranker, n_items: int, fit_part: Part | None, columns: ItemColumns | None) -> None:
        self._model, self._columns = model, columns
        self._in_common = None if fit_part is None else CoOccurrence(fit_part.items, n_items)

    def of(self, protocol: Protocol) -> Reranking | None:
        """The re-ranker of a protocol with what it compares by; None where lists are the best of the ranking.

        Raises:
            ValueError: the similarity that the protocol's re-ranker names cannot be had.
        """
        if not protocol.rerank:
            return None
        return bind(
            reranker_of(protocol.rerank),
            "rerank",
            self._model,
            by_vectors=(lambda: self._by_vectors) if self._model.has_vectors else None,
            in_common=self._in_common,
            columns=self._columns,
        )

    @cached_property
    def _by_vectors(self) -> Cosine:
        found = item_vectors_of(self._model)
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
