"""A queue of embeddings, kept between batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgraph.sparse.blocks import unit_length

# added to variances before they are divided
_SMALLEST = 1e-12


class Queue(nn.Module):
    """A queue of the last ``size`` rows of unit length; those of one id are of the last call that had it.

    Queued rows have no gradient and come from older parameters than the batch. :meth:`join` gives each of their
    components the mean and the deviation of the batch, with gradients to these. Without this alignment embeddings can
    lower the loss by drifting together away from the queue instead of apart from one another: MEOW and AdaMEOW did not
    learn at all. The queue is part of the state, so that a resumed training goes on with it.

    Source: cross-batch memory (Wang et al., CVPR 2020), aligned as in adaptive cross batch normalisation (Ajanthan et
    al., 2022).

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
        """A batch and below it the queued rows of other ids.

        Args:
            rows: [B, D], of unit length.
            ids: [B] int64, of the rows, not negative.

        Returns:
            [M, D] and [M], M between B and B + Q.
        """
        others = torch.nonzero((self.ids >= 0) & ~torch.isin(self.ids, ids)).squeeze(1)
        queued = _aligned(self.rows[others].to(rows.dtype), rows)
        return torch.cat([rows, queued]), torch.cat([ids, self.ids[others]])

    @torch.no_grad()
    def push(self, rows: Tensor, ids: Tensor) -> None:
        """Replace the oldest rows, and earlier rows of the same ids. A batch that is pushed again replaces itself.

        Args:
            rows: [B, D]; where B > Q, the last Q are kept.
            ids: [B] int64, not negative; one that stands there twice keeps both rows.
        """
        size = len(self.ids)
        if not size:
            return
        rows, ids = rows[-size:], ids[-size:]
        steps = torch.arange(len(ids), device=ids.device)
        # phases of a step push one batch several times: in new places, it would leave as many old ones empty
        is_again = (self.ids[(self.place - len(ids) + steps) % size] == ids).all()
        first = self.place - len(ids) * is_again
        self.ids.masked_fill_(torch.isin(self.ids, ids), -1)
        places = (first + steps) % size
        self.rows[places] = rows.detach().to(self.rows.dtype)
        self.ids[places] = ids
        self.place.copy_((first + len(ids)) % size)


def _aligned(old: Tensor, new: Tensor) -> Tensor:
    """``old`` [n, D] with the mean and the deviation of ``new`` in each component, of unit length."""
    if len(old) < 2 or len(new) < 2:  # one row has no deviation
        return old
    (var, mean), (var_old, mean_old) = torch.var_mean(new, 0), torch.var_mean(old, 0)
    scale = ((var + _SMALLEST) / (var_old + _SMALLEST)).sqrt()
    return unit_length((old - mean_old) * scale + mean)
