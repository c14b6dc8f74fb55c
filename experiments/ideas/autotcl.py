"""AutoTCL's parametric augmentation: what informs is kept and transformed invertibly, noise
replaces the rest.

``recgraph train autotcl_rec --import experiments/ideas/autotcl.py``
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.augment.latent import Augmenter
from recgraph.config import PartConfig
from recgraph.models.base import Phase, Space
from recgraph.models.sequence.mclrec import MCLRec, MCLRecConfig
from recgraph.registry import part, part_class
from recgraph.sparse.blocks import unit_length, work_type
from recgraph.sparse.ragged import Ragged

_LEAST = 1e-6


@rg.register("augmenter", "autotcl")
class AutoTCL(Augmenter):
    """``v = g * m * x + (1 - m) * noise``, with m in {0, 1} what informs of x, and g > 0 an
    invertible transformation.

    A small network reads the encoded sequence x and gives, for each of its dimensions, the
    probability ``p`` and the scale ``g = 2 sigmoid(.)``. m is drawn from p by the binary concrete
    distribution at ``temperature``, rounded with the gradient of what it was; without a generator m
    is p, rounded. Noise is N(0, (noise * rms of x)^2) for each row.

    It is trained by a loss of its own (:meth:`loss`), in alternation with the encoder: its view is
    to represent the original (relevance), and to keep no more than a share of it (so that views are
    diverse).

    Source: Zheng et al., Parametric Augmentation for Time Series Contrastive Learning (ICLR 2024),
    section 4, and its code. Departures: of states, not of the inputs; relevance is the mean squared
    distance of pairs (published code: a kernel MMD of the two sets); the share is that of p, in [0,
    1], and g can also enlarge; noise, which the paper has and the code leaves out, is there unless
    ``noise=0``; the network is of one layer (published: dilated convolutions); the local contrast
    of windows of a time series does not carry over.

    Args:
        share, share_weight: the share of x that may be kept freely, and the weight of what exceeds
            it.
        noise: in root mean squares of x.
        temperature: of the draws.
    """

    def __init__(
        self,
        hidden_dim: int,
        share: float = 0.4,
        share_weight: float = 1.0,
        noise: float = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.share, self.share_weight, self.noise, self.temperature = (
            share,
            share_weight,
            noise,
            temperature,
        )
        inner = max(hidden_dim // 2, 1)
        self.reads = nn.Linear(hidden_dim, inner)
        self.informs, self.scales = nn.Linear(inner, hidden_dim), nn.Linear(inner, hidden_dim)
        nn.init.constant_(self.informs.bias, 1.0)  # most is kept at first
        self.last: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(
        self, hidden: Tensor, states: Ragged | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        inner = F.gelu(self.reads(hidden))
        logits, scale = self.informs(inner), 2 * torch.sigmoid(self.scales(inner))
        # half precision would round one draw in 512 to 1, which keeps whatever p is
        wide = logits.to(work_type(logits))
        if generator is None:
            mask, noise = torch.sigmoid(wide), torch.zeros_like(hidden)
        else:
            uniform = torch.rand(logits.shape, generator=generator, device=hidden.device)
            mask = torch.sigmoid(
                (wide + uniform.to(wide.dtype).clamp(_LEAST, 1 - _LEAST).logit()) / self.temperature
            )
            size = hidden.detach().square().mean(1, keepdim=True).sqrt()
            drawn = torch.randn(hidden.shape, generator=generator, device=hidden.device).to(
                hidden.dtype
            )
            noise = self.noise * size * drawn
        mask = (mask > 0.5).to(mask.dtype) + mask - mask.detach()
        view = scale * mask * hidden + (1 - mask) * noise
        self.last = hidden, view, torch.sigmoid(logits)
        return unit_length(view)

    def loss(self) -> Tensor:
        """``mean |h / |h| - v / |v||^2 + share_weight relu(mean p - share)`` of the last view; h
        has no gradient.
        """
        assert self.last is not None
        hidden, view, probability = self.last
        relevance = (unit_length(hidden.detach()) - unit_length(view)).square().sum(1).mean()
        return relevance + self.share_weight * F.relu(probability.mean() - self.share)


class _OwnLoss(nn.Module):
    """In the place of MCLRec's margin: the mean of the losses that the augmenters have of their
    own.
    """

    def __init__(self, augmenters: Sequence[Any]) -> None:
        super().__init__()
        self._augmenters = [*augmenters]  # a list, so that they are no modules of this one

    def over(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        return torch.stack([one.loss() for one in self._augmenters]).mean()


class AutoTCLRecConfig(MCLRecConfig):
    augmenter: Annotated[
        PartConfig, part("augmenter"), Field(description="one with a loss of its own")
    ] = part_class("augmenter", "autotcl")()


@rg.register("model", "autotcl_rec")
class AutoTCLRec(MCLRec):
    """MCLRec whose augmenters are trained by a loss of their own, and contrast with the encoder in
    its steps alone.
    """

    Config = AutoTCLRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        self.margin = _OwnLoss(list(self.augmenters))  # type: ignore[assignment]

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "cl1": self.config.view_weight, "cl2": self.config.latent_weight}
        return Phase("encoder", ("encoder",), terms), Phase(
            "augmenters", ("augmenters",), {"reg": 1.0}
        )
