"""The debiased contrast: what false negatives add to the sum over candidates is taken off it."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.log_sums import log_sums
from recgraph.contrast.mixtures import mean_loss, of_positives
from recgraph.contrast.objectives import InfoNCE, InfoNCEConfig, NTXent, Objective, ObjectiveConfig
from recgraph.contrast.views import Pairs, Views
from recgraph.contrast.weights import Weight

__all__ = ["DebiasedInfoNCE", "DebiasedInfoNCEConfig", "DebiasedNTXent", "DebiasedNTXentConfig"]

_TauPlus = Annotated[
    float,
    Field(ge=0, lt=1, description="tau+, the share of candidates that are false negatives"),
    Search(0.01, 0.3, log=True),
]


class _Debiased(Objective):
    """``loss_i = log(e^{s_ip} + n g_i) - s_ip`` of n candidates beside the positive, with

    ``g_i = max((mean_j w_ij e^{s_ij} - tau+ e^{s_ip}) / (1 - tau+), e^{-|x_i| max |y|})``,

    the least similarity that there can be: ``e^{-1 / tau}`` for cosines.
    """

    as_they_are = True

    def evaluate(
        self, x: Tensor, y: Tensor, candidates: Candidates, weight: Weight | None, pairs: Pairs | None, views: Views
    ) -> tuple[Tensor, Tensor]:
        places, barred = candidates.positives, candidates.barred
        n = len(y) - barred.shape[1]
        sums = log_sums(x, y, barred, weight, pairs, self.config.block_rows)
        own = torch.linalg.vecdot(x, y.index_select(0, places))
        others = self._negatives(sums, own, x, y, n)
        counted_own = own
        if weight is not None and pairs is not None and candidates.weigh_positive:
            counted_own = own + of_positives(weight, pairs, places, self.config.block_rows)
        return mean_loss(candidates, x, [others, counted_own] if candidates.count_positive else [others], own)

    def _negatives(self, sums: Tensor, own: Tensor, x: Tensor, y: Tensor, n: int) -> Tensor:
        """[N]: ``log(n g_i)``; ``-inf`` where there is no candidate."""
        tau_plus, none_mask = self.config.tau_plus, sums == -math.inf
        mean = torch.where(none_mask, 0, sums) - math.log(max(n, 1))
        peak = torch.maximum(mean, own).detach()
        least = -x.norm(dim=1) * y.norm(dim=1).amax()
        left = (mean - peak).exp() - tau_plus * (own - peak).exp()
        positive_mask = left > 0
        g = peak + torch.where(positive_mask, left, 1).log() - math.log1p(-tau_plus)
        g = torch.maximum(torch.where(positive_mask, g, least), least)
        return (g + math.log(max(n, 1))).masked_fill(none_mask, -math.inf)


class DebiasedNTXentConfig(ObjectiveConfig):
    tau_plus: _TauPlus = 0.1


class DebiasedNTXent(_Debiased, NTXent):
    """:class:`NTXent` with ``n g_i`` in the place of the sum over negatives, ``log(e^{s_ip} + n g_i) - s_ip``.

    ``g_i = max((mean_j w_ij e^{s_ij} - tau+ e^{s_ip}) / (1 - tau+), e^{-1 / tau})``: a share tau+ of the candidates
    are positives, and a positive adds what the known one does. With ``tau_plus=0`` it is NT-Xent.

    Source: Chuang et al., "Debiased Contrastive Learning" (NeurIPS 2020), with one positive. With
    ``weight="hardness"`` it is the loss of Robinson et al., "Contrastive Learning with Hard Negative Samples" (ICLR
    2021). Departure: the least value of g is that of the norms at hand, which for cosines is the published one.
    """

    Config = DebiasedNTXentConfig


class DebiasedInfoNCEConfig(InfoNCEConfig):
    tau_plus: _TauPlus = 0.1


class DebiasedInfoNCE(_Debiased, InfoNCE):
    """:class:`InfoNCE` debiased as :class:`DebiasedNTXent` is: anchors of one view, candidates of the other.

    Source: Chuang et al., "Debiased Contrastive Learning" (NeurIPS 2020). Several positives are refused.
    """

    Config = DebiasedInfoNCEConfig

    def _several(self, views: Views, *others: Any) -> Any:
        raise ValueError("debiased_info_nce needs one positive for each anchor; use info_nce for several")
