"""VICReg: invariance, variance and covariance of two views, without negatives."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import work_type
from recgraph.sparse.device import full_precision


class VICRegConfig(ObjectiveBaseConfig):
    invariance: Annotated[
        float,
        Field(ge=0, description="lambda, weight of the distance of the views"),
        Search(1, 50, log=True),
    ] = 25.0
    variance: Annotated[
        float,
        Field(ge=0, description="mu, weight of deviations below the wanted one"),
        Search(1, 50, log=True),
    ] = 25.0
    covariance: Annotated[
        float,
        Field(ge=0, description="nu, weight of covariances of components"),
        Search(0.1, 10, log=True),
    ] = 1.0
    deviation: Annotated[
        float | None,
        Field(
            gt=0,
            description="gamma, the wanted deviation; None: 1 / sqrt(D), as of rows of length 1",
        ),
    ] = 1.0


@rg.register("objective", "vicreg")
class VICReg(Objective):
    """``lambda s + mu (v(a) + v(b)) / 2 + nu (c(a) + c(b))``: invariance, variance, covariance.

    - ``s = mean_id (a_id - b_id)^2``;
    - ``v(x) = mean_d max(0, gamma - sqrt(Var(x_d) + 1e-4))``;
    - ``c(x) = sum_{d != e} Cov(x_d, x_e)^2 / D``.

    No row is compared with another: similarity and weights are not read.

    Source: Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning (ICLR 2022), as in the authors' code, which halves the sum of v and takes the mean over
    components in s, where the paper does not. Departures: no projector (theirs has three layers of
    8192, of images). Views of length 1, as MEOW's, cannot have deviations of 1: ``deviation=None``.
    """

    Config = VICRegConfig
    of_both_sides = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        config, work = self.config, work_type(views.a, views.b)
        with full_precision(views.a):
            a, b = views.a.to(work), views.b.to(work)
            gamma = 1 / math.sqrt(a.shape[1]) if config.deviation is None else config.deviation
            variance, covariance = a.new_zeros(()), a.new_zeros(())
            for x in (a, b):
                centred = x - x.mean(0)
                cov = centred.t() @ centred / max(len(x) - 1, 1)
                variance = variance + F.relu(gamma - (cov.diagonal() + 1e-4).sqrt()).mean() / 2
                covariance = (
                    covariance
                    + (cov - torch.diag_embed(cov.diagonal())).square().sum() / x.shape[1]
                )
            invariance = F.mse_loss(a, b)
            loss = (
                config.invariance * invariance
                + config.variance * variance
                + config.covariance * covariance
            )
        return Outcome.of_all(loss, len(a))
