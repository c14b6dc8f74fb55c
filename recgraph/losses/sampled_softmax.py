"""Sampled softmax: the target competes with negatives that the whole batch shares."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.losses._one_pass import Candidates, softmax_loss
from recgraph.losses._sampler import Sampler
from recgraph.losses.base import LossConfig, NextItemLoss


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
