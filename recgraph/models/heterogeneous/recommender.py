"""MEOW and AdaMEOW as recommenders: users and items as two target types, propagated over
interactions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import augment
from recgraph.config import PartConfig, Search
from recgraph.contrast.prototypes import PrototypesConfig, proto_nce
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import ModelConfig, PathKey, Phase, Space, UpdatedBy
from recgraph.models.collaborative.lightgcn import LightGCN, LightGCNConfig
from recgraph.models.heterogeneous.base import GraphSpace, HoldsGraph, evaluating, tables_of
from recgraph.models.heterogeneous.meow import MEOWLoss
from recgraph.models.heterogeneous.paths import SIDES, MetaPathInputs, Paths, Twins, read_sides
from recgraph.models.heterogeneous.views import MetaPathViews
from recgraph.models.reading import EdgeReading, Reading
from recgraph.registry import part
from recgraph.rng import Generators, derive
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Normalisation
from recgraph.sparse.spmm import spmm


class SidePaths(Paths):
    """The meta-paths of users or of items."""

    top_k: Annotated[
        int | None,
        Field(
            ge=1,
            description="keep the k nodes most similar to each by PathSim, of round trips to the other side; paths "
            "through other types are factorised, with full counts, and keep all",
        ),
        Search(low=5, high=100, log=True),
    ] = 20
    normalisation: Annotated[Normalisation, Field(description="of the paths' adjacencies")] = (
        "symmetric"
    )


class SideTwins(Twins):
    """The second view of each meta-path of users or of items."""

    augmentations: Annotated[
        tuple[Annotated[PartConfig, part("augmentation")], ...],
        Field(
            description="of the edges of masked twins, drawn once; the ratio of edge_drop may be one a path, of the "
            "users' paths, then the items'"
        ),
    ] = (augment.EdgeDrop(),)
    node_mask: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="of masked twins: the share of nodes whose own vectors are masked, anew at each step, so that "
            "they are embedded through their relations alone",
        ),
        Search(0.0, 0.6),
    ] = 0.3


class MetaPathRecommenderConfig(LightGCNConfig):
    user_metapaths: Annotated[
        tuple[str, ...] | None,
        Field(
            description="paths from users to users; none: relations of users, and all round trips to another type"
        ),
    ] = None
    item_metapaths: Annotated[
        tuple[str, ...] | None,
        Field(
            description="paths from items to items; none: relations of items, and all round trips to another type"
        ),
    ] = None
    paths: Annotated[SidePaths, Field(description="how the matrices of meta-paths are made")] = (
        SidePaths()
    )
    view_encoder: Annotated[
        PartConfig | None,
        part("encoder"),
        Field(
            description="of the views, over graphs, as MEOW's gcn; none: products with adjacencies, as LightGCN"
        ),
    ] = None
    twins: Annotated[SideTwins, Field(description="the second view of each meta-path")] = (
        SideTwins()
    )
    projection_dim: Annotated[
        int | None,
        Field(ge=1, description="width of the projection of a view encoder; none: hidden_dim"),
    ] = None
    recommend_by: Annotated[
        Literal["interactions", "fine", "both"],
        Field(
            description="the vectors that scores are made of: propagated from the nodes' own vectors, from their fine "
            "view, or from the sum"
        ),
        Search(choices=("interactions", "fine", "both")),
    ] = "both"
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of contexts and attention"), Search(0.0, 0.5)
    ] = 0.1
    contrast_weight: Annotated[
        float,
        Field(ge=0, description="weight of the contrast of the views"),
        Search(1e-3, 0.5, log=True),
    ] = 0.005


class Side(NamedTuple):
    """The contrasted nodes of one side, n users or items of a batch: what contrasts them, their
    indices ``ids`` [n] int64, and their two projected views ``own`` and ``fine`` [n, D]."""

    contrast: ContrastiveTerm
    ids: Tensor
    own: Tensor
    fine: Tensor


class MetaPathRecommender(HoldsGraph, LightGCN):
    """Base of MEOW and AdaMEOW as recommenders.

    Users and items are two target types of a typed graph, each with its own meta-paths
    (user-item-user, friends, occupation; item-user-item, genres, tags). With E the vectors of users
    and items and one for each node of the other types:

    - :class:`MetaPathViews` makes the fine view of a side from E. Its twin masks the own vectors of
      a share of the nodes (``twins.node_mask``; drawn at each step) and a share of the edges (drawn
      once), so that nodes are also embedded through their neighbours;
    - LightGCN propagates both E and the fine views over the graph of interactions;
    - terms: ``rec`` and ``l2`` of LightGCN, on the vectors of ``recommend_by``; ``info``, the
      weighted InfoNCE of the two, summed over the users and the items of the batch.

    With ``contrast_weight=0, recommend_by="interactions"`` it is LightGCN. A node without training
    interactions has no vector of its own (it would never be trained), but its relations give it a
    fine view: new items with features can be recommended unless ``recommend_by="interactions"``.

    Source: the views and weights of MEOW (SDM 2023) and AdaMEOW (TKDE 2024), which embed nodes for
    classification; users and items, the propagation and the recommendation loss are ours, after
    LightGCN (SIGIR 2020).
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathRecommenderConfig
    reads_graph: ClassVar[bool] = True
    reads_distinct: ClassVar[bool] = True
    updated_by: ClassVar[UpdatedBy | None] = (
        None  # a new log has no relations of its users and items
    )

    def _build(self, space: Space) -> None:
        if not isinstance(space, GraphSpace):
            raise ValueError(
                f"{type(self).__name__} needs a typed graph with the interactions: build(GraphSpace(...))"
            )
        super()._build(space)
        config, dim, graph = self.config, self.config.hidden_dim, space.graph
        self._inputs = self._read(graph, self.seed)
        self.views = nn.ModuleList(
            MetaPathViews(
                inputs,
                hidden_dim=dim,
                dim=dim,
                dropout=config.dropout,
                twins=config.twins,
                encoder=config.view_encoder,
                projection_dim=config.projection_dim,
            )
            for inputs in self._inputs
        )
        # weights were trained with these masks: loading the weights draws the same masks again
        self.register_buffer("mask_seed", torch.tensor(self.seed))
        users, items = self._inputs
        reached = users.context_types | items.context_types
        self.others = tables_of(graph, reached - set(SIDES), dim)
        self._features: dict[str, Tensor | Csr] = {}
        self.feature_layers = nn.ModuleDict()
        for side in SIDES:
            x = graph.features(side)
            if x is not None:
                self._features[side] = x
                self.feature_layers[side] = nn.Linear(x.shape[1], dim)
        width = config.projection_dim or dim
        self.contrasts = nn.ModuleList(
            ContrastiveTerm(config.contrast, dim=width, if_none="zero") for _ in SIDES
        )
        self.register_buffer("known_items", torch.zeros(space.n_items, dtype=torch.bool))

    known_items: Tensor
    mask_seed: Tensor

    def _read(self, graph: HeteroGraph, seed: int) -> tuple[MetaPathInputs, ...]:
        """The inputs of the views of both sides; the seed draws the masks of their twins."""
        config = self.config
        return read_sides(
            graph,
            metapaths=(config.user_metapaths, config.item_metapaths),
            paths=config.paths,
            twins=config.twins,
            generators=Generators(derive(seed, "graph views")),
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        seed_before = int(self.mask_seed)
        super()._load_from_state_dict(state_dict, prefix, *args)
        seed = int(self.mask_seed)
        if seed != seed_before:
            assert isinstance(self.space, GraphSpace)
            self._inputs = self._read(self.space.graph, seed)
            self._moved = {}

    def setup(self, train: Part) -> None:
        super().setup(train)
        self.known_items.copy_(train.item_counts() > 0)

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "info": self.config.contrast_weight}
        return (Phase("model", ("model",), terms),)

    def nodes(self) -> Tensor:
        own = self.own_vectors()
        fine = None
        if self._reads_fine:
            with evaluating(self.views):
                fine = self.encoder(self.fine_vectors(own, None))
        return self._scored(self.encoder(own), fine)

    @property
    def _reads_fine(self) -> bool:
        return bool(self.config.recommend_by != "interactions")

    def _scored(self, own: Tensor, fine: Tensor | None) -> Tensor:
        """The vectors that scores are made of; own and fine are propagated."""
        if fine is None or not self._reads_fine:
            return own
        if self.config.recommend_by == "fine":
            return fine
        return own + fine

    def can_rank(self, query: Query) -> Tensor:
        return super().can_rank(query) | self._related(query, self._ranked()[0])

    def reading(self, query: Query) -> Reading:
        if self.knows(query):
            return EdgeReading(self, query, self._reads_fine)
        return super().reading(query)

    def start(self) -> Tensor:
        own = self.own_vectors()
        if not self._reads_fine:
            return own
        with evaluating(self.views):
            return self._scored(own, self.fine_vectors(own, None))

    def _fold_in(self, query: Query, nodes: Tensor) -> Tensor:
        """Users without a history but with relations are embedded through these."""
        vectors = super()._fold_in(query, nodes)
        related_mask = self._related(query, nodes)
        return torch.where(related_mask[:, None], nodes[query.users.clamp(min=0)], vectors)

    def _related(self, query: Query, nodes: Tensor) -> Tensor:
        """[B] bool: the users without a history whose vector is not zero."""
        related_mask: Tensor = nodes[query.users.clamp(min=0)].any(1)
        return related_mask & (query.users >= 0) & (query.history.lengths == 0)

    def own_vectors(self) -> Tensor:
        """[n_users + n_items, D]: the nodes' own vectors; zeros where they could not be learned."""
        known_mask = torch.cat([self.known_users, self.known_items])
        own = self.embedding.weight * known_mask[:, None]
        for side, layer in self.feature_layers.items():
            assert isinstance(layer, nn.Linear)
            x = self._placed(self._features[side])
            if isinstance(x, Csr):
                vectors = spmm(x, layer.weight.t()) + layer.bias
            else:
                vectors = layer(x)
            start = self._start_of(side)
            rows = torch.arange(start, start + len(vectors), device=own.device)
            own = own.index_add(0, rows, vectors)
        return own

    def _start_of(self, side: str) -> int:
        """Where the users, or the items, begin among the nodes."""
        return {"user": 0, "item": self.space.n_users}[side]

    def fine_vectors(self, own: Tensor, generators: Generators | None) -> Tensor:
        """[n_users + n_items, D]: the fine views of both sides."""
        generator = None if generators is None else generators["dropout"]
        fine = []
        for views, inputs, hidden, masked in self.read_views(own, generators):
            fine.append(views.fine(inputs, hidden, masked, generator, generator))
        return torch.cat(fine)

    def read_views(
        self, own: Tensor, generators: Generators | None
    ) -> Iterator[tuple[MetaPathViews, MetaPathInputs, dict[str, Tensor], Tensor | None]]:
        """The module of the fine view of each side, and its arguments."""
        users, items = torch.split(own, [self.space.n_users, self.space.n_items])
        hidden = {"user": users, "item": items}
        for name, table in self.others.items():
            assert isinstance(table, nn.Embedding)
            hidden[name] = table.weight
        for inputs_on_host, views in zip(self._inputs, self.views, strict=True):
            assert isinstance(views, MetaPathViews)
            inputs: MetaPathInputs = self._placed(inputs_on_host)
            yield views, inputs, hidden, self._masked(hidden[inputs.target], generators)

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The attention of the fine views, in evaluation mode."""
        weights = {}
        with evaluating(self.views):
            for views, inputs, hidden, masked in self.read_views(self.own_vectors(), None):
                for key, (weight, _) in views.addends(inputs, hidden, masked).items():
                    weights[key] = weight
        return weights

    @torch.no_grad()
    def score_parts(self, query: Query, items: Tensor) -> dict[PathKey, Tensor]:
        """The Shapley values of own vectors and of meta-paths in the inner products of users and
        items.

        The fine view is a sum over paths and propagation is linear: the vectors x of a user and y
        of an item have addends x_a, y_a of path a, whose part is ``(x_a . y + x . y_a) / 2``. The
        parts sum to the score; one of cosines has none.
        """
        if self.loss.cosine:
            return {}
        addends = self._addends()
        users = self._user_vectors(query, torch.cat(list(addends.values()), 1))
        xs = users.view(len(users), len(addends), -1).unbind(1)
        ys = [nodes[self.space.n_users + items] for nodes in addends.values()]
        x, y = sum(xs), sum(ys)
        pairs = zip(addends, xs, ys, strict=True)
        return {key: (y @ a[:, :, None] + b @ x[:, :, None])[..., 0] / 2 for key, a, b in pairs}  # type: ignore

    def _addends(self) -> dict[PathKey, Tensor]:
        """[n_users + n_items, D] each: the addends of :meth:`nodes`, of own vectors and of each
        path.
        """
        own, by = self.own_vectors(), self.config.recommend_by
        addends = {}
        if by != "fine":
            addends[PathKey()] = self.encoder(own)
        if by == "interactions":
            return addends
        with evaluating(self.views):
            for views, inputs, hidden, masked in self.read_views(own, None):
                start = self._start_of(inputs.target)
                for key, (_, addend) in views.addends(inputs, hidden, masked).items():
                    of_all = torch.zeros_like(own)
                    of_all[start : start + len(addend)] = addend
                    addends[key] = self.encoder(of_all)
        return addends

    def _masked(self, h: Tensor, generators: Generators | None) -> Tensor | None:
        """[n, D]: the own vectors of a side, a share of them 0 in training; None without masked
        twins.
        """
        if self.config.twins.kind != "masked":
            return None
        share: float = self.config.twins.node_mask
        if generators is None or not self.training or not share:
            return h
        uniform = torch.rand(
            len(h), 1, generator=generators["views"], device=h.device, dtype=h.dtype
        )
        return h * (uniform >= share)

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        vectors = self.own_vectors()
        own = self.encoder(vectors)
        fine = None
        losses: dict[str, Tensor] = {}
        contrasts = wanted - {"l2", "rec"}
        if contrasts or self._reads_fine:
            fine = self.encoder(self.fine_vectors(vectors, batch.generators))
        if contrasts:
            assert fine is not None
            users, items = self._sides(batch, own, fine)
            of_users = self.side_losses(batch, users, contrasts)
            of_items = self.side_losses(batch, items, contrasts)
            losses |= {name: of_users[name] + of_items[name] for name in of_users}
        if "l2" in wanted:
            losses["l2"] = self._l2(batch)
        if "rec" in wanted:
            losses["rec"] = self._rec(batch, self._scored(own, fine))
        return losses

    def _sides(self, batch: PairBatch, own: Tensor, fine: Tensor) -> list[Side]:
        """The projected views of the users and of the items of a batch, each node once."""
        sizes = [self.space.n_users, self.space.n_items]
        own_of_sides, fine_of_sides = torch.split(own, sizes), torch.split(fine, sizes)
        sides = []
        for number, ids in enumerate(batch.distinct()):
            views: Any = self.views[number]
            contrast: Any = self.contrasts[number]
            side = Side(
                contrast=contrast,
                ids=ids,
                own=views.head(own_of_sides[number].index_select(0, ids)),
                fine=views.head(fine_of_sides[number].index_select(0, ids)),
            )
            sides.append(side)
        return sides

    def side_losses(
        self, batch: PairBatch, side: Side, wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """The terms that are wanted of those that contrast the views of one side; ``info`` is one
        of them.
        """
        raise TypeError(f"{type(self).__name__} must define side_losses(batch, side, wanted)")


class MEOWRecConfig(MetaPathRecommenderConfig):
    contrast: Annotated[
        Contrast, Field(description="of a node's two views, and what both terms share")
    ] = Contrast(
        objective={"name": "info_nce", "count_positive": False}, weight="cluster", temperature=0.2
    )
    # of a batch's nodes of a side, of which the authors' hundreds would be clusters of a few nodes
    # each
    prototypes: Annotated[
        PrototypesConfig, Field(description="clusters of a side's fine views")
    ] = PrototypesConfig(n_clusters=(20, 60), iterations=10, restarts=1)
    proto_weight: Annotated[
        float,
        Field(ge=0, description="of ProtoNCE, relative to the contrast of the views"),
        Search(0.01, 2.0, log=True),
    ] = 0.1


class MEOWRec(MEOWLoss, MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted
    as in MEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative
    Samples (SDM 2023), for nodes with classes (:class:`MEOW`); for recommendation see
    :class:`MetaPathRecommender`. The terms ``info`` and ``proto`` are those of :class:`MEOWLoss`,
    summed over users and items, with the own vectors in the place of the coarse view. The batch's
    nodes of a side are clustered anew in each step.
    """

    Config: ClassVar[type[ModelConfig]] = MEOWRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        self._make_prototypes(self.config.projection_dim or self.config.hidden_dim)

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        proto = self.config.contrast_weight * self.config.proto_weight
        return (Phase("model", ("model",), {**phase.terms, "proto": proto}),)

    def side_losses(
        self, batch: PairBatch, side: Side, wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        prototypes = []
        if self.reads_clusters(wanted, side.contrast):
            prototypes = self.cluster(side.fine)  # step 1
        losses = {}
        if "info" in wanted:
            self.weigh_by_clusters(side.contrast, prototypes, ids=side.ids)  # step 2
            generator = side.contrast.stream(batch.generators)
            losses["info"] = side.contrast(  # step 3
                side.own, side.fine, ids_a=side.ids, generator=generator
            )
        if "proto" in wanted:
            losses["proto"] = proto_nce(  # step 4
                self.proto_contrast, anchors=side.own, prototypes=prototypes
            )
        return losses


class AdaMEOWRecConfig(MetaPathRecommenderConfig):
    contrast: Annotated[Contrast, Field(description="of a node's two views")] = Contrast(
        objective={"name": "info_nce", "weigh_positive": True}, weight="learned", temperature=0.2
    )


class AdaMEOWRec(MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted
    as in AdaMEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted
    Negative Samples (TKDE 2024, arXiv 2212.13847), for nodes with classes (:class:`AdaMEOW`); for
    recommendation see :class:`MetaPathRecommender`. The fine views are the anchors; all candidates,
    the positive too, are weighted by a network of each side.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWRecConfig

    def side_losses(
        self, batch: PairBatch, side: Side, wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        generator = side.contrast.stream(batch.generators)
        return {"info": side.contrast(side.fine, side.own, ids_a=side.ids, generator=generator)}
