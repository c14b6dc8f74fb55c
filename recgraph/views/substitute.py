"""Substitute: random items become similar ones."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recgraph.config import Search
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import choose_within
from recgraph.views.base import share
from recgraph.views.base_similarity import SimilarityConfig, SimilarityView


class SubstituteConfig(SimilarityConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is substituted"),
        Search(low=0.1, high=0.9),
    ] = 0.1


class Substitute(SimilarityView):
    """Put a similar item in the place of ``max(floor(ratio * length), 1)`` items, uniform without
    replacement.

    Source: CoSeRec (Liu et al., 2021), section 3.3; the published code's rate .1. Departures: see
    :class:`SimilarityView`.
    """

    Config = SubstituteConfig

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        places = torch.nonzero(choose_within(sequences, counts, generator)).squeeze(1)
        found = self.similar(sequences.values[places], generator)
        values = sequences.values.clone()
        values[places] = torch.where(found > 0, found, values[places])
        return sequences.with_values(values)
