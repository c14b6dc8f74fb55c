"""What MEOW and AdaMEOW share for nodes: layers of features, both views, and their contrast."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recgraph.contrast.term import ContrastiveTerm
from recgraph.models._metapath_inputs import Features, MetaPathInputs, read_graph
from recgraph.models._metapath_views import BothViews, MetaPathViews, ViewsConfig, make_masks, make_paths
from recgraph.models.base import ModelConfig, Space
from recgraph.models.base_graph import GraphBatch, GraphConfig, GraphModel, GraphSpace
from recgraph.rng import Generators
from recgraph.views.metapath import MetaPath


class MetaPathModelConfig(ViewsConfig, GraphConfig):
    pass


class MetaPathModel(GraphModel):
    """Base of MEOW and AdaMEOW. Term ``info``: the weighted InfoNCE of the two projected views.

    A layer for each node type (:class:`TypeLayer`) gives vectors of nodes, :class:`MetaPathViews` the views of the
    target nodes; the twin of a path's view has masked target features and masked edges.

    Options beyond the publications: masks drawn anew at every step; latent twins, a learned augmenter of each path's
    embedding (MCLRec's) in place of the masked one; any weight.
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathModelConfig
    _inputs: MetaPathInputs

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph = self.config, space.graph
        target = self._target(graph)
        paths = make_paths(config.metapaths, config)
        self.types = list(dict.fromkeys([target, *(c for path in paths for c in _between(path, graph))]))
        features: dict[str, Features] = {name: self._features(graph, name) for name in self.types}
        self.type_layers = nn.ModuleList(self._type_layer(graph, name) for name in self.types)
        self._masks = make_masks(len(paths), config)
        inputs = read_graph(graph, target, paths, features)
        self._inputs = self._masks.draw(inputs, Generators(self._seed)) if config.twin == "masked" else inputs
        self.views = MetaPathViews(inputs, config.hidden_dim, self.embedding_dim, config.dropout, config)
        self.contrast = self._make_contrast()

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
        masked = None
        if self.config.twin == "masked":
            masked = self.type_layers[self.types.index(inputs.target)](inputs.masked, generator)
        views: BothViews = self.views(inputs, hidden, masked, generator, fine_only)
        return views

    def forward(self, batch: GraphBatch, terms: Iterable[str]) -> dict[str, Tensor]:
        terms = set(terms)
        self._check_terms(terms, self._term_names())
        views = self.both_views(self._step_inputs(batch), batch.generators["dropout"])
        return self._terms(batch, terms, self.views.head(views.coarse), self.views.head(views.fine))

    def _term_names(self) -> tuple[str, ...]:
        return ("info",)

    def _terms(self, batch: GraphBatch, terms: set[str], coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} must define _terms(batch, terms, coarse, fine)")

    def embed(self) -> Tensor:
        return self.both_views(self._step_inputs(None), fine_only=True).fine


def _between(path: MetaPath, graph: Any) -> list[str]:
    return [step.end for step in path.route(graph)[:-1]]
