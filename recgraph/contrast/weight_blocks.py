"""A weight over blocks of anchors, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recgraph.contrast.views import Pairs
from recgraph.contrast.weights import Weight

__all__ = ["WeightBlocks"]


class WeightBlocks:
    """The log-weights of a block, and the sums of their gradients.

    Args:
        inputs: the embeddings of anchors and candidates, and the parameters of the weight that are trained.
        needs: which of them need a gradient.
    """

    def __init__(
        self, weight: Weight, pairs: Pairs, inputs: Sequence[Tensor], needs: Sequence[bool], work: torch.dtype
    ) -> None:
        self.weight, self.pairs, self.needs = weight, pairs, needs
        self.anchors, self.candidates = (tensor.detach().to(work) for tensor in inputs[:2])
        self.candidates.requires_grad_(needs[1])
        # one tensor for all blocks: a weight may keep what it makes of it
        self._constant = self.candidates.detach()
        self.parameters = list(inputs[2:])
        self.gradients: list[Tensor | None] = [None] * len(inputs)

    def block(self, rows: slice, similarities: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The log-weights of the rows, and the leaves that they depend on: anchors [n, D], similarities [n, M].

        A weight of cosines that are the similarities over a temperature depends on the embeddings by these alone, so
        that one product makes both, and its gradient joins that of the loss before that is multiplied by the rows.
        """
        anchors = self.anchors[rows].detach().requires_grad_(self.needs[0])
        similarities = similarities.detach().requires_grad_(any(self.needs[:2]))
        with torch.set_grad_enabled(any(self.needs)):
            log_w = self.weight.log_w(self.pairs.block(rows, anchors, self.candidates, similarities))
        expected = (anchors.shape[0], self.candidates.shape[0])
        if log_w.shape != expected:
            name = type(self.weight).__name__
            raise ValueError(f"{name}.log_w returned {list(log_w.shape)}; it must be {list(expected)}")
        return log_w, (anchors, similarities)

    def factor(self, rows: slice, similarities: Tensor) -> Tensor | None:
        """The weights of the rows themselves, where the weight has them at hand."""
        return self.weight.factor(self.pairs.block(rows, self.anchors[rows], self._constant, similarities))

    def add_gradients(
        self, rows: slice, log_w: Tensor, of_block: tuple[Tensor, Tensor], grad_log_w: Tensor
    ) -> Tensor | None:
        """Add the gradients of a block, given those by its log-weights [n, M].

        Returns:
            [n, M], those by its similarities; None where the log-weights do not depend on them.
        """
        anchors, similarities = of_block
        leaves = [anchors, self.candidates, *self.parameters, similarities]
        asked = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            log_w, [leaves[k] for k in asked], grad_log_w.to(log_w.dtype), allow_unused=True
        )
        by_leaf = dict(zip(asked, found, strict=True))
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
