"""Items as a sequence sees them and as a graph sees them: one table of both, and the contrast of the two."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.data.batches import SequenceBatch
from recgraph.data.part import Part
from recgraph.encoders.item_graphs import ItemGraph
from recgraph.encoders.kept import Kept
from recgraph.models.base import PathKey, Space
from recgraph.models.contrast import ContrastConfig, contrastive_term, stream
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.item_graph import MetaPaths
from recgraph.models.sequence.config import SequenceConfig
from recgraph.sparse.ragged import Ragged


class ItemContrastConfig(ContrastConfig):
    """Settings of the contrast of an item's own vector with that from its graph (``item_contrast_options``)."""

    objective: Annotated[
        str, Field(description="how anchors and candidates are chosen, a name of the registry's kind 'objective'")
    ] = "info_nce"
    similarity: Annotated[Literal["dot", "cosine"], Field(description="of the contrast")] = "cosine"
    temperature: Annotated[float, Field(gt=0, description="of the similarities")] = 0.2
    candidates: Annotated[
        Literal["batch", "all"],
        Field(description="the graph's vectors that an item is told apart from: of the items of the batch, or of all"),
    ] = "batch"
    augmenter: Annotated[
        str | None,
        Field(description="a learned second view of the graph's vectors, a name of the registry's kind 'augmenter'"),
    ] = None
    augmenter_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the augmenter")]


class ItemTables(NamedTuple):
    """Attributes: ``own`` and ``table``, [n_items + 1, D] with the masked item first, before and after the graph's
    vectors are added; ``related``, these, [n_items, D]."""

    own: Tensor
    related: Tensor
    table: Tensor


class RelatedItems(nn.Module):
    """``v_i = e_i + g_i``: the vector of an item is its own and what a graph makes of those of all items.

    Both are views of the item, one from the sequences that it occurs in and one from the items that it is related to.
    ``items``, their contrast over the distinct items of a batch, takes e as anchors and g as candidates; with an
    augmenter it has a second addend, with ``augmenter(g)`` in the place of g.

    Source: ours, of parts that are published: propagation (LightGCN, SIGIR 2020), meta-path views (MEOW, SDM 2023),
    learned augmenters (MCLRec, SIGIR 2023). GCL4SR (IJCAI 2022) and SelfGNN (SIGIR 2024) also contrast a sequence's
    view with a graph's, of users.

    Raises:
        ValueError: the graph needs what the space does not have, or the augmenter reads more than vectors.
    """

    def __init__(self, config: SequenceConfig, space: Space) -> None:
        super().__init__()
        given: dict[str, Any] = {"n_items": space.n_items, "hidden_dim": config.hidden_dim}
        if reads_typed_graph(config):
            if not isinstance(space, GraphSpace):
                raise ValueError(
                    f"item_graph = {config.item_graph!r} needs a typed graph with the interactions: "
                    "build(GraphSpace(...)), as rg.fit does"
                )
            given["graph"] = space.graph
        assert config.item_graph is not None
        spec = {"name": config.item_graph, **config.item_graph_options}
        self.graph: ItemGraph = registry.make("item_graph", spec, **given)
        self.settings = ItemContrastConfig.of(config.item_contrast_options)
        self.contrast = contrastive_term(self.settings, config.hidden_dim) if config.item_contrast else None
        self.augmenter = self._make_augmenter(config.hidden_dim) if config.item_contrast else None
        self._made: Kept[ItemTables] = Kept()

    def _make_augmenter(self, dim: int) -> Any:
        name = self.settings.augmenter
        if name is None:
            return None
        made = registry.make("augmenter", {"name": name, **self.settings.augmenter_options}, hidden_dim=dim)
        return made

    def setup(self, train: Part) -> None:
        """Show the training part to the graph."""
        self.graph.connect(train.items)

    def tables(self, own: Tensor, batch: SequenceBatch | None) -> ItemTables:
        """The tables of tokens.

        Args:
            own: [n_items + 1, D].
            batch: whose generators draw dropout; needed in training mode.
        """
        generator = None if batch is None else batch.generators["item_graph"]

        def make() -> ItemTables:
            related = self.graph(own[1:], generator)
            return ItemTables(own, related, torch.cat([own[:1], own[1:] + related]))

        return self._made.get(self.training, lambda: (own, *self.graph.parameters(), *self.graph.buffers()), make)

    def path_weights(self) -> dict[PathKey, float]:
        """The weight of each meta-path of a graph that has some."""
        return self.graph.path_weights() if isinstance(self.graph, MetaPaths) else {}

    def sharing(self) -> AbstractContextManager[None]:
        """The block in which the tables are computed once: one step on one batch."""
        return self._made.sharing()

    def prepare(self, batch: SequenceBatch) -> None:
        """Tell the distinct items of a batch on the host: an accelerator would have to say how many they are."""
        if self.contrast is not None:
            items = torch.unique(batch.contrast_targets)
            batch.drawn["items"] = [Ragged.from_lengths(items, torch.tensor([len(items)]))]

    def loss(self, batch: SequenceBatch, tables: ItemTables) -> Tensor:
        """``items``, of the items that follow the contrasted rows of all ranks, each once; all ranks compute it."""
        assert self.contrast is not None
        tokens = batch.drawn["items"][0].values if "items" in batch.drawn else torch.unique(batch.contrast_targets)
        anchors, ids, related = tables.own.index_select(0, tokens), tokens - 1, tables.related
        if self.settings.candidates == "all":
            rows: dict[str, Tensor] = {"positives": ids}
        else:
            related, rows = related.index_select(0, ids), {"ids_b": ids}
        views = [related]
        if self.augmenter is not None:
            views.append(self.augmenter(related, None, batch.generators["augmenters"]))
        draw = stream(self.contrast, batch.generators)
        losses = [self.contrast(anchors, view, ids, **rows, generator=draw) for view in views]
        return torch.stack(losses).sum()


def reads_typed_graph(config: SequenceConfig) -> bool:
    """Whether the item graph is made of a typed graph beside the log.

    Raises:
        ValueError: no such graph; or there are item features too, which are not read with a typed graph.
    """
    if config.item_graph is None:
        return False
    reads: bool = registry.load("item_graph", config.item_graph).reads_graph
    return reads
