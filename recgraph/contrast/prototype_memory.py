"""Clusterings that are made once for many batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.contrast.prototypes import Clustering, concentration
from recgraph.contrast.term import ContrastiveTerm

__all__ = ["PrototypeMemory"]


class PrototypeMemory(nn.Module):
    """Clusterings of all N rows, looked up by the ids of a batch until they are made again.

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
        """Whether what is stored was made in that epoch."""
        return int(self.epoch) == epoch

    @torch.no_grad()
    def store(self, epoch: int, members: Tensor, clusterings: Sequence[Clustering], temperature: float) -> None:
        """Keep clusterings.

        Args:
            epoch: in which they are made.
            members: [N, D], what was clustered.
            clusterings: one a granularity.
            temperature: the mean of the prototypes' temperatures.
        """
        for t, clustering in enumerate(clusterings):
            self.assignments[t] = clustering.assignments
            getattr(self, f"directions_{t}").copy_(F.normalize(clustering.centroids, dim=1))
            getattr(self, f"temperatures_{t}").copy_(concentration(members, clustering, temperature))
        self.epoch.fill_(epoch)

    def proto_nce(self, term: ContrastiveTerm, anchors: Tensor, ids: Tensor) -> Tensor:
        """The mean over granularities of the anchors' InfoNCE against the stored prototypes.

        Args:
            term: with ``objective="info_nce"`` and no weight.
            anchors: [B, D].
            ids: [B] int64, which of the N rows they are.
        """
        losses = [
            term(
                anchors,
                getattr(self, f"directions_{t}"),
                positives=of_all[ids],
                temperatures=getattr(self, f"temperatures_{t}"),
            )
            for t, of_all in enumerate(self.assignments)
        ]
        return torch.stack(losses).mean()
