"""Two views of each sequence by two operations drawn from a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import assign
from recgraph.views.base import SequenceView


class TwoViews:
    """Draw two operations of a list and apply one for the first view and the other for the second.

    ``TwoViews(["crop", "mask", "reorder"], per="row")`` is what the published code of MCLRec does: two
    different operations for every sample, all ordered pairs equally likely, and none where the length is 1.

    Args:
        views: registered names (default settings) or views.
        per: ``"row"`` draws a pair for each row, ``"batch"`` one for all rows of a call.
        distinct: the two operations of a pair differ; False draws them independently.
        max_len: of a view that has grown longer, the last ``max_len`` tokens are kept; None keeps all.

    Raises:
        ValueError: fewer views than a pair needs, ``per`` is neither, or a name is not a sequence view's.
    """

    def __init__(
        self,
        views: Sequence[str | SequenceView],
        per: Literal["row", "batch"] = "row",
        distinct: bool = True,
        max_len: int | None = None,
    ) -> None:
        if len(views) < 1 + distinct:
            raise ValueError(f"views = {list(views)!r}: give at least {1 + distinct}, or more to choose from")
        if per not in ("row", "batch"):
            raise ValueError(f"per = {per!r} must be 'row' or 'batch'")
        self.views = [_sequence_view(view) for view in views]
        self.per = per
        self.distinct = distinct
        self.max_len = max_len

    def setup(self, train: Part) -> None:
        """Set every view up with the training part."""
        for view in self.views:
            view.setup(train)

    def __call__(self, sequences: Ragged, generator: torch.Generator) -> tuple[Ragged, Ragged]:
        """Two views of every row (see :meth:`SequenceView.__call__`)."""
        first, second = self._draw_pairs(sequences.n_rows if self.per == "row" else 1, generator)
        return self._apply(sequences, first, generator), self._apply(sequences, second, generator)

    def _apply(self, sequences: Ragged, drawn: Tensor, generator: torch.Generator) -> Ragged:
        if self.per == "batch":
            view = self.views[int(drawn)](sequences, generator)
        else:
            operations: list[Callable[[Ragged], Ragged]] = [partial(v, generator=generator) for v in self.views]
            view = assign(sequences, drawn.masked_fill(sequences.lengths < 2, -1), operations)
        return view if self.max_len is None else view.last(self.max_len)

    def _draw_pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        n, where = len(self.views), generator.device
        first = torch.randint(n, (count,), generator=generator, device=where)
        step = torch.randint(int(self.distinct), n, (count,), generator=generator, device=where)
        return first, (first + step) % n


def _sequence_view(view: str | SequenceView) -> SequenceView:
    if isinstance(view, SequenceView):
        return view
    made = registry.load("view", view)()
    if getattr(made, "target", None) != "sequence":
        raise ValueError(f"view {view!r} varies a {getattr(made, 'target', 'unknown thing')}, not a sequence")
    return made  # type: ignore[no-any-return]
