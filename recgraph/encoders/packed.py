"""The layout of a batch of sequences on the host: tokens one after the other, rows sorted by length.

Rows of about one length form a bucket; only inside a bucket are they padded, for their attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged

__all__ = ["N_SPANS", "Asked", "Bucket", "Packed", "check_rows", "pack", "score_bias", "spans"]


# A bucket holds lengths up to this factor of its shortest: at most a quarter of its attention is padding.
_SPREAD = 1.3
#: buckets of :func:`spans`: unknown, and 129 as published
N_SPANS = 130


@dataclass(frozen=True)
class Bucket:
    """Neighbouring rows whose attention is computed together, padded to the longest of them.

    Attributes:
        first_row, n_rows: the rows ``first_row : first_row + n_rows`` of the packed batch.
        first_token, n_tokens: their tokens.
        length: of the longest row.
        slots: [n_tokens] int64, the place of each token in the padded [n_rows * length] layout; None where the rows
            are all of one length and the padded layout is a view.
        lengths: [n_rows] int64.
        valid_mask: [n_rows, length], False at masked items (token 0) and padding; None where no item is masked.
    """

    first_row: int
    n_rows: int
    first_token: int
    n_tokens: int
    length: int
    slots: Tensor | None
    lengths: Tensor
    valid_mask: Tensor | None

    @property
    def rows(self) -> slice:
        """Of the packed rows."""
        return slice(self.first_row, self.first_row + self.n_rows)

    @property
    def tokens(self) -> slice:
        """Of the packed tokens."""
        return slice(self.first_token, self.first_token + self.n_tokens)

    @cached_property
    def causal_mask(self) -> Tensor:
        """Which keys a query sees, [L, L] or, with masked items, [n_rows, 1, L, L].

        A query sees the valid keys up to its own place; one that would see none sees itself, so that no row of the
        softmax is empty. (The published code adds -10000 to what is hidden; a query without any key then averages
        over all places, but such a query is never read.)
        """
        places = torch.arange(self.length, device=self.lengths.device)
        causal_mask = places[:, None] >= places
        if self.valid_mask is None:
            return causal_mask
        visible_mask = causal_mask & self.valid_mask[:, None, :]
        alone_mask = ~visible_mask.any(-1, keepdim=True) & torch.eye(self.length, device=places.device).bool()
        return (visible_mask | alone_mask)[:, None]

    @cached_property
    def causal_bias(self) -> Tensor:
        """Additive mask of the attention scores, of the shape of :attr:`causal_mask`."""
        return score_bias(self.causal_mask)

    @cached_property
    def last_mask(self) -> Tensor | None:
        """Which keys the queries at the last places see, [n_rows, 1, 1, L]; None where every key is visible."""
        if self.slots is None and self.valid_mask is None:
            return None
        places = torch.arange(self.length, device=self.lengths.device)
        visible_mask = places < self.lengths[:, None]
        if self.valid_mask is not None:
            visible_mask = visible_mask & self.valid_mask
            alone_mask = ~visible_mask.any(-1, keepdim=True) & (places == self.lengths[:, None] - 1)
            visible_mask = visible_mask | alone_mask
        return visible_mask[:, None, None]

    @cached_property
    def last_bias(self) -> Tensor | None:
        """Additive mask of the attention scores, of the shape of :attr:`last_mask`."""
        return None if self.last_mask is None else score_bias(self.last_mask)

    def pad(self, tokens: Tensor) -> Tensor:
        """[n_tokens, ...] -> [n_rows, length, ...]; a view where the rows are of one length."""
        if self.slots is None:
            return tokens.view(self.n_rows, self.length, *tokens.shape[1:])
        padded = tokens.new_zeros(self.n_rows * self.length, *tokens.shape[1:])
        return padded.index_copy_(0, self.slots, tokens).view(self.n_rows, self.length, *tokens.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[n_rows, length, ...] -> [n_tokens, ...]."""
        flat = padded.reshape(self.n_rows * self.length, *padded.shape[2:])
        return flat if self.slots is None else flat.index_select(0, self.slots)


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
        row_order: [B] int64: the original row of each packed row; None where the order is unchanged.
        token_order: [T] int64: the original index of each packed token; None where unchanged.
        buckets: cover all rows.
        times: [T] int64, of the packed tokens, 0 where unknown; None: there are none.
        sees_all: whether every place sees all of its row, masked items too; else the items up to itself.
    """

    tokens: Tensor
    positions: Tensor
    last: Tensor
    row_order: Tensor | None
    token_order: Tensor | None
    buckets: tuple[Bucket, ...]
    times: Tensor | None = None
    sees_all: bool = False

    def with_times(self, times: Tensor) -> Packed:
        """The same with the times [T] of the tokens in the order of the rows that were packed."""
        return replace(self, times=times if self.token_order is None else times.index_select(0, self.token_order))

    @cached_property
    def causal_spans(self) -> list[Tensor | None]:
        """Of each bucket the :func:`spans` [n_rows, L, L] of its places and those before; None: there are no times."""
        return [spans(times, times) if times is not None else None for times in self._times_of_buckets]

    @cached_property
    def last_spans(self) -> list[Tensor | None]:
        """The same of its last places, [n_rows, 1, L]."""
        return [
            None if times is None else spans(times.gather(1, bucket.lengths[:, None] - 1), times)
            for bucket, times in zip(self.buckets, self._times_of_buckets, strict=True)
        ]

    @cached_property
    def last_buckets(self) -> tuple[Bucket, ...]:
        """The buckets with the last places in the place of all tokens."""
        return tuple(
            replace(each, first_token=each.first_row, n_tokens=each.n_rows, length=1, slots=None, valid_mask=None)
            for each in self.buckets
        )

    def asked(self, places: Ragged) -> Asked:
        """Some places [M] among the values of the rows that were packed, row by row."""
        order = places.with_values(torch.arange(len(places.values), device=places.device))
        if self.row_order is not None:
            order = order.take(self.row_order)
        tokens = places.values[order.values]
        if self.token_order is not None:
            tokens = torch.argsort(self.token_order)[tokens]
        lengths, bounds = order.lengths.tolist(), order.offsets.tolist()
        buckets = [
            _bucket(order, each.first_row, each.first_row + each.n_rows, lengths, bounds, masked=False)
            for each in self.buckets
        ]
        return Asked(tokens, torch.argsort(order.values), tuple(buckets))

    @property
    def _times_of_buckets(self) -> list[Tensor | None]:
        times = self.times
        return [None if times is None else bucket.pad(times[bucket.tokens]) for bucket in self.buckets]

    def restore_rows(self, rows: Tensor) -> Tensor:
        """[B, ...] in packed row order -> the order of the rows that were packed."""
        return rows if self.row_order is None else rows.index_select(0, torch.argsort(self.row_order))

    def restore_tokens(self, tokens: Tensor) -> Tensor:
        """[T, ...] in packed order -> the order of the tokens that were packed."""
        return tokens if self.token_order is None else tokens.index_select(0, torch.argsort(self.token_order))

    def with_positions(self, x: Tensor, embedding: nn.Embedding) -> Tensor:
        """``x`` [T, D] plus the embedding of each token's place."""
        return x + embedding(self.positions)  # type: ignore[no-any-return]

    def mix(self, x: Tensor, matrix: Tensor) -> Tensor:
        """[T, D] -> [T, D]: the places of each row mixed by the rows of ``matrix`` [max_len, max_len]."""
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


def check_rows(lengths: Tensor) -> None:
    """Refuse empty rows.

    Raises:
        ValueError: names the first one.
    """
    if not bool((lengths > 0).all()):
        row = int((lengths == 0).nonzero()[0])
        raise ValueError(f"sequences: row {row} is empty; give it one token 0 (nothing known) instead")


def pack(sequences: Ragged, last_only: bool, sees_all: bool = False) -> Packed:
    """Plan the layout.

    Args:
        sequences: B rows of tokens (0 is a masked item), none empty.
        last_only: only the last place of each row will be read. Masked items before it are then dropped: they are no
            keys, and nothing reads their queries.
        sees_all: every place sees all of its row, masked items too.

    Raises:
        ValueError: a row is empty.
    """
    check_rows(sequences.lengths)
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
        row_masked = torch.zeros_like(by_length).index_add_(0, sequences.rows, (sequences.values == 0).long()) > 0
        by_length = by_length + row_masked * (int(by_length.max()) + 1)
    if bool((by_length[1:] >= by_length[:-1]).all()):
        row_order = token_order = None
        tokens = sequences
    else:
        row_order = torch.argsort(by_length, stable=True)
        order = sequences.with_values(torch.arange(sequences.values.numel(), device=sequences.device)).take(row_order)
        token_order = order.values
        tokens = order.with_values(sequences.values[token_order])
        positions = positions[token_order]
        row_masked = row_masked[row_order] if row_masked is not None else None
    buckets = _buckets(tokens, int(row_masked.sum()) if row_masked is not None else 0)
    last = tokens.offsets[1:] - 1
    return Packed(tokens.values, positions, last, row_order, token_order, buckets, sees_all=sees_all)


def _buckets(tokens: Ragged, n_masked: int) -> tuple[Bucket, ...]:
    """Cut rows that are sorted by length, those with masked items last, into buckets."""
    lengths, bounds = tokens.lengths.tolist(), tokens.offsets.tolist()
    n_plain = len(lengths) - n_masked
    buckets, first = [], 0
    for row in range(1, len(lengths) + 1):
        if row < len(lengths) and row != n_plain and lengths[row] <= max(lengths[first], lengths[first] * _SPREAD):
            continue
        buckets.append(_bucket(tokens, first, row, lengths, bounds, masked=first >= n_plain))
        first = row
    return tuple(buckets)


def _bucket(tokens: Ragged, first: int, end: int, lengths: list[int], bounds: list[int], masked: bool) -> Bucket:
    own, start, stop = lengths[first:end], bounds[first], bounds[end]
    of_rows, length = tokens.lengths[first:end], max(1, *own)
    slots = None
    if min(own) != length:
        slots = (tokens.rows[start:stop] - first) * length + tokens.positions[start:stop]
    bucket = Bucket(first, end - first, start, stop - start, length, slots, of_rows, None)
    return replace(bucket, valid_mask=bucket.pad(tokens.values[start:stop]) != 0) if masked else bucket


def spans(queries: Tensor, keys: Tensor) -> Tensor:
    """[n, Q] and [n, L] int64 times, 0 where unknown -> [n, Q, L] int64, how long lies between, on a logarithmic scale.

    0 where one of both is unknown; else ``1 + floor(ln(max(span, 1)) / 0.301)``, at most ``N_SPANS - 1``: as HSTU's
    published code cuts spans.
    """
    # times from 0 on are counted on by 1
    of_queries, of_keys = ((times - (times > 0).long()).double() for times in (queries, keys))
    between = (of_queries[:, :, None] - of_keys[:, None, :]).abs()
    buckets = 1 + (between.clamp(min=1).log() / 0.301).long().clamp(max=N_SPANS - 2)
    return buckets.masked_fill((queries == 0)[:, :, None] | (keys == 0)[:, None, :], 0)


def score_bias(visible_mask: Tensor) -> Tensor:
    """What is added to attention scores, of the mask's shape: 0 at the keys that a query sees, else ``-inf``."""
    hidden = torch.zeros(visible_mask.shape, device=visible_mask.device)
    return hidden.masked_fill_(~visible_mask, float("-inf"))
