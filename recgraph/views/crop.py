"""Crop: a random consecutive part of the sequence."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recgraph.config import Search
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import uniform_up_to
from recgraph.views.base import SequenceView, ViewConfig, share


class CropConfig(ViewConfig):
    ratio: Annotated[
        float,
        Field(gt=0, le=1, description="the share of the sequence that is kept"),
        Search(low=0.1, high=0.9),
    ] = 0.5


class Crop(SequenceView):
    """Keep ``floor(ratio * length)`` consecutive tokens, at least one, at a uniform place.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1; ratio .5 as in MCLRec (SIGIR 2023). Departure: at
    least one token is kept (with a small ratio the published code would leave none).
    """

    Config = CropConfig

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        kept = share(sequences.lengths, self.config.ratio, at_least=1)
        starts = uniform_up_to(sequences.lengths - kept, generator)
        return sequences.window(torch.arange(sequences.n_rows, device=sequences.device), starts, kept)
