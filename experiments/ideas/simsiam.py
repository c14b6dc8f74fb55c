"""SimSiam, and BYOL with a slow copy of CL4SRec: no negatives.

``recgraph train cl4srec --set objective=simsiam`` or ``recgraph train byol``, with ``--import`` of
this file.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.contrast.weights import Weight
from recgraph.data.batches import SequenceBatch
from recgraph.models.base import Space
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.device import full_precision


class SimSiamConfig(ObjectiveBaseConfig):
    dim: Annotated[int, Field(ge=1, description="width of the embeddings; models set it")] = 64
    predictor_dim: Annotated[
        int | None,
        Field(ge=1, description="hidden units of the predictor; None: a quarter of the width"),
    ] = None


@rg.register("objective", "simsiam")
class SimSiam(Objective):
    """``-(cos(h(a), sg(b)) + cos(h(b), sg(a))) / 2``, the mean over rows; h a predictor, sg without
    gradient.

    The predictor has two layers with a bottleneck. No row is compared with another; predictor and
    stopped gradient keep the views from becoming one point. Source: Chen and He, Exploring Simple
    Siamese Representation Learning (CVPR 2021). Departures: no projector (theirs has three layers).

    Attributes:
        slow: both sides as a slow copy encodes them, which are then compared with; None: the sides
            themselves.
    """

    Config = SimSiamConfig
    of_both_sides = True

    def __init__(self, config: SimSiamConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        width = self.config.dim
        inner = self.config.predictor_dim or max(width // 4, 1)
        norm = nn.BatchNorm1d(inner, track_running_stats=False)
        self.predictor = nn.Sequential(
            nn.Linear(width, inner), norm, nn.ReLU(), nn.Linear(inner, width)
        )
        self.slow: tuple[Tensor, Tensor] | None = None

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        target_a, target_b = (
            (views.a.detach(), views.b.detach()) if self.slow is None else self.slow
        )
        with full_precision(views.a):
            there = F.cosine_similarity(self.predictor(views.a), target_b, dim=1).mean()
            back = F.cosine_similarity(self.predictor(views.b), target_a, dim=1).mean()
        return Outcome.of_all(-(there + back) / 2, len(views.a))


class BYOLConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(objective="simsiam")  # its targets are those of the slow copy
    target_momentum: Annotated[float, Field(ge=0, lt=1, description="m of the slow copy")] = 0.99


@rg.register("model", "byol")
class BYOL(CL4SRec):
    """CL4SRec with ``-(cos(h(a), b') + cos(h(b), a')) / 2``, a' and b' the views as a slow copy
    encodes them.

    The copy moves by ``theta' <- m theta' + (1 - m) theta`` before each step. Source: Grill et al.,
    Bootstrap Your Own Latent (NeurIPS 2020), whose loss is 4 times this, plus 4. Departures: no
    projector; the momentum is constant; views are encoded by the copy with dropout of their own; in
    one process, of sequences without features, graph and times.
    """

    Config = BYOLConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        self.slow = nn.ModuleList(copy.deepcopy(part) for part in self._copied()).requires_grad_(
            False
        )

    def _copied(self) -> tuple[nn.Module, nn.Module]:
        return self.encoder, self.item_embedding

    def contrast_by(
        self, term: ContrastiveTerm, batch: SequenceBatch, a: Tensor, b: Tensor
    ) -> Tensor:
        if self.training:
            with torch.no_grad():
                own = [parameter for part in self._copied() for parameter in part.parameters()]
                torch._foreach_lerp_(
                    list(self.slow.parameters()), own, 1 - self.config.target_momentum
                )
        encoder, table = self.slow
        with torch.no_grad():
            targets = [
                encoder(rows, table.weight, batch.generators["slow"])
                for rows in self.draw_views(batch)
            ]
        term.objective.slow = (targets[0], targets[1])  # type: ignore[assignment]
        return super().contrast_by(term, batch, a, b)
