"""The answers to ``POST /similar``."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from torch import Tensor

from recgraph.evaluate.topk import Lists
from recgraph.serve.http.asked import AskedSimilar, Reader
from recgraph.serve.http.errors import Refused, shown
from recgraph.serve.http.writing import Answer, Writer
from recgraph.serve.lists import Lister
from recgraph.serve.similar import items_left, lists_like

__all__ = ["Alike"]


class Alike:
    """Answers which items are most like those of requests. Several threads may use it.

    Args:
        reader: of requests to the recommender.
        lister: of its model.
        writer: of its answers.
    """

    def __init__(self, reader: Reader, lister: Lister, writer: Writer) -> None:
        self._reader, self._lister, self._writer = reader, lister, writer
        self._in_common = reader.recommender.in_common

    def answer(self, asked: Sequence[AskedSimilar]) -> list[Answer | Exception]:
        """Answer requests together; for each its answer or :class:`Refused`."""
        index = [torch.tensor(self._reader.items.index(one.items)) for one in asked]
        found: dict[int, Answer | Exception] = {}
        # one product with the vectors for all that compare by them among all items
        shared = [place for place, one in enumerate(asked) if not one.is_alone]
        if shared:
            lists = self._lists(torch.cat([index[place] for place in shared]), max(asked[place].k for place in shared))
            start = 0
            for place in shared:
                end = start + len(asked[place])
                own = Lists(lists.items[start:end], lists.scores[start:end]).first(asked[place].k)
                found[place] = self._told(asked[place], index[place], own)
                start = end
        for place, one in enumerate(asked):
            if one.is_alone:
                found[place] = self._alone(one, index[place])
        return [found[place] for place in range(len(asked))]

    def _lists(self, index: Tensor, k: int, one: AskedSimilar | None = None, among: Tensor | None = None) -> Lists:
        by = "vectors" if one is None else one.by
        return lists_like(self._lister, self._in_common, by, index, min(k, self._lister.n_items), among)

    def _alone(self, one: AskedSimilar, index: Tensor) -> Answer | Refused:
        try:
            among, _ = items_left(one.allow, one.block, self._reader.recommender.items)
        except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:  # ids of odd types
            return Refused(422, str(error), "block" if one.allow is None else "allow")
        most = self._reader.limits.pairs
        if one.by == "co_occurrence" and (n_pairs := self._in_common.n_pairs(index[index >= 0])) > most:
            text = f"items: the users who have them have {n_pairs:,} items, at most {most:,} are counted"
            return Refused(400, f'{text}; send several requests, or "by": "vectors"', "items")
        return self._told(one, index, self._lists(index, one.k, one, among))

    def _told(self, one: AskedSimilar, index: Tensor, lists: Lists) -> Answer | Refused:
        known = (index >= 0).tolist()
        n_unknown = len(known) - sum(known)
        if not any(known):
            return Refused(
                404,
                f"items: nothing is known of item {shown(one.labels[0])}; take one of the bundle's "
                f"{self._lister.n_items:,} items, such as {shown(self._reader.items.example())}",
                "items",
                n_unknown_items=n_unknown,
            )
        results = [
            {"item": label, "items": entries, "known": is_known}
            for label, entries, is_known in zip(
                one.labels, self._writer.entries(lists, one.item_columns), known, strict=True
            )
        ]
        return Answer(self._writer.body(results), n_lists=len(one), n_unknown_items=n_unknown)
