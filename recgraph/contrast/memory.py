"""The prototypes of all rows, kept between batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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
        #: ``epoch`` on the host, which would wait for it on an accelerator at every step; None: not read yet
        self._epoch: int | None = None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._epoch = None

    def is_of(self, epoch: int) -> bool:
        """Whether the prototypes were made in that epoch."""
        if self._epoch is None:
            self._epoch = int(self.epoch)
        return self._epoch == epoch

    def forget(self) -> None:
        """Hold the prototypes of no epoch, before a training begins."""
        self._hold(-1)

    def _hold(self, epoch: int) -> None:
        self.epoch.fill_(epoch)
        self._epoch = epoch

    def of_epoch(self, epoch: int, make: Callable[[], Sequence[PrototypeSet]]) -> list[PrototypeSet]:
        """The prototypes of an epoch, made in its first step."""
        if not self.is_of(epoch):
            # equal on all ranks, also where sums on a device are not the same each time
            self.store(epoch, [one.of_first_rank() for one in make()])
        return self.prototypes()

    def store(self, epoch: int, prototypes: Sequence[PrototypeSet]) -> None:
        """Keep the prototypes of each clustering, made in that epoch."""
        for t, one in enumerate(prototypes):
            self.assignments[t] = one.assignments
            getattr(self, f"directions_{t}").copy_(one.directions)
            getattr(self, f"temperatures_{t}").copy_(one.temperatures)
        self._hold(epoch)

    def prototypes(self) -> list[PrototypeSet]:
        """The stored prototypes of each clustering."""
        return [
            PrototypeSet(of_all, getattr(self, f"directions_{t}"), getattr(self, f"temperatures_{t}"))
            for t, of_all in enumerate(self.assignments)
        ]
