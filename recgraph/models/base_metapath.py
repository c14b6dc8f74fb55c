"""What MEOW and AdaMEOW share: the coarse view, the fine view with contexts and masked twins, the contrast of both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.config import Search
from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.gcn import GCN
from recgraph.encoders.semantic_attention import SemanticAttention
from recgraph.models._metapath_inputs import Features, Masks, MetaPathInputs, PathInputs, read_graph
from recgraph.models.base import ModelConfig, Space
from recgraph.models.base_graph import GraphBatch, GraphConfig, GraphModel, GraphSpace
from recgraph.rng import Generators, dropout
from recgraph.sparse.compose import Counts
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import Normalisation
from recgraph.sparse.spmm import spmm
from recgraph.views.edge_drop import EdgeDrop
from recgraph.views.feature_mask import FeatureMask
from recgraph.views.metapath import MetaPath

Ratio = Annotated[float, Field(ge=0, lt=1)]


class MetaPathModelConfig(GraphConfig):
    top_k: Annotated[
        int | tuple[int | None, ...] | None,
        Field(description="each node's so many most similar by PathSim are kept: for all paths, or one a path"),
    ] = None
    counts: Annotated[Counts, Field(description="numbers of paths, or only whether there is one")] = "full"
    form: Annotated[
        Literal["composed", "factorised"],
        Field(description="'factorised' never makes a path's matrix; without top_k, with full counts"),
    ] = "composed"
    normalisation: Annotated[Normalisation, Field(description="of adjacencies; see recgraph.sparse.normalise")] = "meow"
    max_memory_mib: Annotated[float, Field(gt=0, description="a path or context that needs more is refused")] = 4096
    twin: Annotated[
        Literal["masked", "latent"],
        Field(description="each path's second view: of masked features and edges, or by a latent augmenter"),
    ] = "masked"
    feature_mask: Annotated[
        float, Field(ge=0, lt=1, description="share of the target's features that are masked"), Search(0.0, 0.6)
    ] = 0.3
    edge_mask: Annotated[
        Ratio | tuple[Ratio, ...],
        Field(description="share of each path's edges that are masked: for all paths, or one a path"),
    ] = 0.3
    redraw_masks: Annotated[bool, Field(description="draw masks at every step; False: once, as published")] = False
    augmenter: Annotated[str, Field(description="of latent twins, a name of the registry's kind 'augmenter'")] = "mlp"
    temperature: Annotated[
        float, Field(gt=0, description="tau, of the contrastive similarities"), Search(0.1, 2.0, log=True)
    ] = 0.5
    weight: Annotated[
        str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
    ] = None
    weight_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]
    block_rows: Annotated[
        int | None, Field(ge=1, description="anchors of the contrast in memory at once; none: by the cache")
    ] = None
    projection_dim: Annotated[
        int | None, Field(ge=1, description="width of the projection; none: that of the embeddings")
    ] = None


@dataclass(frozen=True)
class BothViews:
    """Attributes: ``coarse`` [N, D]; ``fine`` [N, D], which is also the embedding."""

    coarse: Tensor
    fine: Tensor


class MetaPathModel(GraphModel):
    """Base of MEOW and AdaMEOW. Term ``info``: the weighted InfoNCE of the two projected views.

    With h the layer of a node's type (:class:`TypeLayer`):

    - coarse view: ``GCN(h_target)`` over the mean of the paths' normalised adjacencies;
    - fine view: for each path P ``x_P = ELU(h_target + dropout(sum_t W_{P,t} mean_{t reached along P} h))`` through the
      same GCN over P's own adjacency, beside its twin, with masked target features and masked edges; each of unit
      length; semantic attention over all of them;
    - both through the head ``L2(tanh(W z + b))``.

    Options beyond the publications: masks drawn anew at every step; latent twins, a learned augmenter of each path's
    embedding (MCLRec's) in place of the masked one; any weight.
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathModelConfig
    _inputs: MetaPathInputs

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph = self.config, space.graph
        dim = config.hidden_dim
        target = self._target(graph)
        paths = self._paths()
        types = list(dict.fromkeys([target, *(c for path in paths for c in _between(path, graph))]))
        features: dict[str, Features] = {name: self._features(graph, name) for name in types}
        self.types = types
        self.type_layers = nn.ModuleList(self._type_layer(graph, name) for name in types)
        self._masks = self._make_masks(len(paths))
        inputs = read_graph(graph, target, paths, features)
        self._inputs = self._masks.draw(inputs, Generators(self._seed)) if config.twin == "masked" else inputs
        self.context_layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in path.contexts) for path in inputs.paths
        )
        for layer in self.context_layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=1.414)
        self.encoder = GCN(dim, self.embedding_dim, self.embedding_dim, dropout=config.dropout)
        self.attention = SemanticAttention(self.embedding_dim)
        self.project = nn.Linear(self.embedding_dim, config.projection_dim or self.embedding_dim)
        nn.init.xavier_normal_(self.project.weight, gain=1.414)
        latent = registry.load("augmenter", config.augmenter) if config.twin == "latent" else None
        self.augmenters = nn.ModuleList([] if latent is None else [latent(self.embedding_dim) for _ in paths])
        self.contrast = self._make_contrast()

    def _paths(self) -> tuple[MetaPath, ...]:
        config = self.config
        shared = {name: getattr(config, name) for name in ("counts", "form", "normalisation", "max_memory_mib")}
        each = _each("top_k", config.top_k, len(config.metapaths))
        return tuple(MetaPath(path, top_k=k, **shared) for path, k in zip(config.metapaths, each, strict=True))

    def _make_masks(self, n_paths: int) -> Masks:
        config = self.config
        redraw = config.redraw_masks
        edges = [EdgeDrop(ratio=r, redraw=redraw) for r in _each("edge_mask", config.edge_mask, n_paths)]
        return Masks(FeatureMask(ratio=config.feature_mask, redraw=redraw), tuple(edges), config.normalisation)

    def _make_contrast(self) -> ContrastiveTerm:
        raise TypeError(f"{type(self).__name__} must define _make_contrast()")

    def _term(self, **objective: Any) -> ContrastiveTerm:
        config = self.config
        return ContrastiveTerm(
            temperature=config.temperature,
            objective="info_nce",
            objective_settings={"block_rows": config.block_rows, **objective},
            weight=config.weight,
            weight_settings=config.weight_options,
            dim=config.projection_dim or self.embedding_dim,
        )

    def _step_inputs(self, batch: GraphBatch | None) -> MetaPathInputs:
        inputs: MetaPathInputs = self._placed(self._inputs)
        if batch is None or not self.training or not self.config.redraw_masks or self.config.twin == "latent":
            return inputs
        return self._masks.draw(inputs, batch.generators)

    def both_views(
        self, inputs: MetaPathInputs, generator: torch.Generator | None = None, fine_only: bool = False
    ) -> BothViews:
        """The coarse and the fine view, before the head.

        Args:
            inputs: read from the graph.
            generator: draws dropout; required in training mode where dropout is above 0.
            fine_only: leave the coarse view out (it is then the fine one).
        """
        hidden = {
            name: layer(inputs.features[name], generator)
            for name, layer in zip(self.types, self.type_layers, strict=True)
        }
        h = hidden[inputs.target]
        masked = None
        if self.config.twin == "masked":
            masked = self.type_layers[self.types.index(inputs.target)](inputs.masked, generator)
        fine = self._fine(inputs, hidden, masked, generator)
        if fine_only:
            return BothViews(fine, fine)
        adjacencies = tuple(path.adjacency for path in inputs.paths)
        return BothViews(self.encoder(adjacencies, h, generator), fine)

    def _fine(
        self,
        inputs: MetaPathInputs,
        hidden: dict[str, Tensor],
        masked: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        h, views = hidden[inputs.target], []
        means: dict[int, Tensor] = {}
        for number, path in enumerate(inputs.paths):
            context = self._context(number, path, hidden, means, generator)
            z = self.encoder(path.adjacency, F.elu(h + context), generator)
            if masked is None:
                twin = self.augmenters[number](z)
            else:
                twin = self.encoder(path.masked, F.elu(masked + context), generator)
            views += [F.normalize(z, dim=1), F.normalize(twin, dim=1)]
        fine: Tensor = self.attention(views)
        return fine

    def _context(
        self,
        number: int,
        path: PathInputs,
        hidden: dict[str, Tensor],
        means: dict[int, Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        """[N, D]: what lies on a path, before it is added to the target's own."""
        total = None
        for step, (node_type, reached) in enumerate(path.contexts):
            # paths that begin alike share what they reach
            if id(reached) not in means:
                means[id(reached)] = _mean(reached, hidden[node_type])
            part = means[id(reached)] @ self.context_layers[number][step].weight.t()  # type: ignore[index]
            total = part if total is None else total + part
        if total is None:
            return hidden[self._inputs.target].new_zeros(())
        return dropout(total, self.config.dropout, generator if self.training else None)

    def head(self, z: Tensor) -> Tensor:
        """[N, D]: the projection that the contrast compares."""
        return F.normalize(torch.tanh(self.project(z)), dim=1)

    def forward(self, batch: GraphBatch, terms: Iterable[str]) -> dict[str, Tensor]:
        terms = set(terms)
        self._check_terms(terms, self._term_names())
        views = self.both_views(self._step_inputs(batch), batch.generators["dropout"])
        return self._terms(batch, terms, self.head(views.coarse), self.head(views.fine))

    def _term_names(self) -> tuple[str, ...]:
        return ("info",)

    def _terms(self, batch: GraphBatch, terms: set[str], coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} must define _terms(batch, terms, coarse, fine)")

    def embed(self) -> Tensor:
        return self.both_views(self._step_inputs(None), fine_only=True).fine


def _mean(reached: Csr, h: Tensor) -> Tensor:
    """[N, D]: the mean over the distinct nodes reached, 0 where there are none."""
    return spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)


def _between(path: MetaPath, graph: Any) -> list[str]:
    return [step.end for step in path.route(graph)[:-1]]


def _each(name: str, value: Any, n_paths: int) -> tuple[Any, ...]:
    """One value a path."""
    if not isinstance(value, tuple):
        return (value,) * n_paths
    if len(value) != n_paths:
        raise ValueError(f"{name} = {value} has {len(value)} values for {n_paths} meta-paths; give one, or one a path")
    return value
