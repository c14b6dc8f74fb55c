"""Convolution as a latent augmenter: along the embedding, or with the batch as channels as published."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged
from recgraph.views.latent.base import Augmenter, Variant

_KERNEL = 3
_CHANNELS = 8


class Conv(Augmenter):
    """One-dimensional convolution of width 3 along the embedding, GELU, L2.

    ``variant="published"``: the *batch* is the channel dimension of one convolution with D channels, so that
    rows mix by their place in the batch and a batch must hold exactly D rows.
    ``variant="row"`` (a departure): each row is one channel, widened to 8 channels and back to one, with
    GELU between; rows do not mix and any batch size goes.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__(hidden_dim, variant)
        if variant == "published":
            self.conv = nn.Conv1d(hidden_dim, hidden_dim, _KERNEL, padding="same")
        else:
            self.up = nn.Conv1d(1, _CHANNELS, _KERNEL, padding="same")
            self.down = nn.Conv1d(_CHANNELS, 1, _KERNEL, padding="same")

    @property
    def batch_size(self) -> int | None:
        return self.hidden_dim if self.variant == "published" else None

    def _augment(self, hidden: Tensor, states: Ragged | None) -> Tensor:
        if self.variant == "published":
            return F.gelu(self.conv(hidden[None])[0])
        out: Tensor = self.down(F.gelu(self.up(hidden[:, None])))
        return out[:, 0]
