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
    (ICLR 2021), equation 4; with ``beta=0`` the explicit hard loss of Wang and Liu, "Understanding the Behaviour of
    Contrastive Loss" (CVPR 2021), equation 8, whose interval ends at 1. The loss itself is aware of hardness: its
    gradient by ``s_ij`` is proportional to ``w_ij e^{s_ij}``, so that ``beta`` acts on the candidates as a temperature
    ``1 / (1 / tau + beta)`` does, but on the positive not at all. As in the code of Robinson et al. gradients flow
    through the weights; thresholds have none.

    Departures: ``beta`` is of cosines, the authors' code has one of ``c / tau`` (theirs is ``tau`` times ours). Their
    correction for false negatives is the objectives' (``debiased_nt_xent``).
    """

    Config = HardnessConfig

    def log_w(self, pairs: Pairs) -> Tensor:
        c = self._cosines(pairs.anchors, pairs.candidates)
        own_mask = pairs.anchor_ids[:, None] == pairs.candidate_ids
        lowest, shift = self._reference(c, own_mask)
        return self._of(c, own_mask, lowest, shift)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        c = self._cosines(pairs.anchors, pairs.candidates)
        own_mask = pairs.anchor_ids[:, None] == pairs.candidate_ids
        lowest, shift = self._reference(c, own_mask)
        of_rows = torch.linalg.vecdot(F.normalize(pairs.anchors, dim=1), F.normalize(rows, dim=1))[:, None]
        beside = self._of(of_rows, (pairs.anchor_ids == ids)[:, None], lowest, shift)
        return self._of(c, own_mask, lowest, shift), beside[:, 0]

    @staticmethod
    def _cosines(anchors: Tensor, candidates: Tensor) -> Tensor:
        return F.normalize(anchors, dim=1) @ F.normalize(candidates, dim=1).t()

    def _reference(self, c: Tensor, own_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 1] each: the least cosine in K_i, and the logarithm of the mean of ``e^{beta c}`` over K_i."""
        with torch.no_grad():
            among = c.masked_fill(own_mask | (c > self.config.most_similar), -math.inf)
            lowest = c.new_full((len(c), 1), -math.inf)
            if self.config.hardest < 1:
                n_hard = (among > -math.inf).sum(1, keepdim=True).mul(self.config.hardest).ceil().long().clamp(min=1)
                most = max(1, math.ceil(self.config.hardest * c.shape[1]))
                lowest = among.topk(most, dim=1).values.gather(1, n_hard.clamp(max=most) - 1)
                # what another product rounds otherwise is still the same candidate
                lowest = lowest - 8 * torch.finfo(c.dtype).eps
            out_mask = (among < lowest) | (among == -math.inf)
            n_kept = (~out_mask).sum(1, keepdim=True).clamp(min=1)
        # rows without any candidate have no mean, and no gradient of one
        none_mask = out_mask.all(1, keepdim=True)
        kept = (self.config.beta * c).masked_fill(out_mask & ~none_mask, -math.inf)
        return lowest, kept.logsumexp(1, keepdim=True) - n_kept.to(c.dtype).log()

    def _of(self, c: Tensor, own_mask: Tensor, lowest: Tensor, shift: Tensor) -> Tensor:
        out_mask = (c < lowest) | (c > self.config.most_similar)
        log_w: Tensor = (self.config.beta * c - shift).masked_fill(out_mask, -math.inf)
        return log_w.masked_fill(own_mask, 0)
