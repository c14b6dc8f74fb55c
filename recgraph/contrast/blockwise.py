"""The contrastive kernel: mean losses over N rows and M candidates, in blocks of rows, so that no N
x M matrix is resident.

The derivative of a softmax by its scores is at hand when the loss is: each block yields its loss
and its gradients before the next one overwrites it, and nothing is computed a second time in
backward. :func:`contrast` is the one contrastive objective of the library;
:mod:`recgraph.losses.softmax` evaluates its losses over the item table in the same way. What does
more to a row than take that mean (other sums, drawn candidates) composes it from :func:`log_sums`,
which computes each block a second time in backward.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recgraph.contrast.parts import Pairs
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import (
    EXPONENT_LIMIT,
    refuse_second_derivative,
    row_blocks,
    score_blocks,
    total_of,
    work_type,
)
from recgraph.sparse.device import full_precision, is_accelerated


class NoCandidateError(ValueError):
    """No anchor of a contrastive term has a candidate of positive weight."""


class BlockwiseLoss(ABC):
    """One evaluation of a loss over blocks of rows; a subclass computes a block.

    Args:
        inputs: what the loss is differentiated by: x [N, D], y [M, D], and what a subclass adds.
        needs: which of them need a gradient.

    Attributes:
        gradients: by the inputs, before they are divided by what :meth:`evaluate` returns; None
            where not needed.
    """

    #: whether it may be a mean over no row
    may_be_empty = False

    def __init__(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> None:
        work = work_type(*inputs[:2])
        self.x, self.y = inputs[0].to(work), inputs[1].to(work)
        self.limit = EXPONENT_LIMIT[work]
        self.gradients: list[Tensor | None] = [None] * len(inputs)
        if needs[0]:
            self.gradients[0] = torch.empty_like(self.x)
        if needs[1]:
            self.gradients[1] = torch.zeros_like(self.y)

    def add_gradients(self, rows: slice, p: Tensor) -> None:
        """Add those by x and y of a block, given the derivative of its losses by ``x @ y.T`` [n,
        M].
        """
        grad_x, grad_y = self.gradients[:2]
        if grad_x is not None:
            torch.mm(p, self.y, out=grad_x[rows])
        if grad_y is not None:
            grad_y.addmm_(p.t(), self.x[rows])

    @abstractmethod
    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        """The mean loss, and by what the gradients are to be divided; fills the gradients."""


def one_pass(
    loss: type[BlockwiseLoss],
    settings: Mapping[str, Any],
    block_rows: int | None,
    inputs: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Evaluate a loss; what :meth:`BlockwiseLoss.evaluate` returns. It can be differentiated once.

    Args:
        loss: made by ``loss(inputs, needs, **settings)``.
        block_rows: rows of scores in memory at once; None picks by the size of the cache.
        inputs: in any floating type; the loss is computed in the widest of the first two, at least
            float32.
    """
    if not torch.is_grad_enabled():
        # or else the function would make gradients that no backward asks for
        inputs = [tensor.detach() for tensor in inputs]
    return _OnePass.apply(loss, settings, block_rows, *inputs)  # type: ignore[no-untyped-call, no-any-return]


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss: type[BlockwiseLoss],
        settings: Mapping[str, Any],
        block_rows: int | None,
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        # products under autocast would be rounded to half precision
        with full_precision(inputs[0]):
            evaluation = loss(inputs, ctx.needs_input_grad[3:], **settings)
            value, divisor = evaluation.evaluate(block_rows)
        ctx.save_for_backward(divisor, *evaluation.gradients)
        ctx.may_be_empty = evaluation.may_be_empty
        ctx.mark_non_differentiable(divisor)
        return value, divisor

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a loss over blocks of rows")
        divisor, *gradients = ctx.saved_tensors
        scale = grad_output / divisor
        if ctx.may_be_empty:  # a mean over nothing passes no gradient
            scale = torch.where(divisor == 0, 0, scale)
        # torch brings each to the type of its input
        return (
            None,
            None,
            None,
            *(None if gradient is None else gradient * scale for gradient in gradients),
        )


@dataclass(frozen=True)
class Candidates:
    """Who competes with the positive of an anchor.

    Attributes:
        positives: [N] int64, the column of each anchor's positive.
        excluded: [N] int64, a column that is never a candidate of that anchor; None where there is
            none.
        count_positive: whether the positive is a candidate itself.
        weigh_positive: whether it then carries its weight, or counts fully.
        required: whether it is an error that no anchor has a candidate; else the mean over no
            anchor is NaN.
        kept: [N] bool, written by the contrast: which anchors have a candidate; None: not recorded.
    """

    positives: Tensor
    excluded: Tensor | None = None
    count_positive: bool = True
    weigh_positive: bool = False
    required: bool = True
    kept: Tensor | None = None

    @property
    def barred(self) -> Tensor:
        """[N, 1 or 2] int64: the columns that are no negatives of each anchor, its positive
        first.
        """
        own = self.positives
        return own[:, None] if self.excluded is None else torch.stack([own, self.excluded], 1)

    def check(self, x: Tensor, counted: Tensor) -> None:
        """Refuse that of the anchors x [N, D] none counts, where that is an error.

        On an accelerator, where nobody waits to learn it, ``0 / 0`` makes the mean over two anchors
        or more NaN.
        """
        is_read = not is_accelerated(x) or len(x) == 1
        if self.required and is_read and int(counted) == 0:
            raise NoCandidateError(
                f"weight: all {len(x)} anchors have only candidates of weight 0; use a larger batch or another weight"
            )


class WeightBlocks:
    """The weights of one block of anchors after the other, and the sums of their gradients.

    Args:
        inputs: the embeddings of anchors and candidates, and the parameters of the weight that are
            trained.
        needs: which of them need a gradient.

    Attributes:
        w: [n, M] of the last block: the logarithms of its weights, or where ``is_factor`` the
            weights themselves.
    """

    w: Tensor
    is_factor: bool

    def __init__(
        self,
        weight: Weight,
        pairs: Pairs,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        work: torch.dtype,
    ) -> None:
        self.weight, self.pairs, self.needs = weight, pairs, needs
        self.anchors, self.candidates = (tensor.detach().to(work) for tensor in inputs[:2])
        # one tensor for all blocks: a weight may keep what it makes of it
        self.candidates.requires_grad_(needs[1])
        self.parameters = list(inputs[2:])
        self.gradients: list[Tensor | None] = [None] * len(inputs)

    def block(self, rows: slice, similarities: Tensor, bounded: bool = False) -> None:
        """Make the weights of the rows.

        A weight of cosines that are the similarities over a temperature depends on the embeddings
        by these alone, so that one product makes both, and its gradient joins that of the loss
        before that is multiplied by the rows.

        Args:
            similarities: [n, M].
            bounded: whether the weights themselves will do, where they are at hand.
        """
        self.w, self._leaves = similarities, []  # the memory of the last block is free for this one
        anchors = self.anchors[rows].detach().requires_grad_(self.needs[0])
        similarities = similarities.detach().requires_grad_(any(self.needs[:2]))
        with torch.set_grad_enabled(any(self.needs)):
            pairs = self.pairs.block(rows, anchors, self.candidates, similarities)
            factor = self.weight.factor(pairs) if bounded else None
            self.w, self.is_factor = (
                self.weight.log_w(pairs) if factor is None else factor,
                factor is not None,
            )
        self._leaves = [anchors, self.candidates, *self.parameters, similarities]

    def add_gradients(self, rows: slice, grad_log_w: Tensor) -> Tensor | None:
        """Add the gradients of the last block, whose rows these are, given those by its log-weights
        [n, M].

        Returns:
            [n, M], those by its similarities; None where the weights do not depend on them.
        """
        w, leaves = self.w, self._leaves
        if self.is_factor:  # a weight of 0 passes nothing
            grad_log_w = grad_log_w / w.detach().clamp(min=torch.finfo(w.dtype).tiny)
        wanted = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            w, [leaves[k] for k in wanted], grad_log_w.to(w.dtype), allow_unused=True
        )
        by_leaf = dict(zip(wanted, found, strict=True))
        through_similarities = by_leaf.pop(len(self.gradients), None)
        for k, grad in by_leaf.items():
            if grad is None:
                continue
            if self.gradients[k] is None:
                self.gradients[k] = torch.zeros_like(self.anchors if k == 0 else leaves[k].detach())
            total = self.gradients[k]
            assert total is not None
            (total[rows] if k == 0 else total).add_(grad)
        return through_similarities


def _inputs(x: Tensor, y: Tensor, weight: Weight | None, pairs: Pairs | None) -> list[Tensor]:
    """What a sum over candidates is differentiated by."""
    if weight is None or pairs is None:
        return [x, y]
    return [
        x,
        y,
        pairs.anchors,
        pairs.candidates,
        *(each for each in weight.parameters() if each.requires_grad),
    ]


def contrast(
    x: Tensor,
    y: Tensor,
    candidates: Candidates,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean over anchors of ``logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)`` with ``s = x
    @ y.T``.

    An anchor whose candidates all have weight 0 is left out of the mean.

    Args:
        x: [N, D], anchors.
        y: [M, D], candidates.
        candidates: which columns compete.
        weight: log_w; None: 0 throughout.
        pairs: what the weight is given: ids [N], [M] and embeddings [N, D], [M, D].
        block_rows: anchors in memory at once; None picks by the size of the cache.

    Returns:
        The scalar loss, differentiable once, and how many anchors were left out (int64 scalar).
    """
    settings = {"candidates": candidates, "weight": weight, "pairs": pairs}
    loss, counted = one_pass(_Contrast, settings, block_rows, _inputs(x, y, weight, pairs))
    return loss, len(x) - counted


class _Contrast(BlockwiseLoss):
    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.candidates, self.may_be_empty = candidates, not candidates.required
        self.weights: WeightBlocks | None = None
        if weight is not None and pairs is not None:
            self.weights = WeightBlocks(weight, pairs, inputs[2:], needs[2:], self.x.dtype)
        self._accelerated = is_accelerated(self.x)
        self._all_count = self._accelerated and self.weights is None and candidates.count_positive

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        # no similarity can leave the range of exp, so that no maximum need be taken out first
        bounded = not self._accelerated and bool(
            self.x.norm(dim=1).amax() * self.y.norm(dim=1).amax() <= self.limit
        )
        sums = []
        counted = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for rows, buffer in score_blocks(len(self.x), len(self.y), self.x, block_rows):
            losses, keep_mask = self._block(rows, buffer, bounded)
            sums.append(losses.sum())
            counted += len(losses) if keep_mask is None else keep_mask.sum()
            if self.candidates.kept is not None:
                self.candidates.kept[rows] = True if keep_mask is None else keep_mask[:, 0]
        # only a weight, or a positive that is no candidate, can leave an anchor without any
        if self.weights is not None or not self.candidates.count_positive:
            self.candidates.check(self.x, counted)
        if self.weights is not None:
            self.gradients[2:] = self.weights.gradients
        return (total_of(sums, self.x) / counted).to(self.x.dtype), counted

    def _block(self, rows: slice, t: Tensor, bounded: bool) -> tuple[Tensor, Tensor | None]:
        """The losses of the rows (0 where there is no candidate) and which of them count; None:
        all.
        """
        candidates, positives = self.candidates, self.candidates.positives[rows, None]
        excluded = None if candidates.excluded is None else candidates.excluded[rows, None]
        torch.mm(self.x[rows], self.y.t(), out=t)
        if self._all_count:  # in few kernels
            if excluded is not None:
                t.scatter_(1, excluded, -math.inf)
            torch.log_softmax(t, 1, out=t)
            losses = -t.gather(1, positives)
            t.exp_().scatter_add_(1, positives, t.new_full((), -1).expand(positives.shape))
            self.add_gradients(rows, t)
            return losses, None
        s_pos = t.gather(1, positives)
        weights = self.weights
        if weights is not None:
            weights.block(rows, t, bounded)
        # t holds logarithms of the addends, or the addends themselves where the weights themselves
        # are at hand
        of_positive, of_none, is_raised = (
            s_pos,
            -math.inf,
            weights is not None and weights.is_factor,
        )
        if is_raised:
            of_positive, of_none = s_pos.exp(), 0.0
            t.exp_()
        if weights is not None:
            t = t.mul_(weights.w.detach()) if is_raised else t.add_(weights.w.detach())
        if not candidates.count_positive:
            t.scatter_(1, positives, of_none)
        elif weights is not None and not candidates.weigh_positive:
            t.scatter_(1, positives, of_positive)
        if excluded is not None:
            t.scatter_(1, excluded, of_none)
        peak = torch.zeros_like(s_pos)
        if bounded and weights is None:
            t.exp_()
        elif not is_raised:
            peak = t.amax(1, keepdim=True)
            peak.masked_fill_(peak == -math.inf, 0)
            _exponentials(t, peak)
        total = t.sum(1, keepdim=True)
        keep_mask = total != 0
        losses = torch.where(keep_mask, total.log() + peak - s_pos, 0)
        learns = weights is not None and weights.w.requires_grad
        if self.gradients[0] is None and self.gradients[1] is None and not learns:
            return losses, keep_mask
        p = t.mul_(torch.where(keep_mask, 1 / total, 0))
        through_weight: Tensor | None = None
        if weights is not None and learns:
            own = p.gather(1, positives)
            if not candidates.weigh_positive:
                p.scatter_(1, positives, 0)
            through_weight = weights.add_gradients(rows, p)
            p.scatter_(1, positives, own)
        p.scatter_add_(1, positives, -keep_mask.to(p.dtype))
        if through_weight is not None:
            p += through_weight
        self.add_gradients(rows, p)
        return losses, keep_mask


def _exponentials(t: Tensor, peak: Tensor) -> Tensor:
    """``e^{t - peak}``, in the memory of t; 0 where it makes no difference.

    There exp would give slow subnormal numbers, and it takes twenty times as long over ``-inf`` as
    over a number.
    """
    limit = EXPONENT_LIMIT[t.dtype]
    smallest = 2 * math.exp(-limit)
    return torch.threshold_(t.sub_(peak).clamp_(min=-limit).exp_(), smallest, 0)


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
        barred: [N, k] int64, columns that are no candidates of that anchor, -1 for none; None: all
            are.
        weight: log_w; None: 0 throughout.
        pairs: what the weight is given, of all N anchors.
        block_rows: anchors in memory at once; None picks by the size of the cache.

    Returns:
        [N], ``-inf`` where an anchor has no candidate (it passes no gradient); at least float32. It
        can be differentiated once, by x, y, the embeddings of ``pairs`` and the parameters of the
        weight.
    """
    inputs = _inputs(x, y, weight, pairs)
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
            weights = None
            if weight is not None and pairs is not None:
                weights = WeightBlocks(weight, pairs, inputs[2:], [False] * len(inputs[2:]), work)
            sums = x.new_empty(len(x))
            for rows, t in score_blocks(len(x), len(y), x, block_rows):
                _logits(x, y, rows, t, barred, weights)
                peak = t.amax(1, keepdim=True)
                peak.masked_fill_(peak == -math.inf, 0)
                sums[rows] = _exponentials(t, peak).sum(1).log_().add_(peak[:, 0])
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
            weights = None
            if weight is not None and pairs is not None:
                weights = WeightBlocks(weight, pairs, inputs[2:], needs[2:], work)
            of_x = torch.empty_like(x) if needs[0] else None
            of_y = torch.zeros_like(y) if needs[1] else None
            for rows, t in score_blocks(len(x), len(y), x, block_rows):
                _logits(x, y, rows, t, barred, weights)
                p = _exponentials(t, peaks[rows, None]).mul_(passed[rows, None])
                if weights is not None and weights.w.requires_grad:
                    through_weight = weights.add_gradients(rows, p)
                    if through_weight is not None:
                        p += through_weight
                if of_x is not None:
                    torch.mm(p, y, out=of_x[rows])
                if of_y is not None:
                    of_y.addmm_(p.t(), x[rows])
        # torch brings each to the type of its input
        return None, None, None, None, of_x, of_y, *(() if weights is None else weights.gradients)


def _logits(
    x: Tensor,
    y: Tensor,
    rows: slice,
    out: Tensor,
    barred: Tensor | None,
    weights: WeightBlocks | None,
) -> None:
    """Into ``out`` [n, M] those of some rows of x, without gradient; ``-inf`` where a column is no
    candidate.
    """
    torch.mm(x[rows], y.t(), out=out)
    if weights is not None:
        weights.block(rows, out)
        out += weights.w.detach()
    if barred is not None:
        own = barred[rows]
        out.scatter_add_(1, own.clamp(min=0), torch.where(own < 0, 0, -math.inf).to(out.dtype))


def contrast_drawn(
    x: Tensor,
    y: Tensor,
    drawn: Tensor,
    candidates: Candidates,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`contrast`, with the sum over all M candidates estimated from K of them.

    ``loss_i = log([w_ip] e^{s_ip} + M / K sum_k w_ik e^{s_ik}) - s_ip``, where ``k`` runs over the
    drawn candidates that are not the positive; the first addend is there where the objective counts
    the positive, weighted where it weighs it. Where the drawn are a uniform choice without
    replacement, the sum in the logarithm is an unbiased estimate of that over all candidates: every
    one but the positive is in it with expected weight 1, and the positive with certainty, or not at
    all. With ``drawn`` all of the columns it is that sum. The logarithm of an estimate is low on
    average, by half of its relative variance.

    Args:
        drawn: [K] int64, different columns, ascending.
    """
    own = torch.linalg.vecdot(x, y.index_select(0, candidates.positives))
    of_positives_w = None
    if weight is not None and pairs is not None:
        ids, rows = (
            pairs.candidate_ids[candidates.positives],
            pairs.candidates.index_select(0, candidates.positives),
        )
        of_drawn = pairs.candidates.index_select(0, drawn)
        pairs = replace(pairs, candidate_ids=pairs.candidate_ids[drawn], candidates=of_drawn)
        if candidates.count_positive and candidates.weigh_positive:
            of_positives_w = of_positives(weight, pairs, ids, rows, block_rows)
    places = torch.searchsorted(drawn, candidates.barred).clamp(max=len(drawn) - 1)
    barred = torch.where(drawn[places] == candidates.barred, places, -1)
    sums = [
        log_sums(x, y.index_select(0, drawn), barred, weight, pairs, block_rows)
        + math.log(len(y) / len(drawn))
    ]
    if candidates.count_positive:
        sums.append(own if of_positives_w is None else own + of_positives_w)
    return mean_loss(candidates, x, sums, own)


def mean_loss(
    candidates: Candidates, x: Tensor, sums: Sequence[Tensor], own: Tensor
) -> tuple[Tensor, Tensor]:
    """The mean over anchors of ``log sum_k e^{sums_k} - own``, without those that have no
    candidate.

    Args:
        x: [N, D], the anchors.
        sums: [N] each, logarithms of parts of the sum over candidates; ``-inf`` where a part has
            none.
        own: [N], the similarities to the positives.

    Returns:
        The scalar loss, and how many anchors were left out (int64 scalar).
    """
    stacked = torch.stack(list(sums))
    keep_mask = (stacked != -torch.inf).any(0)
    # an anchor without any is left out of the mean: its logarithm has no gradient
    total = torch.where(keep_mask, stacked, 0).logsumexp(0)
    counted = keep_mask.sum()
    candidates.check(x, counted)
    if candidates.kept is not None:
        candidates.kept.copy_(keep_mask)
    return torch.where(keep_mask, total - own, 0).sum() / counted, len(x) - counted


def of_positives(
    weight: Weight, pairs: Pairs, ids: Tensor, rows: Tensor, block_rows: int | None = None
) -> Tensor:
    """[N], the log-weight of each anchor's positive, with these ids [N] and rows [N, D]; by blocks
    of anchors, which backward computes again."""
    work = work_type(pairs.anchors, pairs.candidates)
    anchors, candidates, rows = pairs.anchors.to(work), pairs.candidates.to(work), rows.to(work)

    def of_block(block: slice, anchors: Tensor, candidates: Tensor, rows: Tensor) -> Tensor:
        return weight.log_w_beside(pairs.block(block, anchors, candidates), ids[block], rows)

    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    blocks = row_blocks(len(anchors), len(candidates), anchors, block_rows)
    return torch.cat(
        [checkpoint(of_block, at, anchors[at], candidates, rows[at], **settings) for at in blocks]
    )
