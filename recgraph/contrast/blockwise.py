"""The one objective, evaluated over blocks of anchors: loss and gradients in the same pass.

``loss_i = logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)``. Its derivative by ``s_ij`` is a softmax that is at
hand when the block's loss is, so each block yields its gradients before the next one overwrites it: at most one
block of N x M is resident, and nothing is computed a second time in backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.blocks import exponent_limit, refuse_second_derivative, row_blocks, work_type
from recgraph.contrast.weights import Pairs, Weight


class NoCandidateError(ValueError):
    """Every anchor of a contrastive term was left without a candidate."""


@dataclass(frozen=True)
class Candidacy:
    """Who competes for an anchor.

    Attributes:
        positives: [N] int64, the column of each anchor's positive.
        excluded: [N] int64, a column that is never a candidate of that anchor; None where there is none.
        count_positive: whether the positive is in C_i.
        weigh_positive: whether it carries its weight there, or counts fully.
    """

    positives: Tensor
    excluded: Tensor | None
    count_positive: bool
    weigh_positive: bool


@dataclass(frozen=True)
class Weighing:
    """A weight and what it is told about the rows: ids [N], [M] and embeddings [N, D], [M, D]."""

    weight: Weight
    anchor_ids: Tensor
    candidate_ids: Tensor
    anchors: Tensor
    candidates: Tensor


def contrast(
    x: Tensor, y: Tensor, candidacy: Candidacy, weighing: Weighing | None, block_rows: int | None
) -> tuple[Tensor, Tensor]:
    """The mean of the objective over the anchors that have a candidate of positive weight.

    Args:
        x: [N, D], y: [M, D], with ``s = x @ y.T``.

    Returns:
        The scalar loss, differentiable once, and how many anchors were left out (int64 scalar).

    Raises:
        NoCandidateError: every anchor was left out.
    """
    weight_inputs: list[Tensor] = []
    if weighing is not None:
        trained = [parameter for parameter in weighing.weight.parameters() if parameter.requires_grad]
        weight_inputs = [weighing.anchors, weighing.candidates, *trained]
    if not torch.is_grad_enabled():
        # or else the function would make gradients that no backward asks for
        x, y, *weight_inputs = (tensor.detach() for tensor in (x, y, *weight_inputs))
    loss, left_out = _OnePass.apply(  # type: ignore[no-untyped-call]
        x, y, candidacy, weighing, block_rows, *weight_inputs
    )
    return loss, left_out


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        candidacy: Candidacy,
        weighing: Weighing | None,
        block_rows: int | None,
        *weight_inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        work = work_type(x, y)
        needs = ctx.needs_input_grad
        # products under autocast would be rounded to half precision
        with torch.autocast(x.device.type, enabled=False):
            weights = None if weighing is None else _Weights(weighing, weight_inputs, needs[5:], work)
            run = _Run(x.to(work), y.to(work), candidacy, weights, needs[:2])
            loss, counted = run.all_blocks(block_rows)
        own = [] if weights is None else weights.grads
        ctx.save_for_backward(counted, run.grad_x, run.grad_y, *own)
        ctx.types = [tensor.dtype for tensor in (x, y, *weight_inputs)]
        left_out = x.shape[0] - counted
        ctx.mark_non_differentiable(left_out)
        return loss, left_out

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a contrastive term")
        counted, *sums = ctx.saved_tensors
        scale = grad_output / counted
        grads = [
            None if total is None else (total * scale).to(dtype) for total, dtype in zip(sums, ctx.types, strict=True)
        ]
        return *grads[:2], None, None, None, *grads[2:]


class _Weights:
    """The log-weights of a block, and the sums of the gradients by what they depend on."""

    def __init__(
        self, weighing: Weighing, inputs: tuple[Tensor, ...], needs: tuple[bool, ...], work: torch.dtype
    ) -> None:
        self.weighing, self.needs = weighing, needs
        self.anchors, self.candidates = (tensor.detach().to(work) for tensor in inputs[:2])
        self.candidates.requires_grad_(needs[1])
        # one tensor for all blocks: a weight may keep what it makes of it
        self._constant = self.candidates.detach()
        self.parameters = list(inputs[2:])
        self.grads: list[Tensor | None] = [None] * len(inputs)

    def block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The log-weights of the rows, and the leaf [n, D] of anchors that they depend on."""
        anchors = self.anchors[rows].detach().requires_grad_(self.needs[0])
        ids = self.weighing.anchor_ids[rows], self.weighing.candidate_ids
        with torch.set_grad_enabled(any(self.needs)):
            log_w = self.weighing.weight.log_w(Pairs(*ids, anchors, self.candidates))
        expected = (anchors.shape[0], self.candidates.shape[0])
        if log_w.shape != expected:
            name = type(self.weighing.weight).__name__
            raise ValueError(f"{name}.log_w returned {list(log_w.shape)}; it must be {list(expected)}")
        return log_w, anchors

    def factor(self, rows: slice) -> Tensor | None:
        """The weights of the rows where they are at hand."""
        ids = self.weighing.anchor_ids[rows], self.weighing.candidate_ids
        return self.weighing.weight.factor(Pairs(*ids, self.anchors[rows], self._constant))

    def add_gradients(self, rows: slice, log_w: Tensor, anchors: Tensor, grad_log_w: Tensor) -> None:
        if not log_w.requires_grad:
            return
        leaves = [anchors, self.candidates, *self.parameters]
        asked = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            log_w, [leaves[k] for k in asked], grad_log_w.to(log_w.dtype), allow_unused=True
        )
        for k, grad in zip(asked, found, strict=True):
            if grad is None:
                continue
            if self.grads[k] is None:
                self.grads[k] = torch.zeros_like(self.anchors if k == 0 else leaves[k].detach())
            total = self.grads[k]
            assert total is not None
            (total[rows] if k == 0 else total).add_(grad)


class _Run:
    """One evaluation; ``grad_x`` and ``grad_y`` are gradients of the sum, None where they are not needed."""

    def __init__(
        self, x: Tensor, y: Tensor, candidacy: Candidacy, weights: _Weights | None, needs: tuple[bool, ...]
    ) -> None:
        self.x, self.y, self.candidacy, self.weights = x, y, candidacy, weights
        self.grad_x = torch.empty_like(x) if needs[0] else None
        self.grad_y = torch.zeros_like(y) if needs[1] else None
        self.limit = exponent_limit(x.dtype)

    def all_blocks(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        """The mean loss and the number of anchors in it; fills the gradients."""
        (n_rows, _), n_candidates = self.x.shape, self.y.shape[0]
        blocks = list(row_blocks(n_rows, n_candidates, self.x, block_rows))
        buffer = self.x.new_empty(blocks[0].stop, n_candidates)
        bounded = self._bounded()
        total = self.x.new_zeros(())
        counted = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for rows in blocks:
            losses, keep_mask = self._block(rows, buffer[: rows.stop - rows.start], bounded)
            total += losses.sum()
            counted += keep_mask.sum()
        # only a weight, or a positive that is no candidate, can leave an anchor without any
        if (self.weights is not None or not self.candidacy.count_positive) and int(counted) == 0:
            raise NoCandidateError(
                f"all {n_rows} anchors have only candidates of weight 0; use a larger batch or another weight"
            )
        return total / counted, counted

    def _bounded(self) -> bool:
        """Whether no similarity can leave the range of ``exp``, so that no maximum need be taken out first."""
        return bool(self.x.norm(dim=1).amax() * self.y.norm(dim=1).amax() <= self.limit)

    def _block(self, rows: slice, t: Tensor, bounded: bool) -> tuple[Tensor, Tensor]:
        """The losses of the rows (0 where there is no candidate) and which of them count."""
        x, positives = self.x[rows], self.candidacy.positives[rows, None]
        torch.mm(x, self.y.t(), out=t)
        s_pos = t.gather(1, positives)
        factor = self.weights.factor(rows) if self.weights is not None and bounded else None
        log_w, leaf = (None, None) if self.weights is None or factor is not None else self.weights.block(rows)
        peak = torch.zeros_like(s_pos)
        if factor is not None:
            self._weigh(rows, t.exp_(), positives, s_pos, factor)
        else:
            self._select(rows, t, positives, s_pos, log_w)
        if factor is None and (not bounded or log_w is not None):
            peak = t.amax(1, keepdim=True)
            peak.masked_fill_(peak == -math.inf, 0)
            # below the limit it makes no difference, and exp would give slow subnormal numbers
            torch.threshold_(t.sub_(peak), -self.limit, -math.inf)
        total = (t if factor is not None else t.exp_()).sum(1, keepdim=True)
        keep_mask = total != 0
        losses = torch.where(keep_mask, total.log() + peak - s_pos, 0)
        if self.grad_x is None and self.grad_y is None and log_w is None:
            return losses, keep_mask
        p = t.mul_(torch.where(keep_mask, 1 / total, 0))
        if self.weights is not None and log_w is not None and leaf is not None and log_w.requires_grad:
            by_weight = p if self.candidacy.weigh_positive else p.scatter(1, positives, 0)
            self.weights.add_gradients(rows, log_w, leaf, by_weight)
        p.scatter_add_(1, positives, -keep_mask.to(p.dtype))
        if self.grad_x is not None:
            torch.mm(p, self.y, out=self.grad_x[rows])
        if self.grad_y is not None:
            self.grad_y.addmm_(p.t(), x)
        return losses, keep_mask

    def _weigh(self, rows: slice, t: Tensor, positives: Tensor, s_pos: Tensor, factor: Tensor) -> None:
        """As :meth:`_select`, of exponentials [n, M] and weights without logarithm; 0 where there is no candidate."""
        candidacy = self.candidacy
        t.mul_(factor)
        if not candidacy.count_positive:
            t.scatter_(1, positives, 0)
        elif not candidacy.weigh_positive:
            t.scatter_(1, positives, s_pos.exp())
        if candidacy.excluded is not None:
            t.scatter_(1, candidacy.excluded[rows, None], 0)

    def _select(self, rows: slice, t: Tensor, positives: Tensor, s_pos: Tensor, log_w: Tensor | None) -> None:
        """Turn similarities [n, M] into the exponents of the candidates; ``-inf`` where there is none."""
        candidacy = self.candidacy
        if log_w is not None:
            t.add_(log_w.detach())
        if not candidacy.count_positive:
            t.scatter_(1, positives, -math.inf)
        elif log_w is not None and not candidacy.weigh_positive:
            t.scatter_(1, positives, s_pos)
        if candidacy.excluded is not None:
            t.scatter_(1, candidacy.excluded[rows, None], -math.inf)
