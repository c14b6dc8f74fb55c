"""Weights by hardness: a candidate counts the more, the more similar it is to the anchor."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.weights import Pairs, Weight, WeightConfig

__all__ = ["Hardness", "HardnessConfig"]


class HardnessConfig(WeightConfig):
    beta: Annotated[
        float,
        Field(ge=0, le=100, description="how much similar candidates are preferred; 0: all alike"),
        Search(0.1, 10.0, log=True),
    ] = 1.0
    hardest: Annotated[
        float,
        Field(gt=0, le=1, description="share of the candidates that count, the most similar ones; 1: all"),
        Search(0.05, 1.0, log=True),
    ] = 1.0
    most_similar: Annotated[
        float, Field(gt=-1, le=1, description="cosine above which a candidate is none, as a false negative; 1: never")
    ] = 1.0


class Hardness(Weight):
    """``w_ij = e^{beta c_ij} / mean_k e^{beta c_ik}`` over the candidates k in K_i, 0 outside; c is the cosine.

    K_i are the candidates of other ids with ``c_ik <= most_similar`` and, of these, the share ``hardest`` of greatest
    c_ik. A candidate of the anchor's own id, among them its positive and itself, has weight 1.

    Sources: with ``hardest=1`` the importance of Robinson et al., "Contrastive Learning with Hard Negative Samples"
    (ICLR 2021); with ``beta=0`` the explicit hard loss of Wang and Liu, "Understanding the Behaviour of
    Contrastive Loss" (CVPR 2021), whose interval ends at 1. The loss itself is aware of hardness: its
    gradient by ``s_ij`` is proportional to ``w_ij e^{s_ij}``, so that ``beta`` acts on the candidates as a temperature
    ``1 / (1 / tau + beta)`` does, but on the positive not at all. As in the code of Robinson et al. gradients flow
    through the weights; thresholds have none.

    Departures: ``beta`` is of cosines, the authors' code has one of ``c / tau`` (theirs is ``tau`` times ours). Their
    correction for false negatives is the objectives' (``debiased_nt_xent``).
    """

    Config = HardnessConfig

    def log_w(self, pairs: Pairs) -> Tensor:
        c = pairs.cosines()
        own_mask = pairs.anchor_ids[:, None] == pairs.candidate_ids
        lowest, shift = self._reference(c, own_mask)
        return self._of(c, own_mask, lowest, shift)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        c = pairs.cosines()
        own_mask = pairs.anchor_ids[:, None] == pairs.candidate_ids
        lowest, shift = self._reference(c, own_mask)
        of_rows = torch.linalg.vecdot(F.normalize(pairs.anchors, dim=1), F.normalize(rows, dim=1))[:, None]
        beside = self._of(of_rows, (pairs.anchor_ids == ids)[:, None], lowest, shift)
        return self._of(c, own_mask, lowest, shift), beside[:, 0]

    def _reference(self, c: Tensor, own_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 1] each: the least cosine in K_i, and the logarithm of the mean of ``e^{beta c}`` over K_i."""
        lowest = c.new_full((len(c), 1), -math.inf)
        out_mask = own_mask
        if not self._takes_all:
            with torch.no_grad():
                out_mask = own_mask | (c > self.config.most_similar)
                if self.config.hardest < 1:
                    lowest = self._threshold(c.masked_fill(out_mask, -math.inf), out_mask)
                    out_mask = out_mask | (c < lowest)
        n_kept = c.shape[1] - out_mask.sum(1, keepdim=True)
        # rows without any candidate have no mean, and no gradient of one
        kept = (self.config.beta * c).masked_fill(out_mask & (n_kept > 0), -math.inf)
        return lowest, kept.logsumexp(1, keepdim=True) - n_kept.clamp(min=1).to(c.dtype).log()

    @property
    def _takes_all(self) -> bool:
        return bool(self.config.hardest == 1 and self.config.most_similar == 1)

    def _threshold(self, among: Tensor, out_mask: Tensor) -> Tensor:
        """[n, 1]: the least of the greatest entries of each row, a share ``hardest`` of those that are not out."""
        n_hard = (~out_mask).sum(1, keepdim=True).mul(self.config.hardest).ceil().long().clamp(min=1)
        most = max(1, math.ceil(self.config.hardest * among.shape[1]))
        lowest = among.topk(most, dim=1).values.gather(1, n_hard.clamp(max=most) - 1)
        # what another product rounds otherwise is still the same candidate
        return lowest - 8 * torch.finfo(among.dtype).eps

    def _of(self, c: Tensor, own_mask: Tensor, lowest: Tensor, shift: Tensor) -> Tensor:
        log_w: Tensor = self.config.beta * c - shift
        if not self._takes_all:
            log_w = log_w.masked_fill((c < lowest) | (c > self.config.most_similar), -math.inf)
        return log_w.masked_fill(own_mask, 0)
