"""Multistage contrast: SimGCL trained again and again, each time on what it could not tell apart
before.

``recgraph train multistage_simgcl --dataset ml-100k --import experiments/ideas/multistage.py``
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph import contrast
from recgraph.config import Search
from recgraph.contrast.clustering import kmeans
from recgraph.contrast.parts import Pairs
from recgraph.contrast.weights import Weight
from recgraph.data.batches import PairBatch, PairBatches
from recgraph.data.part import Part
from recgraph.encoders.items import Kept
from recgraph.models.base import ModelConfig, Phase, Space, UpdatedBy
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.collaborative.contrastive import SimGCL, SimGCLConfig
from recgraph.registry import part_class
from recgraph.rng import Generators, derive
from recgraph.sparse.blocks import unit_length


class MultistageConfig(SimGCLConfig):
    stages: Annotated[
        int, Field(ge=2, le=10, description="how many models are trained, one after the other")
    ] = 2
    stage_epochs: Annotated[int, Field(ge=1, description="epochs of each stage but the last")] = 20
    stage_clusters: Annotated[
        int,
        Field(ge=1, description="clusters of a stage's vectors, in which the later ones contrast"),
        Search(2, 50),
    ] = 5


@rg.register("weight", "earlier_clusters")
class EarlierClusters(Weight):
    """``w_ij = 1`` where i and j share a cluster in every clustering that was given, else 0; 1
    where none was given.
    """

    clusters: Tensor | None = None

    def log_w(self, pairs: Pairs) -> Tensor:
        every = pairs.anchors.new_zeros(len(pairs.anchor_ids), len(pairs.candidate_ids))
        if self.clusters is None:
            return every
        ours, theirs = self.clusters[:, pairs.anchor_ids], self.clusters[:, pairs.candidate_ids]
        return every.masked_fill((ours[:, :, None] != theirs[:, None]).any(0), -torch.inf)


@rg.register("model", "multistage_simgcl")
class MultistageSimGCL(CollaborativeModel):
    """Stages of SimGCL: each contrasts within the clusters of those before, and all rank together.

    Stage t is a new SimGCL whose candidates are those in the anchor's cluster in every stage
    before, by k-means of the directions of users and of items. Vectors are concatenated, ``score_ui
    = sum_t u_t . v_t``, of the stages that have begun. Stage t has the epochs ``[t stage_epochs, (t
    + 1) stage_epochs)``, the last one those that are left; let ``patience`` be longer than a stage.

    Source: Zhang et al., Learning the Unlearned: Mitigating Feature Suppression in Contrastive
    Learning (ECCV 2024). Departures: each stage trains the recommendation loss besides, and vectors
    are not normalised before they are concatenated.
    """

    Config: ClassVar[type[ModelConfig]] = MultistageConfig
    updated_by: ClassVar[UpdatedBy | None] = None
    stage: Tensor
    clusters: Tensor

    def _build(self, space: Space) -> None:
        assert self.seed is not None
        own = {name: value for name, value in self.config if name in SimGCLConfig.model_fields}
        # a batch may hold no two nodes of a cluster
        within = {
            "objective": contrast.InfoNCE(if_none="zero"),
            "weight": part_class("weight", "earlier_clusters")(),
        }
        weighted = {"contrast": own["contrast"].model_copy(update=within)}
        self.models = nn.ModuleList(
            SimGCL(**own | (weighted if number else {})).build(
                space, derive(self.seed, "stage", number)
            )
            for number in range(self.config.stages)
        )
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        of_nodes = self.config.stages - 1, space.n_users + space.n_items
        self.register_buffer("clusters", torch.zeros(of_nodes, dtype=torch.int64))
        self.register_buffer("known_users", torch.zeros(space.n_users, dtype=torch.bool))
        self.loss, self._made = self.of_stage(0).loss, Kept()

    def of_stage(self, number: int) -> SimGCL:
        model = self.models[number]
        assert isinstance(model, SimGCL)
        return model

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.of_stage(0).phases

    def batches(self, train: Part, batch_size: int, generators: Generators) -> PairBatches:
        self.setup(train)
        for number in range(self.config.stages):
            self.of_stage(number).setup(train)
        return self.of_stage(0).batches(train, batch_size, generators)

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        number = min(batch.epoch // self.config.stage_epochs, self.config.stages - 1)
        for before in range(int(self.stage), number):
            self.clusters[before] = torch.cat([self._cluster(rows) for rows in self._kinds(before)])
            self.stage.fill_(before + 1)
        model = self.of_stage(number)
        if number:
            of_users, of_items = torch.split(
                self.clusters[:number], [len(rows) for rows in self._kinds(0)], 1
            )
            model.contrast_users.weight.clusters, model.contrast_items.weight.clusters = (
                of_users,
                of_items,
            )  # type: ignore[union-attr]
        return model.losses(batch, wanted)

    @torch.no_grad()
    def _kinds(self, number: int) -> tuple[Tensor, ...]:
        """The vectors of users and of items of a stage."""
        return self.of_stage(number)._split(self.of_stage(number).nodes())

    def _cluster(self, rows: Tensor) -> Tensor:
        units = unit_length(rows)
        return kmeans(
            units, min(self.config.stage_clusters, len(units)), seed=self.seed or 0
        ).assignments

    def nodes(self) -> Tensor:
        return torch.cat(
            [self.of_stage(number).nodes() for number in range(int(self.stage) + 1)], 1
        )
