"""Objectives without candidates: two views of a row agree, and something other than negatives keeps them apart.

They are baselines beside the contrastive ones: no row is compared with another, so that weights, mixtures and
``n_candidates`` have nothing to act on, and the similarity and its temperature are not read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.config import Search
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views, refuse_unpaired
from recgraph.contrast.views import SlowSides
from recgraph.contrast.weights import Weight

__all__ = ["BarlowTwins", "SimSiam", "VICReg"]

# added to variances, as batch normalisation does
_SMALLEST = 1e-5

Widths = tuple[Annotated[int, Field(ge=1)], ...]
Dim = Annotated[int | None, Field(ge=1, description="width of the embeddings; models set it")]


class PairlessConfig(ObjectiveBaseConfig):
    """Settings of objectives without candidates."""

    dim: Dim = None
    projector: Annotated[
        Widths, Field(description="widths of the layers of a projector before the loss; (): the views as they are")
    ] = ()


class _Pairless(Objective):
    """Base of objectives without candidates. A subclass sets ``Config`` and fills :meth:`_value`.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ValueError: something is projected, and ``dim`` is not given.
    """

    Config: ClassVar[type[ObjectiveBaseConfig]] = PairlessConfig
    needs_pairs = True
    of_both_sides = True
    pairwise = False
    reads_slow = True
    reads = frozenset()

    def __init__(self, config: PairlessConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        widths = self.config.projector
        self.projector = Head(width_of(self), widths) if widths else None

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        a, b = in_pairs(views)
        with full_precision(a):
            a, b = self.project(a), self.project(b)
            loss = self._value(a, b, None if views.slow is None else views.slow.to(a.dtype))
        return Outcome.of_all(loss, len(a))

    def project(self, x: Tensor) -> Tensor:
        projected: Tensor = x if self.projector is None else self.projector(x)
        return projected

    def _value(self, a: Tensor, b: Tensor, slow: SlowSides | None) -> Tensor:
        """The scalar loss of [B, D] and [B, D], or of these and the sides of a slow copy."""
        raise TypeError(f"{type(self).__name__} must define _value(a, b, slow)")


def width_of(objective: Objective) -> int:
    """The setting ``dim`` of an objective that needs it.

    Raises:
        ValueError: it is not given.
    """
    dim = objective.config.dim
    if dim is None:
        raise ValueError(f"{type(objective).__name__} needs the width of the views; give dim=64")
    return int(dim)


def in_pairs(views: Views) -> tuple[Tensor, Tensor]:
    """Both sides [B, D], in at least float32.

    Raises:
        ValueError: their rows are not in pairs.
    """
    refuse_unpaired(views)
    work = work_type(views.a, views.b)
    return views.a.to(work), views.b.to(work)


def standardised(x: Tensor) -> Tensor:
    """``(x - mean) / sqrt(variance + 1e-5)`` of each component of [B, D] over the rows; 0 of a single row."""
    variance, mean = torch.var_mean(x, 0, correction=0)
    return (x - mean) * (variance + _SMALLEST).rsqrt()


class Head(nn.Module):
    """A perceptron: linear layers, standardisation over the rows and ReLU between them.

    It is batch normalisation without running statistics, as a head is used in training alone; its gain is left to the
    layer that follows.

    Args:
        dim: width of the input.
        widths: of the layers, the last one of the output.
    """

    def __init__(self, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [dim, *widths]
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in zip(sizes, widths, strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, widths[-1]] of [B, dim], in the type of x."""
        for number, layer in enumerate(self.layers, 1):
            assert isinstance(layer, nn.Linear)
            x, bias = F.linear(x, layer.weight.to(x.dtype)), layer.bias.to(x.dtype)
            x = F.relu(standardised(x) + bias) if number < len(self.layers) else x + bias
        return x


class BarlowTwinsConfig(PairlessConfig):
    redundancy: Annotated[
        float, Field(ge=0, description="lambda, weight of what is off the diagonal"), Search(1e-4, 1e-1, log=True)
    ] = 5e-3


class BarlowTwins(_Pairless):
    """``sum_d (1 - C_dd)^2 + lambda sum_{d != e} C_de^2``, C the correlations of the components of a with those of b.

    ``C = A^T B / n`` [D, D], the columns of A and B standardised over the batch. No row is compared with another.

    Source: Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction (ICML 2021);
    variances have 1e-5 added, as in the authors' code. Departures: no projector by default (theirs has three layers
    of 8192, of images); its normalisation has no gain.
    """

    Config = BarlowTwinsConfig

    def _value(self, a: Tensor, b: Tensor, slow: SlowSides | None) -> Tensor:
        b = b if slow is None else slow.b
        c = standardised(a).t() @ standardised(b) / len(a)
        diagonal = c.diagonal()
        # the sum off the diagonal as that of all less the diagonal would cancel
        loss: Tensor = (1 - diagonal).square().sum() + self.config.redundancy * _off_diagonal(c).square().sum()
        return loss


class VICRegConfig(PairlessConfig):
    invariance: Annotated[
        float, Field(ge=0, description="weight of the distance of the views"), Search(1, 50, log=True)
    ] = 25.0
    variance: Annotated[
        float, Field(ge=0, description="weight of deviations below the wanted one"), Search(1, 50, log=True)
    ] = 25.0
    covariance: Annotated[
        float, Field(ge=0, description="weight of the covariances of different components"), Search(0.1, 10, log=True)
    ] = 1.0
    deviation: Annotated[
        float | None,
        Field(
            gt=0,
            description="gamma, the wanted deviation of each component; None: 1 / sqrt(D), which rows of length 1 "
            "that are spread evenly have",
        ),
    ] = 1.0


class VICReg(_Pairless):
    """``lambda s + mu (v(a) + v(b)) / 2 + nu (c(a) + c(b))``: invariance, variance, covariance.

    - ``s = mean_id (a_id - b_id)^2``;
    - ``v(x) = mean_d max(0, gamma - sqrt(Var(x_d) + 1e-4))``;
    - ``c(x) = sum_{d != e} Cov(x_d, x_e)^2 / D``.

    No row is compared with another.

    Source: Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning (ICLR
    2022), as in the authors' code, which halves the sum of v and takes the mean over components in s, where the
    paper does not. A single row has no variance: s alone moves it. Departures: no projector by default (theirs has
    three layers of 8192, of images). Views of length 1, as MEOW's, cannot have deviations of 1: ``deviation=None``.
    """

    Config = VICRegConfig

    def _value(self, a: Tensor, b: Tensor, slow: SlowSides | None) -> Tensor:
        config, b = self.config, b if slow is None else slow.b
        gamma = 1 / math.sqrt(a.shape[1]) if config.deviation is None else config.deviation
        variance, covariance = a.new_zeros(()), a.new_zeros(())
        for x in (a, b):
            centred = x - x.mean(0)
            cov = centred.t() @ centred / max(len(x) - 1, 1)
            deviations = (cov.diagonal() + 1e-4).sqrt()
            variance = variance + F.relu(gamma - deviations).mean() / 2
            covariance = covariance + _off_diagonal(cov).square().sum() / x.shape[1]
        invariance = F.mse_loss(a, b)
        loss: Tensor = config.invariance * invariance + config.variance * variance + config.covariance * covariance
        return loss


def _off_diagonal(c: Tensor) -> Tensor:
    """A square matrix with 0 on its diagonal."""
    return c - torch.diag_embed(c.diagonal())


class SimSiamConfig(PairlessConfig):
    predictor_dim: Annotated[
        int | None, Field(ge=1, description="hidden units of the predictor; None: a quarter of its input's width")
    ] = None


class SimSiam(_Pairless):
    """``-(cos(h(a), sg(b)) + cos(h(b), sg(a))) / 2``, the mean over rows; h a predictor, sg without gradient.

    The predictor has two layers with a bottleneck. No row is compared with another; predictor and stopped gradient keep
    the views from becoming one point. Source: Chen and He, Exploring Simple Siamese Representation Learning (CVPR
    2021). Departures: no projector by default (theirs has three layers); normalisation without gain.

    With ``target_momentum`` in the model's settings it is BYOL (Grill et al., Bootstrap Your Own Latent, NeurIPS 2020):
    ``-(cos(h(a), b') + cos(h(b), a')) / 2``, a' and b' the views as encoded, and projected, by a slow copy. The loss of
    the paper is 4 times this, plus 4. Departures beside those above: the momentum is constant; of views that models
    draw as they encode (dropout, SimGCL's noise), a' is another draw than a.
    """

    Config = SimSiamConfig

    def __init__(self, config: SimSiamConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        width = self.config.projector[-1] if self.config.projector else width_of(self)
        self.predictor = Head(width, (self.config.predictor_dim or max(width // 4, 1), width))

    def _value(self, a: Tensor, b: Tensor, slow: SlowSides | None) -> Tensor:
        target_a, target_b = (a.detach(), b.detach()) if slow is None else slow
        assert target_a is not None
        there = F.cosine_similarity(self.predictor(a), target_b, dim=1).mean()
        back = F.cosine_similarity(self.predictor(b), target_a, dim=1).mean()
        return -(there + back) / 2
