"""The layout of a batch of sequences on an accelerator: one padded batch and torch's fused attention.

Everything that the layout depends on is read on the host (:attr:`recgraph.sparse.ragged.Ragged.on_host`) and copied to
the device at once. Lengths are rounded up, so that few shapes occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import to_device
from recgraph.encoders.packed import Asked, score_bias, spans
from recgraph.rng import lent
from recgraph.sparse.ragged import Ragged

__all__ = ["Padded"]

# lengths are rounded up to a multiple of this: few shapes, and rows of a bias that fused kernels take as they are
_STEP = 8


@dataclass(frozen=True)
class Padded:
    """B sequences in their order, each padded on the right to the length L: B * L tokens.

    Attributes:
        n_rows, length: B and L.
        tokens: [B * L] int64, 0 at masked items and at the padding.
        last: [B] int64: the place of each row's last token among the B * L.
        slots: [T] int64: the place of each token.
        lengths: [B] int64.
        visible_keys: [B, L], False at the padding and, where they are hidden, at masked items.
        alone: [B, L], True at the queries that would see no key and see themselves: masked items that lead their row.
            None where no item is masked, or none is hidden.
        times: [B, L] int64, 0 where unknown; None: there are none.
        sees_all: whether every place sees all of its row, masked items too; else the items up to itself.
    """

    n_rows: int
    length: int
    tokens: Tensor
    last: Tensor
    slots: Tensor
    lengths: Tensor
    visible_keys: Tensor
    alone: Tensor | None
    times: Tensor | None = None
    sees_all: bool = False

    @classmethod
    def of(cls, sequences: Ragged, device: torch.device, max_len: int, sees_all: bool = False) -> Padded:
        """Plan the layout on the host.

        Args:
            sequences: B rows of tokens (0 is a masked item), or of pairs of a token and its time, none empty; mirrored,
                or else the device is read.
            max_len: the greatest L.
            sees_all: every place sees all of its row, masked items too.
        """
        host = sequences.on_host
        lengths, n_rows = host.lengths, host.n_rows
        length = min(-(-host.longest // _STEP) * _STEP, max_len)
        slots = host.rows * length + host.positions
        columns = [host.values] if host.values.ndim == 1 else list(host.values.unbind(1))
        tokens, *times = (column.new_zeros(n_rows * length).index_copy_(0, slots, column) for column in columns)
        last = torch.arange(n_rows) * length + lengths - 1
        visible_keys = torch.arange(length) < lengths[:, None] if sees_all else tokens.view(n_rows, length) != 0
        alone = None
        if not sees_all and bool((columns[0] == 0).any()):
            alone = visible_keys.long().cumsum(1) == 0
        parts = [tokens, last, slots, lengths, *times]
        integers = to_device(torch.cat(parts), device)
        of_tokens, of_last, of_slots, of_lengths, *of_times = torch.split(integers, [len(part) for part in parts])
        flags = to_device(torch.stack([visible_keys] if alone is None else [visible_keys, alone]), device).unbind()
        of_alone = None if alone is None else flags[1]
        of_time = of_times[0].view(n_rows, length) if of_times else None
        return cls(n_rows, length, of_tokens, of_last, of_slots, of_lengths, flags[0], of_alone, of_time, sees_all)

    @cached_property
    def causal_mask(self) -> Tensor:
        """Which keys a query sees, [L, L] or, with masked items, [B, 1, L, L]."""
        places = torch.arange(self.length, device=self.tokens.device)
        causal_mask = places[:, None] >= places
        if self.alone is None:
            return causal_mask
        self_mask = (places[:, None] == places) & self.alone[:, :, None]
        return (causal_mask & self.visible_keys[:, None, :] | self_mask)[:, None]

    @cached_property
    def causal_bias(self) -> Tensor | None:
        """Additive mask of the attention scores, [B, 1, L, L]; None: a causal mask says all."""
        return None if self.alone is None else score_bias(self.causal_mask)

    @property
    def every_bias(self) -> Tensor | None:
        """Additive mask of the attention scores of all places; None: a causal mask says all."""
        return self.last_bias if self.sees_all else self.causal_bias

    @cached_property
    def last_mask(self) -> Tensor:
        """Which keys the queries at the last places see, [B, 1, 1, L]."""
        visible_mask = self.visible_keys
        if self.alone is not None:
            places = torch.arange(self.length, device=self.tokens.device)
            visible_mask = visible_mask | (self.alone & (places == self.lengths[:, None] - 1))
        return visible_mask[:, None, None]

    @cached_property
    def last_bias(self) -> Tensor:
        """Additive mask of the attention scores, of the shape of :attr:`last_mask`."""
        return score_bias(self.last_mask)

    @cached_property
    def causal_spans(self) -> Tensor | None:
        """[B, L, L], see :func:`recgraph.encoders.packed.spans`; None: there are no times."""
        return None if self.times is None else spans(self.times, self.times)

    @cached_property
    def last_spans(self) -> Tensor | None:
        """The same of the last places, [B, 1, L]."""
        return None if self.times is None else spans(self.times.gather(1, self.lengths[:, None] - 1), self.times)

    def make_biases(self, last_only: bool) -> None:
        """Make the masks that layers will read now: in a compiled graph nothing can be kept."""
        _ = self.every_bias, self.last_bias if last_only else None

    def make_masks(self, last_only: bool) -> None:
        """The same for layers that read masks and spans instead of biases."""
        _ = self.causal_mask, self.causal_spans, (self.last_mask, self.last_spans) if last_only else None

    def with_positions(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        """``x`` [B * L, D] plus the embedding of each place."""
        return (x.view(self.n_rows, self.length, -1) + embedding.weight[: self.length]).flatten(0, 1)

    def restore_rows(self, rows: Tensor) -> Tensor:
        """[B, ...] as it is: the layout keeps the order of the rows."""
        return rows

    def restore_tokens(self, x: Tensor) -> Tensor:
        """[B * L, ...] -> [T, ...], without the padding."""
        return x.index_select(0, self.slots)

    def asked(self, places: Ragged) -> Asked:
        """Some places [M] among the values of the rows, row by row; as many of each row, the rest any token."""
        host = places.on_host
        most = min(-(-max(host.longest, 1) // _STEP) * _STEP, self.length)
        kept = to_device(host.rows * most + host.positions, self.tokens.device)
        tokens = kept.new_zeros(self.n_rows * most).index_copy_(0, kept, self.slots.index_select(0, places.values))
        return Asked(tokens, kept)

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[B * L, D] -> [B * L, D]: the places of each row mixed by the rows of ``matrix`` [max_len, max_len]."""
        return (matrix[: self.length, : self.length] @ self._kept(x)).flatten(0, 1)

    def mix_last(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[B * L, D] -> [B, D]: the last place of :meth:`mix`."""
        of_last = matrix[:, : self.length].index_select(0, self.lengths - 1)
        return (of_last[:, None] @ self._kept(x))[:, 0]

    def _kept(self, x: Tensor) -> Tensor:
        """[B, L, D], zeros at the padding."""
        places = torch.arange(self.length, device=x.device)
        return x.view(self.n_rows, self.length, -1) * (places < self.lengths[:, None])[:, :, None]

    def attend(
        self, parts: Tensor, n_heads: int, p: float, generator: torch.Generator | None, queries: Tensor | None
    ) -> Tensor:
        """See :func:`recgraph.encoders.attention.attend`."""
        *of_tokens, keys, values = self._heads(parts, 3 if queries is None else 2, n_heads).unbind(0)
        if queries is None:
            (queries,), bias = of_tokens, self.every_bias
        else:
            queries = queries.view(self.n_rows, len(queries) // self.n_rows, n_heads, -1).transpose(1, 2)
            bias = self.last_bias
        with lent(generator, parts.device) as draws:
            out = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                None if bias is None else bias.to(queries.dtype),
                dropout_p=p if draws else 0.0,
                is_causal=bias is None,
            )
        return out.transpose(1, 2).reshape(-1, n_heads * out.shape[-1])

    def _heads(self, x: Tensor, parts: int, n_heads: int) -> Tensor:
        """[B * L, parts D] -> [parts, B, n_heads, L, D / n_heads]."""
        split = x.view(self.n_rows, self.length, parts, n_heads, -1)
        return split.permute(2, 0, 3, 1, 4)
