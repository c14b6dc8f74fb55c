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
from typing import Any, ClassVar

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
        lengths: [n_rows] int64.
        times: [n_rows, length, 2] int64, of each item and of what its place predicts, 0 where
            unknown; None: no times.
    """

    lengths: Tensor
    times: Tensor | None

    @cached_property
    def causal_spans(self) -> Tensor | None:
        """[n_rows, length, length]: the :func:`spans` from what a place predicts to each item;
        None: no times.
        """
        return None if self.times is None else spans(self.times[..., 1], self.times[..., 0])

    @cached_property
    def last_spans(self) -> Tensor | None:
        """The same of the last places, [n_rows, 1, length]."""
        last = self.lengths[:, None] - 1
        return (
            None
            if self.times is None
            else spans(self.times[..., 1].gather(1, last), self.times[..., 0])
        )


@dataclass(frozen=True)
class Bucket(Timed):
    """Neighbouring rows whose attention is computed together, padded to the longest of them.

    Attributes:
        first_row, n_rows: the rows ``first_row : first_row + n_rows`` of the packed batch.
        tokens: of the packed tokens theirs, ``n_tokens`` in number.
        length: of the longest row.
        slots: [n_tokens] int64, the place of each token in the padded [n_rows * length] layout;
            None where the rows are all of one length and the padded layout is a view.
        valid_mask: [n_rows, length], False at masked items (token 0) and padding; None where no
            item is masked.
    """

    first_row: int
    n_rows: int
    tokens: slice
    n_tokens: int
    length: int
    slots: Tensor | None
    lengths: Tensor
    valid_mask: Tensor | None
    times: Tensor | None = None

    def pad(self, tokens: Tensor) -> Tensor:
        """[n_tokens, ...] -> [n_rows, length, ...]; a view where the rows are of one length."""
        if self.slots is None:
            return tokens.view(self.n_rows, self.length, *tokens.shape[1:])
        padded = tokens.new_zeros(self.n_rows * self.length, *tokens.shape[1:])
        return padded.index_copy_(0, self.slots, tokens).view(
            self.n_rows, self.length, *tokens.shape[1:]
        )

    def unpad(self, padded: Tensor) -> Tensor:
        """[n_rows, length, ...] -> [n_tokens, ...]."""
        flat = padded.reshape(self.n_rows * self.length, *padded.shape[2:])
        return flat if self.slots is None else flat.index_select(0, self.slots)

    @cached_property
    def causal_mask(self) -> Tensor:
        """Which keys a query sees, [length, length] or, with masked items, [n_rows, 1, length,
        length].

        The valid keys up to its own place; a query that would see none sees itself, so that no row
        of the softmax is empty. (The published code adds -10000 to what is hidden, which differs
        for queries that are never read.)
        """
        places = torch.arange(self.length, device=self.lengths.device)
        mask = places[:, None] >= places
        if self.valid_mask is None:
            return mask
        mask = mask & self.valid_mask[:, None, :]
        alone_mask = (
            ~mask.any(-1, keepdim=True) & torch.eye(self.length, device=places.device).bool()
        )
        return (mask | alone_mask)[:, None]

    @cached_property
    def last_mask(self) -> Tensor | None:
        """The same of the last places, [n_rows, 1, 1, length]; None where they see every key."""
        if self.slots is None and self.valid_mask is None:
            return None
        places = torch.arange(self.length, device=self.lengths.device)
        mask = places < self.lengths[:, None]
        if self.valid_mask is not None:
            mask = mask & self.valid_mask
            mask = mask | (~mask.any(-1, keepdim=True) & (places == self.lengths[:, None] - 1))
        return mask[:, None, None]

    @cached_property
    def causal_bias(self) -> Tensor:
        """What is added to attention scores: 0 at the keys that a query sees, else ``-inf``."""
        return torch.where(self.causal_mask, 0.0, -torch.inf)

    @cached_property
    def last_bias(self) -> Tensor | None:
        """The same of the last places; None where they see every key."""
        return None if self.last_mask is None else torch.where(self.last_mask, 0.0, -torch.inf)


@dataclass(frozen=True)
class Asked:
    """Some places of a batch, whose states alone the last layer computes.

    Attributes:
        tokens: [N] int64: their tokens in the layout, row after row.
        kept: [M] int64: which of the N each place is, in the order in which the places were given.
        buckets: of a packed layout, the N in the place of the tokens of each bucket.
    """

    tokens: Tensor
    kept: Tensor
    buckets: tuple[Bucket, ...] = ()

    def restore(self, states: Tensor) -> Tensor:
        """[N, ...] -> [M, ...]."""
        return states.index_select(0, self.kept)


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
        if self.row_order is not None:
            order = order.take(self.row_order)
        tokens = places.values[order.values]
        if self.token_order is not None:
            tokens = torch.argsort(self.token_order)[tokens]
        ends = [each.first_row + each.n_rows for each in self.buckets]
        return Asked(tokens, torch.argsort(order.values), _buckets(order, ends, order.n_rows))

    def restore_tokens(self, tokens: Tensor) -> Tensor:
        """[T, ...] in packed order -> the order of the tokens that were packed."""
        return (
            tokens
            if self.token_order is None
            else tokens.index_select(0, torch.argsort(self.token_order))
        )

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
    times = None
    if sequences.values.ndim > 1:
        assert not last_only
        times, sequences = sequences.values[:, 1:], sequences.columns(0)
    masked = sequences.values == 0
    any_masked = not sees_all and bool(masked.any())
    positions = sequences.positions
    if last_only and any_masked:
        masked = masked.index_fill(0, sequences.offsets[1:] - 1, False)
        sequences = sequences.filter(~masked)
        positions = positions[~masked]
    by_length = sequences.lengths
    row_masked = None
    if any_masked:
        row_masked = (
            torch.zeros_like(by_length).index_add_(
                0, sequences.rows, (sequences.values == 0).long()
            )
            > 0
        )
        by_length = by_length + row_masked * (int(by_length.max()) + 1)
    row_order = token_order = None
    packed = sequences
    if not bool((by_length[1:] >= by_length[:-1]).all()):
        row_order = torch.argsort(by_length, stable=True)
        packed = sequences.with_values(
            torch.arange(sequences.values.numel(), device=sequences.device)
        ).take(row_order)
        token_order = packed.values
        packed = packed.with_values(sequences.values[token_order])
        positions = positions[token_order]
        times = times if times is None else times[token_order]
        row_masked = row_masked[row_order] if row_masked is not None else None
    # of rows that are sorted by length, those with masked items last
    n_plain = packed.n_rows - (int(row_masked.sum()) if row_masked is not None else 0)
    lengths, ends, first = packed.lengths.tolist(), [], 0
    for row in range(1, len(lengths)):
        if row == n_plain or lengths[row] > lengths[first] * _SPREAD:
            ends.append(row)
            first = row
    buckets = _buckets(packed, [*ends, len(lengths)], n_plain)
    if times is not None:
        buckets = tuple(replace(each, times=each.pad(times[each.tokens])) for each in buckets)
    return Packed(
        packed.values, positions, packed.offsets[1:] - 1, row_order, token_order, buckets, sees_all
    )


def _buckets(tokens: Ragged, ends: list[int], n_plain: int) -> tuple[Bucket, ...]:
    """Neighbouring rows, up to each of ``ends``; only rows from ``n_plain`` on have masked
    items.
    """
    lengths, bounds = tokens.lengths.tolist(), tokens.offsets.tolist()
    buckets, first = [], 0
    for end in ends:
        own, of_bucket = lengths[first:end], slice(bounds[first], bounds[end])
        n_rows, length = end - first, max(1, *own)
        slots = valid_mask = None
        if min(own) != length:
            slots = (tokens.rows[of_bucket] - first) * length + tokens.positions[of_bucket]
        if first >= n_plain:
            values = tokens.values[of_bucket]
            if slots is not None:
                values = values.new_zeros(n_rows * length).index_copy_(0, slots, values)
            valid_mask = values.view(n_rows, length) != 0
        n_tokens = of_bucket.stop - of_bucket.start
        buckets.append(
            Bucket(
                first,
                n_rows,
                of_bucket,
                n_tokens,
                length,
                slots,
                tokens.lengths[first:end],
                valid_mask,
            )
        )
        first = end
    return tuple(buckets)


def spans(queries: Tensor, keys: Tensor) -> Tensor:
    """[n, Q] and [n, L] int64 times, 0 where unknown -> [n, Q, L] int64, how long lies between, on
    a logarithmic scale.

    0 where one of both is unknown; else ``1 + floor(ln(max(span, 1)) / 0.301)``, at most ``N_SPANS
    - 1``: as HSTU's published code cuts spans.
    """
    # times from 0 on are counted on by 1
    of_queries, of_keys = ((times - (times > 0).long()).double() for times in (queries, keys))
    between = (of_queries[:, :, None] - of_keys[:, None, :]).abs()
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
    #: the layout keeps the order of the rows
    row_order: ClassVar[None] = None

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
        columns = [host.values] if host.values.ndim == 1 else list(host.values.unbind(1))
        tokens, *times = (
            column.new_zeros(n_rows * length).index_copy_(0, slots, column) for column in columns
        )
        last = torch.arange(n_rows) * length + lengths - 1
        visible_keys = (
            torch.arange(length) < lengths[:, None]
            if sees_all
            else tokens.view(n_rows, length) != 0
        )
        alone = None
        if not sees_all and bool((columns[0] == 0).any()):
            alone = visible_keys.long().cumsum(1) == 0
        parts = [tokens, last, slots, lengths, *times]
        integers = to_device(torch.cat(parts), device)
        of_tokens, of_last, of_slots, of_lengths, *of_times = torch.split(
            integers, [len(part) for part in parts]
        )
        flags = to_device(
            torch.stack([visible_keys] if alone is None else [visible_keys, alone]), device
        ).unbind()
        of_alone = None if alone is None else flags[1]
        of_time = torch.stack(of_times, 1).view(n_rows, length, 2) if of_times else None
        return cls(
            n_rows,
            length,
            of_tokens,
            of_last,
            of_slots,
            of_lengths,
            flags[0],
            of_alone,
            of_time,
            sees_all,
        )

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
        return None if self.alone is None else torch.where(self.causal_mask, 0.0, -torch.inf)

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
        """Additive mask of the attention scores."""
        return torch.where(self.last_mask, 0.0, -torch.inf)

    def make_biases(self, last_only: bool) -> None:
        """Make the masks that layers will read now: in a compiled graph nothing can be kept."""
        _ = self.every_bias, self.last_bias if last_only else None

    def make_masks(self, last_only: bool) -> None:
        """The same for layers that read masks and spans instead of biases."""
        _ = (
            self.causal_mask,
            self.causal_spans,
            (self.last_mask, self.last_spans) if last_only else None,
        )

    def with_positions(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        """``x`` [B * L, D] plus the embedding of each place."""
        return (x.view(self.n_rows, self.length, -1) + embedding.weight[: self.length]).flatten(
            0, 1
        )

    def restore_tokens(self, x: Tensor) -> Tensor:
        """[B * L, ...] -> [T, ...], without the padding."""
        return x.index_select(0, self.slots)

    def asked(self, places: Ragged) -> Asked:
        """Some places [M] among the values of the rows, row by row; as many of each row, the rest
        any token.
        """
        host = places.on_host
        most = min(-(-max(host.longest, 1) // _STEP) * _STEP, self.length)
        kept = to_device(host.rows * most + host.positions, self.tokens.device)
        tokens = kept.new_zeros(self.n_rows * most).index_copy_(
            0, kept, self.slots.index_select(0, places.values)
        )
        return Asked(tokens, kept)

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[B * L, D] -> [B * L, D]: the places of each row mixed by the rows of ``matrix``
        [max_len, max_len].
        """
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
            queries = queries.view(self.n_rows, len(queries) // self.n_rows, n_heads, -1).transpose(
                1, 2
            )
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


#: what layers read: both have ``tokens``, ``last``, ``row_order``, and the methods for positions,
#: filters and tokens
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
    buckets, is_causal = layout.buckets, False
    if queries is None:
        width = parts.shape[1] // 3
        queries, parts = torch.split(parts, [width, 2 * width], 1)
        own, is_causal = buckets, not layout.sees_all
    elif asked is not None:
        own = asked.buckets
    else:  # the last places in the place of all tokens
        own = ()
        for each in buckets:
            rows = slice(each.first_row, each.first_row + each.n_rows)
            own += (
                Bucket(each.first_row, each.n_rows, rows, each.n_rows, 1, None, each.lengths, None),
            )
    attended: Tensor = _Attention.apply(
        queries, parts, buckets, own, is_causal, n_heads, p, generator
    )  # type: ignore[no-untyped-call]
    return attended


def _split_heads(
    x: Tensor, buckets: Sequence[Bucket], n_parts: int, n_heads: int
) -> list[tuple[Tensor, ...]]:
    """[N, n_parts D] -> of each bucket ``n_parts`` tensors [n n_heads, L, D / n_heads], padded."""
    n_columns, found = x.shape[1], []
    for bucket in buckets:
        n, length, padded = bucket.n_rows, bucket.length, x[bucket.tokens]
        if bucket.slots is not None:
            padded = x.new_zeros(n * length, n_columns).index_copy_(0, bucket.slots, padded)
        heads = padded.view(n, length, n_parts, n_heads, n_columns // (n_parts * n_heads)).permute(
            2, 0, 3, 1, 4
        )
        found.append(heads.reshape(n_parts, n * n_heads, length, -1).unbind(0))
    return found


def _join_heads(
    out: Tensor, parts: Sequence[Sequence[Tensor]], buckets: Sequence[Bucket], n_heads: int
) -> Tensor:
    """The inverse of :func:`_split_heads`, written to ``out`` [N, n_parts D]."""
    for bucket, of_bucket in zip(buckets, parts, strict=True):
        n, length = bucket.n_rows, bucket.length
        heads = torch.stack([*of_bucket]).view(len(of_bucket), n, n_heads, length, -1)
        padded = heads.permute(1, 3, 0, 2, 4).reshape(n * length, -1)
        out[bucket.tokens] = (
            padded if bucket.slots is None else padded.index_select(0, bucket.slots)
        )
    return out


class _Attention(torch.autograd.Function):
    """Of the places in ``own`` of each bucket: all of its tokens, the last ones, or some."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        kv: Tensor,
        buckets: tuple[Bucket, ...],
        own: tuple[Bucket, ...],
        is_causal: bool,
        n_heads: int,
        p: float,
        generator: Any,
    ) -> Tensor:
        scale = 1 / math.sqrt(queries.shape[1] // n_heads)
        of_queries, of_keys = (
            _split_heads(queries, own, 1, n_heads),
            _split_heads(kv, buckets, 2, n_heads),
        )
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
            attended.append(
                [torch.bmm(probabilities if keep is None else probabilities * keep, values)]
            )
            saved += [query, keys, values, probabilities, keep]
        ctx.save_for_backward(*saved)
        ctx.buckets, ctx.own, ctx.n_heads, ctx.scale = buckets, own, n_heads, scale
        ctx.kv_shape = kv.shape
        out = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
        return _join_heads(out, attended, own, n_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("attention")
        buckets, own, n_heads, saved = ctx.buckets, ctx.own, ctx.n_heads, ctx.saved_tensors
        (grad_out,) = grads
        of_queries, of_keys = [], []
        for index, (grad,) in enumerate(_split_heads(grad_out, own, 1, n_heads)):
            query, keys, values, probabilities, keep = saved[5 * index : 5 * index + 5]
            used = probabilities if keep is None else probabilities * keep
            grad_used = torch.bmm(grad, values.transpose(1, 2))
            if keep is not None:
                grad_used.mul_(keep)
            grad_scores = torch._softmax_backward_data(
                grad_used, probabilities, -1, grad.dtype
            ).mul_(ctx.scale)
            of_queries.append([torch.bmm(grad_scores, keys)])
            of_keys.append(
                [
                    torch.bmm(grad_scores.transpose(1, 2), query),
                    torch.bmm(used.transpose(1, 2), grad),
                ]
            )
        return (
            _join_heads(torch.empty_like(grad_out), of_queries, own, n_heads),
            _join_heads(grad_out.new_empty(ctx.kv_shape), of_keys, buckets, n_heads),
            *[None] * 6,
        )
