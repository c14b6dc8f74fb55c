"""The fine view of items over meta-paths, as the vectors that the items of another model get from one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recgraph.encoders.item_graphs import ItemGraph
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import HoldsGraph, tables_of
from recgraph.models.heterogeneous.paths import MetaPathInputs, read_graph
from recgraph.models.heterogeneous.recommender import MetaPathRecommenderConfig
from recgraph.models.heterogeneous.settings import SIDES, choose_paths
from recgraph.models.heterogeneous.views import MetaPathViews

#: items most similar to each that a round trip to users keeps
TOP_K = 20


class MetaPaths(HoldsGraph, ItemGraph):
    """MEOW's fine view of items (SDM 2023, section 4), without activations as :class:`MEOWRec` has it.

    ``g = sum_P beta_P A_P (x + sum_t mean_t e)`` over the meta-paths P of items (item-genre-item, item-user-item):
    ``A_P`` is P's adjacency, ``mean_t`` is over the nodes of type t that P reaches, of learned vectors e, and beta is a
    softmax of one learned weight a path.

    Args:
        n_items, hidden_dim: see :class:`recgraph.encoders.item_graphs.ItemGraph`; D is ``hidden_dim``.
        graph: of the training part; it is saved with the model.
        metapaths: from items to items; None: relations of items, and all round trips to another type.
        top_k: of round trips to users, the k items most similar to each by PathSim.
        dropout: of the means.
    """

    reads_graph: ClassVar[bool] = True

    def __init__(
        self,
        n_items: int,
        hidden_dim: int,
        graph: HeteroGraph,
        metapaths: Sequence[str] | None = None,
        top_k: int | None = TOP_K,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        item, (paths, config) = SIDES[1], _chosen(graph, metapaths, top_k)
        self._inputs = read_graph(graph, item, paths, {item: None})
        self.views = MetaPathViews(self._inputs, hidden_dim, hidden_dim, dropout, config, "light")
        reached = {name for path in self._inputs.paths for name, _ in path.contexts} - {item}
        self.others = tables_of(graph, reached, hidden_dim)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        inputs: MetaPathInputs = self._placed(self._inputs)
        hidden = {name: table.weight for name, table in self.others.items()}
        return self.views.fine(inputs, {SIDES[1]: x, **hidden}, None, generator)  # type: ignore[dict-item]

    def path_weights(self) -> dict[PathKey, float]:
        """beta of each path."""
        weights = self.views.weights_of_views().tolist()
        return {PathKey(SIDES[1], path.name): weight for path, weight in zip(self._inputs.paths, weights, strict=True)}


def _chosen(
    graph: HeteroGraph, metapaths: Sequence[str] | None, top_k: int | None
) -> tuple[tuple[MetaPath, ...], MetaPathRecommenderConfig]:
    """The paths, and the settings of their views."""
    given = None if metapaths is None else tuple(metapaths)
    config = MetaPathRecommenderConfig.of({"item_metapaths": given, "top_k": top_k, "twin": "none"})
    return choose_paths(graph, SIDES[1], given, config), config
