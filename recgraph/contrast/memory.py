"""The prototypes of all rows, kept between batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recgraph.contrast.prototypes import PrototypeSet

__all__ = ["PrototypeMemory"]


class PrototypeMemory(nn.Module):
    """The prototypes of clusterings of all N rows, kept for an epoch.

    They are part of the state, so that a training that is resumed within an epoch goes on with them.

    Source: the E-step of PCL (Li et al., ICLR 2021).

    Args:
        n: N.
        dim: D, the width of the rows.
        n_clusters: of each of the T granularities (at most N are made).

    Attributes:
        assignments: [T, N] int64, the cluster of each row in each clustering.
    """

    assignments: Tensor
    epoch: Tensor

    def __init__(self, n: int, dim: int, n_clusters: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.full((), -1, dtype=torch.int64))
        self.register_buffer("assignments", torch.zeros(len(n_clusters), n, dtype=torch.int64))
        for t, wanted in enumerate(n_clusters):
            self.register_buffer(f"directions_{t}", torch.zeros(min(wanted, n), dim))
            self.register_buffer(f"temperatures_{t}", torch.ones(min(wanted, n)))

    def is_of(self, epoch: int) -> bool:
        """Whether the prototypes were made in that epoch."""
        return int(self.epoch) == epoch

    def store(self, epoch: int, prototypes: Sequence[PrototypeSet]) -> None:
        """Keep the prototypes of each clustering, made in that epoch."""
        for t, one in enumerate(prototypes):
            self.assignments[t] = one.assignments
            getattr(self, f"directions_{t}").copy_(one.directions)
            getattr(self, f"temperatures_{t}").copy_(one.temperatures)
        self.epoch.fill_(epoch)

    def prototypes(self) -> list[PrototypeSet]:
        """The stored prototypes of each clustering."""
        return [
            PrototypeSet(of_all, getattr(self, f"directions_{t}"), getattr(self, f"temperatures_{t}"))
            for t, of_all in enumerate(self.assignments)
        ]
