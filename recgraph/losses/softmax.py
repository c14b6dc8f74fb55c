"""Softmax cross-entropy over many candidates: loss and gradients in one pass over blocks of rows.

Autograd keeps the scores, their log-softmax and two gradients of T x M; here one block of scores is resident,
is overwritten in place by its exponentials, and gives both gradients while it is in the cache.

Full softmax: every item competes.

Sampled softmax: the target competes with negatives that the whole batch shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from recgraph.blocks import exponent_limit, refuse_second_derivative, row_blocks, work_type
from recgraph.config import Search
from recgraph.losses.base import LossConfig, NextItemLoss, Sampler


@dataclass(frozen=True)
class Candidates:
    """Against what the targets compete.

    Attributes:
        first: with ``drawn`` None, the candidates are the rows of the table from ``first`` on, the target's
            among them.
        drawn: [M] tokens that are the candidates; those equal to a row's target are left out for that row,
            and the target is added.
        shift: [M], added to the scores of the drawn.
    """

    first: int = 0
    drawn: Tensor | None = None
    shift: Tensor | None = None


def softmax_loss(
    hidden: Tensor, targets: Tensor, table: Tensor, candidates: Candidates, block_rows: int | None = None
) -> Tensor:
    """Mean of ``log(sum_j exp(h . w_j + shift_j)) - h . w_target`` over the rows.

    Args:
        hidden: [T, D].
        targets: [T] int64 tokens.
        table: [n_items + 1, D].
        candidates: what ``j`` runs over.
        block_rows: rows of scores that are resident; None picks by the size of the cache.

    Returns:
        A scalar. It can be differentiated once.
    """
    if not torch.is_grad_enabled():
        # or else the function would make gradients that no backward asks for
        hidden, table = hidden.detach(), table.detach()
    loss: Tensor = _OnePass.apply(hidden, table, targets, candidates, block_rows)  # type: ignore[no-untyped-call]
    return loss


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        table: Tensor,
        targets: Tensor,
        candidates: Candidates,
        block_rows: int | None,
    ) -> Tensor:
        work = work_type(hidden, table)
        # products under autocast would be rounded to half precision
        with torch.autocast(hidden.device.type, enabled=False):
            run = _Run(hidden.to(work), table.to(work), targets, candidates, ctx.needs_input_grad[:2])
            loss = run.all_blocks(block_rows)
        ctx.save_for_backward(run.grad_hidden, run.grad_table)
        ctx.types = hidden.dtype, table.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("a softmax loss")
        grads = [
            None if grad is None else (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return *grads, None, None, None


class _Run:
    """One evaluation; ``grad_hidden`` and ``grad_table`` are None where they are not needed."""

    def __init__(
        self, h: Tensor, table: Tensor, targets: Tensor, candidates: Candidates, needs: tuple[bool, bool]
    ) -> None:
        self.h, self.targets, self.drawn = h, targets, candidates.drawn
        self.shift = None if candidates.shift is None else candidates.shift.to(h.dtype)
        self.rows = table[candidates.first :] if self.drawn is None else table[self.drawn]
        self.w_pos = table[targets]
        self.s_pos = (h * self.w_pos).sum(1)
        self.scale = 1 / h.shape[0]
        self.limit = exponent_limit(h.dtype)
        self.grad_hidden = torch.empty_like(h) if needs[0] else None
        self.grad_table = torch.zeros_like(table) if needs[1] else None
        self.grad_rows: Tensor | None = None
        if self.grad_table is not None:
            own = self.grad_table[candidates.first :] if self.drawn is None else torch.zeros_like(self.rows)
            self.grad_rows = own

    def all_blocks(self, block_rows: int | None) -> Tensor:
        """The mean loss; fills the gradients."""
        n_rows, n_candidates = self.h.shape[0], self.rows.shape[0]
        blocks = list(row_blocks(n_rows, n_candidates, self.h, block_rows))
        buffer = self.h.new_empty(blocks[0].stop, n_candidates)
        bounded = self._bounded()
        losses = torch.empty_like(self.s_pos)
        # the loss' derivative by the target's own score, without its part among the candidates
        pull = torch.full_like(self.s_pos, -self.scale)
        for rows in blocks:
            self._block(rows, buffer[: rows.stop - rows.start], bounded, losses[rows], pull[rows])
        self._finish(pull)
        return losses.mean()

    def _bounded(self) -> bool:
        """Whether no score can leave the range of ``exp``, so that the pass for the maxima is not needed."""
        bound = self.h.norm(dim=1).amax() * torch.maximum(self.rows.norm(dim=1).amax(), self.w_pos.norm(dim=1).amax())
        if self.shift is not None:
            bound = bound + self.shift.abs().amax()
        return bool(bound <= self.limit)

    def _block(self, rows: slice, p: Tensor, bounded: bool, losses: Tensor, pull: Tensor) -> None:
        x, s_pos = self.h[rows], self.s_pos[rows]
        if self.shift is None:
            torch.mm(x, self.rows.t(), out=p)
        else:
            torch.addmm(self.shift, x, self.rows.t(), out=p)
        if not bounded:
            peak = torch.maximum(p.amax(1), s_pos)
            # below the limit it makes no difference to the sum, and exp would give slow subnormal numbers
            p.sub_(peak[:, None]).clamp_(min=-self.limit)
            s_pos = s_pos - peak
        p.exp_()
        own = None
        if self.drawn is not None:
            p.masked_fill_(torch.eq(self.targets[rows, None], self.drawn), 0)
            own = s_pos.exp()
        total = p.sum(1) if own is None else p.sum(1) + own
        torch.sub(total.log(), s_pos, out=losses)
        factor = self.scale / total
        if own is not None:
            pull.addcmul_(own, factor)
        if self.grad_hidden is not None:
            torch.mm(p, self.rows, out=self.grad_hidden[rows]).mul_(factor[:, None])
        if self.grad_rows is not None:
            self.grad_rows.addmm_(p.t(), x * factor[:, None])

    def _finish(self, pull: Tensor) -> None:
        if self.grad_hidden is not None:
            self.grad_hidden.addcmul_(self.w_pos, pull[:, None])
        if self.grad_table is not None and self.grad_rows is not None:
            if self.drawn is not None:
                self.grad_table.index_add_(0, self.drawn, self.grad_rows)
            self.grad_table.index_add_(0, self.targets, self.h * pull[:, None])


class FullSoftmaxConfig(LossConfig):
    pad_candidate: Annotated[
        bool, Field(description="whether the padding token competes too, as in RecBole and MCLRec")
    ] = True
    block_rows: Annotated[
        int | None, Field(ge=1, description="rows of scores in memory at once; None picks by the cache")
    ] = None


class FullSoftmax(NextItemLoss):
    """Cross-entropy over all items: ``mean_i logsumexp_j(h_i . w_j) - h_i . w_target(i)``.

    Equal to ``F.cross_entropy(hidden @ table.T, targets)``, in a third of its time on CPU and without a
    T x n_items tensor: loss and gradients are computed together over blocks of rows, in float32 or wider also
    under autocast. Once differentiable.
    """

    Config = FullSoftmaxConfig

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        candidates = Candidates(first=0 if self.config.pad_candidate else 1)
        return softmax_loss(hidden, targets, table, candidates, self.config.block_rows)


class SampledSoftmaxConfig(LossConfig):
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives, shared by the batch"), Search(low=64, high=4096, log=True)
    ] = 512
    log_q: Annotated[bool, Field(description="correct the scores for how often a negative is drawn")] = True
    popularity_power: Annotated[
        float, Field(ge=0, le=2, description="negatives ~ popularity ** power; 0 is uniform")
    ] = 0.0
    block_rows: Annotated[
        int | None, Field(ge=1, description="rows of scores in memory at once; None picks by the cache")
    ] = None


class SampledSoftmax(NextItemLoss):
    """Cross-entropy of the target against ``n_negatives`` drawn items, the same for all rows.

    ``loss_i = log(e^{s_i,pos} + sum_k e^{s_ik - log(K q_k)}) - s_i,pos``, where ``k`` runs over the K drawn
    items that are not the target. The sum in the logarithm is an unbiased estimate of the full softmax's
    (padding not counted), because the target is in it with certainty and each other item with expected weight
    1. Without ``log_q`` the scores are taken as they are.

    Source: Bengio and Senecal, IEEE TNN 2008; Jean et al., ACL 2015. Departure: the correction is not applied
    to the target, which is not drawn (Khrylchenko et al., RecSys 2025, on why it must not be).
    """

    Config = SampledSoftmaxConfig
    draws = True

    def __init__(self, config: SampledSoftmaxConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self.sampler = Sampler(self.config.popularity_power)

    def setup(self, item_counts: Tensor) -> None:
        self.sampler.setup(item_counts)

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        n_items, count = table.shape[0] - 1, self.config.n_negatives
        drawn = self.sampler.draw((count,), n_items, generator)
        shift = -self.sampler.log_q(drawn, n_items) - math.log(count) if self.config.log_q else None
        candidates = Candidates(drawn=drawn, shift=shift)
        return softmax_loss(hidden, targets, table, candidates, self.config.block_rows)
