"""Mean losses over N rows and M candidates, evaluated in blocks of rows so that no N x M matrix is resident.

The derivative of a softmax by its scores is at hand when the loss is: each block yields its loss and its gradients
before the next one overwrites it, and nothing is computed a second time in backward. :func:`contrast` is the one
contrastive objective of the library; :mod:`recgraph.losses.softmax` evaluates its losses over the item table in the
same way.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.blocks import exponent_limit, refuse_second_derivative, score_blocks, total_of, work_type
from recgraph.contrast.views import Pairs
from recgraph.contrast.weight_blocks import WeightBlocks
from recgraph.contrast.weights import Weight

__all__ = [
    "BlockwiseLoss",
    "Candidates",
    "NoCandidateError",
    "contrast",
    "exponentials",
    "one_pass",
    "refuse_no_candidate",
]


class NoCandidateError(ValueError):
    """No anchor of a contrastive term has a candidate of positive weight."""


def refuse_no_candidate(candidates: Candidates, x: Tensor, counted: Tensor, message: str | None = None) -> None:
    """Refuse a contrast that leaves every anchor out, where that is an error (:attr:`Candidates.required`).

    On an accelerator, where nobody waits to learn it, ``0 / 0`` makes the mean over two anchors or more NaN instead.

    Args:
        x: [N, D], the anchors.
        counted: how many of them count (int64 scalar).
        message: of the error; None: that of weights which leave none.

    Raises:
        NoCandidateError: none of them counts.
    """
    is_read = not is_accelerated(x) or len(x) == 1
    if candidates.required and is_read and int(counted) == 0:
        raise NoCandidateError(
            message
            or f"all {len(x)} anchors have only candidates of weight 0; use a larger batch, another weight, or "
            "if_none='zero' among the objective's options"
        )


class BlockwiseLoss(ABC):
    """One evaluation of a loss over blocks of rows; a subclass computes a block.

    Args:
        inputs: what the loss is differentiated by: x [N, D], y [M, D], and what a subclass adds.
        needs: which of them need a gradient.

    Attributes:
        gradients: by the inputs, before they are divided by what :meth:`evaluate` returns; None where not needed.
    """

    #: what the loss is called in an error
    name: ClassVar[str]
    #: whether it may be a mean over no row
    may_be_empty = False

    def __init__(self, inputs: Sequence[Tensor], needs: Sequence[bool]) -> None:
        work = work_type(*inputs[:2])
        self.x, self.y = (tensor.to(work) for tensor in inputs[:2])
        self.limit = exponent_limit(work)
        self.gradients: list[Tensor | None] = [None] * len(inputs)
        if needs[0]:
            self.gradients[0] = torch.empty_like(self.x)
        if needs[1]:
            self.gradients[1] = torch.zeros_like(self.y)

    def blocks(self, n_candidates: int, block_rows: int | None) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each block, with the memory [n, n_candidates] in which its scores are computed."""
        return score_blocks(len(self.x), n_candidates, self.x, block_rows)

    def add_gradients(self, rows: slice, p: Tensor) -> None:
        """Add those by x and y of a block, given the derivative of its losses by ``x @ y.T`` [n, M]."""
        grad_x, grad_y = self.gradients[:2]
        if grad_x is not None:
            torch.mm(p, self.y, out=grad_x[rows])
        if grad_y is not None:
            grad_y.addmm_(p.t(), self.x[rows])

    def add_rows(self, *of_rows: tuple[Tensor, Tensor]) -> None:
        """Add the gradients of rows of y, pairs of indices [n] and values [n, D]."""
        assert self.gradients[1] is not None
        for index, values in of_rows:
            self.gradients[1].index_add_(0, index, values)

    @abstractmethod
    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        """The mean loss, and by what the gradients are to be divided; fills the gradients."""


def one_pass(
    loss: type[BlockwiseLoss], settings: Mapping[str, Any], block_rows: int | None, inputs: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Evaluate a loss; what :meth:`BlockwiseLoss.evaluate` returns. It can be differentiated once.

    Args:
        loss: made by ``loss(inputs, needs, **settings)``.
        block_rows: rows of scores in memory at once; None picks by the size of the cache.
        inputs: in any floating type; the loss is computed in the widest of the first two, at least float32.
    """
    if not torch.is_grad_enabled():
        # or else the function would make gradients that no backward asks for
        inputs = [tensor.detach() for tensor in inputs]
    return _OnePass.apply(loss, settings, block_rows, *inputs)  # type: ignore[no-untyped-call, no-any-return]


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: type[BlockwiseLoss], settings: Mapping[str, Any], block_rows: int | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        # products under autocast would be rounded to half precision
        with full_precision(inputs[0]):
            evaluation = loss(inputs, ctx.needs_input_grad[3:], **settings)
            value, divisor = evaluation.evaluate(block_rows)
        ctx.save_for_backward(divisor, *evaluation.gradients)
        ctx.types, ctx.name = [tensor.dtype for tensor in inputs], loss.name
        ctx.may_be_empty = evaluation.may_be_empty
        ctx.mark_non_differentiable(divisor)
        return value, divisor

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative(ctx.name)
        divisor, *gradients = ctx.saved_tensors
        scale = grad_output / divisor
        if ctx.may_be_empty:  # a mean over nothing passes no gradient
            scale = torch.where(divisor == 0, 0, scale)
        scaled = [
            None if gradient is None else (gradient * scale).to(dtype)
            for gradient, dtype in zip(gradients, ctx.types, strict=True)
        ]
        return None, None, None, *scaled


@dataclass(frozen=True)
class Candidates:
    """Who competes with the positive of an anchor.

    Attributes:
        positives: [N] int64, the column of each anchor's positive.
        excluded: [N] int64, a column that is never a candidate of that anchor; None where there is none.
        count_positive: whether the positive is a candidate itself.
        weigh_positive: whether it then carries its weight, or counts fully.
        required: whether it is an error that no anchor has a candidate; else the mean over no anchor is NaN.
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
        """[N, 1 or 2] int64: the columns that are no negatives of each anchor, its positive first."""
        own = self.positives
        return own[:, None] if self.excluded is None else torch.stack([own, self.excluded], 1)


def contrast(
    x: Tensor,
    y: Tensor,
    candidates: Candidates,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean over anchors of ``logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)`` with ``s = x @ y.T``.

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

    Raises:
        NoCandidateError: every anchor was left out. On an accelerator, where nobody waits to learn it, the loss
            of two anchors or more is NaN.
    """
    inputs = [x, y]
    if weight is not None and pairs is not None:
        inputs += [pairs.anchors, pairs.candidates, *weight.trained()]
    settings = {"candidates": candidates, "weight": weight, "pairs": pairs}
    loss, counted = one_pass(_Contrast, settings, block_rows, inputs)
    return loss, len(x) - counted


class _Contrast(BlockwiseLoss):
    name = "a contrastive term"

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
        bounded = not self._accelerated and self._bounded()
        sums = []
        counted = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for rows, buffer in self.blocks(len(self.y), block_rows):
            losses, keep_mask = self._block(rows, buffer, bounded)
            sums.append(losses.sum())
            counted += len(losses) if keep_mask is None else keep_mask.sum()
            if self.candidates.kept is not None:
                self.candidates.kept[rows] = True if keep_mask is None else keep_mask[:, 0]
        # only a weight, or a positive that is no candidate, can leave an anchor without any
        if self.weights is not None or not self.candidates.count_positive:
            refuse_no_candidate(self.candidates, self.x, counted)
        if self.weights is not None:
            self.gradients[2:] = self.weights.gradients
        return (total_of(sums, self.x) / counted).to(self.x.dtype), counted

    def _bounded(self) -> bool:
        return bool(self.x.norm(dim=1).amax() * self.y.norm(dim=1).amax() <= self.limit)

    def _block(self, rows: slice, t: Tensor, bounded: bool) -> tuple[Tensor, Tensor | None]:
        """The losses of the rows (0 where there is no candidate) and which of them count; None: all."""
        x, positives = self.x[rows], self.candidates.positives[rows, None]
        torch.mm(x, self.y.t(), out=t)
        if self._all_count:
            losses = self._softmax(rows, t, positives)
            self.add_gradients(rows, t)
            return losses, None
        s_pos = t.gather(1, positives)
        weights = None if self.weights is None else self.weights.block(rows, t, bounded)
        peak = torch.zeros_like(s_pos)
        if weights is not None and weights.is_factor:
            self._weigh(rows, t.exp_(), positives, s_pos, weights.w.detach())
        else:
            self._select(rows, t, positives, s_pos, None if weights is None else weights.w.detach())
            if bounded and weights is None:
                t.exp_()
            else:
                peak = t.amax(1, keepdim=True)
                peak.masked_fill_(peak == -math.inf, 0)
                exponentials(t, peak)
        total = t.sum(1, keepdim=True)
        keep_mask = total != 0
        losses = torch.where(keep_mask, total.log() + peak - s_pos, 0)
        learns = weights is not None and weights.w.requires_grad
        if self.gradients[0] is None and self.gradients[1] is None and not learns:
            return losses, keep_mask
        p = t.mul_(torch.where(keep_mask, 1 / total, 0))
        through_weight: Tensor | None = None
        if self.weights is not None and weights is not None and learns:
            own = p.gather(1, positives)
            if not self.candidates.weigh_positive:
                p.scatter_(1, positives, 0)
            through_weight = self.weights.add_gradients(rows, weights, p)
            p.scatter_(1, positives, own)
        p.scatter_add_(1, positives, -keep_mask.to(p.dtype))
        if through_weight is not None:
            p += through_weight
        self.add_gradients(rows, p)
        return losses, keep_mask

    def _softmax(self, rows: slice, t: Tensor, positives: Tensor) -> Tensor:
        """The losses [n, 1] where every anchor has a candidate, in few kernels; ``t`` becomes the derivative."""
        if self.candidates.excluded is not None:
            t.scatter_(1, self.candidates.excluded[rows, None], -math.inf)
        torch.log_softmax(t, 1, out=t)
        losses = -t.gather(1, positives)
        t.exp_().scatter_add_(1, positives, t.new_full((), -1).expand(positives.shape))
        return losses

    def _weigh(self, rows: slice, t: Tensor, positives: Tensor, s_pos: Tensor, factor: Tensor) -> None:
        """Multiply exponentials [n, M] by the weights; 0 where a column is no candidate."""
        candidates = self.candidates
        t.mul_(factor)
        if not candidates.count_positive:
            t.scatter_(1, positives, 0)
        elif not candidates.weigh_positive:
            t.scatter_(1, positives, s_pos.exp())
        if candidates.excluded is not None:
            t.scatter_(1, candidates.excluded[rows, None], 0)

    def _select(self, rows: slice, t: Tensor, positives: Tensor, s_pos: Tensor, log_w: Tensor | None) -> None:
        """Add log-weights to similarities [n, M]; ``-inf`` where a column is no candidate."""
        candidates = self.candidates
        if log_w is not None:
            t.add_(log_w)
        if not candidates.count_positive:
            t.scatter_(1, positives, -math.inf)
        elif log_w is not None and not candidates.weigh_positive:
            t.scatter_(1, positives, s_pos)
        if candidates.excluded is not None:
            t.scatter_(1, candidates.excluded[rows, None], -math.inf)


def exponentials(t: Tensor, peak: Tensor) -> Tensor:
    """``e^{t - peak}``, in the memory of t; 0 where it makes no difference.

    There exp would give slow subnormal numbers, and it takes twenty times as long over ``-inf`` as over a number.
    """
    limit = exponent_limit(t.dtype)
    smallest = 2 * math.exp(-limit)
    return torch.threshold_(t.sub_(peak).clamp_(min=-limit).exp_(), smallest, 0)
