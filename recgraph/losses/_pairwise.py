"""What losses with negatives of each row's own share: drawing and scoring them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.blocks import work_type
from recgraph.config import Search
from recgraph.losses._sampler import Sampler
from recgraph.losses.base import LossConfig, NextItemLoss


class OwnNegativesConfig(LossConfig):
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives for each target"), Search(low=1, high=256, log=True)
    ] = 1
    popularity_power: Annotated[
        float, Field(ge=0, le=2, description="negatives ~ popularity ** power; 0 is uniform")
    ] = 0.0


class OwnNegatives(NextItemLoss):
    """Base of the losses that draw negatives for each target; a subclass fills :meth:`of_scores`.

    User-item models, whose negatives come with the batch, score them with
    :func:`recgraph.losses._pair_scores.pair_scores` and call :meth:`of_scores` themselves.
    """

    Config = OwnNegativesConfig
    draws = True

    def __init__(self, config: OwnNegativesConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.sampler = Sampler(self.config.popularity_power)

    def setup(self, item_counts: Tensor) -> None:
        self.sampler.setup(item_counts)

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        n_items = table.shape[0] - 1
        negatives = self.sampler.draw((targets.numel(), self.config.n_negatives), n_items, generator)
        keep_mask = negatives != targets[:, None]
        work = work_type(hidden, table)
        # one lookup for all, so that the table gets one dense gradient
        rows = F.embedding(torch.cat([targets[:, None], negatives], 1), table).to(work)
        scores = (rows * hidden.to(work)[:, None]).sum(2)
        return self.of_scores(scores[:, 0], scores[:, 1:], keep_mask, n_items)

    def of_scores(self, positive: Tensor, negative: Tensor, keep_mask: Tensor, n_items: int) -> Tensor:
        """The mean loss.

        Args:
            positive: [T], the target's score.
            negative: [T, K], the scores of the drawn.
            keep_mask: [T, K], False where the target itself was drawn.
            n_items: how many items there are.
        """
        raise TypeError(f"{type(self).__name__} must define of_scores")
