"""After SepCLR: what a target group shares with a background group, and what it has beyond it.

``recgraph train common_salient_cl4srec --import experiments/ideas/common_salient.py``
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.term import Contrast
from recgraph.contrast.weights import Weight
from recgraph.data.part import Part
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import full_precision


class CommonSalientConfig(ObjectiveBaseConfig):
    salient_share: Annotated[
        float,
        Field(gt=0, lt=1, description="share of the components that are salient, the last ones"),
        Search(0.1, 0.7),
    ] = 0.5
    salient: Annotated[
        float,
        Field(ge=0, description="weight of the contrast of targets' salient parts"),
        Search(0.1, 100, log=True),
    ] = 1.0
    background: Annotated[
        float,
        Field(ge=0, description="weight of the lengths of others' salient parts"),
        Search(1, 1000, log=True),
    ] = 100.0
    independence: Annotated[
        float,
        Field(ge=0, description="weight of the joint entropy of both parts"),
        Search(0.1, 100, log=True),
    ] = 10.0
    bandwidth: Annotated[
        float,
        Field(gt=0, description="tau, variance of the Gaussian kernels"),
        Search(0.1, 5, log=True),
    ] = 0.5


@rg.register("objective")
class CommonSalient(Objective):
    """``A(c) + U(c) + salient [A(s_T) + U(s_T + {0})] + background mean_B ||s||^2 + independence
    J(c, s)``.

    A row's vector is a common part, of which c is the direction, and a salient part s; T are the
    rows of the target group, B the rows of the background. With both views a and b of the rows, n
    of them in all:

    - ``A(x) = mean_i ||x^a_i - x^b_i||^2 / (2 tau)``, alignment;
    - ``U(x) = log mean_{i != j} k(x_i, x_j)`` over the rows of both views, ``k(x, y) = e^{-||x -
      y||^2 / (2 tau)}``, uniformity; of salient parts the point 0 is one of the rows, which the
      background is pushed to;
    - ``J = mean_i log mean_j k(c_i, c_j) k(s_i, s_j)``, minus the joint entropy by kernel density:
      the more of it, the less one part tells of the other.

    Source: after Louiset et al., Separating common from salient patterns with Contrastive
    Representation Learning (SepCLR, ICLR 2024), with k-JEM, as in the authors' code; their weights
    are the defaults. There each part has an encoder and a bandwidth of its own; images' groups are
    healthy and diseased, here the targets are rows whose ids occur often. No similarity or weight
    is read. Terms of a group without rows are 0. A model sets ``targets``.
    """

    Config = CommonSalientConfig
    of_both_sides = True
    targets: Tensor  # [n_ids] bool

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        config, tau = self.config, self.config.bandwidth
        is_target = self.targets.to(views.a.device)[views.ids_a]
        with full_precision(views.a):
            rows = torch.cat([views.a, views.b])
            width = rows.shape[1] - max(round(rows.shape[1] * config.salient_share), 1)
            c, s, both = (
                unit_length(rows[:, :width]),
                rows[:, width:],
                torch.cat([is_target, is_target]),
            )
            loss = _alignment(c, tau, torch.ones_like(is_target)) + _uniformity(c, tau)
            points = torch.cat([s[both], s.new_zeros(1, s.shape[1])])
            loss = loss + config.salient * (
                _alignment(s, tau, is_target) + _uniformity(points, tau)
            )
            loss = loss + config.background * _mean(s.square().sum(1), ~both)
            joint = _log_kernels(c, tau) + _log_kernels(s, tau)
            loss = loss + config.independence * (joint.logsumexp(1) - math.log(len(rows))).mean()
        return Outcome.of_all(loss, len(views.a))


def _log_kernels(x: Tensor, tau: float) -> Tensor:
    """[n, n], ``log k``."""
    squares = x.square().sum(1)
    return -(squares[:, None] + squares - 2 * x @ x.t()) / (2 * tau)


def _uniformity(x: Tensor, tau: float) -> Tensor:
    k = _log_kernels(x, tau)[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
    return k.logsumexp(0) - math.log(len(k)) if len(k) else x.sum() * 0


def _alignment(x: Tensor, tau: float, among: Tensor) -> Tensor:
    a, b = x.chunk(2)
    return _mean((a - b).square().sum(1), among) / (2 * tau)


def _mean(values: Tensor, among: Tensor) -> Tensor:
    return torch.where(among, values, 0).sum() / among.sum().clamp(min=1)


class CommonSalientCL4SRecConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(objective="common_salient")


@rg.register("model", "common_salient_cl4srec")
class CommonSalientCL4SRec(CL4SRec):
    """CL4SRec whose target group are rows that lead to an item of more than the median of
    interactions.
    """

    Config = CommonSalientCL4SRecConfig

    def setup(self, train: Part) -> None:
        super().setup(train)
        counts = train.item_counts()
        # token 0 is no item
        self.contrast.objective.targets = F.pad(counts > counts.median(), (1, 0))
