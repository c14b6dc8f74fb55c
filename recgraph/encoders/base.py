"""The base of encoders of sequences, and which generator a module's dropout draws from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged


def dropout_generator(
    module: nn.Module, probability: float, generator: torch.Generator | None
) -> torch.Generator | None:
    """The generator of a module's dropout: None where it is not in training mode.

    Raises:
        ValueError: in training mode, with dropout above 0, none was given.
    """
    if not module.training:
        return None
    if generator is None and probability > 0:
        raise ValueError("generator is required in training mode with dropout > 0; pass batch.generators['dropout']")
    return generator


class SequenceEncoder(nn.Module):
    """Turns sequences of tokens into states.

    Args:
        hidden_dim: width D of tokens and states.
        max_len: the longest sequence.
        dropout: probability of the dropout of embeddings and layers.
    """

    def __init__(self, hidden_dim: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.hidden_dim, self.max_len, self.dropout = hidden_dim, max_len, dropout

    def forward(
        self,
        sequences: Ragged,
        table: Tensor,
        generator: torch.Generator | None = None,
        last_only: bool = True,
    ) -> Tensor:
        """The states of sequences.

        Args:
            sequences: B rows of tokens, oldest first, none empty; token 0 is a masked item.
            table: [n_tokens, D], the embedding of each token.
            generator: draws dropout; required in training mode where dropout is above 0.
            last_only: return the state after each whole row alone.

        Returns:
            [B, D], or [T, D] aligned with ``sequences.values`` where ``last_only`` is False.

        Raises:
            ValueError: a row is empty or longer than ``max_len``, or no generator was given in training mode.
        """
        longest = int(sequences.lengths.max())
        if longest > self.max_len:
            raise ValueError(f"sequences: a row has {longest} tokens, max_len is {self.max_len}; use sequences.last()")
        generator = dropout_generator(self, self.dropout, generator)
        return self._encode(sequences, table, generator, last_only)

    def _encode(self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, last_only: bool) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _encode")
