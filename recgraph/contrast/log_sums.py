"""Sums over candidates of each anchor, for what is composed of them, and its hardest candidates; both in blocks.

:func:`recgraph.contrast.blockwise.contrast` makes a mean over anchors and its gradients in one pass. What does more to
a row than take that mean (further candidates of its own, another positive, several sums) composes it from
:func:`log_sums`, which computes each block a second time in backward.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.blocks import refuse_second_derivative, score_blocks, work_type
from recgraph.contrast.blockwise import exponentials
from recgraph.contrast.views import Pairs
from recgraph.contrast.weight_blocks import BlockWeights, WeightBlocks
from recgraph.contrast.weights import Weight

__all__ = ["hardest", "log_sums"]


def log_sums(
    x: Tensor,
    y: Tensor,
    barred: Tensor | None = None,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> Tensor:
    """``log sum_j w_ij e^{x_i . y_j}`` for each anchor, over the columns that are not barred.

    Args:
        x: [N, D], anchors.
        y: [M, D], candidates.
        barred: [N, k] int64, columns that are no candidates of that anchor; None: all are.
        weight: log_w; None: 0 throughout.
        pairs: what the weight is given, of all N anchors.
        block_rows: anchors in memory at once; None picks by the size of the cache.

    Returns:
        [N], ``-inf`` where an anchor has no candidate (it passes no gradient); at least float32. It can be
        differentiated once, by x, y, the embeddings of ``pairs`` and the parameters of the weight.
    """
    inputs = [x, y]
    if weight is not None and pairs is not None:
        inputs += [pairs.anchors, pairs.candidates, *weight.trained()]
    if not torch.is_grad_enabled():
        inputs = [tensor.detach() for tensor in inputs]
    return _LogSums.apply(barred, weight, pairs, block_rows, *inputs)  # type: ignore[no-untyped-call, no-any-return]


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        barred: Tensor | None,
        weight: Weight | None,
        pairs: Pairs | None,
        block_rows: int | None,
        *inputs: Tensor,
    ) -> Tensor:
        work = work_type(*inputs[:2])
        with full_precision(inputs[0]):
            x, y = (tensor.to(work) for tensor in inputs[:2])
            weights = _weights(weight, pairs, inputs[2:], [False] * len(inputs[2:]), work)
            sums = x.new_empty(len(x))
            for rows, t in score_blocks(len(x), len(y), x, block_rows):
                _logits(x, y, rows, t, barred, weights)
                peak = t.amax(1, keepdim=True)
                peak.masked_fill_(peak == -math.inf, 0)
                sums[rows] = exponentials(t, peak).sum(1).log_().add_(peak[:, 0])
        ctx.save_for_backward(sums, barred, *inputs)
        ctx.settings = weight, pairs, block_rows, work
        return sums

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a sum over candidates")
        sums, barred, *inputs = ctx.saved_tensors
        weight, pairs, block_rows, work = ctx.settings
        needs = ctx.needs_input_grad[4:]
        # an anchor without a candidate passes nothing: 0 times -inf - -inf would be NaN
        passed = torch.where(sums == -math.inf, 0, grad_output)
        passed = torch.where(sums.isnan(), sums, passed)
        peaks = torch.where(sums == -math.inf, 0, sums)
        with full_precision(inputs[0]):
            x, y = (tensor.to(work) for tensor in inputs[:2])
            weights = _weights(weight, pairs, inputs[2:], needs[2:], work)
            of_x = torch.empty_like(x) if needs[0] else None
            of_y = torch.zeros_like(y) if needs[1] else None
            for rows, t in score_blocks(len(x), len(y), x, block_rows):
                of_weight = _logits(x, y, rows, t, barred, weights)
                p = exponentials(t, peaks[rows, None]).mul_(passed[rows, None])
                if weights is not None and of_weight is not None and of_weight.w.requires_grad:
                    through_weight = weights.add_gradients(rows, of_weight, p)
                    if through_weight is not None:
                        p += through_weight
                if of_x is not None:
                    torch.mm(p, y, out=of_x[rows])
                if of_y is not None:
                    of_y.addmm_(p.t(), x[rows])
        found = [of_x, of_y, *(() if weights is None else weights.gradients)]
        typed = [None if one is None else one.to(like.dtype) for one, like in zip(found, inputs, strict=True)]
        return None, None, None, None, *typed


def _weights(
    weight: Weight | None, pairs: Pairs | None, inputs: Sequence[Tensor], needs: Sequence[bool], work: torch.dtype
) -> WeightBlocks | None:
    return None if weight is None or pairs is None else WeightBlocks(weight, pairs, inputs, needs, work)


def _logits(
    x: Tensor, y: Tensor, rows: slice, out: Tensor, barred: Tensor | None, weights: WeightBlocks | None = None
) -> BlockWeights | None:
    """Into ``out`` [n, M] those of some rows of x, without gradient; ``-inf`` where a column is no candidate.

    Returns:
        What :meth:`WeightBlocks.block` does, where there is a weight.
    """
    torch.mm(x[rows], y.t(), out=out)
    of_weight = None if weights is None else weights.block(rows, out)
    if of_weight is not None:
        out += of_weight.w.detach()
    if barred is not None:
        out.scatter_(1, barred[rows], -math.inf)
    return of_weight


@torch.no_grad()
def hardest(
    x: Tensor,
    y: Tensor,
    k: int,
    barred: Tensor | None = None,
    block_rows: int | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The candidates of greatest similarity ``x_i . y_j`` of each anchor, without gradient.

    Args:
        x: [N, D], anchors.
        y: [M, D], candidates.
        k: how many.
        barred: [N, b] int64, columns that are no candidates of that anchor; None: all are.
        labels: [N] and [M], NaN where unknown: only candidates with another known label count. None: all count.

    Returns:
        [N, min(k, M)] int64, the most similar first; where an anchor has fewer candidates, others come last.
    """
    found = []
    for rows, t in score_blocks(len(x), len(y), x, block_rows):
        _logits(x, y, rows, t, barred)
        if labels is not None:
            t.masked_fill_(~((labels[0][rows, None] - labels[1]).abs() > 0), -math.inf)
        found.append(t.topk(min(k, len(y)), dim=1).indices)
    return torch.cat(found)
