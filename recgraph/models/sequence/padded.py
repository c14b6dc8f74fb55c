"""The form in which a sequence model is exported."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders.base import SequenceEncoder

__all__ = ["PaddedSequences"]


class PaddedSequences(nn.Module):
    """User vectors [B, D] of padded rows of tokens; padding is a masked item."""

    table: Tensor

    def __init__(self, encoder: SequenceEncoder, table: Tensor, gap_embedding: nn.Embedding | None) -> None:
        super().__init__()
        self.encoder, self.gap_embedding = encoder, gap_embedding
        self.register_buffer("table", table)

    def forward(self, history: Tensor, gaps: Tensor | None = None) -> Tensor:
        """[B, L] tokens and, of a model that reads them, [B, L] buckets of time gaps -> [B, D]."""
        lengths = (history != 0).sum(1)
        if self.encoder.ends_masked:
            history, gaps, lengths = F.pad(history, (0, 1)), None if gaps is None else F.pad(gaps, (0, 1)), lengths + 1
        inputs = F.embedding(history, self.table)
        if self.gap_embedding is not None and gaps is not None:
            inputs = inputs + self.gap_embedding(gaps)
        return self.encoder.padded(inputs, lengths.clamp(min=1))
