"""Multi-head attention over a batch of sequences, laid out for the host or for an accelerator: :func:`lay_out`.

On the host the batch is packed (:mod:`recgraph.encoders.packed`), and the attention is one autograd node, which works
bucket by bucket. It can be differentiated once: its backward reads probabilities that were computed in forward without
their history. An accelerator, which would wait for the launches of each bucket's kernels, gets one padded batch
(:mod:`recgraph.encoders.padded`). Both give the same numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import is_accelerated
from recgraph.blocks import refuse_second_derivative
from recgraph.encoders.packed import Asked, Bucket, Packed, check_rows, pack
from recgraph.encoders.padded import Padded
from recgraph.rng import dropout_scale
from recgraph.sparse.ragged import Ragged

__all__ = ["Layout", "attend", "lay_out"]


#: what layers read: both have ``tokens``, ``last``, and the methods for positions, filters and the order of rows
Layout = Packed | Padded


def lay_out(sequences: Ragged, where: torch.device, last_only: bool, max_len: int, sees_all: bool = False) -> Layout:
    """The layout for a device.

    Args:
        sequences: B rows of tokens (0 is a masked item), none empty; or of pairs of a token and its time, where all
            places are read.
        where: the device that computes.
        last_only: only the last place of each row will be read, and no layer mixes places but by attention.
        max_len: the longest row that may come.
        sees_all: every place sees all of its row, masked items too; else the items up to itself.

    Raises:
        ValueError: a row is empty.
    """
    if is_accelerated(where):
        check_rows(sequences.on_host.lengths)
        return Padded.of(sequences, where, max_len, sees_all)
    if sequences.values.ndim == 1:
        return pack(sequences, last_only, sees_all)
    assert not last_only
    tokens, times = sequences.values.unbind(1)
    return pack(sequences.with_values(tokens), last_only, sees_all).with_times(times)


def attend(
    parts: Tensor,
    layout: Layout,
    n_heads: int,
    p: float,
    generator: torch.Generator | None,
    queries: Tensor | None = None,
    asked: Asked | None = None,
) -> Tensor:
    """Self-attention of each sequence, ``softmax(Q K^T / sqrt(D / n_heads) + mask) V``, heads side by side.

    The mask is causal, or where the layout ``sees_all`` that of padding alone.

    Args:
        parts: [N, 3 D], queries, keys and values of all tokens of the layout; with ``queries`` [N, 2 D],
            keys and values.
        n_heads: divides D.
        p: dropout of the attention probabilities; needs ``generator``.
        queries: [B, D], rows in the order of the layout: the attention of the last places alone.
        asked: of these places instead, where the layout ``sees_all``.

    Returns:
        [N, D], or of the shape of ``queries``.
    """
    if isinstance(layout, Padded):
        return layout.attend(parts, n_heads, p, generator, queries)
    attended: Tensor
    if queries is None:
        attended = _Every.apply(parts, layout, n_heads, p, generator)  # type: ignore[no-untyped-call]
    else:
        own = layout.last_buckets if asked is None else asked.buckets
        attended = _Some.apply(queries, parts, layout, own, n_heads, p, generator)  # type: ignore[no-untyped-call]
    return attended


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


class _Every(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, packed: Packed, n_heads: int, p: float, generator: Any) -> Tensor:
        out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        saved: list[Tensor | None] = []
        for bucket in packed.buckets:
            queries, keys, values = _heads(bucket.pad(qkv[bucket.tokens]), 3, n_heads)
            bias = bucket.last_bias if packed.sees_all else bucket.causal_bias
            result, *kept = _attend(queries, keys, values, bias, n_heads, p, generator)
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


class _Some(torch.autograd.Function):
    """Of some places, in ``asked`` of each bucket."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        kv: Tensor,
        packed: Packed,
        asked: tuple[Bucket, ...],
        n_heads: int,
        p: float,
        generator: Any,
    ) -> Tensor:
        out = torch.empty_like(queries)
        saved: list[Tensor | None] = []
        for bucket, own in zip(packed.buckets, asked, strict=True):
            (query,) = _heads(own.pad(queries[own.tokens]), 1, n_heads)
            keys, values = _heads(bucket.pad(kv[bucket.tokens]), 2, n_heads)
            result, *kept = _attend(query, keys, values, bucket.last_bias, n_heads, p, generator)
            out[own.tokens] = own.unpad(_merge([result], n_heads))
            saved += [query, keys, values, *kept]
        ctx.save_for_backward(*saved)
        ctx.packed, ctx.asked, ctx.n_heads = packed, asked, n_heads
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("attention")
        grad = grads[0]
        n_tokens = sum(bucket.n_tokens for bucket in ctx.packed.buckets)
        grad_queries = torch.empty_like(grad)
        grad_kv = grad.new_empty(n_tokens, 2 * grad.shape[1])
        for index, (bucket, own) in enumerate(zip(ctx.packed.buckets, ctx.asked, strict=True)):
            (of_out,) = _heads(own.pad(grad[own.tokens]), 1, ctx.n_heads)
            of_query, *of_kv = _attend_backward(of_out, *ctx.saved_tensors[5 * index : 5 * index + 5])
            grad_queries[own.tokens] = own.unpad(_merge([of_query], ctx.n_heads))
            grad_kv[bucket.tokens] = bucket.unpad(_merge(of_kv, ctx.n_heads))
        return grad_queries, grad_kv, None, None, None, None, None
