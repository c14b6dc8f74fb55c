"""Weights against bias: popular candidates are drawn more often, and similar ones may be positives."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.views import About, Pairs
from recgraph.contrast.weights import Weight, WeightConfig
from recgraph.unit_length import unit_length

__all__ = ["FalseNegative", "FalseNegativeConfig", "Propensity", "PropensityConfig"]


class _Counted(Weight):
    """A weight that reads how often an id occurs in training.

    Attributes:
        popularity: [n_ids], counts over the greatest count, those of 0 as 1; None before :meth:`setup`: all alike. Not
            part of the state: it is told again by each training.
    """

    popularity: Tensor | None

    def __init__(self, config: WeightConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.register_buffer("popularity", None, persistent=False)

    def setup(self, about: About) -> None:
        counts = about.counts.double().clamp(min=1)
        like = self.popularity
        self.popularity = (counts / counts.max()).to(about.counts.device if like is None else like.device)

    def _popularity(self, ids: Tensor, like: Tensor) -> Tensor:
        if self.popularity is None:
            return like.new_ones(ids.shape)
        if self.popularity.device != ids.device:
            self.popularity = self.popularity.to(ids.device)
        return self.popularity[ids].to(like.dtype)


class PropensityConfig(WeightConfig):
    power: Annotated[
        float,
        Field(ge=0, le=2, description="of the popularity that a candidate is drawn with; 0: all alike"),
        Search(0.0, 1.0),
    ] = 0.5
    clip: Annotated[
        float,
        Field(
            ge=1,
            allow_inf_nan=True,
            description="the greatest 1 / propensity, that of the most popular id being 1; inf: none",
        ),
        Search(2.0, 100.0, log=True),
    ] = 10.0


class Propensity(_Counted):
    """``w_j = v_j / mean_k v_k`` with ``v_j = min(1 / pi_j, clip)`` and ``pi_j = (n_j / max n)^power``.

    n_j is how often candidate j occurs in training. The candidates of a batch are drawn in proportion to that, so that
    popular ones are pushed away most often; the inverse of the propensity makes the sum over candidates an estimate of
    that over all ids alike. With ``power=1`` and no clip it is the correction of sampled softmax (``log q``) of Yi et
    al., RecSys 2019.

    Source: inverse propensity weights as in Schnabel et al., ICML 2016, with ``power`` as in Yang et al., RecSys 2018;
    their place in a contrast from Miao et al., DebCSE (CIKM 2023), which draws negatives by them where this weighs the
    ones at hand. Departure: DebCSE's propensity is of surface and semantic similarity; that is
    :class:`FalseNegative`.
    """

    Config = PropensityConfig

    def log_w(self, pairs: Pairs) -> Tensor:
        return self._of_candidates(pairs).expand(len(pairs.anchor_ids), -1)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        shift = self._shift(pairs)
        return self.log_w(pairs), self._inverse(ids, rows).log() - shift

    def _of_candidates(self, pairs: Pairs) -> Tensor:
        return self._inverse(pairs.candidate_ids, pairs.candidates).log() - self._shift(pairs)

    def _shift(self, pairs: Pairs) -> Tensor:
        return self._inverse(pairs.candidate_ids, pairs.candidates).mean().log()

    def _inverse(self, ids: Tensor, like: Tensor) -> Tensor:
        return self._popularity(ids, like).pow(-self.config.power).clamp(max=self.config.clip)


class FalseNegativeConfig(WeightConfig):
    threshold: Annotated[
        float,
        Field(ge=-1, lt=1, description="cosine from which a candidate may be a positive; certain at 1"),
        Search(0.0, 0.9),
    ] = 0.5
    same_category: Annotated[
        float,
        Field(ge=0, le=1, description="probability that a candidate of the anchor's category is a positive"),
        Search(0.0, 0.5),
    ] = 0.0
    popularity: Annotated[
        float,
        Field(
            ge=0, le=1, description="probability that the most popular candidate is a positive; others in proportion"
        ),
        Search(0.0, 0.5),
    ] = 0.0


class FalseNegative(_Counted):
    """``w_ij = 1 - P_ij``, the probability that candidate j is no positive of anchor i.

    ``1 - P_ij = (1 - semantic_ij) (1 - category_ij) (1 - popularity_j)``: each of the three alone may make it a
    positive. ``semantic = clip((c_ij - threshold) / (1 - threshold), 0, 1)`` with the cosine c of the embeddings;
    ``category`` is ``same_category`` where both are of one category, else 0; ``popularity_j`` is in proportion to how
    often j occurs in training, as what everybody has suits any anchor. A candidate of the anchor's own id is one
    certainly: weight 0, as :class:`SelfMask` has it.

    Source: the idea of Miao et al., DebCSE (CIKM 2023): surface and semantic similarity together say which pairs to
    contrast; ``semantic`` with a jump in place of the slope is the mask of Zhou et al., DCLR (ACL 2022). Departures: a
    weight of the candidates at hand in the place of a draw; surface similarity of ids is category and popularity (of
    sentences it is of their words), and co-occurrence is left out: it needs a table of pairs. The debiased loss of
    Chuang et al. (NeurIPS 2020), one probability for all pairs, is no weight, since it takes the positive's similarity
    off the sum: the objectives ``debiased_nt_xent`` and ``debiased_info_nce``. No gradient flows through P: the loss
    would fall with candidates that come near enough to be called positives.
    """

    Config = FalseNegativeConfig
    detached = True
    categories: Tensor | None

    def __init__(self, config: FalseNegativeConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.register_buffer("categories", None, persistent=False)

    @property
    def reads_ids(self) -> bool:
        return bool(self.config.same_category or self.config.popularity)

    def setup(self, about: About) -> None:
        super().setup(about)
        if self.config.same_category and about.categories is None:
            # of a model of two sides one may have some
            warnings.warn(
                f"same_category = {self.config.same_category} changes nothing where the model knows no categories: it "
                f"has none of {len(about.counts)} ids",
                stacklevel=2,
            )
        self.categories = about.categories

    def log_w(self, pairs: Pairs) -> Tensor:
        return self.factor(pairs).log_()

    @torch.no_grad()
    def factor(self, pairs: Pairs) -> Tensor:
        w = self._of(pairs.cosines(), pairs.anchor_ids[:, None], pairs.candidate_ids)
        return w.addcmul_(w, pairs.same(), value=-1)

    @torch.no_grad()
    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        c = torch.linalg.vecdot(unit_length(pairs.anchors), unit_length(rows))
        w = self._of(c, pairs.anchor_ids, ids).masked_fill_(pairs.anchor_ids == ids, 0)
        return self.log_w(pairs), w.log_()

    def _of(self, c: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
        """The weights of cosines c, of anchors and candidates with these ids, as if none were the same, in the memory
        of c; all three broadcast."""
        config = self.config
        w: Tensor = c.neg_().add_(1).div_(1 - config.threshold).clamp_(0, 1)
        if config.same_category:
            w = w * torch.where(self._alike(ours, theirs), 1 - config.same_category, 1)
        if config.popularity:
            w = w * (1 - config.popularity * self._popularity(theirs, c))
        return w

    def _alike(self, ours: Tensor, theirs: Tensor) -> Tensor:
        if self.categories is None:  # before setup
            return torch.zeros_like(ours == theirs)
        if self.categories.device != ours.device:
            self.categories = self.categories.to(ours.device)
        mine, other = self.categories[ours], self.categories[theirs]
        return (mine == other) & (mine >= 0)
