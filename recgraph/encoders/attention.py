"""Multi-head attention over a packed batch of sequences: tokens one after the other, no work on padding.

Rows of about one length form a bucket; only inside a bucket are they padded. The attention is one autograd node. It can
be differentiated once: its backward reads probabilities that were computed in forward without their history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recgraph.blocks import refuse_second_derivative
from recgraph.rng import dropout_scale
from recgraph.sparse.ragged import Ragged

__all__ = ["causal_attention", "last_attention"]


# A bucket holds lengths up to this factor of its shortest: at most a quarter of its attention is padding.
_SPREAD = 1.3


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
    def causal_bias(self) -> Tensor:
        """Additive mask of the attention scores, [L, L] or, with masked items, [n_rows, 1, L, L].

        A query sees the valid keys up to its own place; one that would see none sees itself, so that no row of the
        softmax is empty. (The published code adds -10000 to what is hidden; a query without any key then averages
        over all places, but such a query is never read.)
        """
        places = torch.arange(self.length, device=self.lengths.device)
        causal_mask = places[:, None] >= places
        if self.valid_mask is None:
            return _bias(causal_mask)
        visible_mask = causal_mask & self.valid_mask[:, None, :]
        alone_mask = ~visible_mask.any(-1, keepdim=True) & torch.eye(self.length, device=places.device).bool()
        return _bias(visible_mask | alone_mask)[:, None]

    @cached_property
    def last_bias(self) -> Tensor | None:
        """Additive mask for the queries at the last places, [n_rows, 1, 1, L]; None where every key is visible."""
        if self.slots is None and self.valid_mask is None:
            return None
        places = torch.arange(self.length, device=self.lengths.device)
        visible_mask = places < self.lengths[:, None]
        if self.valid_mask is not None:
            visible_mask = visible_mask & self.valid_mask
            alone_mask = ~visible_mask.any(-1, keepdim=True) & (places == self.lengths[:, None] - 1)
            visible_mask = visible_mask | alone_mask
        return _bias(visible_mask)[:, None, None]

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
class Packed:
    """A batch of sequences, rows sorted by length.

    Attributes:
        tokens: [T] int64.
        positions: [T] int64: the place of each token in its original sequence.
        last: [B] int64: the packed index of each row's last token, in packed row order.
        row_order: [B] int64: the original row of each packed row; None where the order is unchanged.
        token_order: [T] int64: the original index of each packed token; None where unchanged.
        buckets: cover all rows.
    """

    tokens: Tensor
    positions: Tensor
    last: Tensor
    row_order: Tensor | None
    token_order: Tensor | None
    buckets: tuple[Bucket, ...]

    def restore_rows(self, rows: Tensor) -> Tensor:
        """[B, ...] in packed row order -> the order of the rows that were packed."""
        return rows if self.row_order is None else rows.index_select(0, torch.argsort(self.row_order))

    def restore_tokens(self, tokens: Tensor) -> Tensor:
        """[T, ...] in packed order -> the order of the tokens that were packed."""
        return tokens if self.token_order is None else tokens.index_select(0, torch.argsort(self.token_order))


def pack(sequences: Ragged, last_only: bool) -> Packed:
    """Plan the layout.

    Args:
        sequences: B rows of tokens (0 is a masked item), none empty.
        last_only: only the last place of each row will be read. Masked items before it are then dropped: they are no
            keys, and nothing reads their queries.

    Raises:
        ValueError: a row is empty.
    """
    if not bool((sequences.lengths > 0).all()):
        row = int((sequences.lengths == 0).nonzero()[0])
        raise ValueError(f"sequences: row {row} is empty; give it one token 0 (nothing known) instead")
    masked = sequences.values == 0
    any_masked = bool(masked.any())
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
    return Packed(tokens.values, positions, tokens.offsets[1:] - 1, row_order, token_order, buckets)


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
    length, start, stop = lengths[end - 1], bounds[first], bounds[end]
    of_rows = tokens.lengths[first:end]
    slots = None
    if lengths[first] != length:
        slots = (tokens.rows[start:stop] - first) * length + tokens.positions[start:stop]
    bucket = Bucket(first, end - first, start, stop - start, length, slots, of_rows, None)
    return replace(bucket, valid_mask=bucket.pad(tokens.values[start:stop]) != 0) if masked else bucket


def _bias(visible_mask: Tensor) -> Tensor:
    hidden = torch.zeros(visible_mask.shape, device=visible_mask.device)
    return hidden.masked_fill_(~visible_mask, float("-inf"))


def causal_attention(qkv: Tensor, packed: Packed, n_heads: int, p: float, generator: torch.Generator | None) -> Tensor:
    """Causal self-attention of each sequence.

    Args:
        qkv: [T, 3 D]: queries, keys and values, packed.
        n_heads: divides D.
        p: dropout of the attention probabilities; needs ``generator``.

    Returns:
        [T, D], packed: ``softmax(Q K^T / sqrt(D / n_heads) + mask) V``, heads side by side.
    """
    result: Tensor = _Causal.apply(qkv, packed, n_heads, p, generator)  # type: ignore[no-untyped-call]
    return result


def last_attention(
    queries: Tensor, kv: Tensor, packed: Packed, n_heads: int, p: float, generator: torch.Generator | None
) -> Tensor:
    """Attention of the last place of each sequence alone.

    Args:
        queries: [B, D], rows in packed order.
        kv: [T, 2 D]: keys and values, packed.

    Returns:
        [B, D], rows in packed order.
    """
    result: Tensor = _Last.apply(queries, kv, packed, n_heads, p, generator)  # type: ignore[no-untyped-call]
    return result


def _heads(padded: Tensor, parts: int, n_heads: int) -> tuple[Tensor, ...]:
    """[n, L, parts D] -> ``parts`` tensors of [n n_heads, L, D / n_heads]."""
    n, length, width = padded.shape
    split = padded.view(n, length, parts, n_heads, width // (parts * n_heads))
    stacked = split.permute(2, 0, 3, 1, 4).reshape(parts, n * n_heads, length, -1)
    return stacked.unbind(0)


def _merge(parts: list[Tensor], n_heads: int) -> Tensor:
    """The inverse of :func:`_heads`: -> [n, L, parts D]."""
    stacked = torch.stack(parts)
    count, rows, length, width = stacked.shape
    split = stacked.view(count, rows // n_heads, n_heads, length, width)
    return split.permute(1, 3, 0, 2, 4).reshape(rows // n_heads, length, count * n_heads * width)


def _probabilities(queries: Tensor, keys: Tensor, bias: Tensor | None, n_heads: int) -> Tensor:
    scale = 1 / math.sqrt(queries.shape[-1])
    if bias is None:
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(scale)
    else:
        bias = bias.to(queries.dtype)
        if bias.dim() == 4:
            bias = bias.expand(-1, n_heads, -1, -1).reshape(-1, *bias.shape[2:])
        scores = torch.baddbmm(bias, queries, keys.transpose(1, 2), alpha=scale)
    # the autocast of GPUs makes a softmax float32; the backward pass, which has no autocast, needs one type
    return torch.softmax(scores, -1).to(queries.dtype)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, n_heads: int, p: float, generator: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """-> (output, probabilities, scaled keep mask or None), all by [n n_heads, ...]."""
    probabilities = _probabilities(queries, keys, bias, n_heads)
    keep = dropout_scale(probabilities, p, generator)
    used = probabilities if keep is None else probabilities * keep
    return torch.bmm(used, values), probabilities, keep


def _attend_backward(
    grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, probabilities: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    used = probabilities if keep is None else probabilities * keep
    grad_values = torch.bmm(used.transpose(1, 2), grad)
    grad_used = torch.bmm(grad, values.transpose(1, 2))
    if keep is not None:
        grad_used.mul_(keep)
    grad_scores = torch._softmax_backward_data(grad_used, probabilities, -1, grad.dtype)
    grad_scores = grad_scores.mul_(1 / math.sqrt(queries.shape[-1]))
    return torch.bmm(grad_scores, keys), torch.bmm(grad_scores.transpose(1, 2), queries), grad_values


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, packed: Packed, n_heads: int, p: float, generator: Any) -> Tensor:
        out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        saved: list[Tensor | None] = []
        for bucket in packed.buckets:
            queries, keys, values = _heads(bucket.pad(qkv[bucket.tokens]), 3, n_heads)
            result, *kept = _attend(queries, keys, values, bucket.causal_bias, n_heads, p, generator)
            out[bucket.tokens] = bucket.unpad(_merge([result], n_heads))
            saved += [queries, keys, values, *kept]
        ctx.save_for_backward(*saved)
        ctx.packed, ctx.n_heads = packed, n_heads
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        refuse_second_derivative("attention")
        grad = grads[0]
        grad_qkv = grad.new_empty(grad.shape[0], 3 * grad.shape[1])
        for index, bucket in enumerate(ctx.packed.buckets):
            (of_out,) = _heads(bucket.pad(grad[bucket.tokens]), 1, ctx.n_heads)
            parts = _attend_backward(of_out, *ctx.saved_tensors[5 * index : 5 * index + 5])
            grad_qkv[bucket.tokens] = bucket.unpad(_merge(list(parts), ctx.n_heads))
        return grad_qkv, None, None, None, None


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, kv: Tensor, packed: Packed, n_heads: int, p: float, generator: Any
    ) -> Tensor:
        out = torch.empty_like(queries)
        saved: list[Tensor | None] = []
        for bucket in packed.buckets:
            (query,) = _heads(queries[bucket.rows][:, None], 1, n_heads)
            keys, values = _heads(bucket.pad(kv[bucket.tokens]), 2, n_heads)
            result, *kept = _attend(query, keys, values, bucket.last_bias, n_heads, p, generator)
            out[bucket.rows] = _merge([result], n_heads)[:, 0]
            saved += [query, keys, values, *kept]
        ctx.save_for_backward(*saved)
        ctx.packed, ctx.n_heads = packed, n_heads
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        refuse_second_derivative("attention")
        grad = grads[0]
        n_tokens = sum(bucket.n_tokens for bucket in ctx.packed.buckets)
        grad_queries = torch.empty_like(grad)
        grad_kv = grad.new_empty(n_tokens, 2 * grad.shape[1])
        for index, bucket in enumerate(ctx.packed.buckets):
            (of_out,) = _heads(grad[bucket.rows][:, None], 1, ctx.n_heads)
            of_query, *of_kv = _attend_backward(of_out, *ctx.saved_tensors[5 * index : 5 * index + 5])
            grad_queries[bucket.rows] = _merge([of_query], ctx.n_heads)[:, 0]
            grad_kv[bucket.tokens] = bucket.unpad(_merge(of_kv, ctx.n_heads))
        return grad_queries, grad_kv, None, None, None, None
