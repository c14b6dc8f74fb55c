"""``Layered``: a different operator for each layer of a convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recgraph.sparse.spmm import Operator

__all__ = ["Layered"]


@dataclass(frozen=True, eq=False)
class Layered:
    """What sampled neighbourhoods need: the last layer has rows for the batch alone, the one before for what those see.

    Attributes:
        layers: in the order in which they are applied; the rows of each are the columns of the next.
    """

    layers: tuple[Operator, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that come out, rows that go in."""
        return self.layers[-1].shape[0], self.layers[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Layered:
        """On a device, with weights of a type."""
        return Layered(tuple(layer.to(device, dtype) for layer in self.layers))
