"""Approximate search over item vectors with faiss (the extra ``serve``), with an exact ranking of what it finds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.evaluate.ranking import GROUP, device_of, evaluating
from recgraph.evaluate.select import NO_SCORE, merge
from recgraph.evaluate.topk import Lists, tie_order
from recgraph.finite import first_bad_row
from recgraph.models.base import Model
from recgraph.sparse.ragged import Ragged

__all__ = ["AnnIndex"]

#: faiss's default, 16, finds 93 % of the ten best items among 41,000 trained vectors; 64 finds 98 %
_SEARCH_OF_HNSW = "efSearch=64"


class AnnIndex:
    """A faiss index over the items of one model.

    Only the candidates are approximate: their scores are computed again from the vectors, and the order is that of the
    exact ranking, ties included. A recommender ranks all items for a user for whom it finds too few.

    Args:
        index: a faiss index of inner products.
        vectors: [n_items, D] float32, on the host.
        oversample: candidates fetched for each item that is wanted, beyond those that the user has seen.
    """

    def __init__(self, index: Any, vectors: Tensor, oversample: int = 4) -> None:
        if oversample < 1:
            raise ValueError(f"oversample = {oversample} must be at least 1")
        self.index, self.vectors, self.oversample = index, vectors, oversample
        self.order = tie_order(len(vectors), 0)
        self.place = self.order.argsort()

    @classmethod
    def build(cls, model: Model, factory: str = "HNSW32", oversample: int = 4, search: str | None = None) -> AnnIndex:
        """Index a model's items.

        Args:
            factory: a faiss index description, e.g. ``"HNSW32"``, ``"IVF256,Flat"`` or ``"Flat"``.
            search: faiss's search parameters, e.g. ``"efSearch=128"`` or ``"nprobe=16"``. Larger values raise the
                recall (:func:`recgraph.serve.recall.recall_of_lists` measures it) and the time of a search. None:
                ``efSearch=64`` for HNSW, faiss's defaults for other indexes.

        Raises:
            ImportError: faiss is not installed.
            ValueError: the model ranks by scores alone, a vector is not finite, or faiss does not know the description
                or the parameters.
        """
        if not model.has_vectors:
            raise ValueError(f"{type(model).__name__} has no item vectors; an index needs a model that has them")
        try:
            import faiss
        except ImportError:
            raise ImportError("faiss is not installed; pip install 'recgraph[serve]'") from None
        with evaluating(model):
            vectors = model.encode_items().detach().float().to("cpu").contiguous()
        if (item := first_bad_row(vectors)) is not None:  # such an item is never found, and nothing would say so
            raise ValueError(f"the vector of item index {item} is not finite; train or check the model")
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise ValueError(f"factory = {factory!r} is no index that faiss knows: {error}") from None
        if search is None and isinstance(index, faiss.IndexHNSW):
            search = _SEARCH_OF_HNSW
        if search is not None:
            parameters: Any = faiss.ParameterSpace()
            try:
                parameters.set_index_parameters(index, search)
            except RuntimeError as error:
                raise ValueError(f"search = {search!r} does not fit factory = {factory!r}: {error}") from None
        index.train(vectors.numpy())
        index.add(vectors.numpy())
        return cls(index, vectors, oversample)

    def rank(self, model: Model, query: Query, seen: Ragged | None, k: int, batch_size: int = 1024) -> Lists:
        """The best ``k`` of the found items for each user of a query, without those in ``seen``.

        How many are fetched for a user depends on the user alone, so that lists do not depend on who else is asked for.

        Raises:
            ValueError: the index is of another model's items.
        """
        if model.space is not None and model.space.n_items != len(self.vectors):
            raise ValueError(
                f"index: it has {len(self.vectors):,} items, the model {model.space.n_items:,}; AnnIndex.build(model) "
                "makes one of these"
            )
        if not len(query):
            return Lists(torch.empty(0, k, dtype=torch.int64), torch.empty(0, k))
        lengths = torch.zeros(len(query), dtype=torch.int64) if seen is None else seen.lengths.to("cpu")
        # users with histories of similar length together: else a user with thousands of items would make the search of
        # all others as long
        sizes = torch.where(lengths > 0, 2 ** lengths.clamp(min=1).double().log2().ceil().long(), 0)
        of_size = {size: torch.nonzero(sizes == size).flatten() for size in set(sizes.tolist())}
        groups = [
            (size, part)
            for size, rows in of_size.items()
            for part in rows.split(min(GROUP, batch_size))  # type: ignore[no-untyped-call]
        ]
        found = Lists.cat(
            [self._rank_group(model, query, seen, k, part, k * self.oversample + size) for size, part in groups]
        )
        place = torch.cat([part for _, part in groups]).argsort()
        return Lists(found.items[place], found.scores[place])

    @torch.no_grad()
    def _rank_group(self, model: Model, query: Query, seen: Ragged | None, k: int, rows: Tensor, wanted: int) -> Lists:
        part = query.take(rows)
        with evaluating(model):
            users = model.encode_users(part.to(device_of(model))).detach().float().to("cpu")
        own = Ragged.from_lists([[]] * len(rows)) if seen is None else seen.take(rows)
        found = torch.from_numpy(self.index.search(users.numpy(), min(wanted, len(self.vectors)))[1])
        keys = torch.arange(len(rows))[:, None] * len(self.vectors) + found
        missing = (found < 0) | torch.isin(keys, own.rows * len(self.vectors) + own.values)
        items = found.clamp(min=0)
        scores = (self.vectors[items] @ users[:, :, None]).squeeze(2).masked_fill(missing, NO_SCORE)
        values, columns = merge(scores, self.place[items].masked_fill(missing, -1), k)
        return Lists(torch.where(columns < 0, columns, self.order[columns.clamp(min=0)]), values)
