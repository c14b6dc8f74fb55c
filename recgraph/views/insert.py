"""Insert: similar items are put before random items."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recgraph.config import Search
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import choose_within
from recgraph.views.base import share
from recgraph.views.base_similarity import SimilarityConfig, SimilarityView


class InsertConfig(SimilarityConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence before which a similar item is put"),
        Search(low=0.1, high=0.9),
    ] = 0.4


class Insert(SimilarityView):
    """Put a similar item before each of ``max(floor(ratio * length), 1)`` items, uniform without replacement.

    Rows grow by up to that number; for an encoder of a fixed length keep their last tokens (``Ragged.last``, or
    ``max_len`` of :class:`TwoViews`).

    Source: CoSeRec (Liu et al., 2021), section 3.3; the published code's rate .4, one item a place.
        Departures: see
    :class:`SimilarityView`.
    """

    Config = InsertConfig

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        places = torch.nonzero(choose_within(sequences, counts, generator)).squeeze(1)
        found = self.similar(sequences.values[places], generator)
        places, found = places[found > 0], found[found > 0]

        added = torch.zeros_like(sequences.values).index_fill_(0, places, 1)
        moved = torch.arange(added.numel(), device=added.device) + added.cumsum(0)
        values = sequences.values.new_empty(added.numel() + places.numel())
        values[moved] = sequences.values
        values[moved[places] - 1] = found
        lengths = sequences.lengths.index_add(0, sequences.rows[places], torch.ones_like(places))
        return Ragged.from_lengths(values, lengths)
