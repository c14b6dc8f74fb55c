"""After DebCSE: weights against bias. Popular candidates are drawn more often, and similar ones may
be positives.

``recgraph train cl4srec --set weight=false_negative`` or ``recgraph train propensity_cl4srec``.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.term import Contrast
from recgraph.contrast.weights import Pairs, Weight, WeightConfig
from recgraph.data.part import Part
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.blocks import unit_length


class PropensityConfig(WeightConfig):
    power: Annotated[
        float,
        Field(
            ge=0, le=2, description="of the popularity that a candidate is drawn with; 0: all alike"
        ),
        Search(0.0, 1.0),
    ] = 0.5
    clip: Annotated[
        float,
        Field(ge=1, description="the greatest 1 / propensity, that of the most popular id being 1"),
        Search(2.0, 100.0, log=True),
    ] = 10.0


@rg.register("weight")
class Propensity(Weight):
    """``w_j = v_j / mean_k v_k`` with ``v_j = min(1 / pi_j, clip)`` and ``pi_j = (n_j / max
    n)^power``.

    n_j is how often candidate j occurs in training. The candidates of a batch are drawn in
    proportion to that, so that popular ones are pushed away most often; the inverse of the
    propensity makes the sum over candidates an estimate of that over all ids alike. With
    ``power=1`` and no clip it is the correction of sampled softmax (``log q``) of Yi et al., RecSys
    2019.

    Source: inverse propensity weights as in Schnabel et al., ICML 2016, with ``power`` as in Yang
    et al., RecSys 2018; their place in a contrast after Miao et al., DebCSE (CIKM 2023), whose
    propensity is of surface and semantic similarity, and which draws negatives by them where this
    weighs the ones at hand.

    Attributes:
        counts: [n_ids]; a model sets them.
    """

    Config = PropensityConfig
    counts: Tensor

    def log_w(self, pairs: Pairs) -> Tensor:
        v = self._inverse(pairs.candidate_ids, pairs.candidates)
        return (v / v.mean()).log().expand(len(pairs.anchor_ids), -1)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        mean = self._inverse(pairs.candidate_ids, pairs.candidates).mean()
        return (self._inverse(ids, rows) / mean).log()

    def _inverse(self, ids: Tensor, like: Tensor) -> Tensor:
        counts = self.counts.to(like).clamp(min=1)
        return (counts / counts.max())[ids].pow(-self.config.power).clamp(max=self.config.clip)


class FalseNegativeConfig(WeightConfig):
    threshold: Annotated[
        float,
        Field(
            ge=-1, lt=1, description="cosine from which a candidate may be a positive; certain at 1"
        ),
        Search(0.0, 0.9),
    ] = 0.5


@rg.register("weight")
class FalseNegative(Weight):
    """``w_ij = 1 - clip((c_ij - threshold) / (1 - threshold), 0, 1)``, the probability that j is no
    positive of i.

    c is the cosine of the embeddings. A candidate of the anchor's own id is a positive certainly:
    weight 0.

    Source: after Miao et al., DebCSE (CIKM 2023), where surface and semantic similarity together
    say which pairs to contrast; with a jump in place of the slope it is the mask of Zhou et al.,
    DCLR (ACL 2022). No gradient flows through it: the loss would fall with candidates that come
    near enough to be called positives.
    """

    Config = FalseNegativeConfig

    @torch.no_grad()
    def log_w(self, pairs: Pairs) -> Tensor:
        cosines = unit_length(pairs.anchors) @ unit_length(pairs.candidates).t()
        w = ((1 - cosines) / (1 - self.config.threshold)).clamp(0, 1)
        return (w * (1 - pairs.same())).log()


class PropensityCL4SRecConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(weight="propensity")


@rg.register("model", "propensity_cl4srec")
class PropensityCL4SRec(CL4SRec):
    """CL4SRec whose candidates are weighted by how often the items that follow them occur in
    training.
    """

    Config = PropensityCL4SRecConfig

    def setup(self, train: Part) -> None:
        super().setup(train)
        assert self.contrast.weight is not None
        self.contrast.weight.counts = F.pad(train.item_counts(), (1, 0))  # token 0 is no item
