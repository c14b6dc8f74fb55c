"""Mask: random tokens become token 0."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from recgraph.config import Search
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import choose_within
from recgraph.views.base import SequenceView, ViewConfig, share


class MaskConfig(ViewConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is masked"),
        Search(low=0.1, high=0.9),
    ] = 0.5


class Mask(SequenceView):
    """Write token 0 to ``floor(ratio * length)`` places, without replacement; the last place can be hit.

    Source: CL4SRec (Xie et al., ICDE 2022), section 4.2.1, which has a mask token of its own. As in the
    published code of MCLRec (SIGIR 2023) the token is the padding's, so that encoders also leave masked
    places out of attention.
    """

    Config = MaskConfig

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        hit_mask = choose_within(sequences, share(sequences.lengths, self.config.ratio), generator)
        return sequences.with_values(sequences.values.masked_fill(hit_mask, 0))
