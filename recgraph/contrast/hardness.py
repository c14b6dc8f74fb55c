"""Weights by hardness: a candidate counts the more, the more similar it is to the anchor."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import is_accelerated
from recgraph.config import Search
from recgraph.contrast.weights import Pairs, Weight, WeightConfig
from recgraph.unit_length import unit_length

__all__ = ["Hardness", "HardnessConfig"]

# taken off the exponent of a candidate that is not in K_i: its share of the sum is 0, and so is its gradient
_FAR = 1e4
# no cosine is as great, rounded as it may be
_MOST = 1.1


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
        c, own, out, _ = self._compared(pairs)
        return self._of(*self._kept(c, out), own, out)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        c, own, out, lowest = self._compared(pairs)
        kept, n_kept = self._kept(c, out)
        of_rows = torch.linalg.vecdot(unit_length(pairs.anchors), unit_length(rows))[:, None]
        beside = self.config.beta * of_rows - kept.logsumexp(1, keepdim=True) + n_kept.log()
        # where K_i is empty it is the only candidate
        beside = torch.where(n_kept > 0, beside, 0)
        beside = beside.masked_fill((of_rows < lowest) | (of_rows > self._highest), -math.inf)
        beside = beside.masked_fill((pairs.anchor_ids == ids)[:, None], 0)
        return self._of(kept, n_kept, own, out), beside[:, 0]

    def _compared(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[n, M] each: cosines, 1 where a candidate is of the anchor's own id, 1 where it is out of K_i; [n, 1]: the
        least cosine in K_i."""
        c = pairs.cosines()
        out = own = pairs.same()
        lowest = c.new_full((len(c), 1), -math.inf)
        with torch.no_grad():
            if self._highest < 1:
                out = torch.maximum(own, torch.gt(c, self._highest, out=torch.empty_like(c)))
            if self.config.hardest < 1:
                among = torch.sub(c, out, alpha=_FAR)
                lowest = self._threshold(among, c.shape[1] - out.sum(1, keepdim=True))
                out = torch.maximum(out, torch.lt(c, lowest, out=among))
        return c, own, out, lowest

    def _kept(self, c: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """[n, M]: ``beta c`` over K_i, far less outside, in the memory of c; [n, 1]: how many are in it."""
        return c.mul_(self.config.beta).sub_(out, alpha=_FAR), c.shape[1] - out.sum(1, keepdim=True)

    @property
    def _highest(self) -> float:
        """The greatest cosine in K_i; without a limit that is not 1, above which a cosine may be rounded."""
        return math.inf if self.config.most_similar == 1 else self.config.most_similar

    def _of(self, kept: Tensor, n_kept: Tensor, own: Tensor, out: Tensor) -> Tensor:
        """[n, M], the logarithms of the weights; own and out are overwritten."""
        # 0, and -inf where it is out but not of the anchor's id; of numbers, as a mask takes several times as long
        barred = None if out is own else out.sub_(own).neg_().add_(0.5).mul_(math.inf).clamp_(max=0)
        # each matrix more would drive others from the cache: the complement is in the memory of own
        log_w = (kept.log_softmax(1) + n_kept.clamp(min=1).log()).mul_(own.neg_().add_(1))
        return log_w if barred is None else log_w.add_(barred)

    def _threshold(self, among: Tensor, n_among: Tensor) -> Tensor:
        """[n, 1]: the least of the greatest cosines of each row, a share ``hardest`` of the ``n_among`` [n, 1].

        By halving the interval that it is in: to count takes a hundredth of the time that sorting does. Cosines that
        differ by less than they are rounded count as the same.
        """
        n_hard, eps = n_among.mul(self.config.hardest).ceil_(), torch.finfo(among.dtype).eps
        low, high = torch.full_like(n_hard, -_MOST), torch.full_like(n_hard, _MOST)
        found = torch.empty_like(among)
        for _ in range(math.ceil(math.log2(2 * _MOST / eps))):
            middle = (low + high) / 2
            surplus = torch.ge(among, middle, out=found).sum(1, keepdim=True) - n_hard
            low, high = torch.where(surplus < 0, low, middle), torch.where(surplus > 0, high, middle)
            if not is_accelerated(among) and bool((low == high).all()):
                break
        lowest = torch.lt(among, low, out=found).mul_(2 * _FAR).add_(among).amin(1, keepdim=True)
        # what another product rounds otherwise is still the same candidate
        return torch.where(n_among > 0, lowest - 8 * eps, -math.inf)
