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
from collections.abc import Iterator, Mapping, Sequence
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


class RowBlocks:
    """What is computed of the products ``x @ y.T`` in blocks of rows, and its gradients.

    Args:
        inputs: what it is differentiated by: x [N, D], y [M, D], and what a subclass adds.
        needs: which of them need a gradient.

    Attributes:
        gradients: by the inputs; None where not needed.
    """

    def __init__(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> None:
        work = work_type(*inputs[:2])
        self.x, self.y = inputs[0].to(work), inputs[1].to(work)
        self.limit = EXPONENT_LIMIT[work]
        self.is_differentiated = any(needs)
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


class BlockwiseLoss(RowBlocks, ABC):
    """One evaluation of a loss over blocks of rows; a subclass computes a block. Its gradients are
    those before they are divided by what :meth:`evaluate` returns.
    """

    #: whether it may be a mean over no row
    may_be_empty = False

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
    inputs = _without_graph(inputs)
    return _OnePass.apply(loss, settings, block_rows, *inputs)  # type: ignore[no-untyped-call, no-any-return]


def _without_graph(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The inputs of a function, detached where no backward will ask for the gradients that it would
    make.
    """
    if torch.is_grad_enabled():
        return inputs
    return [tensor.detach() for tensor in inputs]


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
        scaled = [None if gradient is None else gradient * scale for gradient in gradients]
        return None, None, None, *scaled


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
        kept: [N] bool, all True, in which the contrast writes False for anchors without a candidate;
            None: not recorded.
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
        if self.excluded is None:
            return self.positives[:, None]
        return torch.stack([self.positives, self.excluded], 1)

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
        self.anchors = inputs[0].detach().to(work)
        # one tensor for all blocks: a weight may keep what it makes of it
        self.candidates = inputs[1].detach().to(work).requires_grad_(needs[1])
        self.parameters = list(inputs[2:])
        self.gradients: list[Tensor | None] = [None] * len(inputs)

    @classmethod
    def of(
        cls,
        weight: Weight | None,
        pairs: Pairs | None,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        work: torch.dtype,
    ) -> WeightBlocks | None:
        """None without a weight."""
        if weight is None:
            return None
        assert pairs is not None
        return cls(weight, pairs, inputs, needs, work)

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
            w = None
            if bounded:
                w = self.weight.factor(pairs)
            self.is_factor = w is not None
            if w is None:
                w = self.weight.log_w(pairs)
            self.w = w
        self._leaves = [anchors, self.candidates, *self.parameters, similarities]

    def weigh_(self, similarities: Tensor) -> None:
        """Make of those of the last block [n, M] the logarithms of the weighted exponentials, or
        these themselves where the weights themselves are at hand.
        """
        if self.is_factor:
            similarities.exp_().mul_(self.w.detach())
        else:
            similarities.add_(self.w.detach())

    def add_gradients(self, rows: slice, grad_log_w: Tensor) -> Tensor | None:
        """Add the gradients of the last block, whose rows these are, given those by its log-weights
        [n, M].

        Returns:
            [n, M], those by its similarities; None where the weights do not depend on them.
        """
        w = self.w
        if self.is_factor:  # a weight of 0 passes nothing
            grad_log_w = grad_log_w / w.detach().clamp(min=torch.finfo(w.dtype).tiny)
        leaves = {place: leaf for place, leaf in enumerate(self._leaves) if leaf.requires_grad}
        grads: tuple[Tensor | None, ...] = torch.autograd.grad(
            w, list(leaves.values()), grad_log_w.to(w.dtype), allow_unused=True
        )
        by_place = dict(zip(leaves, grads, strict=True))
        through_similarities = by_place.pop(len(self.gradients), None)
        for place, grad in by_place.items():
            if grad is not None:
                self._add(place, rows, grad)
        return through_similarities

    def _add(self, place: int, rows: slice, grad: Tensor) -> None:
        total = self.gradients[place]
        if total is None:
            tensors = [self.anchors, self.candidates, *self.parameters]
            total = self.gradients[place] = torch.zeros_like(tensors[place].detach())
        if place == 0:  # the anchors, of whom a block has some
            total = total[rows]
        total.add_(grad)


def _inputs(x: Tensor, y: Tensor, weight: Weight | None, pairs: Pairs | None) -> list[Tensor]:
    """What a sum over candidates is differentiated by."""
    if weight is None:
        return [x, y]
    assert pairs is not None
    trained = [parameter for parameter in weight.parameters() if parameter.requires_grad]
    return [x, y, pairs.anchors, pairs.candidates, *trained]


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
        self.weights = WeightBlocks.of(weight, pairs, inputs[2:], needs[2:], self.x.dtype)
        self._accelerated = is_accelerated(self.x)
        is_weighted = weight is not None
        # only a weight, or a positive that is no candidate, can leave an anchor without any
        self._all_count = candidates.count_positive and not is_weighted
        self._puts_back = (
            candidates.count_positive and is_weighted and not candidates.weigh_positive
        )

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        # no similarity can leave the range of exp, so that no maximum need be taken out first
        bounded = False
        if not self._accelerated:
            longest = self.x.norm(dim=1).amax() * self.y.norm(dim=1).amax()
            bounded = bool(longest <= self.limit)
        sums = []
        counted = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for rows, buffer in score_blocks(len(self.x), len(self.y), self.x, block_rows):
            torch.mm(self.x[rows], self.y.t(), out=buffer)
            if self._accelerated and self._all_count:
                losses = self._cross_entropies(rows, buffer)
                counted += len(losses)
            else:
                losses, keep_mask = self._block(rows, buffer, bounded)
                counted += keep_mask.sum()
                if self.candidates.kept is not None:
                    self.candidates.kept[rows] = keep_mask[:, 0]
            sums.append(losses.sum())
        if not self._all_count:
            self.candidates.check(self.x, counted)
        if self.weights is not None:
            self.gradients[2:] = self.weights.gradients
        return (total_of(sums, self.x) / counted).to(self.x.dtype), counted

    def _cross_entropies(self, rows: slice, t: Tensor) -> Tensor:
        """The losses [n, 1] of the rows where no similarity is weighted and every anchor counts, in
        few kernels.

        Args:
            t: [n, M], the similarities; its memory is used.
        """
        positives = self.candidates.positives[rows, None]
        if self.candidates.excluded is not None:
            t.scatter_(1, self.candidates.excluded[rows, None], -math.inf)
        torch.log_softmax(t, 1, out=t)
        losses = -t.gather(1, positives)
        t.exp_().scatter_add_(1, positives, t.new_full((), -1).expand(positives.shape))
        self.add_gradients(rows, t)
        return losses

    def _block(self, rows: slice, t: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        """The losses [n, 1] of the rows (0 where there is no candidate) and which of them count.

        Args:
            t: [n, M], the similarities; its memory is used.
            bounded: whether their exponentials are in the range of numbers.
        """
        candidates, positives = self.candidates, self.candidates.positives[rows, None]
        s_pos = t.gather(1, positives)
        # whether t holds the addends themselves, or their logarithms
        is_raised = bounded
        if self.weights is not None:
            self.weights.block(rows, t, bounded)
            self.weights.weigh_(t)
            is_raised = self.weights.is_factor
        elif bounded:
            t.exp_()
        nothing = 0.0 if is_raised else -math.inf
        if self._puts_back:
            t.scatter_(1, positives, s_pos.exp() if is_raised else s_pos)
        elif not candidates.count_positive:
            t.scatter_(1, positives, nothing)
        if candidates.excluded is not None:
            t.scatter_(1, candidates.excluded[rows, None], nothing)
        peak = torch.zeros_like(s_pos)
        if not is_raised:
            peak = t.amax(1, keepdim=True)
            peak.masked_fill_(peak == -math.inf, 0)
            _exponentials(t, peak)
        total = t.sum(1, keepdim=True)
        keep_mask = total != 0
        losses = torch.where(keep_mask, total.log() + peak - s_pos, 0)
        if self.is_differentiated:
            p = t.mul_(torch.where(keep_mask, 1 / total, 0))
            self._add_gradients_of_block(rows, p, keep_mask)
        return losses, keep_mask

    def _add_gradients_of_block(self, rows: slice, p: Tensor, keep_mask: Tensor) -> None:
        """Add those of the rows, given the shares p [n, M] of the addends in their sums, and which
        of the rows count.
        """
        positives, weights = self.candidates.positives[rows, None], self.weights
        through_weight: Tensor | None = None
        if weights is not None and weights.w.requires_grad:
            of_positives = p.gather(1, positives)
            if not self.candidates.weigh_positive:
                p.scatter_(1, positives, 0)
            through_weight = weights.add_gradients(rows, p)
            p.scatter_(1, positives, of_positives)
        p.scatter_add_(1, positives, -keep_mask.to(p.dtype))
        if through_weight is not None:
            p += through_weight
        self.add_gradients(rows, p)


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
    inputs = _without_graph(_inputs(x, y, weight, pairs))
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
        with full_precision(inputs[0]):
            needs = [False] * len(inputs)
            sums = _SumBlocks(inputs, needs, barred, weight, pairs).sums(block_rows)
        ctx.save_for_backward(sums, barred, *inputs)
        ctx.settings = weight, pairs, block_rows
        return sums

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a sum over candidates")
        sums, barred, *inputs = ctx.saved_tensors
        weight, pairs, block_rows = ctx.settings
        # an anchor without a candidate passes nothing: 0 times -inf - -inf would be NaN
        passed = torch.where(sums == -math.inf, 0, grad_output)
        passed = torch.where(sums.isnan(), sums, passed)
        peaks = torch.where(sums == -math.inf, 0, sums)
        with full_precision(inputs[0]):
            blocks = _SumBlocks(inputs, ctx.needs_input_grad[4:], barred, weight, pairs)
            blocks.differentiate(block_rows, peaks, passed)
        # torch brings each to the type of its input
        return None, None, None, None, *blocks.gradients


class _SumBlocks(RowBlocks):
    """See :func:`log_sums`."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        barred: Tensor | None,
        weight: Weight | None,
        pairs: Pairs | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.barred = barred
        self.weights = WeightBlocks.of(weight, pairs, inputs[2:], needs[2:], self.x.dtype)

    def sums(self, block_rows: int | None) -> Tensor:
        """[N]."""
        sums = self.x.new_empty(len(self.x))
        for rows, t in self._blocks(block_rows):
            peak = t.amax(1, keepdim=True)
            peak.masked_fill_(peak == -math.inf, 0)
            sums[rows] = _exponentials(t, peak).sum(1).log_().add_(peak[:, 0])
        return sums

    def differentiate(self, block_rows: int | None, sums: Tensor, passed: Tensor) -> None:
        """Fill the gradients, given the sums [N] and the derivative by them [N]."""
        for rows, t in self._blocks(block_rows):
            p = _exponentials(t, sums[rows, None]).mul_(passed[rows, None])
            if self.weights is not None and self.weights.w.requires_grad:
                through_weight = self.weights.add_gradients(rows, p)
                if through_weight is not None:
                    p += through_weight
            self.add_gradients(rows, p)
        if self.weights is not None:
            self.gradients[2:] = self.weights.gradients

    def _blocks(self, block_rows: int | None) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each block and the logarithms of their addends [n, M], without gradient;
        ``-inf`` where a column is no candidate."""
        for rows, t in score_blocks(len(self.x), len(self.y), self.x, block_rows):
            torch.mm(self.x[rows], self.y.t(), out=t)
            if self.weights is not None:
                self.weights.block(rows, t)
                self.weights.weigh_(t)
            if self.barred is not None:
                barred = self.barred[rows]
                addends = torch.where(barred < 0, 0, -math.inf).to(t.dtype)
                t.scatter_add_(1, barred.clamp(min=0), addends)
            yield rows, t


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
    weighed_own = own
    if weight is not None:
        assert pairs is not None
        ids = pairs.candidate_ids[candidates.positives]
        rows = pairs.candidates.index_select(0, candidates.positives)
        pairs = replace(
            pairs,
            candidate_ids=pairs.candidate_ids[drawn],
            candidates=pairs.candidates.index_select(0, drawn),
        )
        if candidates.count_positive and candidates.weigh_positive:
            weighed_own = own + of_positives(weight, pairs, ids, rows, block_rows)
    places = torch.searchsorted(drawn, candidates.barred).clamp(max=len(drawn) - 1)
    barred = torch.where(drawn[places] == candidates.barred, places, -1)
    of_drawn = log_sums(x, y.index_select(0, drawn), barred, weight, pairs, block_rows)
    sums = [of_drawn + math.log(len(y) / len(drawn))]
    if candidates.count_positive:
        sums.append(weighed_own)
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
    parts = []
    for block in row_blocks(len(anchors), len(candidates), anchors, block_rows):
        arguments = (block, anchors[block], candidates, rows[block])
        parts.append(checkpoint(of_block, *arguments, **settings))
    return torch.cat(parts)
