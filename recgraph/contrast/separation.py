"""SepCLR: what a target group shares with a background group, and what it has beyond it, in two parts of a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.config import Search
from recgraph.contrast.kernels import joint_entropy, potential
from recgraph.contrast.non_contrastive import in_pairs
from recgraph.contrast.objectives import BlockRows, Objective, ObjectiveBaseConfig, Outcome
from recgraph.contrast.views import About, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.unit_length import unit_length

__all__ = ["SepCLR", "SepCLRConfig"]


class SepCLRConfig(ObjectiveBaseConfig):
    target_by: Annotated[
        Literal["count", "category"],
        Field(description="what makes a row one of the target group: how often its id occurs, or its category"),
    ] = "count"
    least_count: Annotated[
        int | None,
        Field(ge=1, description="interactions in training from which on an id is a target; None: more than the median"),
    ] = None
    categories: Annotated[tuple[int, ...], Field(description="the categories of targets, where these make them")] = ()
    salient_share: Annotated[
        float,
        Field(gt=0, lt=1, description="share of the components that are salient, the last ones"),
        Search(0.1, 0.7),
    ] = 0.5
    salient: Annotated[
        float, Field(ge=0, description="weight of the contrast of targets' salient parts"), Search(0.1, 100, log=True)
    ] = 1.0
    background: Annotated[
        float, Field(ge=0, description="weight of the lengths of others' salient parts"), Search(1, 1000, log=True)
    ] = 100.0
    independence: Annotated[
        float, Field(ge=0, description="weight of the joint entropy of both parts"), Search(0.1, 100, log=True)
    ] = 10.0
    bandwidth: Annotated[
        float, Field(gt=0, description="tau, variance of the Gaussian kernels"), Search(0.1, 5, log=True)
    ] = 0.5
    block_rows: BlockRows = None


class SepCLR(Objective):
    """``A(c) + U(c) + salient [A(s_T) + U(s_T + {0})] + background mean_B ||s||^2 + independence J(c, s)``.

    A row's vector is a common part, of which c is the direction, and a salient part s; T are the rows of the target
    group, B the rows of the background. With both views a and b of the rows, n of them in all:

    - ``A(x) = mean_i ||x^a_i - x^b_i||^2 / (2 tau)``, alignment;
    - ``U(x) = log mean_{i != j} k(x_i, x_j)`` over the rows of both views, ``k(x, y) = e^{-||x - y||^2 / (2 tau)}``,
      uniformity; of salient parts the point 0 is one of the rows, which the background is pushed to;
    - ``J = mean_i log mean_j k(c_i, c_j) k(s_i, s_j)``, minus the joint entropy by kernel density: the more of it, the
      less one part tells of the other.

    Source: Louiset et al., Separating common from salient patterns with Contrastive Representation Learning (ICLR
    2024), with k-JEM, as in the authors' code; their weights are the defaults. Departures: the two parts are of one
    vector, not of two encoders; one bandwidth; images' groups are healthy and diseased, here the target group are ids
    that occur often (users or items by activity, a sequence by the item it leads to) or have certain categories. No
    similarity, temperature or weight is read. A batch without targets or without background leaves those terms out.
    Evaluated over blocks of rows.
    """

    Config = SepCLRConfig
    needs_pairs = True
    of_both_sides = True
    pairwise = False
    reads = frozenset()

    def __init__(self, config: SepCLRConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        if self.config.target_by == "category" and not self.config.categories:
            raise ValueError("target_by = 'category' needs categories, the numbers of the targets' ones")
        #: [n_ids] bool, whether an id is a target; made in :meth:`setup`
        self.targets: Tensor | None = None

    def setup(self, about: About) -> None:
        if self.config.target_by == "category":
            if about.categories is None:
                raise ValueError("target_by = 'category': nothing here has categories; use target_by = 'count'")
            self.targets = torch.isin(about.categories, torch.tensor(self.config.categories))
            return
        least = self.config.least_count
        self.targets = about.counts > about.counts.median() if least is None else about.counts >= least

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        if self.targets is None:
            raise ValueError("sepclr reads who is a target in setup(about): call it, or use a model that does")
        a, b = in_pairs(views)
        width = a.shape[1] - max(round(a.shape[1] * self.config.salient_share), 1)
        if not width:
            raise ValueError(
                f"salient_share = {self.config.salient_share} leaves no common part of {a.shape[1]}; use less"
            )
        self.targets = self.targets.to(a.device)
        is_target = self.targets[views.ids_a]
        with full_precision(a):
            loss = self._loss([unit_length(x[:, :width]) for x in (a, b)], [x[:, width:] for x in (a, b)], is_target)
        return Outcome.of_all(loss, len(a))

    def _loss(self, common: list[Tensor], salient: list[Tensor], is_target: Tensor) -> Tensor:
        config, tau, rows = self.config, self.config.bandwidth, self.config.block_rows
        of_all = [torch.cat(sides) for sides in (common, salient)]
        everyone, both = torch.ones_like(is_target), torch.cat([is_target, is_target])
        loss = _alignment(common, everyone, tau) + potential(of_all[0], tau, block_rows=rows)
        # a batch without targets leaves the point 0 alone, which has no pair
        points = torch.cat([of_all[1], of_all[1].new_zeros(1, of_all[1].shape[1])])
        among = torch.cat([both, both.new_ones(1)])
        loss = loss + config.salient * (_alignment(salient, is_target, tau) + potential(points, tau, among, rows))
        loss = loss + config.background * _mean(of_all[1].square().sum(1), ~both)
        value: Tensor = loss + config.independence * joint_entropy(torch.cat(of_all, 1), tau, rows)
        return value


def _alignment(sides: Sequence[Tensor], among: Tensor, tau: float) -> Tensor:
    return _mean((sides[0] - sides[1]).square().sum(1), among) / (2 * tau)


def _mean(values: Tensor, among: Tensor) -> Tensor:
    """That of some of them, without reading how many; 0 of none."""
    return torch.where(among, values, 0).sum() / among.sum().clamp(min=1)
