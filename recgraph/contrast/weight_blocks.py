"""A weight over blocks of anchors, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recgraph.contrast.views import Pairs
from recgraph.contrast.weights import Weight

__all__ = ["BlockWeights", "WeightBlocks"]


class BlockWeights(NamedTuple):
    """The weights of a block of anchors.

    Attributes:
        w: [n, M], their logarithms, or where ``is_factor`` the weights themselves.
        anchors, similarities: [n, D] and [n, M], the leaves of this block that they depend on.
    """

    w: Tensor
    is_factor: bool
    anchors: Tensor
    similarities: Tensor


class WeightBlocks:
    """The weights of a block, and the sums of their gradients.

    Args:
        inputs: the embeddings of anchors and candidates, and the parameters of the weight that are trained.
        needs: which of them need a gradient.
    """

    def __init__(
        self, weight: Weight, pairs: Pairs, inputs: Sequence[Tensor], needs: Sequence[bool], work: torch.dtype
    ) -> None:
        self.weight, self.pairs, self.needs = weight, pairs, needs
        self.anchors, self.candidates = (tensor.detach().to(work) for tensor in inputs[:2])
        # one tensor for all blocks: a weight may keep what it makes of it
        self.candidates.requires_grad_(needs[1])
        self.parameters = list(inputs[2:])
        self.gradients: list[Tensor | None] = [None] * len(inputs)

    def block(self, rows: slice, similarities: Tensor, bounded: bool = False) -> BlockWeights:
        """The weights of the rows.

        A weight of cosines that are the similarities over a temperature depends on the embeddings by these alone, so
        that one product makes both, and its gradient joins that of the loss before that is multiplied by the rows.

        Args:
            similarities: [n, M].
            bounded: whether the weights themselves will do, where they are at hand.
        """
        anchors = self.anchors[rows].detach().requires_grad_(self.needs[0])
        similarities = similarities.detach().requires_grad_(any(self.needs[:2]))
        with torch.set_grad_enabled(any(self.needs)):
            pairs = self.pairs.block(rows, anchors, self.candidates, similarities)
            factor = self.weight.factor(pairs) if bounded else None
            w, name = (self.weight.log_w(pairs), "log_w") if factor is None else (factor, "factor")
        expected = (anchors.shape[0], self.candidates.shape[0])
        if w.shape != expected:
            raise ValueError(
                f"{type(self.weight).__name__}.{name} returned {list(w.shape)}; it must be {list(expected)}"
            )
        return BlockWeights(w, factor is not None, anchors, similarities)

    def add_gradients(self, rows: slice, of_block: BlockWeights, grad_log_w: Tensor) -> Tensor | None:
        """Add the gradients of a block, given those by its log-weights [n, M].

        Returns:
            [n, M], those by its similarities; None where the weights do not depend on them.
        """
        w, is_factor, anchors, similarities = of_block
        if is_factor:  # a weight of 0 passes nothing
            grad_log_w = grad_log_w / w.detach().clamp(min=torch.finfo(w.dtype).tiny)
        leaves = [anchors, self.candidates, *self.parameters, similarities]
        asked = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            w, [leaves[k] for k in asked], grad_log_w.to(w.dtype), allow_unused=True
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
