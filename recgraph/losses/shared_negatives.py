"""A pairwise loss of targets whose negatives are those of their group, in blocks, with its gradients; and what pairs
count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from recgraph.blocks import score_blocks, total_of
from recgraph.contrast.blockwise import BlockwiseLoss

__all__ = ["PairWeights", "SharedNegatives"]


class PairWeights(NamedTuple):
    """What the pairs of T targets count. Attributes: ``positive`` [T]; ``negative`` [T, K], or [T, 1] for all K."""

    positive: Tensor
    negative: Tensor


class SharedNegatives(BlockwiseLoss):
    """A pairwise loss of T rows against K rows of the table that all of a group have, a mean over the former.

    Args:
        inputs: hidden [T, D] and table [N, D].
        of_scores: as of :class:`recgraph.losses.pairwise.OwnNegatives`; the mean over a block of rows.
        targets: [T] rows of the table.
        drawn: [G, K] rows of the table.
        bounds: see :meth:`recgraph.losses.pairwise.OwnNegatives.against_shared`.
        keep_mask: [T, K].
        n_items, weights: see there.
    """

    name = "a pairwise loss"

    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        of_scores: Callable[..., Tensor],
        targets: Tensor,
        drawn: Tensor,
        bounds: Sequence[int],
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.of_scores, self.targets, self.drawn, self.n_items = of_scores, targets, drawn, n_items
        self.bounds, self.keep_mask, self.weights = bounds, keep_mask, weights
        self.rows, self.w_pos = self.y[drawn], self.y[targets]
        self.by_drawn = torch.zeros_like(self.rows) if needs[1] else None

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        positive = (self.x * self.w_pos).sum(1)
        pull, sums = torch.empty_like(positive), []
        for group, (start, stop) in enumerate(pairwise(self.bounds)):
            vectors = self.rows[group]
            for block, scores in score_blocks(stop - start, len(vectors), self.x, block_rows):
                rows = slice(start + block.start, start + block.stop)
                torch.mm(self.x[rows], vectors.t(), out=scores)
                sums.append(self._block(group, rows, positive[rows], scores, pull[rows]))
        by_hidden = self.gradients[0]
        if by_hidden is not None:
            by_hidden.addcmul_(self.w_pos, pull[:, None])
        if self.by_drawn is not None:
            by_drawn = self.by_drawn.flatten(0, 1)
            self.add_rows((self.drawn.flatten(), by_drawn), (self.targets, self.x * pull[:, None]))
        return total_of(sums, self.x).to(self.x.dtype), self.x.new_ones(())

    def _block(self, group: int, rows: slice, positive: Tensor, negative: Tensor, pull: Tensor) -> Tensor:
        """The share of a group's block in the mean; ``pull`` becomes the derivative by the targets' scores."""
        by_hidden, is_trained = self.gradients[0], self.by_drawn is not None or self.gradients[0] is not None
        weights = self.weights
        if weights is not None:
            weights = PairWeights(weights.positive[rows], weights.negative[rows])
        positive, negative = (scores.detach().requires_grad_(is_trained) for scores in (positive, negative))
        with torch.set_grad_enabled(is_trained):
            mean = self.of_scores(positive, negative, self.keep_mask[rows], self.n_items, weights)
            share = mean * (len(positive) / len(self.x))
        if is_trained:
            by_positive, by_negative = torch.autograd.grad(share, (positive, negative))
            pull.copy_(by_positive)
            if by_hidden is not None:
                torch.mm(by_negative, self.rows[group], out=by_hidden[rows])
            if self.by_drawn is not None:
                self.by_drawn[group].addmm_(by_negative.t(), self.x[rows])
        return share.detach()
