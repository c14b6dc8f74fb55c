"""MEOW and AdaMEOW for nodes: a coarse and a fine view of the nodes of one type, and their
contrasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import encoders
from recgraph.config import PartConfig, Search
from recgraph.contrast.prototypes import (
    PrototypeMemory,
    Prototypes,
    PrototypesConfig,
    PrototypeSet,
    offer,
    proto_nce,
    prototypes_of,
)
from recgraph.contrast.term import Contrast, ContrastiveTerm, Queue
from recgraph.contrast.weights import Cluster
from recgraph.data.part import Part
from recgraph.graph.metapath import types_of
from recgraph.models.base import ModelConfig, PathKey, Phase, Space
from recgraph.models.heterogeneous.base import (
    GraphBatch,
    GraphConfig,
    GraphModel,
    GraphSpace,
    NodeBatches,
    evaluating,
)
from recgraph.models.heterogeneous.paths import MetaPathInputs, Paths, Twins, read_graph
from recgraph.models.heterogeneous.sampling import Sampling, share_of
from recgraph.models.heterogeneous.views import BothViews, Draw, MetaPathViews
from recgraph.registry import part
from recgraph.rng import Generators


class MetaPathModelConfig(GraphConfig):
    embedding_dim: Annotated[
        int | None, Field(ge=1, description="width of embeddings; none: hidden_dim")
    ] = None
    paths: Annotated[Paths, Field(description="how the matrices of meta-paths are made")] = Paths(
        ties="random"
    )
    encoder: Annotated[
        PartConfig, part("encoder"), Field(description="of the views, over graphs")
    ] = encoders.GCN()
    twins: Annotated[Twins, Field(description="the second view of each meta-path")] = Twins()
    projection_dim: Annotated[
        int | None, Field(ge=1, description="width of the projection; none: that of the embeddings")
    ] = None
    mini_batch: Annotated[
        bool,
        Field(
            description="steps on batch_size target nodes with sampled neighbours; False: on the whole graph"
        ),
    ] = False
    sampling: Annotated[Sampling, Field(description="of batches: which neighbours")] = Sampling()


class MetaPathModel(GraphModel):
    """Base of MEOW and AdaMEOW. Term ``info``: the weighted InfoNCE of the two projected views.

    A layer for each node type (:class:`TypeLayer`) makes vectors of nodes, and
    :class:`MetaPathViews` makes the views of the target nodes. The twin of a path's view has masked
    target features and masked edges. Types without features have one table of weights, shared by
    all paths; for AMiner the publications have random walks, a table a path.

    Options beyond the publications: other augmentations, encoders, objectives and weights; latent
    twins, where a learned augmenter (MCLRec's) changes each path's embedding.

    With ``mini_batch`` a step takes a batch of target nodes and samples their neighbourhoods
    (:class:`Sampling`), over hubs best with ``paths.form = "factorised"``, whose memory is that of
    the edges; the norm of the encoder and the semantic attention see the batch alone. Candidates
    are the batch and a :class:`Queue` of ``contrast.queue_size`` earlier projections. Of several
    ranks each convolves its share of the batch, and all contrast the whole. :meth:`embed` samples
    nothing; there contexts over hubs are means over ways (``sampling.context_cap``).
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathModelConfig
    #: both views hold a node's own row, so that a contrast that trains rows can ignore the graph:
    #: wide rows hardly move
    rows_std: ClassVar[float] = 1.0

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph = self.config, space.graph
        target = self.target_of(graph)
        paths = config.paths.made(config.metapaths)
        types = [target]
        for path in paths:
            types += types_of(path.route(graph))
        #: the target, and the types that paths lead through
        self.types = list(dict.fromkeys(types))
        features = {name: self._features(graph, name) for name in self.types}
        self.type_layers = nn.ModuleList(self._type_layer(graph, name) for name in self.types)
        self._begin_rows(graph, target, dict(zip(self.types, self.type_layers, strict=True)))
        generators = Generators(self._seed)
        self._inputs = read_graph(
            graph,
            target,
            paths=paths,
            features=features,
            generators=generators,
            ties=generators.fresh("ties"),
            masks=config.twins.masks(paths),
            sampled=config.mini_batch,
            context_cap=config.sampling.context_cap,
        )
        self.views = MetaPathViews(
            self._inputs,
            hidden_dim=config.hidden_dim,
            dim=self.embedding_dim,
            dropout=config.dropout,
            twins=config.twins,
            encoder=config.encoder,
            projection_dim=config.projection_dim,
        )
        # batches have a queue of their own, of projections
        term = config.contrast.model_copy(update={"queue_size": 0})
        self.contrast = ContrastiveTerm(term, dim=self.projection_dim, if_none="zero")
        if config.mini_batch:
            self.queue = Queue(config.contrast.queue_size, self.projection_dim)

    @property
    def embedding_dim(self) -> int:
        return int(self.config.embedding_dim or self.config.hidden_dim)

    @property
    def projection_dim(self) -> int:
        """The width of the projections."""
        return int(self.config.projection_dim or self.embedding_dim)

    def batches(self, train: Part | None, batch_size: int, generators: Generators) -> NodeBatches:
        """One step an epoch on the whole graph; with ``mini_batch`` batches of target nodes."""
        if not self.config.mini_batch:
            return super().batches(train, batch_size, generators)
        return NodeBatches(self.space.n_items, batch_size, generators)

    def _step_inputs(self, batch: GraphBatch | None) -> MetaPathInputs:
        """The inputs of a step; without a batch, those of :meth:`embed`."""
        inputs: MetaPathInputs = self._placed(self._inputs)
        if batch is None:
            return inputs.whole()
        if batch.nodes is None:
            return inputs
        sampled = self.config.sampling.draw(inputs, batch.nodes, batch.fresh("neighbours"))
        return share_of(sampled, batch.share)

    def both_views(
        self, inputs: MetaPathInputs, generator: Draw = None, attention_generator: Draw = None
    ) -> BothViews:
        """The coarse and the fine view, before the head; for the arguments see
        :meth:`MetaPathViews.fine`.
        """
        hidden, masked = self._hidden(inputs, generator)
        fine = self.views.fine(inputs, hidden, masked, generator, attention_generator)
        return BothViews(self.views.coarse(inputs, hidden, generator), fine)

    def _hidden(
        self, inputs: MetaPathInputs, generator: Draw
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Node type -> [N_type, hidden_dim], the transformed features; and those of the target's
        masked features.
        """
        hidden = {}
        for name, layer in zip(self.types, self.type_layers, strict=True):
            hidden[name] = layer(inputs.features[name], generator)
        if self.config.twins.kind != "masked":
            return hidden, None
        return hidden, self.type_layers[0](inputs.masked, generator)

    def project(self, batch: GraphBatch) -> BothViews:
        """[n, projection_dim] each: the projected coarse and fine view of a step, of all ranks'
        nodes.
        """
        generator = attention_generator = batch.generators["dropout"]
        if not batch.share.is_whole:
            generator = batch.generators.of_rank("dropout")
        inputs = self._step_inputs(batch)
        views = self.both_views(inputs, generator, attention_generator)
        return BothViews(coarse=self.views.head(views.coarse), fine=self.views.head(views.fine))

    def info(self, batch: GraphBatch, anchors: Tensor, candidates: Tensor) -> Tensor:
        """The contrast of projections [n, D] in pairs; for a batch, the queue adds candidates, none
        of them a node of the batch, and takes the batch in."""
        generator, nodes = batch.fresh("candidates"), batch.nodes
        loss: Tensor
        if nodes is None or not self.config.contrast.queue_size:
            loss = self.contrast(anchors, candidates, nodes, nodes, generator=generator)
            return loss
        rows, ids = self.queue.join(candidates, nodes)
        loss = self.contrast(
            anchors,
            rows,
            ids_a=nodes,
            ids_b=ids,
            positives=torch.arange(len(anchors), device=anchors.device),
            generator=generator,
        )
        if self.training and torch.is_grad_enabled():
            self.queue.push(candidates, nodes)
        return loss

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The semantic attention of the fine view, in evaluation mode."""
        with evaluating(self):
            inputs = self._step_inputs(None)
            addends = self.views.addends(inputs, *self._hidden(inputs, None))
        return {key: weight for key, (weight, _) in addends.items()}

    def embed(self) -> Tensor:
        inputs = self._step_inputs(None)
        return self.views.fine(inputs, *self._hidden(inputs, None))


class MEOWLoss(nn.Module):
    """The loss of MEOW, of coarse and fine projections c, f [n, D] of unit length; mixed into its
    models.

    1. k-means of f at T granularities, without gradient: clusters k_t(i), prototypes p, the
       centroids of unit length, and their temperatures phi by concentration.
    2. ``w_ij = sum_t [k_t(i) != k_t(j)]``: nodes of one cluster are no negatives of one another.
    3. ``info = mean_i -log(e^{c_i . f_i / tau} / sum_{j != i} w_ij e^{c_i . f_j / tau})``.
    4. ``proto = mean_t mean_i -log(e^{c_i . p_{k_t(i)} / phi_{k_t(i)}} / sum_k e^{c_i . p_k /
       phi_k})``, ProtoNCE.

    The loss is ``info + lambda proto``.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative
    Samples (SDM 2023).
    """

    config: Any
    prototypes: Prototypes
    proto_contrast: ContrastiveTerm

    def _make_prototypes(self, dim: int) -> None:
        """What the loss is made of beside the contrast of the views, of projections of width
        ``dim``.
        """
        block_rows = getattr(self.config.contrast.objective, "block_rows", None)
        self.prototypes = Prototypes(self.config.prototypes, dim=dim)
        self.proto_contrast = ContrastiveTerm(
            objective={"name": "info_nce", "block_rows": block_rows}
        )

    def reads_clusters(self, wanted: frozenset[str], contrast: ContrastiveTerm) -> bool:
        """Whether a term that is wanted reads step 1."""
        weighs_clusters = "info" in wanted and isinstance(contrast.weight, Cluster)
        return weighs_clusters or "proto" in wanted

    def cluster(self, fine: Tensor) -> list[PrototypeSet]:
        """Step 1: the prototypes of f [n, D] at each granularity."""
        return prototypes_of(self.prototypes(fine), fine, self.config.contrast.temperature)

    def weigh_by_clusters(
        self,
        contrast: ContrastiveTerm,
        prototypes: Sequence[PrototypeSet],
        ids: Tensor | None = None,
    ) -> None:
        """Step 2: the weights of candidates follow the clusters of the nodes ``ids``, None: of all
        nodes. Other weights read none.
        """
        offer(contrast, prototypes=partial(list, prototypes), ids=ids)


class MEOWConfig(MetaPathModelConfig):
    contrast: Annotated[Contrast, Field(description="of the views, and what both terms share")] = (
        Contrast(
            objective={"name": "info_nce", "count_positive": False},
            weight="cluster",
            temperature=0.5,
            queue_size=2048,
        )
    )
    prototypes: Annotated[PrototypesConfig, Field(description="clusters of the fine view")] = (
        PrototypesConfig()
    )
    proto_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of ProtoNCE"), Search(0.01, 2.0, log=True)
    ] = 1.0


class MEOW(MEOWLoss, MetaPathModel):
    """Contrast of a coarse and a fine view of a heterogeneous graph, negatives weighted by
    clusters.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative
    Samples (SDM 2023). See :class:`MetaPathModel` for the views and :class:`MEOWLoss` for the terms
    ``info`` and ``proto``.

    With ``mini_batch`` all nodes are embedded and clustered once an epoch, before its first step,
    as in PCL (ICLR 2021): a cluster means the same in every batch, also for what the queue holds.
    It costs one pass over the graph without gradients.

    The embedding is the fine view in evaluation mode (the published code keeps the last
    training-mode forward). Departures: ``proto`` lacks the published constant ``log(N / k)``; ties
    and draws, see :class:`MetaPath` and :func:`kmeans`. The published code stops on the training
    loss: ``metric="loss"``.
    """

    Config: ClassVar[type[ModelConfig]] = MEOWConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        self._make_prototypes(self.projection_dim)
        if self.config.mini_batch:
            self.memory = PrototypeMemory(
                space.n_items, self.projection_dim, self.config.prototypes.n_clusters
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        return (Phase("model", ("model",), {**phase.terms, "proto": self.config.proto_weight}),)

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        coarse, fine = self.project(batch)
        prototypes = []
        if self.reads_clusters(wanted, self.contrast):
            prototypes = self.prototypes_of_step(batch, fine)  # step 1
        losses = {}
        if "info" in wanted:
            self.weigh_by_clusters(self.contrast, prototypes)  # step 2
            losses["info"] = self.info(batch, anchors=coarse, candidates=fine)  # step 3
        if "proto" in wanted:
            losses["proto"] = proto_nce(  # step 4
                self.proto_contrast, anchors=coarse, prototypes=prototypes, ids=batch.nodes
            )
        return losses

    def prototypes_of_step(self, batch: GraphBatch, fine: Tensor) -> list[PrototypeSet]:
        """Step 1 of the whole graph, or of a batch, for which all nodes are clustered in the first
        step of an epoch.
        """
        if batch.nodes is None:
            return self.cluster(fine)
        return self.memory.of_epoch(batch.epoch, self._cluster_all)

    def _cluster_all(self) -> list[PrototypeSet]:
        with evaluating(self), torch.no_grad():
            fine = self.views.head(self.embed())
        return self.cluster(fine)


class AdaMEOWConfig(MetaPathModelConfig):
    contrast: Annotated[Contrast, Field(description="of the views")] = Contrast(
        objective={"name": "info_nce", "weigh_positive": True},
        weight="learned",
        temperature=0.5,
        queue_size=2048,
    )


class AdaMEOW(MetaPathModel):
    """Contrast of a fine and a coarse view of a heterogeneous graph, all candidates weighted by a
    learned network.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted
    Negative Samples (TKDE 2024, arXiv 2212.13847). See :class:`MetaPathModel` for the views,
    :class:`Learned` for the weights (``contrast.weight.normalise`` keeps them from shrinking
    everywhere). Term, the fine view as anchor: ``info = mean_i -log(e^{f_i . c_i / tau} / sum_j
    w_ij e^{f_i . c_j / tau})``, the positive weighted like the others.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWConfig

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        coarse, fine = self.project(batch)
        return {"info": self.info(batch, anchors=fine, candidates=coarse)}
