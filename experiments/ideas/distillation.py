"""Distillation: LightGCN that also learns the scores of a teacher.

``recgraph train distilled_lightgcn --dataset ml-100k --import experiments/ideas/distillation.py``
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import PartConfig, Search
from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.models.base import ModelConfig, Phase, Space, weighted
from recgraph.models.collaborative.lightgcn import LightGCN, LightGCNConfig
from recgraph.registry import part, part_class


class DistilledConfig(LightGCNConfig):
    teacher: Annotated[
        PartConfig,
        part("model"),
        Field(description="a model in closed form, fitted to the same training part"),
    ] = part_class("model", "ease")()
    distil_weight: Annotated[
        float, Field(ge=0, description="of the teacher's term"), Search(1e-2, 10.0, log=True)
    ] = 1.0
    distil_temperature: Annotated[float, Field(gt=0, description="of both distributions")] = 1.0
    distil_candidates: Annotated[
        int,
        Field(
            ge=2,
            description="candidates: half the teacher's best of each user, half drawn for the batch",
        ),
    ] = 128


@rg.register("model", "distilled_lightgcn")
class Distilled(LightGCN):
    """LightGCN with the term ``distil``: the divergence of its scores from a teacher's, for the
    same candidates.

    ``distil = T^2 mean_u KL(softmax(t_u / T) || softmax(s_u / T))`` over the candidates of each
    user of a batch, t the teacher's scores and s the inner products. The teacher reads the user's
    training items, and is fitted to the training part when training begins; it is no part of the
    model's weights.

    Source: listwise, with the factor T^2: Hinton, Vinyals and Dean, Distilling the Knowledge in a
    Neural Network (2015); a teacher that sees user and candidate together, for two towers: Barkan
    et al., Scalable Attentive Sentence-Pair Modeling via Distilled Sentence Embedding (AAAI 2020).
    """

    Config: ClassVar[type[ModelConfig]] = DistilledConfig

    def setup(self, train: Part) -> None:
        super().setup(train)
        teacher = self.config.teacher.build().build(
            Space(n_users=train.n_users, n_items=train.n_items), self.seed
        )
        self._taught = teacher.fit(train), train.items  # a tuple, so that it is no submodule

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "distil": self.config.distil_weight}
        return (Phase("model", ("model",), terms),)

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        nodes, found = self.nodes(), {}
        if "l2" in wanted:
            found["l2"] = self._l2(batch)
        if "rec" in wanted:
            found["rec"] = self._rec(batch, nodes)
        if "distil" in wanted:
            found["distil"] = weighted(self._distil(batch, nodes), batch.weight)
        return found

    def _distil(self, batch: PairBatch, nodes: Tensor) -> Tensor:
        assert self.space is not None
        users = torch.unique(batch.users)
        candidates, taught = self.candidates(users, batch.generators["distil"])
        scores = nodes[users] @ nodes[self.space.n_users :].T
        return distil_loss(scores.gather(1, candidates), taught, self.config.distil_temperature)

    @torch.no_grad()
    def candidates(self, users: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[B, K] items, the teacher's best and then drawn ones, the same for all rows; and its
        scores of them.
        """
        assert self.space is not None
        teacher, rows = self._taught
        scores: Tensor = teacher.to(users.device).score(
            Query(users, rows.to(users.device).take(users))
        )
        n_best = min(self.config.distil_candidates // 2, self.space.n_items)
        size = (self.config.distil_candidates - n_best,)
        drawn = torch.randint(
            self.space.n_items, size, generator=generator, device=generator.device
        ).to(users.device)
        items = torch.cat([scores.topk(n_best, 1).indices, drawn.expand(len(users), -1)], 1)
        return items, scores.gather(1, items)


def distil_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 mean KL(softmax(teacher / T) || softmax(student / T))`` over rows [B, K]; the teacher
    gets no gradient.
    """
    log_s, log_t = (
        F.log_softmax(scores / temperature, 1) for scores in (student, teacher.detach())
    )
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
