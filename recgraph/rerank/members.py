"""The re-rankers: maximal marginal relevance, contrastive search, determinantal point processes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.rerank.base import Gains, Relevance, Reranker, RerankerConfig

__all__ = ["DPP", "MMR", "ContrastiveSearch", "ContrastiveSearchConfig"]

#: a volume below it counts as none: similarities of float32 vectors are known to about 1e-7
_LEAST_VOLUME = 1e-6


class MMR(Reranker):
    """Maximal marginal relevance: the next item is the one of the pool that maximises

    ``(1 - strength) relevance_i - strength max_j similarity_ij``, j the items picked before.

    Source: Carbonell and Goldstein, SIGIR 1998, whose lambda is ``1 - strength``. Departures: relevance is the score
    brought to [0, 1] over the pool, so that one strength suits any model; the first item has no penalty.
    """

    def gains(self, relevance: Tensor, nearest: Tensor, k: int) -> Gains:
        return _Marginal(relevance, nearest, self.config.strength)


class _Marginal(Gains):
    def __init__(self, relevance: Tensor, nearest: Tensor, strength: float) -> None:
        self._relevance, self._nearest, self._strength = (1 - strength) * relevance, nearest, strength
        self._combine()

    def take(self, place: Tensor, similarity: Tensor) -> None:
        self._nearest = torch.maximum(self._nearest, similarity)
        self._combine()

    def _combine(self) -> None:
        penalty = self._nearest.masked_fill(self._nearest == float("-inf"), 0.0)
        self.values = self._relevance - self._strength * penalty


class ContrastiveSearchConfig(RerankerConfig):
    relevance: Relevance = "probability"
    history: Annotated[
        int, Field(ge=0, description="how many of the user's last items count as recommended already")
    ] = 0


class ContrastiveSearch(MMR):
    """Contrastive search: ``argmax over the pool of (1 - strength) p_i - strength max_j similarity_ij``.

    p is the model's probability, j are the items picked before. With ``relevance="min_max"`` it is :class:`MMR`: they
    differ in the scale of relevance, and in that the penalty may count the user's history. A probability says how sure
    the model is: where one item stands out for a user, more of the ranking stays. It needs scores that are
    log-probabilities up to a constant, as softmax losses train them; for other models take ``min_max``.

    Source: Su and Collier, Contrastive Search Is What You Need for Neural Text Generation, TMLR 2023, whose
    alpha is ``strength`` and whose k is ``pool``. Departures: p is the softmax over the pool, not over all items; of
    what the user did before, j runs over the last ``history`` items, by default none, where text has the whole context.
    What does not carry over from text: tokens repeat and change the next distribution, items of a list do neither, and
    the similarity is of item vectors, not of states in a context.
    """

    Config = ContrastiveSearchConfig

    @property
    def history(self) -> int:
        length: int = self.config.history
        return length


class DPP(Reranker):
    """Greedy MAP inference of a determinantal point process: the next item maximises

    ``(1 - strength) relevance_i + strength log det(S_{Y + i}) - strength log det(S_Y)``,

    S the similarities, Y the items picked before: the volume that the vectors of a list span. An incremental Cholesky
    factor gives every gain of a pool of M items in O(M k) a step, O(M k^2) for a list.

    Source: Chen, Zhang and Zhou, Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation
    Diversity, NeurIPS 2018, algorithm 1 and section 4.2 (theta is ``1 - strength``; the kernel ``q_i S_ij q_j`` with
    ``q = exp(alpha relevance)``, ``alpha = theta / (2 (1 - theta))``, has the same maxima). Departures: relevance is
    brought to [0, 1] over the pool; an item whose volume is below 1e-6 counts as 1e-6 and adds no direction, where the
    published algorithm ends the list.
    """

    def gains(self, relevance: Tensor, nearest: Tensor, k: int) -> Gains:
        return _Volume(relevance, self.config.strength, k)

    def row_bytes(self, width: int, k: int) -> int:
        return 4 * 8 * width * k

    def work(self, k: int) -> int:
        length: int = min(k, self.config.pool)
        return length * super().work(k)


class _Volume(Gains):
    """Rows of the Cholesky factor of each candidate beside the items picked, and what is left of its diagonal."""

    def __init__(self, relevance: Tensor, strength: float, k: int) -> None:
        self._relevance, self._strength = (1 - strength) * relevance, strength
        self._factors = relevance.new_zeros(*relevance.shape, k)
        self._volume = torch.ones_like(relevance)
        self._step = 0
        self._combine()

    def take(self, place: Tensor, similarity: Tensor) -> None:
        at, step = place[:, None], self._step
        rest = similarity
        if step:
            own = self._factors[torch.arange(len(place), device=place.device), place, :step]
            # added in one order, whatever the shape: equal candidates stay equal
            rest = rest - (self._factors[:, :, :step] * own[:, None]).cumsum(2)[:, :, -1]
        left = self._volume.gather(1, at)
        factor = torch.where(left > _LEAST_VOLUME, rest / left.clamp(min=_LEAST_VOLUME).sqrt(), 0.0)
        self._factors[:, :, step] = factor
        self._volume = (self._volume - factor.square()).clamp(min=0)
        self._step += 1
        self._combine()

    def _combine(self) -> None:
        self.values = self._relevance + self._strength * self._volume.clamp(min=_LEAST_VOLUME).log()
