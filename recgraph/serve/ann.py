"""Approximate search over item vectors with faiss (the extra ``serve``), with an exact ranking of
what it finds.

By default a catalogue of n items is cut into ``sqrt(n)`` cells (k-means of a sample), an item is
stored as 4 bits for each number of what its vector differs from its cell's centroid (product
quantisation), and the items of the 64 cells nearest to a user are compared; the best of them are
then compared by their vectors.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.batches import Query
from recgraph.evaluate.ranking import GROUP, device_of, evaluating
from recgraph.evaluate.topk import NO_SCORE, Lists, merge, tie_order
from recgraph.models.base import Model
from recgraph.rng import numpy_generator
from recgraph.serve.vectors import encode_items
from recgraph.sparse.blocks import row_blocks
from recgraph.sparse.ragged import Ragged

#: a smaller catalogue is compared whole, which costs no more
_FEWEST_OF_CELLS = 20_000
#: narrower vectors are stored as they are: so few codes would tell too few of them apart
_LEAST_DIM_OF_CODES = 16
#: cells that are searched: they hold 99 % of the ten best of 41,000 trained vectors, and 98.5 % of
#: 490,000
_SEARCH_OF_CELLS = "nprobe=64"
#: rows of the sample that a cell's centroid is made of
_ROWS_OF_CELL = 64
#: candidates for each item of a list, where vectors are compared, and where 4 bits stand for a
#: number
_OVERSAMPLE, _OVERSAMPLE_OF_CODES = 4, 10
#: of the vectors of candidates that are gathered at a time
_NUMBERS = 1 << 22


class AnnIndex:
    """A faiss index over the items of one model.

    Only the candidates are approximate, ``oversample`` for each item of a list beyond those that
    the user has seen: scores are computed again from the vectors, and the order is that of the
    exact ranking, ties included. A recommender ranks all items for a user for whom it finds too
    few.
    """

    def __init__(self, index: Any, vectors: Tensor, oversample: int = _OVERSAMPLE) -> None:
        self.index = index
        self.vectors = vectors
        self.oversample = oversample
        self.order = tie_order(len(vectors), 0)
        self.place = self.order.argsort()

    @classmethod
    @checked
    def build(
        cls,
        model: Model,
        factory: str | None = None,
        oversample: int | None = None,
        search: str | None = None,
    ) -> AnnIndex:
        """Index a model's items.

        Args:
            factory: a faiss index description, e.g. ``"HNSW32"``, ``"IVF256,Flat"`` or ``"Flat"``.
                None: cells and codes (``"IVF{sqrt(n)},PQ{D}x4fs"``), below 20,000 items ``"Flat"``,
                which compares all.
            oversample: see the class; None: 10 for codes (``PQ``), else 4.
            search: faiss's search parameters, e.g. ``"efSearch=128"`` or ``"nprobe=16"``: larger
                values raise recall and time. None: 64 cells of the default index, faiss's defaults
                for others.
        """
        try:
            import faiss
        except ImportError:
            raise ImportError("faiss is not installed; pip install 'recgraph[serve]'") from None
        # a copy: where the vectors are parameters, training would change them, and not what the
        # index holds
        vectors = encode_items(model).clone(memory_format=torch.contiguous_format)
        n_items, dim = vectors.shape
        sample = rows = vectors.numpy()
        if factory is None and n_items < _FEWEST_OF_CELLS:
            factory = "Flat"
        elif factory is None:
            n_cells = math.isqrt(n_items)
            codes = f"PQ{dim}x4fs"
            if dim < _LEAST_DIM_OF_CODES:
                codes = "Flat"
            factory = f"IVF{n_cells},{codes}"
            search = search or _SEARCH_OF_CELLS
            order = numpy_generator(0, "cells").permutation(n_items)
            sample = rows[order[: _ROWS_OF_CELL * n_cells]]
        try:
            index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
            if search is not None:
                parameters: Any = faiss.ParameterSpace()
                parameters.set_index_parameters(index, search)
            index.train(sample)
            index.add(rows)
            index.search(rows[:1], 1)
        except RuntimeError as error:
            settings = f"factory = {factory!r}, search = {search!r}"
            raise ValueError(
                f"{settings}: faiss refuses them for {n_items:,} items: {error}"
            ) from None
        if oversample is None:
            oversample = _OVERSAMPLE_OF_CODES if "PQ" in factory else _OVERSAMPLE
        return cls(index, vectors, oversample)

    def check(self, model: Model) -> Self:
        """The index; ValueError where it is not of the model's items as they are now."""
        vectors = encode_items(model)
        is_same = vectors.shape == self.vectors.shape and torch.allclose(
            vectors, self.vectors, rtol=1e-4, atol=1e-6
        )
        if not is_same:
            raise ValueError(
                "index: its vectors are not the model's; AnnIndex.build(model) makes one of these"
            )
        return self

    def rank(self, model: Model, query: Query, seen: Ragged | None, k: int) -> Lists:
        """The best ``k`` of the found items for each user of a query, without those in ``seen``.

        How many are fetched for a user depends on the user alone, so that lists do not depend on
        who shares a batch.
        """
        if seen is None:
            seen = Ragged.from_lists([[]] * len(query))
        lengths = seen.lengths.to("cpu")
        # users with histories of similar length together: else a user with thousands of items would
        # make the search of all others as long
        sizes = torch.where(lengths > 0, 2 ** lengths.clamp(min=1).double().log2().ceil().long(), 0)
        lists = []
        groups = []
        for size in torch.unique(sizes).tolist():
            n_candidates = k * self.oversample + size
            for rows in torch.split((sizes == size).nonzero().flatten(), GROUP):
                lists.append(
                    self._rank_group(model, query.take(rows), seen.take(rows), k, n_candidates)
                )
                groups.append(rows)
        all_lists = Lists.cat(lists)
        place = torch.cat(groups).argsort()
        return Lists(all_lists.items[place], all_lists.scores[place])

    @torch.no_grad()
    def _rank_group(
        self, model: Model, query: Query, seen: Ragged, k: int, n_candidates: int
    ) -> Lists:
        n_users = len(query)
        n_items = len(self.vectors)
        with evaluating(model):
            users = model.encode_users(query.to(device_of(model))).detach().float().to("cpu")
        _, neighbours = self.index.search(users.numpy(), min(n_candidates, n_items))
        candidates = torch.from_numpy(neighbours)
        keys = torch.arange(n_users)[:, None] * n_items + candidates
        missing = (candidates < 0) | torch.isin(keys, seen.rows * n_items + seen.values)
        items = candidates.clamp(min=0)
        scores = torch.empty(items.shape)
        width = items.shape[1] * self.vectors.shape[1]
        for some in row_blocks(n_users, width, scores, max(_NUMBERS // width, 1)):
            # no matrix product: the last bits of one depend on how many users it is of
            scores[some] = self.vectors[items[some]].mul_(users[some, None]).sum(2)
        scores.masked_fill_(missing, NO_SCORE)
        values, columns = merge(scores, self.place[items].masked_fill(missing, -1), k)
        return Lists(torch.where(columns < 0, columns, self.order[columns.clamp(min=0)]), values)
