"""Pseudo-labels: MEOW that also learns classes of nodes from few labels.

``recgraph train pseudo_labelled_meow --dataset acm --import experiments/ideas/pseudo_labels.py
--set known=labels.npy --set n_classes=3``: ``labels.npy`` holds the class of each target node, -1
where training must not know it. Leave out the nodes whose classes are to be predicted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.prototypes import proto_nce
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.meow import MEOW, MEOWConfig
from recgraph.sparse.blocks import unit_length


class PseudoLabelledConfig(MEOWConfig):
    known: Annotated[
        str, Field(description="file of [N] integers (.npy): classes of target nodes, -1 unknown")
    ]
    n_classes: Annotated[
        int, Field(ge=2, description="classes, those without a labelled node among them")
    ]
    pseudo_weight: Annotated[
        float, Field(ge=0, description="of labels and pseudo-labels"), Search(0.01, 10.0, log=True)
    ] = 1.0
    pseudo_temperature: Annotated[
        float, Field(gt=0, description="of the similarities of nodes and classes")
    ] = 0.1


@rg.register("model", "pseudo_labelled_meow")
class PseudoLabelledMEOW(MEOW):
    """MEOW with the term ``pseudo``: its two views against prototypes of classes
    (:func:`pseudo_loss`).

    At the first step a class with labelled nodes has the mean of their fine views for prototype;
    the others are as drawn. On the whole graph alone (``mini_batch=False``).
    """

    Config: ClassVar[type[ModelConfig]] = PseudoLabelledConfig
    begun: Tensor
    labels: Tensor

    def _build(self, space: Space) -> None:
        super()._build(space)
        classes = torch.randn(self.config.n_classes, self.projection_dim)
        self.classes = nn.Parameter(unit_length(classes))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.register_buffer("labels", torch.from_numpy(np.load(self.config.known)).long())

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        return (Phase("model", ("model",), {**phase.terms, "pseudo": self.config.pseudo_weight}),)

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        coarse, fine = self.project(batch)
        prototypes = self.cluster(fine)
        losses = {}
        if "info" in wanted:
            self.weigh_by_clusters(self.contrast, prototypes)
            losses["info"] = self.info(batch, anchors=coarse, candidates=fine)
        if "proto" in wanted:
            losses["proto"] = proto_nce(self.proto_contrast, anchors=coarse, prototypes=prototypes)
        if "pseudo" in wanted:
            if not self.begun:
                self._begin(fine.detach())
            draw, tau = batch.generators["pseudo_labels"], self.config.pseudo_temperature
            uniform = torch.rand(len(self.labels), generator=draw, device=draw.device).to(fine)
            losses["pseudo"] = pseudo_loss(fine, coarse, self.classes, self.labels, tau, uniform)
        return losses

    @torch.no_grad()
    def _begin(self, fine: Tensor) -> None:
        for name in range(self.config.n_classes):
            if (of_class := self.labels == name).any():
                self.classes[name] = unit_length(fine[of_class].mean(0))
        self.begun.fill_(True)


def pseudo_loss(
    f: Tensor, c: Tensor, classes: Tensor, labels: Tensor, tau: float, uniform: Tensor
) -> Tensor:
    """Labels where they are known, else soft pseudo-labels, of two views f, c [N, D] of unit
    length.

    With ``p_i = softmax_k(f_i . w_k / tau)``, q_i the same of c_i and w_k the class vectors [K, D],
    the sum of

    - ``-mean over labelled i of log p_i[y_i]``;
    - ``-mean over the others of log(p_i . p_n(i))``, n(i) the node that both views vote for,
      ``argmax_{j != i} (c_i . c_j + f_i . f_j)``;
    - ``-mean over the others of max(p_i) log q_i[y]``, y drawn from p_i and neither learned
      through: a pseudo-label counts by its confidence, and none is cut off at a threshold;
    - ``sum_k m_k log(K m_k)``, m the mean of p: no class is left empty.

    Source: Sun et al., Contrastive Pseudo Learning for Open-World DeepFake Attribution (ICCV 2023):
    global-local voting and confidence-based soft pseudo-labels, from the paper's account.
    Departures: the coarse and the fine view take the place of global and local similarity and of
    two augmentations; no pretrained first stage.

    Args:
        labels: [N] int64, -1 where the class is not known.
        uniform: [N], from 0 to 1: draws the pseudo-labels.
    """
    weights = unit_length(classes) / tau
    log_p, log_q = F.log_softmax(f @ weights.T, 1), F.log_softmax(c @ weights.T, 1)
    p, known = log_p.exp(), labels >= 0
    with torch.no_grad():
        votes = (c @ c.T + f @ f.T).fill_diagonal_(-torch.inf).argmax(1)
        drawn = (p.cumsum(1) < uniform[:, None]).sum(1).clamp(max=len(classes) - 1)
        confidence = p.amax(1)
    own = log_p[known].gather(1, labels[known][:, None])
    agreed = torch.logsumexp(log_p + log_p[votes], 1)
    pseudo = confidence * log_q.gather(1, drawn[:, None])[:, 0]
    mean = p.mean(0)
    spread = (mean * (len(classes) * mean).clamp(min=1e-30).log()).sum()
    return (
        spread
        - own.sum() / known.sum().clamp(min=1)
        - (agreed + pseudo)[~known].sum() / (~known).sum().clamp(min=1)
    )
