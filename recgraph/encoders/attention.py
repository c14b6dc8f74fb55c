"""Multi-head attention over a batch of sequences, laid out for the host or for an accelerator.

On the host the batch is packed (:class:`Packed`): tokens one after the other, rows sorted by
length. Rows of about one length form a bucket; only inside a bucket are they padded, for their
attention, which is one autograd node. It can be differentiated once: its backward reads
probabilities that were computed in forward without their history. An accelerator, which would wait
for the launches of each bucket's kernels, gets one padded batch (:class:`Padded`) and torch's fused
attention. All that the layout depends on is read on the host and copied to the device at once, and
lengths are rounded up, so that few shapes occur. Both give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.rng import dropout_scale, lent
from recgraph.sparse.blocks import refuse_second_derivative
from recgraph.sparse.device import to_device
from recgraph.sparse.ragged import Ragged

# A bucket holds lengths up to this factor of its shortest: at most a quarter of its attention is
# padding.
_SPREAD = 1.3
#: buckets of :func:`spans`: unknown, and 129 as published
N_SPANS = 130
# lengths are rounded up to a multiple of this: few shapes, and rows of a bias that fused kernels
# take as they are
_STEP = 8


class Timed:
    """Rows that are padded to one length, with or without times: how long after each item a place
    predicts the next.

    Attributes:
        length: that to which they are padded.
        lengths: [n_rows] int64.
        times: [n_rows, length, 2] int64, of each item and of what its place predicts, 0 where
            unknown; None: no times.
    """

    length: int
    lengths: Tensor
    times: Tensor | None

    @property
    def places(self) -> Tensor:
        """[length] int64: 0, 1, ..."""
        return torch.arange(self.length, device=self.lengths.device)

    @cached_property
    def causal_spans(self) -> Tensor | None:
        """[n_rows, length, length]: the :func:`spans` from what a place predicts to each item;
        None: no times.
        """
        if self.times is None:
            return None
        return spans(self.times[..., 1], self.times[..., 0])

    @cached_property
    def last_spans(self) -> Tensor | None:
        """The same of the last places, [n_rows, 1, length]."""
        if self.times is None:
            return None
        last = self.lengths[:, None] - 1
        return spans(self.times[..., 1].gather(1, last), self.times[..., 0])


@dataclass(frozen=True)
class Bucket(Timed):
    """Neighbouring rows whose attention is computed together, padded to the longest of them.

    Attributes:
        first_row, n_rows: the rows ``first_row : first_row + n_rows`` of the packed batch.
        tokens: of the packed tokens theirs.
        length: of the longest row.
        slots: [n_tokens] int64, the place of each token in the padded [n_rows * length] layout;
            None where the rows are all of one length and the padded layout is a view.
        valid_mask: [n_rows, length], False at masked items (token 0) and padding; None where no
            item is masked.
    """

    first_row: int
    n_rows: int
    tokens: slice
    length: int
    slots: Tensor | None
    lengths: Tensor
    valid_mask: Tensor | None
    times: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.stop - self.tokens.start)

    def pad(self, tokens: Tensor) -> Tensor:
        """[n_tokens, ...] -> [n_rows, length, ...]; a view where the rows are of one length."""
        if self.slots is not None:
            padded = tokens.new_zeros(self.n_rows * self.length, *tokens.shape[1:])
            tokens = padded.index_copy_(0, self.slots, tokens)
        return tokens.view(self.n_rows, self.length, *tokens.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[n_rows, length, ...] -> [n_tokens, ...]."""
        tokens = padded.reshape(self.n_rows * self.length, *padded.shape[2:])
        if self.slots is None:
            return tokens
        return tokens.index_select(0, self.slots)

    @cached_property
    def causal_mask(self) -> Tensor:
        """Which keys a query sees, [length, length] or, with masked items, [n_rows, 1, length,
        length].

        The valid keys up to its own place; a query that would see none sees itself, so that no row
        of the softmax is empty. (The published code adds -10000 to what is hidden, which differs
        for queries that are never read.)
        """
        places = self.places
        mask = places[:, None] >= places
        if self.valid_mask is None:
            return mask
        mask = mask & self.valid_mask[:, None, :]
        itself = places[:, None] == places
        return (mask | (~mask.any(-1, keepdim=True) & itself))[:, None]

    @cached_property
    def last_mask(self) -> Tensor | None:
        """The same of the last places, [n_rows, 1, 1, length]; None where they see every key."""
        if self.slots is None and self.valid_mask is None:
            return None
        places = self.places
        mask = places < self.lengths[:, None]
        if self.valid_mask is not None:
            mask = mask & self.valid_mask
            itself = places == self.lengths[:, None] - 1
            mask = mask | (~mask.any(-1, keepdim=True) & itself)
        return mask[:, None, None]

    @cached_property
    def causal_bias(self) -> Tensor:
        """What is added to attention scores: 0 at the keys that a query sees, else ``-inf``."""
        return torch.where(self.causal_mask, 0.0, -torch.inf)

    @cached_property
    def last_bias(self) -> Tensor | None:
        """The same of the last places; None where they see every key."""
        if self.last_mask is None:
            return None
        return torch.where(self.last_mask, 0.0, -torch.inf)


@dataclass(frozen=True)
class Asked:
    """Some places of a batch, whose states alone the last layer computes.

    Attributes:
        tokens: [N] int64: their tokens in the layout, row after row.
        index: [M] int64: which of the N each place is, in the order in which the places were given.
        buckets: of a packed layout, the N in the place of the tokens of each bucket.
    """

    tokens: Tensor
    index: Tensor
    buckets: tuple[Bucket, ...] = ()

    def restore(self, states: Tensor) -> Tensor:
        """[N, ...] -> [M, ...]."""
        return states.index_select(0, self.index)


@dataclass(frozen=True)
class Packed:
    """A batch of sequences, rows sorted by length.

    Attributes:
        tokens: [T] int64.
        positions: [T] int64: the place of each token in its original sequence.
        last: [B] int64: the packed index of each row's last token, in packed row order.
        row_order: [B] int64: the original row of each packed row; None where the order is
            unchanged.
        token_order: [T] int64: the original index of each packed token; None where unchanged.
        buckets: cover all rows.
        sees_all: whether every place sees all of its row, masked items too; else the items up to
            itself.
    """

    tokens: Tensor
    positions: Tensor
    last: Tensor
    row_order: Tensor | None
    token_order: Tensor | None
    buckets: tuple[Bucket, ...]
    sees_all: bool = False

    def asked(self, places: Ragged) -> Asked:
        """Some places [M] among the values of the rows that were packed, row by row."""
        order = places.with_values(torch.arange(len(places.values), device=places.device))
        tokens = places.values
        if self.row_order is not None:
            assert self.token_order is not None
            order = order.take(self.row_order)
            tokens = torch.argsort(self.token_order)[tokens[order.values]]
        ends = [bucket.first_row + bucket.n_rows for bucket in self.buckets]
        return Asked(tokens, torch.argsort(order.values), _buckets(order, ends, order.n_rows))

    @cached_property
    def last_buckets(self) -> tuple[Bucket, ...]:
        """The last places in the place of all tokens of each bucket."""
        buckets = []
        for bucket in self.buckets:
            rows = slice(bucket.first_row, bucket.first_row + bucket.n_rows)
            buckets.append(replace(bucket, tokens=rows, length=1, slots=None, valid_mask=None))
        return tuple(buckets)

    def restore_rows(self, rows: Tensor) -> Tensor:
        """[B, ...] in packed order -> the order of the rows that were packed."""
        if self.row_order is None:
            return rows
        return rows.index_select(0, torch.argsort(self.row_order))

    def restore_tokens(self, tokens: Tensor) -> Tensor:
        """[T, ...] in packed order -> the order of the tokens that were packed."""
        if self.token_order is None:
            return tokens
        return tokens.index_select(0, torch.argsort(self.token_order))

    def with_positions(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        """``x`` [T, D] plus the embedding of each token's place."""
        return x + embedding(self.positions)  # type: ignore[no-any-return]

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[T, D] -> [T, D]: the places of each row mixed by the rows of ``matrix`` [max_len,
        max_len].
        """
        parts = []
        for bucket in self.buckets:
            padded = bucket.pad(x[bucket.tokens])
            parts.append(bucket.unpad(matrix[: bucket.length, : bucket.length] @ padded))
        return torch.cat(parts)

    def mix_last(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[T, D] -> [B, D]: the last place of :meth:`mix`."""
        parts = []
        for bucket in self.buckets:
            padded = bucket.pad(x[bucket.tokens])
            of_last = matrix[bucket.lengths - 1, : bucket.length]
            parts.append((of_last[:, None] @ padded)[:, 0])
        return torch.cat(parts)


def pack(sequences: Ragged, last_only: bool, sees_all: bool = False) -> Packed:
    """Plan the layout.

    Args:
        sequences: B rows of tokens (0 is a masked item), none empty; or of tokens with their two
            times [T, 3], where all places are read.
        last_only: only the last place of each row will be read. Masked items before it are then
            dropped: they are no keys, and nothing reads their queries.
        sees_all: every place sees all of its row, masked items too.
    """
    positions = sequences.positions
    masked = _items(sequences) == 0
    any_masked = not sees_all and bool(masked.any())
    if last_only and any_masked:
        masked = masked.index_fill(0, sequences.offsets[1:] - 1, False)
        sequences = sequences.filter(~masked)
        positions = positions[~masked]
    row_masked = torch.zeros(sequences.n_rows, dtype=torch.bool, device=sequences.device)
    row_masked[sequences.rows[_items(sequences) == 0]] = any_masked
    # rows with masked items come last
    by_length = sequences.lengths + row_masked * (sequences.longest + 1)
    row_order = token_order = None
    if not bool((by_length[1:] >= by_length[:-1]).all()):
        row_order = torch.argsort(by_length, stable=True)
        index = torch.arange(len(positions), device=sequences.device)
        packed = sequences.with_values(index).take(row_order)
        token_order = packed.values
        sequences = packed.with_values(sequences.values[token_order])
        positions = positions[token_order]
        row_masked = row_masked[row_order]
    n_plain = sequences.n_rows - int(row_masked.sum())
    tokens = sequences.with_values(_items(sequences))
    buckets = _buckets(tokens, _bucket_ends(tokens.lengths.tolist(), n_plain), n_plain)
    if sequences.values.ndim > 1:
        times = sequences.values[:, 1:]
        buckets = tuple(
            replace(bucket, times=bucket.pad(times[bucket.tokens])) for bucket in buckets
        )
    return Packed(
        tokens=tokens.values,
        positions=positions,
        last=tokens.offsets[1:] - 1,
        row_order=row_order,
        token_order=token_order,
        buckets=buckets,
        sees_all=sees_all,
    )


def _items(sequences: Ragged) -> Tensor:
    """[T]: the tokens of values [T], or [T, 3] with their times."""
    return sequences.values.view(len(sequences.values), -1)[:, 0]


def _bucket_ends(lengths: Sequence[int], n_plain: int) -> list[int]:
    """The rows before which buckets end: of ascending lengths, first those of the ``n_plain`` rows
    without masked items, then those of the others.
    """
    ends = []
    first = 0
    for row in range(1, len(lengths)):
        if row == n_plain or lengths[row] > lengths[first] * _SPREAD:
            ends.append(row)
            first = row
    return [*ends, len(lengths)]


def _buckets(tokens: Ragged, ends: list[int], n_plain: int) -> tuple[Bucket, ...]:
    """Neighbouring rows, up to each of ``ends``; only rows from ``n_plain`` on have masked
    items.
    """
    lengths, bounds = tokens.lengths.tolist(), tokens.offsets.tolist()
    buckets = []
    first = 0
    for end in ends:
        part = slice(bounds[first], bounds[end])
        length = max(1, *lengths[first:end])
        slots = None
        if min(lengths[first:end]) != length:
            slots = (tokens.rows[part] - first) * length + tokens.positions[part]
        bucket = Bucket(
            first_row=first,
            n_rows=end - first,
            tokens=part,
            length=length,
            slots=slots,
            lengths=tokens.lengths[first:end],
            valid_mask=None,
        )
        if first >= n_plain:
            bucket = replace(bucket, valid_mask=bucket.pad(tokens.values[part]) != 0)
        buckets.append(bucket)
        first = end
    return tuple(buckets)


def spans(queries: Tensor, keys: Tensor) -> Tensor:
    """[n, Q] and [n, L] int64 times, 0 where unknown -> [n, Q, L] int64, how long lies between, on
    a logarithmic scale.

    0 where one of both is unknown; else ``1 + floor(ln(max(span, 1)) / 0.301)``, at most ``N_SPANS
    - 1``: as HSTU's published code cuts spans.
    """
    # times from 0 on are counted on by 1
    from_zero = (queries - (queries > 0).long()).double()
    to_zero = (keys - (keys > 0).long()).double()
    between = (from_zero[:, :, None] - to_zero[:, None, :]).abs()
    buckets = 1 + (between.clamp(min=1).log() / 0.301).long().clamp(max=N_SPANS - 2)
    return buckets.masked_fill((queries == 0)[:, :, None] | (keys == 0)[:, None, :], 0)


@dataclass(frozen=True)
class Padded(Timed):
    """B sequences in their order, each padded on the right to the length L: B * L tokens.

    Attributes:
        n_rows, length: B and L.
        tokens: [B * L] int64, 0 at masked items and at the padding.
        last: [B] int64: the place of each row's last token among the B * L.
        slots: [T] int64: the place of each token.
        visible_keys: [B, L], False at the padding and, where they are hidden, at masked items.
        alone: [B, L], True at the queries that would see no key and see themselves: masked items
            that lead their row. None where no item is masked, or none is hidden.
        sees_all: whether every place sees all of its row, masked items too; else the items up to
            itself.
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
    def of(
        cls, sequences: Ragged, device: torch.device, max_len: int, sees_all: bool = False
    ) -> Padded:
        """Plan the layout on the host.

        Args:
            sequences, sees_all: see :func:`pack`; rows that are not mirrored are read from the
                device.
            max_len: the longest row that may come.
        """
        host = sequences.on_host
        lengths, n_rows = host.lengths, host.n_rows
        length = min(-(-host.longest // _STEP) * _STEP, max_len)
        slots = host.rows * length + host.positions
        # [T, 1], or [T, 3] with times
        columns = host.values.view(len(host.values), -1)
        padded = columns.new_zeros(n_rows * length, columns.shape[1])
        padded.index_copy_(0, slots, columns)
        last = torch.arange(n_rows) * length + lengths - 1
        visible = padded[:, 0].view(n_rows, length) != 0
        alone = visible.long().cumsum(1) == 0
        hides = not sees_all and bool((columns[:, 0] == 0).any())
        if sees_all:
            visible = torch.arange(length) < lengths[:, None]
        integers = [padded[:, 0], last, slots, lengths, padded[:, 1:].flatten()]
        tokens, last, slots, lengths, times = torch.split(
            to_device(torch.cat(integers), device), [*map(len, integers)]
        )
        visible, alone = to_device(torch.stack([visible, alone]), device).unbind()
        return cls(
            n_rows=n_rows,
            length=length,
            tokens=tokens,
            last=last,
            slots=slots,
            lengths=lengths,
            visible_keys=visible,
            alone=alone if hides else None,
            times=times.view(n_rows, length, 2) if len(times) else None,
            sees_all=sees_all,
        )

    @cached_property
    def causal_mask(self) -> Tensor:
        """Which keys a query sees, [L, L] or, with masked items, [B, 1, L, L]."""
        places = self.places
        causal_mask = places[:, None] >= places
        if self.alone is None:
            return causal_mask
        self_mask = (places[:, None] == places) & self.alone[:, :, None]
        return (causal_mask & self.visible_keys[:, None, :] | self_mask)[:, None]

    @cached_property
    def causal_bias(self) -> Tensor | None:
        """Additive mask of the attention scores, [B, 1, L, L]; None: a causal mask says all."""
        if self.alone is None:
            return None
        return torch.where(self.causal_mask, 0.0, -torch.inf)

    @property
    def every_bias(self) -> Tensor | None:
        """Additive mask of the attention scores of all places; None: a causal mask says all."""
        if self.sees_all:
            return self.last_bias
        return self.causal_bias

    @cached_property
    def last_mask(self) -> Tensor:
        """Which keys the queries at the last places see, [B, 1, 1, L]."""
        visible_mask = self.visible_keys
        if self.alone is not None:
            itself = self.places == self.lengths[:, None] - 1
            visible_mask = visible_mask | (self.alone & itself)
        return visible_mask[:, None, None]

    @cached_property
    def last_bias(self) -> Tensor:
        """Additive mask of the attention scores."""
        return torch.where(self.last_mask, 0.0, -torch.inf)

    def pad(self, x: Tensor) -> Tensor:
        """[B * L, ...] -> [B, L, ...]."""
        return x.view(self.n_rows, self.length, *x.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> [B * L, ...]."""
        return padded.flatten(0, 1)

    def with_positions(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        """``x`` [B * L, D] plus the embedding of each place."""
        return self.unpad(self.pad(x) + embedding.weight[: self.length])

    def restore_rows(self, rows: Tensor) -> Tensor:
        """[B, ...]: the layout keeps the order of the rows."""
        return rows

    def restore_tokens(self, x: Tensor) -> Tensor:
        """[B * L, ...] -> [T, ...], without the padding."""
        return x.index_select(0, self.slots)

    def asked(self, places: Ragged) -> Asked:
        """Some places [M] among the values of the rows, row by row; as many of each row, the rest
        any token.
        """
        host = places.on_host
        most = min(-(-max(host.longest, 1) // _STEP) * _STEP, self.length)
        index = to_device(host.rows * most + host.positions, self.tokens.device)
        tokens = index.new_zeros(self.n_rows * most)
        tokens.index_copy_(0, index, self.slots.index_select(0, places.values))
        return Asked(tokens, index)

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[B * L, D] -> [B * L, D]: the places of each row mixed by the rows of ``matrix``
        [max_len, max_len].
        """
        return self.unpad(matrix[: self.length, : self.length] @ self._with_zeros(x))

    def mix_last(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[B * L, D] -> [B, D]: the last place of :meth:`mix`."""
        of_last = matrix[:, : self.length].index_select(0, self.lengths - 1)
        return (of_last[:, None] @ self._with_zeros(x))[:, 0]

    def _with_zeros(self, x: Tensor) -> Tensor:
        """[B, L, D], zeros at the padding."""
        in_row = self.places < self.lengths[:, None]
        return self.pad(x) * in_row[:, :, None]

    def attend(
        self,
        parts: Tensor,
        n_heads: int,
        p: float,
        generator: torch.Generator | None,
        queries: Tensor | None,
    ) -> Tensor:
        """See :func:`attend`."""
        # [B * L, parts D] -> [parts, B, n_heads, L, D / n_heads]
        split = parts.view(self.n_rows, self.length, 3 if queries is None else 2, n_heads, -1)
        *of_tokens, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        if queries is None:
            (queries,), bias = of_tokens, self.every_bias
        else:
            rows = queries.view(self.n_rows, len(queries) // self.n_rows, n_heads, -1)
            queries, bias = rows.transpose(1, 2), self.last_bias
        if bias is not None:
            bias = bias.to(queries.dtype)
        with lent(generator, parts.device) as draws:
            out = F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                bias,
                dropout_p=p if draws else 0.0,
                is_causal=bias is None,
            )
        return out.transpose(1, 2).reshape(-1, n_heads * out.shape[-1])


#: what layers read: both have ``tokens``, ``last``, and the methods for positions, filters, tokens
#: and rows
Layout = Packed | Padded


def attend(
    parts: Tensor,
    layout: Layout,
    n_heads: int,
    p: float,
    generator: torch.Generator | None,
    queries: Tensor | None = None,
    asked: Asked | None = None,
) -> Tensor:
    """Self-attention of each sequence, ``softmax(Q K^T / sqrt(D / n_heads) + mask) V``, heads side
    by side.

    The mask is causal, or where the layout ``sees_all`` that of padding alone.

    Args:
        parts: [N, 3 D], queries, keys and values of all tokens of the layout; with ``queries`` [N,
            2 D], keys and values.
        n_heads: divides D.
        p: dropout of the attention probabilities; needs ``generator``.
        queries: [B, D], rows in the order of the layout: the attention of the last places alone.
        asked: of these places instead, where the layout ``sees_all``.

    Returns:
        [N, D], or of the shape of ``queries``.
    """
    if isinstance(layout, Padded):
        return layout.attend(parts, n_heads, p, generator, queries)
    buckets = layout.buckets
    is_causal = False
    if queries is None:
        width = parts.shape[1] // 3
        queries, parts = torch.split(parts, [width, 2 * width], 1)
        of_queries = buckets
        is_causal = not layout.sees_all
    elif asked is not None:
        of_queries = asked.buckets
    else:
        of_queries = layout.last_buckets
    attended: Tensor = _Attention.apply(
        queries, parts, buckets, of_queries, is_causal, n_heads, p, generator
    )  # type: ignore[no-untyped-call]
    return attended


def _split_heads(
    x: Tensor, buckets: Sequence[Bucket], n_parts: int, n_heads: int
) -> list[tuple[Tensor, ...]]:
    """[N, n_parts D] -> of each bucket ``n_parts`` tensors [n n_heads, L, D / n_heads], padded."""
    head_width = x.shape[1] // (n_parts * n_heads)
    heads = []
    for bucket in buckets:
        padded = bucket.pad(x[bucket.tokens])
        padded = padded.view(bucket.n_rows, bucket.length, n_parts, n_heads, head_width)
        parts = padded.permute(2, 0, 3, 1, 4)
        heads.append(parts.reshape(n_parts, -1, bucket.length, head_width).unbind(0))
    return heads


def _join_heads(
    out: Tensor, parts: Sequence[Sequence[Tensor]], buckets: Sequence[Bucket], n_heads: int
) -> Tensor:
    """The inverse of :func:`_split_heads`, written to ``out`` [N, n_parts D]."""
    for bucket, heads in zip(buckets, parts, strict=True):
        stacked = torch.stack([*heads]).view(len(heads), bucket.n_rows, n_heads, bucket.length, -1)
        padded = stacked.permute(1, 3, 0, 2, 4).reshape(bucket.n_rows, bucket.length, -1)
        out[bucket.tokens] = bucket.unpad(padded)
    return out


class _Attention(torch.autograd.Function):
    """Of the places in ``query_buckets`` of each bucket: all of its tokens, the last ones, or some."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        kv: Tensor,
        buckets: tuple[Bucket, ...],
        query_buckets: tuple[Bucket, ...],
        is_causal: bool,
        n_heads: int,
        p: float,
        generator: Any,
    ) -> Tensor:
        scale = 1 / math.sqrt(queries.shape[1] // n_heads)
        of_queries = _split_heads(queries, query_buckets, 1, n_heads)
        of_keys = _split_heads(kv, buckets, 2, n_heads)
        saved: list[Tensor | None] = []
        attended = []
        for (query,), (keys, values), bucket in zip(of_queries, of_keys, buckets, strict=True):
            bias = bucket.causal_bias if is_causal else bucket.last_bias
            if bias is None:
                scores = torch.bmm(query, keys.transpose(1, 2)).mul_(scale)
            else:
                bias = bias.to(query.dtype)
                if bias.dim() == 4:
                    bias = bias.expand(-1, n_heads, -1, -1).reshape(-1, *bias.shape[2:])
                scores = torch.baddbmm(bias, query, keys.transpose(1, 2), alpha=scale)
            # the autocast of GPUs makes a softmax float32; the backward pass, which has no
            # autocast, needs one type
            probabilities = torch.softmax(scores, -1).to(query.dtype)
            keep = dropout_scale(probabilities, p, generator)
            weights = probabilities if keep is None else probabilities * keep
            attended.append([torch.bmm(weights, values)])
            saved += [query, keys, values, probabilities, keep]
        ctx.save_for_backward(*saved)
        ctx.buckets, ctx.query_buckets, ctx.n_heads, ctx.scale = (
            buckets,
            query_buckets,
            n_heads,
            scale,
        )
        ctx.kv_shape = kv.shape
        out = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
        return _join_heads(out, attended, query_buckets, n_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("attention")
        buckets, query_buckets, n_heads = ctx.buckets, ctx.query_buckets, ctx.n_heads
        saved = ctx.saved_tensors
        (grad_out,) = grads
        of_queries, of_keys = [], []
        for index, (grad,) in enumerate(_split_heads(grad_out, query_buckets, 1, n_heads)):
            query, keys, values, probabilities, keep = saved[5 * index : 5 * index + 5]
            weights = probabilities
            grad_weights = torch.bmm(grad, values.transpose(1, 2))
            if keep is not None:
                weights = probabilities * keep
                grad_weights.mul_(keep)
            grad_scores = torch._softmax_backward_data(grad_weights, probabilities, -1, grad.dtype)
            grad_scores.mul_(ctx.scale)
            of_queries.append([torch.bmm(grad_scores, keys)])
            grad_keys = torch.bmm(grad_scores.transpose(1, 2), query)
            grad_values = torch.bmm(weights.transpose(1, 2), grad)
            of_keys.append([grad_keys, grad_values])
        return (
            _join_heads(torch.empty_like(grad_out), of_queries, query_buckets, n_heads),
            _join_heads(grad_out.new_empty(ctx.kv_shape), of_keys, buckets, n_heads),
            *[None] * 6,
        )
