"""A queue of embeddings of earlier batches: more candidates than a batch holds, without recomputing them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Queue"]


class Queue(nn.Module):
    """The last ``size`` rows that were pushed, first in first out, each id at most once.

    Rows carry no gradient; they are as old as ``size`` divided by the batch. They are part of the state, so that a
    resumed training goes on with them.

    Source: the memory of MoCo (He et al., CVPR 2020), here without a momentum encoder.

    Args:
        size: Q rows at most; 0 keeps none.
        dim: D, their width.
    """

    rows: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def join(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A batch and below it what the queue holds of others: nobody comes twice.

        Args:
            rows: [B, D].
            ids: [B] int64, who they are, not negative.

        Returns:
            [M, D] and [M], M between B and B + Q.
        """
        others = torch.nonzero((self.ids >= 0) & ~torch.isin(self.ids, ids)).squeeze(1)
        return torch.cat([rows, self.rows[others].to(rows.dtype)]), torch.cat([ids, self.ids[others]])

    @torch.no_grad()
    def push(self, rows: Tensor, ids: Tensor) -> None:
        """Put rows in the place of the oldest; older rows of the same ids leave.

        Args:
            rows: [B, D]; of more than Q, the last Q.
            ids: [B] int64, each once, not negative.
        """
        size = len(self.ids)
        if not size:
            return
        rows, ids = rows[-size:], ids[-size:]
        self.ids.masked_fill_(torch.isin(self.ids, ids), -1)
        places = (self.place + torch.arange(len(ids), device=ids.device)) % size
        self.rows[places] = rows.detach().to(self.rows.dtype)
        self.ids[places] = ids
        self.place.add_(len(ids)).remainder_(size)
