"""Items as a sequence sees them and as a graph sees them: one table of both, and the contrast of
the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.augment.latent import Augmenter
from recgraph.config import Config, PartConfig, Search
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.data.batches import SequenceBatch
from recgraph.data.item_features import FeatureWish
from recgraph.data.part import Part
from recgraph.encoders.graph import ItemGraph
from recgraph.models.base import PathKey, Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.views import MetaPaths
from recgraph.registry import part
from recgraph.sparse.ragged import Ragged


class ItemTable(Config):
    """What the vectors of items are made of, beside one of each item's own."""

    features: Annotated[
        FeatureWish,
        Field(description="columns of the item features: names or {name, kind}, or 'all'"),
    ] = ()
    id_embedding: Annotated[
        bool,
        Field(
            description="with features: whether items in training also have vectors of their own"
        ),
    ] = True
    id_dropout: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="with features: the share of items embedded without these, anew each step",
        ),
        Search(0.0, 0.9, step=0.1),
    ] = 0.0
    graph: Annotated[
        PartConfig | None,
        part("item_graph"),
        Field(description="adds to the vector of an item what a graph makes of those of all items"),
    ] = None
    graph_weight: Annotated[
        float,
        Field(ge=0, description="weight of the contrast of an item's own vector with its graph's"),
    ] = 0.0
    contrast: Annotated[Contrast, Field(description="that contrast")] = Contrast(
        objective="info_nce", similarity="cosine", temperature=0.2
    )
    candidates: Annotated[
        Literal["batch", "all"],
        Field(
            description="the graph's vectors that an item is told apart from: of the items of the batch, or of all"
        ),
    ] = "batch"
    augmenter: Annotated[
        PartConfig | None,
        part("augmenter"),
        Field(description="a learned second view of the graph's vectors"),
    ] = None

    @property
    def reads_typed_graph(self) -> bool:
        """Whether the graph is made of a typed graph beside the log."""
        return self.graph is not None and bool(self.graph.member.reads_graph)


class ItemTables(NamedTuple):
    """Attributes: ``own`` and ``table``, [n_items + 1, D] with the masked item first, before and
    after the graph's vectors are added; ``related``, these, [n_items, D]."""

    own: Tensor
    table: Tensor
    related: Tensor


class RelatedItems(nn.Module):
    """``v_i = e_i + g_i``: the vector of an item is its own and what a graph makes of those of all
    items.

    Both are views of the item, one from the sequences that it occurs in and one from the items that
    it is related to. ``items``, their contrast over the distinct items of a batch, takes e as
    anchors and g as candidates; with an augmenter it has a second addend, with ``augmenter(g)`` in
    the place of g.

    Source: ours, of parts that are published: propagation (LightGCN, SIGIR 2020), meta-path views
    (MEOW, SDM 2023), learned augmenters (MCLRec, SIGIR 2023). GCL4SR (IJCAI 2022) and SelfGNN
    (SIGIR 2024) also contrast a sequence's view with a graph's, of users.

    Raises:
        ValueError: the graph needs what the space does not have.
    """

    def __init__(self, settings: ItemTable, hidden_dim: int, space: Space) -> None:
        super().__init__()
        assert settings.graph is not None
        kwargs: dict[str, Any] = {"n_items": space.n_items, "hidden_dim": hidden_dim}
        if settings.reads_typed_graph:
            if not isinstance(space, GraphSpace):
                raise ValueError(
                    f"items.graph = {settings.graph.part_name!r} needs a typed graph: build(GraphSpace(...))"
                )
            kwargs["graph"] = space.graph
        self.settings = settings
        self.graph: ItemGraph = settings.graph.build(**kwargs)
        self.contrast: ContrastiveTerm | None = None
        self.augmenter: Augmenter | None = None
        if settings.graph_weight:
            self.contrast = ContrastiveTerm(settings.contrast, dim=hidden_dim)
            if settings.augmenter is not None:
                self.augmenter = settings.augmenter.build(hidden_dim=hidden_dim)

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
        related = self.graph(own[1:], generator)
        return ItemTables(own, torch.cat([own[:1], own[1:] + related]), related)

    def path_weights(self) -> dict[PathKey, float]:
        """The weight of each meta-path of a graph that has some."""
        if isinstance(self.graph, MetaPaths):
            return self.graph.path_weights()
        return {}

    def prepare(self, batch: SequenceBatch) -> None:
        """Tell the distinct items of a batch on the host: an accelerator would have to say how many
        they are.
        """
        if self.contrast is not None:
            items = torch.unique(batch.contrast_targets)
            batch.drawn["items"] = [Ragged.from_lengths(items, torch.tensor([len(items)]))]

    def loss(self, batch: SequenceBatch, tables: ItemTables) -> Tensor:
        """``items``, of the items that follow the contrasted rows of all ranks, each once; all
        ranks compute it.
        """
        assert self.contrast is not None
        if "items" in batch.drawn:
            tokens = batch.drawn["items"][0].values
        else:
            tokens = torch.unique(batch.contrast_targets)
        ids = tokens - 1
        anchors = tables.own.index_select(0, tokens)
        candidates = tables.related
        kwargs: dict[str, Any] = {"generator": self.contrast.stream(batch.generators)}
        if self.settings.candidates == "all":
            kwargs["positives"] = ids
        else:
            candidates = candidates.index_select(0, ids)
            kwargs["ids_b"] = ids
        views = [candidates]
        if self.augmenter is not None:
            views.append(self.augmenter(candidates, None, batch.generators["augmenters"]))
        losses = [self.contrast(anchors, view, ids, **kwargs) for view in views]
        return torch.stack(losses).sum()
