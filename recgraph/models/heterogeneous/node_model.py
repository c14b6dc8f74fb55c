"""The base of MEOW and AdaMEOW for nodes: a coarse and a fine view of the nodes of one type, and their contrast."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Added
from recgraph.contrast.queue import Queue
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, Ties
from recgraph.models.base import ModelConfig, PathKey, Space
from recgraph.models.heterogeneous.base import (
    FullGraph,
    GraphBatch,
    GraphConfig,
    GraphModel,
    GraphSpace,
    NodeBatches,
    evaluating,
)
from recgraph.models.heterogeneous.paths import Features, MetaPathInputs, read_graph, walkable
from recgraph.models.heterogeneous.sampling import PathSampler, share_of
from recgraph.models.heterogeneous.settings import TIES, ViewsConfig, make_contrast, make_masks, make_paths
from recgraph.models.heterogeneous.type_layers import PathLayers
from recgraph.models.heterogeneous.views import BothViews, MetaPathViews
from recgraph.rng import Generators, derive

FanOuts = Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(min_length=1)]


class MetaPathModelConfig(ViewsConfig, GraphConfig):
    ties: Annotated[Ties, Field(description=TIES)] = "random"
    features_per_path: Annotated[
        bool,
        Field(
            description="the target's features are a matrix for each path, side by side and of equal widths, each with "
            "a layer of its own; the coarse view takes the layers' mean (published for AMiner)"
        ),
    ] = False
    encoder: Annotated[
        str, Field(description="of the views, a name of the registry's graph encoders: 'gcn', 'propagation'"), Added()
    ] = "gcn"
    mini_batch: Annotated[
        bool, Field(description="steps on batch_size target nodes with sampled neighbours; False: on the whole graph")
    ] = False
    fan_out: Annotated[
        tuple[FanOuts, ...],
        Field(
            min_length=1,
            description="of batches: edges followed from each node, step by step along a path (the last number serves "
            "later steps, none: all), one for each layer of the encoder, the one nearest to the batch first",
        ),
    ] = ((5, 1), (2, 1))
    context_fan_out: Annotated[
        FanOuts, Field(description="of batches: edges followed from each node to its contexts, step by step")
    ] = (5,)
    sample_with_replacement: Annotated[bool, Field(description="of batches: an edge may be drawn twice")] = False
    context_cap: Annotated[
        int | None,
        Field(
            ge=1,
            description="of embeddings after batches: a node that follows more ways than this at a step of a context "
            "has the mean over ways from there on, not over distinct nodes; none: always over distinct nodes",
        ),
        Added(),
    ] = 1 << 14
    queue_size: Annotated[
        int, Field(ge=0, description="of batches: projections of earlier ones that are candidates beside the batch")
    ] = 2048


class MetaPathModel(GraphModel):
    """Base of MEOW and AdaMEOW. Term ``info``: the weighted InfoNCE of the two projected views.

    A layer for each node type (:class:`TypeLayer`) makes vectors of nodes, and :class:`MetaPathViews` makes the views
    of the target nodes. The twin of a path's view has masked target features and masked edges.

    With ``features_per_path`` the target has a layer for each path (:class:`PathLayers`), as published for AMiner,
    whose embeddings of random walks are no part of its card here. Types without features have one table of weights,
    shared by all paths.

    Options beyond the publications: masks drawn anew at every step; other augmentations, encoders, objectives and
    weights; latent twins, where a learned augmenter (MCLRec's) changes each path's embedding.

    With ``mini_batch`` a step takes a batch of target nodes and samples their neighbourhoods (:class:`PathSampler`);
    the norm of the encoder and the semantic attention see the batch alone. Candidates are the batch and a
    :class:`Queue` of earlier projections. Of several ranks each convolves its share of the batch, and all contrast the
    whole. ``redraw_masks`` then draws once an epoch. :meth:`embed` samples nothing; there contexts over hubs are means
    over ways (``context_cap``).
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathModelConfig
    #: both views hold a node's own row, so that a contrast that trains rows can ignore the graph: wide rows hardly move
    rows_std: ClassVar[float] = 1.0
    #: the settings that InfoNCE has in the publication
    info_nce: ClassVar[dict[str, Any]] = {}

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph = self.config, space.graph
        target = self._target(graph)
        paths = make_paths(config.metapaths, config)
        if config.mini_batch:
            paths = walkable(paths, graph)
        self.types = list(dict.fromkeys([target, *(c for path in paths for c in _between(path, graph))]))
        features: dict[str, Features] = {name: self._features(graph, name) for name in self.types}
        self.type_layers = nn.ModuleList(self._type_layer(graph, name) for name in self.types)
        if config.features_per_path:
            x = self.features_of(graph, target)
            width = graph.count(target) if x is None else x.shape[1]
            self.type_layers[0] = PathLayers(width, len(paths), x is not None, config.hidden_dim, config.dropout)
        self._begin_rows(graph, target, dict(zip(self.types, self.type_layers, strict=True)))
        self._masks = make_masks(paths, config, sampled=config.mini_batch)
        drawn = Generators(self._seed)
        ties = drawn.fresh("ties")
        inputs = read_graph(graph, target, paths, features, config.mini_batch, config.context_cap, generator=ties)
        self._inputs = self._masks.draw(inputs, drawn) if config.twin == "masked" else inputs
        self._redrawn: tuple[int, MetaPathInputs] | None = None
        self.views = MetaPathViews(
            inputs, config.hidden_dim, self.embedding_dim, config.dropout, config, config.encoder
        )
        # batches have a queue of their own, of projections
        self.contrast = make_contrast(config, self.projection_dim, self.info_nce, queue_size=0)
        if config.mini_batch:
            self.queue = Queue(config.queue_size, self.projection_dim)

    @property
    def projection_dim(self) -> int:
        """The width of the projections."""
        return int(self.config.projection_dim or self.embedding_dim)

    def batches(self, train: Part | None, batch_size: int, generators: Generators) -> FullGraph | NodeBatches:
        """One step an epoch on the whole graph; with ``mini_batch`` batches of target nodes.

        Args:
            train: not read: training is on the graph.
        """
        assert self.space is not None
        if not self.config.mini_batch:
            return FullGraph(self.space.n_items, generators)
        return NodeBatches(self.space.n_items, batch_size, generators)

    def _step_inputs(self, batch: GraphBatch | None) -> MetaPathInputs:
        """The inputs of a step, the same in all its phases; without a batch, those of :meth:`embed`."""
        inputs: MetaPathInputs = self._placed(self._inputs)
        if batch is None:
            return inputs.whole()
        if batch.nodes is None:
            return self._redraw(inputs, batch)
        if "inputs" not in batch.drawn:
            config = self.config
            sampler = PathSampler(config.fan_out, config.context_fan_out, config.sample_with_replacement)
            drawn = sampler(self._redraw(inputs, batch), batch.nodes, batch.fresh("neighbours"))
            batch.drawn["inputs"] = share_of(drawn, batch.share)
        sampled: MetaPathInputs = batch.drawn["inputs"]
        return sampled

    def _redraw(self, inputs: MetaPathInputs, batch: GraphBatch) -> MetaPathInputs:
        """The inputs, with ``redraw_masks`` with new masks: at every step, for batches of nodes once an epoch."""
        if not (self.training and self.config.redraw_masks and self.config.twin == "masked"):
            return inputs
        like = next(self.parameters())
        if batch.nodes is None:
            return self._masks.draw(inputs, batch.generators).to(like.device, like.dtype)
        if self._redrawn is None or self._redrawn[0] != batch.epoch:
            self._redrawn = None  # before the next ones are made
            # they depend on the seed and the epoch alone
            own = Generators(derive(batch.generators.seed, "masks", batch.epoch))
            self._redrawn = batch.epoch, self._masks.draw(inputs, own).to(like.device, like.dtype)
        return self._redrawn[1]

    def both_views(
        self,
        inputs: MetaPathInputs,
        generator: torch.Generator | None = None,
        together: torch.Generator | None = None,
    ) -> BothViews:
        """The coarse and the fine view, before the head.

        Args:
            inputs: read from the graph.
            generator: draws dropout; required in training mode where dropout is above 0.
            together: draws the dropout that all ranks share; default: ``generator``.
        """
        views: BothViews = self.views(inputs, *self._hidden(inputs, generator), generator, together)
        return views

    def _hidden(
        self, inputs: MetaPathInputs, generator: torch.Generator | None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Node type -> [N_type, hidden_dim], the transformed features; and those of the target's masked features.

        With ``features_per_path`` the target has [P, N, hidden_dim].
        """
        hidden = {
            name: layer(inputs.features[name], generator)
            for name, layer in zip(self.types, self.type_layers, strict=True)
        }
        if self.config.twin != "masked":
            return hidden, None
        return hidden, self.type_layers[self.types.index(inputs.target)](inputs.masked, generator)

    def _projected(self, batch: GraphBatch) -> BothViews:
        """The projected coarse and fine view of a step, of all ranks' nodes."""
        together = batch.generators["dropout"]
        own = together if batch.share.is_whole else batch.generators.of_rank("dropout")
        views, head = self.both_views(self._step_inputs(batch), own, together), self.views.head
        return BothViews(head(views.coarse), head(views.fine))

    def info(self, batch: GraphBatch, views: BothViews, fine_first: bool) -> Tensor:
        """The contrast of projections [N, D] in pairs; for a batch, the queue adds candidates and takes the batch in.

        A node of the batch is not also taken from the queue.

        Args:
            views: projected.
            fine_first: the fine views are the anchors; False: the coarse ones.
        """
        anchors, candidates = (views.fine, views.coarse) if fine_first else (views.coarse, views.fine)
        generator = batch.fresh("candidates")
        if batch.nodes is None:
            loss: Tensor = self.contrast(anchors, candidates, generator=generator)
            return loss
        if not self.config.queue_size:
            loss = self.contrast(anchors, candidates, batch.nodes, batch.nodes, generator=generator)
            return loss
        rows, ids = self.queue.join(candidates, batch.nodes)
        positives = torch.arange(len(anchors), device=anchors.device)
        loss = self.contrast(anchors, rows, batch.nodes, ids, positives, generator=generator)
        if self.training and torch.is_grad_enabled():
            self.queue.push(candidates, batch.nodes)
        return loss

    @torch.no_grad()
    def project_all(self) -> Tensor:
        """[N, D]: the projected fine view of all nodes, in evaluation mode and without sampling."""
        with evaluating(self):
            projected: Tensor = self.views.head(self.embed())
        return projected

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The semantic attention of the fine view, in evaluation mode."""
        with evaluating(self):
            inputs = self._step_inputs(None)
            found = self.views.addends(inputs, *self._hidden(inputs, None))
        return {key: weight for key, (weight, _) in found.items()}

    def embed(self) -> Tensor:
        inputs = self._step_inputs(None)
        return self.views.fine(inputs, *self._hidden(inputs, None))


def _between(path: MetaPath, graph: HeteroGraph) -> list[str]:
    """The types of nodes between the ends of a path."""
    return [step.end for step in path.route(graph)[:-1]]
