"""The bases of encoders of sequences: any, and of layers over packed or padded tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import ConfigError, Search
from recgraph.encoders.attention import Asked, Layout, Padded, pack
from recgraph.rng import dropout, lent
from recgraph.sparse.device import compiled, is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import lookup

# settings that encoders share, as parameters of their constructors
Layers = Annotated[int, Field(ge=1, description="layers"), Search(1, 4)]
Heads = Annotated[
    int, Field(ge=1, description="attention heads; divides hidden_dim"), Search(choices=(1, 2, 4))
]
Width = Annotated[int, Field(ge=1, description="width of the feed-forward part")]
AttentionDropout = Annotated[float, Field(ge=0, lt=1, description="of the attention probabilities")]
TimeBias = Annotated[
    bool,
    Field(
        description="whether scores have a learned bias of the time from an item to what a place predicts"
    ),
]


def dropout_generator(
    module: nn.Module, probability: float, generator: torch.Generator | None
) -> torch.Generator | None:
    """The generator of a module's dropout: None where it is not in training mode, where dropout
    above 0 needs one.
    """
    if not module.training:
        return None
    if generator is None and probability > 0:
        raise ValueError(
            "generator is required in training mode with dropout > 0; pass batch.generators['dropout']"
        )
    return generator


def tokens_of_places(tokens: Ragged, vectors: Tensor, masked: Tensor) -> tuple[Ragged, Tensor]:
    """The input of an encoder where each place has a vector of its own: places as tokens, and their
    table.

    Args:
        tokens: B rows of tokens [T], or of tokens with their times [T, 3], on the host; a masked
            item stays token 0.
        vectors: [T, D], of the places.
        masked: [1, D], of token 0.
    """
    values = tokens.values.clone()
    items = values.view(len(values), -1)[:, 0]
    items.copy_(torch.arange(1, len(values) + 1).masked_fill(items == 0, 0))
    return tokens.with_values(values).mirrored(vectors.device), torch.cat([masked, vectors])


class SequenceEncoder(nn.Module):
    """Turns sequences of tokens into states.

    Args:
        hidden_dim: width D of tokens and states.
        max_len: the longest sequence.
        dropout: probability of the dropout of embeddings and layers.
    """

    #: whether :meth:`padded` reads rows of any length up to max_len; else of max_len alone
    pads_to_any_length: ClassVar[bool] = True
    #: whether a history is read by a masked item that stands behind it: token 0 is then a token as
    #: any other
    ends_masked: ClassVar[bool] = False
    #: whether it reads when each item was, beside its embedding
    reads_times: bool = False

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
            sequences: B rows of 1 to ``max_len`` tokens, oldest first; token 0 is a masked item. Of
                an encoder that reads times also of triples with two times
                (:func:`recgraph.data.batches.with_gaps`).
            table: [n_tokens, D], the embedding of each token.
            generator: draws dropout; required in training mode where any dropout, also that of
                attention, is above 0.
            last_only: return the state after each whole row alone.
            places: B rows of M places among ``sequences.values``: return their states alone,
                whatever ``last_only``.

        Returns:
            [B, D]; [T, D] aligned with ``sequences.values`` where ``last_only`` is False; or [M,
            D].
        """
        if not sequences.n_rows:
            return table.new_zeros(0, self.hidden_dim)
        generator = dropout_generator(self, self.most_dropped, generator)
        if places is not None:
            return self._encode_some(sequences, table, generator, places)
        return self._encode(sequences, table, generator, last_only)

    def closed(self, sequences: Ragged) -> Ragged:
        """Rows as it reads them: with a masked item behind each where it ``ends_masked``."""
        if self.ends_masked:
            return sequences.lengthened()
        return sequences

    def _encode(
        self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, last_only: bool
    ) -> Tensor:
        raise NotImplementedError

    def _encode_some(
        self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, places: Ragged
    ) -> Tensor:
        return self._encode(sequences, table, generator, False).index_select(0, places.values)

    def attention(self, inputs: Tensor) -> list[Tensor]:
        """The attention of each layer, in evaluation mode.

        Args:
            inputs: [B, L, D], as of :meth:`padded`, rows of one length.

        Returns:
            [B, H, L, L] of each layer, H heads: how much each place (a row) attends to each; rows
            sum to 1.
        """
        raise ValueError(
            f"attribution attention: {type(self).__name__} has no attention; use leave_one_out"
        )

    def padded(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """The state after each whole row as :meth:`forward` gives it in evaluation mode, for
        export.

        All shapes follow from those of the arguments, none from their values, so that
        ``torch.export`` and ONNX can hold the computation. It computes what lies behind the ends of
        rows, too.

        Args:
            inputs: [B, L, D], L up to ``max_len``: the embeddings of rows of tokens, oldest first,
                padded on the right with anything finite. No token but the only one of a row is a
                masked item.
            lengths: [B] int64, at least 1.

        Returns:
            [B, D].
        """
        raise TypeError(f"{type(self).__name__} must define padded(inputs, lengths) to be exported")


def last_of(padded: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, D] -> [B, D]: the last place of each row."""
    index = (lengths - 1)[:, None, None].expand(-1, 1, padded.shape[2])
    return padded.gather(1, index)[:, 0]


class EncoderLayer(nn.Module):
    """One layer of a :class:`LayeredEncoder`."""

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        """[N, D] -> [N, D], of all tokens of the layout."""
        raise NotImplementedError

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        """[N, D] -> [B, D], the last place of each row alone: all other queries are never read."""
        raise NotImplementedError

    def some(
        self, x: Tensor, layout: Layout, asked: Asked, generator: torch.Generator | None
    ) -> Tensor:
        """[N, D] -> [M, D], of some places; a layer that can computes no others."""
        return self(x, layout, generator).index_select(0, asked.tokens)  # type: ignore[no-any-return]

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D] of right-padded rows, without dropout; ``keep_mask`` [B, L]: False
        behind an end.
        """
        raise NotImplementedError

    def attention(self, x: Tensor) -> Tensor:
        """[B, L, D] -> [B, n_heads, L, L], the probabilities of right-padded rows."""
        raise ValueError(
            f"attribution attention: the weights of {type(self).__name__} are no probabilities"
        )


class LayeredEncoder(SequenceEncoder):
    """Base of encoders of layers: item plus learned position embedding, dropout, layers.

    Nothing is computed for padding, nor, where ``drops_masked``, for masked items that no key can
    reach; where only the last state is read, or some are (:meth:`EncoderLayer.some`), the last
    layer computes these places alone. A masked item's place passes no gradient to the embedding of
    token 0, unless the encoder ``sees_all``. A subclass makes ``position_embedding`` and
    ``layers``.
    """

    #: whether masked items, which no key can reach, may be left out before the last place alone is
    #: computed
    drops_masked: ClassVar[bool] = True
    #: whether every place sees all of its row, masked items too, whose vector is then learned; else
    #: the items up to it
    sees_all: ClassVar[bool] = False
    position_embedding: nn.Embedding
    layers: nn.ModuleList

    def __init__(self, hidden_dim: int, max_len: int, dropout: float, n_heads: int) -> None:
        super().__init__(hidden_dim, max_len, dropout)
        if hidden_dim % n_heads:
            raise ConfigError(f"n_heads = {n_heads} must divide hidden_dim = {hidden_dim}")
        #: probability of the dropout of the first layer's input
        self.embedding_dropout = dropout
        #: what the tokens' embeddings are multiplied by, before positions are added
        self.embedding_scale = 1.0
        self._compiled: Callable[..., Tensor] | None = None

    def enter(self, x: Tensor) -> Tensor:
        """The input of the first layer, of embeddings with their positions."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """The states, of the output of the last layer."""
        return x

    def make_masks(self, layout: Padded, last_only: bool) -> None:
        """Make what layers will read of the layout now: in a compiled graph nothing can be kept."""
        _ = layout.every_bias
        if last_only:
            _ = layout.last_bias

    def _encode(
        self,
        sequences: Ragged,
        table: Tensor,
        generator: torch.Generator | None,
        last_only: bool,
        places: Ragged | None = None,
    ) -> Tensor:
        if is_accelerated(table):
            layout: Layout = Padded.of(sequences, table.device, self.max_len, self.sees_all)
        else:
            layout = pack(sequences, last_only and self.drops_masked, self.sees_all)
        asked = None if places is None else layout.asked(places)
        if self._compiled is None or not isinstance(layout, Padded):
            return self._states(layout, table, generator, last_only, asked)
        self.make_masks(layout, last_only)
        with lent(generator, table.device):
            states: Tensor = self._compiled(self, layout, table, generator, last_only, asked)
        return states

    def _encode_some(
        self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, places: Ragged
    ) -> Tensor:
        return self._encode(sequences, table, generator, False, places)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile all that follows the layout, as one graph; it is used on accelerators alone."""
        self._compiled = compiled(type(self)._states, backend)

    def _states(
        self,
        layout: Layout,
        table: Tensor,
        generator: torch.Generator | None,
        last_only: bool,
        asked: Asked | None,
    ) -> Tensor:
        vectors = lookup(table, layout.tokens, padding_idx=None if self.sees_all else 0)
        if self.embedding_scale != 1:
            vectors = vectors * self.embedding_scale
        x = self.enter(layout.with_positions(vectors, self.position_embedding))
        x = dropout(x, self.embedding_dropout, generator)
        *inner, final = cast("list[EncoderLayer]", list(self.layers))
        for layer in inner:
            x = layer(x, layout, generator)
        if last_only:
            return layout.restore_rows(self.leave(final.last(x, layout, generator)))
        if asked is not None:
            return asked.restore(self.leave(final.some(x, layout, asked, generator)))
        return layout.restore_tokens(self.leave(final(x, layout, generator)))

    def padded(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        x, places = self._embedded(inputs)
        keep_mask = places < lengths[:, None]
        for layer in cast("list[EncoderLayer]", list(self.layers)):
            x = layer.padded(x, keep_mask)
        return self.leave(last_of(x, lengths))

    def attention(self, inputs: Tensor) -> list[Tensor]:
        x, places = self._embedded(inputs)
        probabilities = []
        for layer in cast("list[EncoderLayer]", list(self.layers)):
            probabilities.append(layer.attention(x))
            x = layer.padded(x, (places >= 0).expand(len(x), -1))
        return probabilities

    def _embedded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] the input of the first layer, and [L] the places."""
        places = torch.arange(inputs.shape[1], device=inputs.device)
        return self.enter(inputs * self.embedding_scale + self.position_embedding(places)), places
