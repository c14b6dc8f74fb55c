"""The coarse and the fine view of nodes over meta-paths; the fine view alone is a graph of
items.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import PartConfig
from recgraph.encoders.base import dropout_generator
from recgraph.encoders.graph import ItemGraph, Propagation, SemanticAttention, ViewWeights
from recgraph.graph.contexts import Layered, Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import HoldsGraph, tables_of
from recgraph.models.heterogeneous.paths import (
    MetaPathInputs,
    PathInputs,
    Paths,
    Twins,
    read_graph,
    side_paths,
)
from recgraph.rng import Generators, dropout
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import Operator, spmm

#: what draws dropout
Draw = torch.Generator | None


class BothViews(NamedTuple):
    """[N, D] each: ``coarse``, and ``fine``, also the embedding."""

    coarse: Tensor
    fine: Tensor


class MetaPathViews(nn.Module):
    """The coarse and the fine view of the nodes of one type, from vectors h of all types.

    - coarse: ``GCN(h_target)`` over the mean of the paths' normalised adjacencies;
    - fine: for each path P, ``x_P = ELU(h_target + dropout(sum_t W_{P,t} mean_{t reached along P}
      h))`` goes through the same GCN over P's own adjacency. Semantic attention joins these views
      and their twins, each of unit length.

    :meth:`head`, shared by both: ``L2(tanh(W z + b))``.

    Source: MEOW (SDM 2023), section 4; initial weights and the dropout of the attention as in its
    published code.

    Without an encoder it is for vectors that are themselves learned, as in LightGCN: ``x_P =
    h_target + sum_t mean_t h`` and one product with each adjacency, without activations; the head
    is L2 alone, and attention is the softmax of one learned weight a view.

    Args:
        inputs: gives the number of paths and their contexts.
        hidden_dim: width of h.
        dim: D; without an encoder the width of h.
        dropout: of contexts, GCN and attention.
        twins: the second view of each path.
        encoder: of graphs, such as a GCN; None: products with adjacencies alone.
        projection_dim: width of the head; None: D.
    """

    def __init__(
        self,
        inputs: MetaPathInputs,
        hidden_dim: int,
        dim: int,
        dropout: float,
        twins: Twins,
        encoder: PartConfig | None,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.dropout, self.linear = dropout, encoder is None
        self.attention: ViewWeights | SemanticAttention
        if encoder is None:
            views_per_path = 1 if twins.kind == "none" else 2
            self.encoder = Propagation()
            self.attention = ViewWeights(views_per_path * len(inputs.paths))
        else:
            self.context_layers = nn.ModuleList(
                nn.ModuleList(nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in path.contexts)
                for path in inputs.paths
            )
            self.encoder = encoder.build(
                in_dim=hidden_dim, hidden_dim=dim, out_dim=dim, dropout=dropout
            )
            self.attention = SemanticAttention(dim, dropout=dropout)
            self.project = nn.Linear(dim, projection_dim or dim)
        latent = inputs.paths if twins.kind == "latent" else ()
        self.augmenters = nn.ModuleList(twins.augmenter.build(hidden_dim=dim) for _ in latent)

    def fine(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: Draw = None,
        attention_generator: Draw = None,
    ) -> Tensor:
        """[N, D]: the fine view, before the head.

        Args:
            inputs: P paths.
            hidden: node type -> [N_type, hidden_dim].
            masked: the target's vectors from masked features, in the same shape; None without
                masked twins.
            generator: draws dropout; required in training mode where dropout is above 0.
            attention_generator: draws the dropout of the attention, behind which ranks compute the
                same.
        """
        views = self._views(inputs, hidden, masked, generator)
        fine: Tensor = self.attention(views, attention_generator)
        return fine

    def coarse(
        self, inputs: MetaPathInputs, hidden: Mapping[str, Tensor], generator: Draw = None
    ) -> Tensor:
        """[N, D]: the coarse view, before the head; the arguments are those of :meth:`fine`."""
        adjacencies = [path.adjacency for path in inputs.paths]
        coarse: Tensor = self.encoder(adjacencies, hidden[inputs.target], generator)
        return coarse

    def addends(
        self, inputs: MetaPathInputs, hidden: Mapping[str, Tensor], masked: Tensor | None
    ) -> dict[PathKey, tuple[float, Tensor]]:
        """Meta-path -> (its attention, [N, D] its addend of the fine view), its twin's included; in
        evaluation mode.
        """
        views = self._views(inputs, hidden, masked, None)
        self.attention(views)
        betas = self.attention.last
        assert isinstance(betas, Tensor)
        views_per_path = len(views) // len(inputs.paths)
        addends = {}
        for number, path in enumerate(inputs.paths):
            places = slice(number * views_per_path, (number + 1) * views_per_path)
            weights = betas[places]
            parts = [weight * z for weight, z in zip(weights, views[places], strict=True)]
            addends[PathKey(inputs.target, path.name)] = (
                float(weights.sum()),
                torch.stack(parts).sum(0),
            )
        return addends

    def _views(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: Draw,
    ) -> list[Tensor]:
        """[N, D] each: the view of each path, followed by its twin where there is one."""
        h = hidden[inputs.target]
        views = []
        means: dict[int, Tensor] = {}
        for number, path in enumerate(inputs.paths):
            context = self._context(number, path, hidden, means)
            if path.contexts:  # a path without one draws nothing
                draw = dropout_generator(self, self.dropout, generator)
                context = dropout(context, self.dropout, draw)
            z = self._path(path.adjacency, h + context, generator)
            views.append(z)
            if masked is not None:
                views.append(self._path(path.masked, masked + context, generator))
            elif self.augmenters:
                views.append(self.augmenters[number](z, generator=generator))
        if self.linear:
            return views
        return [unit_length(z) for z in views]

    def _path(self, adjacency: Operator | Layered, x: Tensor, generator: Draw) -> Tensor:
        if not self.linear:
            x = F.elu(x)
        z: Tensor = self.encoder((adjacency,), x, generator)
        return z

    def _context(
        self, number: int, path: PathInputs, hidden: Mapping[str, Tensor], means: dict[int, Tensor]
    ) -> Tensor:
        """[N, D]: the context of a path, [] where it has none; ``means`` keeps what paths that
        begin alike share.
        """
        parts = []
        for step, (node_type, reached) in enumerate(path.contexts):
            if id(reached) not in means:
                means[id(reached)] = _mean(reached, hidden[node_type])
            part = means[id(reached)]
            if not self.linear:
                part = part @ self.context_layers[number][step].weight.t()  # type: ignore[index]
            parts.append(part)
        if not parts:
            return next(iter(hidden.values())).new_zeros(())
        return reduce(torch.add, parts)

    def head(self, z: Tensor) -> Tensor:
        """[N, D]: the projection that the contrast compares."""
        if not self.linear:
            z = torch.tanh(self.project(z))
        return unit_length(z)


def _mean(reached: Csr | Walked, h: Tensor) -> Tensor:
    """[N, D]: the mean over the distinct nodes reached, 0 where there are none."""
    if isinstance(reached, Walked):
        return reached.mean(h)
    return spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)


class MetaPaths(HoldsGraph, ItemGraph):
    """MEOW's fine view of items (SDM 2023, section 4), without activations as :class:`MEOWRec` has
    it.

    ``g = sum_P beta_P A_P (x + sum_t mean_t e)`` over the meta-paths P of items (item-genre-item,
    item-user-item): ``A_P`` is P's adjacency, ``mean_t`` is over the nodes of type t that P
    reaches, of learned vectors e, and beta is a softmax of one learned weight a path.

    Args:
        n_items, hidden_dim: see :class:`recgraph.encoders.graph.ItemGraph`; D is ``hidden_dim``.
        graph: of the training part; it is saved with the model.
        metapaths: from items to items.
        top_k: of paths through users.
        dropout: of the means.
    """

    reads_graph: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        hidden_dim: int,
        graph: HeteroGraph,
        metapaths: Annotated[
            tuple[str, ...] | None,
            Field(
                description="from items to items; none: relations of items, all round trips to another type"
            ),
        ] = None,
        top_k: Annotated[
            int | None,
            Field(
                ge=1,
                description="of round trips to users, the k items most similar to each by PathSim",
            ),
        ] = 20,
        dropout: Annotated[float, Field(ge=0, lt=1, description="of the means")] = 0.1,
    ) -> None:
        super().__init__()
        paths = side_paths(graph, "item", metapaths, Paths(top_k=top_k, normalisation="symmetric"))
        generators = Generators(0)  # nothing is drawn
        self._inputs = read_graph(
            graph,
            "item",
            paths=paths,
            features={"item": None},
            generators=generators,
            ties=generators["ties"],
        )
        self.views = MetaPathViews(
            self._inputs,
            hidden_dim=hidden_dim,
            dim=hidden_dim,
            dropout=dropout,
            twins=Twins(kind="none"),
            encoder=None,
        )
        self.others = tables_of(graph, self._inputs.context_types - {"item"}, hidden_dim)

    def forward(self, x: Tensor, generator: Draw = None) -> Tensor:
        inputs: MetaPathInputs = self._placed(self._inputs)
        hidden = {"item": x}
        for name, table in self.others.items():
            hidden[name] = table.weight  # type: ignore[assignment]
        return self.views.fine(inputs, hidden, None, generator, generator)

    def path_weights(self) -> dict[PathKey, float]:
        """beta of each path."""
        weights = torch.softmax(self.views.attention.logits, 0).tolist()  # type: ignore[arg-type]
        return {
            PathKey("item", path.name): weight
            for path, weight in zip(self._inputs.paths, weights, strict=True)
        }
