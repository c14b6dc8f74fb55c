"""Vectors brought to length 1, of which cosines are inner products."""

from __future__ import annotations

import math

from torch import Tensor

# F.normalize, whose values these are, divides shorter vectors by it
_SHORTEST = 1e-12


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors [..., D] over their lengths; one that is 0 stays 0 and gets no gradient.

    A narrow state is 0 where dropout takes all of its dimensions, and has no direction. ``F.normalize`` multiplies the
    gradient by 1e12 there, so that weights become infinite.
    """
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / lengths.masked_fill(lengths <= _SHORTEST, math.inf)
