"""Feature transformation: extrapolated positives and interpolated negatives."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates, log_sums, mean_loss
from recgraph.contrast.objectives import InfoNCE, ObjectiveConfig, Views
from recgraph.contrast.parts import Pairs
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import unit_length


class FeatureTransformationConfig(ObjectiveConfig):
    positive_alpha: Annotated[
        float | None,
        Field(gt=0, description="of the Beta distribution of extrapolation; none: positives stay"),
        Search(0.2, 5.0, log=True),
    ] = 2.0
    negative_alpha: Annotated[
        float | None,
        Field(gt=0, description="of the Beta distribution of interpolation; none: candidates stay"),
        Search(0.2, 5.0, log=True),
    ] = 1.6


@rg.register("objective")
class FeatureTransformation(InfoNCE):
    """InfoNCE whose positives are extrapolated along their difference, candidates interpolated with
    one another.

    Anchor q and positive k become ``q' = l q + (1 - l) k`` and ``k' = l k + (1 - l) q`` with ``l -
    1 ~ Beta(a, a)``: their sum stays, and for cosines ``s'_ip = s_ip + 2 l (1 - l) (1 / tau - s_ip)
    <= s_ip``, a harder positive. The candidates y become ``m y + (1 - m) y[permutation]`` with ``m
    ~ Beta(b, b)``; one that the anchor's positive is a part of is no candidate of that anchor. As
    published neither is normalised again, and the anchor that candidates are compared with is q
    itself.

    Source: Zhu et al., "Improving Contrastive Learning by Visualizing Feature Transformation" (ICCV
    2021). Departures: l is drawn for each anchor and m for each candidate, not for each dimension;
    with dot products q is taken at the length of k.
    """

    Config = FeatureTransformationConfig
    splits = False
    draws = True

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        config, generator = self.config, views.generator
        assert generator is not None
        barred, positive = candidates.barred, y.index_select(0, candidates.positives)
        if config.positive_alpha is not None:
            along = 1 + _beta(config.positive_alpha, len(x), generator, x)
            outside = along * (1 - along)
            # x . p' = (l^2 + (1 - l)^2) x . k + 2 l (1 - l) |x| |k|
            length = positive.norm(dim=1, keepdim=True)
            positive = (1 - 2 * outside) * positive + 2 * outside * length * unit_length(x)
        if config.negative_alpha is not None:
            share = _beta(config.negative_alpha, len(y), generator, y)
            order = torch.randperm(len(y), generator=generator, device=generator.device).to(
                y.device
            )
            mixed_into = torch.empty_like(order).scatter_(
                0, order, torch.arange(len(y), device=y.device)
            )
            y = share * y + (1 - share) * y.index_select(0, order)
            barred = torch.cat([barred, mixed_into[barred]], 1)
            # what is compared is mixed
            pairs = None if pairs is None else replace(pairs, temperature=None)
        own = torch.linalg.vecdot(x, positive)
        sums = [log_sums(x, y, barred, weight, pairs, config.block_rows)]
        return mean_loss(candidates, x, [*sums, own] if candidates.count_positive else sums, own)


def _beta(alpha: float, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """[n, 1]: draws of Beta(alpha, alpha)."""
    shape = torch.full((2, n, 1), alpha, device=generator.device, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).unbind(0)
    return (first / (first + second)).to(like.device, like.dtype)
