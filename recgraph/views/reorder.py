"""Reorder: a random window of the sequence is shuffled."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recgraph.config import Search
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import shuffle_within, uniform_up_to
from recgraph.views.base import SequenceView, ViewConfig, share


class ReorderConfig(ViewConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is shuffled"),
        Search(low=0.1, high=0.9),
    ] = 0.8


class Reorder(SequenceView):
    """Shuffle a window of ``floor(ratio * length)`` consecutive tokens at a uniform place.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1; ratio .8 as in MCLRec (SIGIR 2023).
    """

    Config = ReorderConfig

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        width = share(sequences.lengths, self.config.ratio)
        starts = uniform_up_to(sequences.lengths - width, generator)
        from_start = sequences.positions - starts[sequences.rows]
        inside = torch.nonzero((from_start >= 0) & (from_start < width[sequences.rows])).squeeze(1)
        order = shuffle_within(sequences.rows[inside], generator)
        values = sequences.values.clone()
        values[inside] = sequences.values[inside[order]]
        return sequences.with_values(values)
