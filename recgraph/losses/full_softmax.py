"""Full softmax: every item competes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.losses._one_pass import Candidates, softmax_loss
from recgraph.losses.base import LossConfig, NextItemLoss


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
