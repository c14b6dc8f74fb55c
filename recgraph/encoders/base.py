"""The base of encoders of sequences, and which generator a module's dropout draws from."""

from __future__ import annotations

from typing import ClassVar

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


def tokens_of_places(tokens: Ragged, vectors: Tensor, masked: Tensor) -> tuple[Ragged, Tensor]:
    """The input of an encoder where each place has a vector of its own: places as tokens, and their table.

    Args:
        tokens: B rows of tokens, or of pairs of a token and its time, on the host; a masked item stays token 0.
        vectors: [T, D], of the places.
        masked: [1, D], of token 0.
    """
    is_paired = tokens.values.ndim > 1
    of_tokens = tokens.values[:, 0] if is_paired else tokens.values
    places = torch.arange(1, len(of_tokens) + 1).masked_fill(of_tokens == 0, 0)
    if is_paired:
        places = torch.stack([places, tokens.values[:, 1]], 1)
    return tokens.with_values(places).mirrored(vectors.device), torch.cat([masked, vectors])


class SequenceEncoder(nn.Module):
    """Turns sequences of tokens into states.

    Args:
        hidden_dim: width D of tokens and states.
        max_len: the longest sequence.
        dropout: probability of the dropout of embeddings and layers.
    """

    #: whether :meth:`padded` reads rows of any length up to max_len; else of max_len alone
    pads_to_any_length: ClassVar[bool] = True
    #: whether a history is read by a masked item that stands behind it: token 0 is then a token as any other
    ends_masked: ClassVar[bool] = False

    def __init__(self, hidden_dim: int, max_len: int, dropout: float) -> None:
        super().__init__()
        self.hidden_dim, self.max_len, self.dropout = hidden_dim, max_len, dropout
        #: the largest dropout probability in the encoder; above 0, training needs a generator
        self.most_dropped = dropout

    def forward(
        self,
        sequences: Ragged,
        table: Tensor,
        generator: torch.Generator | None = None,
        last_only: bool = True,
        places: Ragged | None = None,
    ) -> Tensor:
        """The states of sequences.

        Args:
            sequences: B rows of tokens, oldest first, none empty; token 0 is a masked item. Where :attr:`reads_times`
                also of pairs [T, 2], a token and its time, 0 where unknown (:func:`recgraph.data.gaps.with_gaps`).
            table: [n_tokens, D], the embedding of each token.
            generator: draws dropout; required in training mode where any dropout, also that of attention, is above 0.
            last_only: return the state after each whole row alone.
            places: B rows of M places among ``sequences.values``: return their states alone, whatever ``last_only``.

        Returns:
            [B, D]; [T, D] aligned with ``sequences.values`` where ``last_only`` is False; or [M, D].

        Raises:
            ValueError: a row is empty or longer than ``max_len``, ``places`` has not as many rows, or no generator was
                given in training mode.
        """
        if not sequences.n_rows:
            return table.new_zeros(0, self.hidden_dim)
        longest = sequences.longest
        if longest > self.max_len:
            raise ValueError(f"sequences: a row has {longest} tokens, max_len is {self.max_len}; use sequences.last()")
        generator = dropout_generator(self, self.most_dropped, generator)
        if places is not None:
            if places.n_rows != sequences.n_rows:
                raise ValueError(f"places has {places.n_rows} rows; give one for each of {sequences.n_rows} sequences")
            return self._encode_some(sequences, table, generator, places)
        return self._encode(sequences, table, generator, last_only)

    @property
    def reads_times(self) -> bool:
        """Whether it reads when each item was, beside its embedding."""
        return False

    def compile_parts(self, backend: str = "inductor") -> None:
        """Have accelerators compute by compiled graphs, without a break, what can be compiled; here nothing."""

    def _encode(self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, last_only: bool) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _encode")

    def _encode_some(
        self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, places: Ragged
    ) -> Tensor:
        return self._encode(sequences, table, generator, False).index_select(0, places.values)

    def attention(self, inputs: Tensor) -> list[Tensor]:
        """The attention of each layer, in evaluation mode.

        Args:
            inputs: [B, L, D], as of :meth:`padded`, rows of one length.

        Returns:
            [B, H, L, L] of each layer, H heads: how much each place (a row) attends to each; rows sum to 1.

        Raises:
            ValueError: the encoder has no attention.
        """
        raise ValueError(f"attribution attention: {type(self).__name__} has no attention; use leave_one_out")

    def padded(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The state after each whole row as :meth:`forward` gives it in evaluation mode, for export.

        All shapes follow from those of the arguments, none from their values, so that ``torch.export`` and ONNX can
        hold the computation. It computes what lies behind the ends of rows, too.

        Args:
            inputs: [B, L, D], L up to ``max_len``: the embeddings of rows of tokens, oldest first, padded on the right
                with anything finite. No token but the only one of a row is a masked item.
            lengths: [B] int64, at least 1.

        Returns:
            [B, D].
        """
        raise TypeError(f"{type(self).__name__} must define padded(inputs, lengths) to be exported")


def last_of(padded: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, D] -> [B, D]: the last place of each row."""
    index = (lengths - 1)[:, None, None].expand(-1, 1, padded.shape[2])
    return padded.gather(1, index)[:, 0]
