"""MEOW and AdaMEOW as recommenders: users and items as two target types, propagated over interactions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import augment
from recgraph.config import PartConfig, Search
from recgraph.contrast.prototypes import PrototypesConfig, PrototypeSet, offer, proto_nce
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
    top_k: Annotated[
        int | None,
        Field(
            ge=1,
            description="keep the k nodes most similar to each by PathSim, of round trips to the other side; paths "
            "through other types are factorised, with full counts, and keep all",
        ),
        Search(low=5, high=100, log=True),
    ] = 20
    normalisation: Annotated[Normalisation, Field(description="of the paths' adjacencies")] = "symmetric"


class SideTwins(Twins):
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
        Field(description="paths from users to users; none: relations of users, and all round trips to another type"),
    ] = None
    item_metapaths: Annotated[
        tuple[str, ...] | None,
        Field(description="paths from items to items; none: relations of items, and all round trips to another type"),
    ] = None
    paths: Annotated[SidePaths, Field(description="how the matrices of meta-paths are made")] = SidePaths()
    view_encoder: Annotated[
        PartConfig | None,
        part("encoder"),
        Field(description="of the views, over graphs, as MEOW's gcn; none: products with adjacencies, as LightGCN"),
    ] = None
    twins: Annotated[SideTwins, Field(description="the second view of each meta-path")] = SideTwins()
    projection_dim: Annotated[
        int | None, Field(ge=1, description="width of the projection of a view encoder; none: hidden_dim")
    ] = None
    recommend_by: Annotated[
        Literal["interactions", "fine", "both"],
        Field(
            description="the vectors that scores are made of: propagated from the nodes' own vectors, from their fine "
            "view, or from the sum"
        ),
        Search(choices=("interactions", "fine", "both")),
    ] = "both"
    dropout: Annotated[float, Field(ge=0, lt=1, description="of contexts and attention"), Search(0.0, 0.5)] = 0.1
    contrast_weight: Annotated[
        float, Field(ge=0, description="weight of the contrast of the views"), Search(1e-3, 0.5, log=True)
    ] = 0.02


@dataclass(frozen=True)
class Side:
    """The contrasted nodes of one side: n users or items of a batch.

    Attributes:
        number: 0 of users, 1 of items.
        ids: [n] int64, their indices.
        own, fine: [n, D], the two projected views.
        batch: that they are of.
    """

    number: int
    ids: Tensor
    own: Tensor
    fine: Tensor
    batch: PairBatch


class MetaPathRecommender(HoldsGraph, LightGCN):
    """Base of MEOW and AdaMEOW as recommenders.

    Users and items are two target types of a typed graph, each with its own meta-paths (user-item-user, friends,
    occupation; item-user-item, genres, tags). With E the vectors of users and items and one for each node of the other
    types:

    - :class:`MetaPathViews` makes the fine view of a side from E. Its twin masks the own vectors of a share of
      the nodes (``twins.node_mask``; drawn at each step) and a share of the edges (drawn once), so that nodes are also
      embedded through their neighbours;
    - LightGCN propagates both E and the fine views over the graph of interactions;
    - terms: ``rec`` and ``l2`` of LightGCN, on the vectors of ``recommend_by``; ``info``, the weighted InfoNCE of the
      two, summed over the users and the items of the batch.

    With ``contrast_weight=0, recommend_by="interactions"`` it is LightGCN. A node without training interactions has no
    vector of its own (it would never be trained), but its relations give it a fine view: new items with features can be
    recommended unless ``recommend_by="interactions"``.

    Source: the views and weights of MEOW (SDM 2023) and AdaMEOW (TKDE 2024), which embed nodes for classification;
    users and items, the propagation and the recommendation loss are ours, after LightGCN (SIGIR 2020).
    """

    Config: ClassVar[type[ModelConfig]] = MetaPathRecommenderConfig
    reads_graph: ClassVar[bool] = True
    reads_distinct: ClassVar[bool] = True
    updated_by: ClassVar[UpdatedBy | None] = None  # a new log has no relations of its users and items

    def _build(self, space: Space) -> None:
        if not isinstance(space, GraphSpace):
            raise ValueError(f"{type(self).__name__} needs a typed graph with the interactions: build(GraphSpace(...))")
        super()._build(space)
        config, dim, graph = self.config, self.config.hidden_dim, space.graph
        assert self.seed is not None
        self._inputs = self._read(graph, self.seed)
        self.views = nn.ModuleList(
            MetaPathViews(inputs, dim, dim, config.dropout, config.twins, config.view_encoder, config.projection_dim)
            for inputs in self._inputs
        )
        # weights were trained with these masks: loading the weights draws the same masks again
        self.register_buffer("mask_seed", torch.tensor(self.seed))
        reached = {name for inputs in self._inputs for path in inputs.paths for name, _ in path.contexts}
        self.others = tables_of(graph, reached - set(SIDES), dim)
        self._features = {name: x for name in SIDES if (x := graph.features(name)) is not None}
        self.feature_layers = nn.ModuleDict({name: nn.Linear(x.shape[1], dim) for name, x in self._features.items()})
        width = config.projection_dim or dim
        self.contrasts = nn.ModuleList(ContrastiveTerm(config.contrast, dim=width, if_none="zero") for _ in SIDES)
        self.register_buffer("known_items", torch.zeros(space.n_items, dtype=torch.bool))

    known_items: Tensor
    mask_seed: Tensor

    def _read(self, graph: HeteroGraph, seed: int) -> tuple[MetaPathInputs, ...]:
        """The inputs of the views of both sides; the seed draws the masks of their twins."""
        config, drawn = self.config, Generators(derive(seed, "graph views"))
        return read_sides(graph, (config.user_metapaths, config.item_metapaths), config.paths, config.twins, drawn)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        drawn_with = int(self.mask_seed)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.config.twins.kind == "masked" and (seed := int(self.mask_seed)) != drawn_with:
            assert isinstance(self.space, GraphSpace)
            self._inputs, self._moved = self._read(self.space.graph, seed), ()

    def setup(self, train: Part) -> None:
        super().setup(train)
        self.known_items.copy_(train.item_counts() > 0)

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "info": self.config.contrast_weight}
        return (Phase("model", ("model",), terms),)

    def nodes(self) -> Tensor:
        own, fine = self.own_vectors(), None
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
        return own + fine if self.config.recommend_by == "both" else fine

    def can_rank(self, query: Query) -> Tensor:
        return super().can_rank(query) | self._related(query, self._kept_nodes())

    def reading(self, query: Query) -> Reading:
        return EdgeReading(self, query, self._reads_fine) if self.knows(query) else super().reading(query)

    def start(self) -> Tensor:
        own = self.own_vectors()
        with evaluating(self.views):
            return self._scored(own, self.fine_vectors(own, None) if self._reads_fine else None)

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
        for name, layer in self.feature_layers.items():
            assert self.space is not None
            start = 0 if name == "user" else self.space.n_users
            vectors = _transform(layer, self._placed(self._features[name]))
            own = own.index_add(0, torch.arange(start, start + len(vectors), device=own.device), vectors)
        return own

    def fine_vectors(self, own: Tensor, generators: Generators | None) -> Tensor:
        """[n_users + n_items, D]: the fine views of both sides."""
        generator = None if generators is None else generators["dropout"]
        read = self.read_views(own, generators)
        return torch.cat([views.fine(inputs, hidden, masked, generator) for views, inputs, hidden, masked in read])

    def read_views(
        self, own: Tensor, generators: Generators | None
    ) -> Iterator[tuple[MetaPathViews, MetaPathInputs, dict[str, Tensor], Tensor | None]]:
        """The module of the fine view of each side, and its arguments."""
        assert self.space is not None
        users, items = torch.split(own, [self.space.n_users, self.space.n_items])
        hidden = {"user": users, "item": items}
        for name, table in self.others.items():
            assert isinstance(table, nn.Embedding)
            hidden[name] = table.weight
        for read, views in zip(self._inputs, self.views, strict=True):
            assert isinstance(views, MetaPathViews)
            inputs: MetaPathInputs = self._placed(read)
            masked = self._masked(hidden[inputs.target], generators) if self.config.twins.kind == "masked" else None
            yield views, inputs, hidden, masked

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The attention of the fine views, in evaluation mode."""
        with evaluating(self.views):
            return {
                key: weight
                for views, inputs, hidden, masked in self.read_views(self.own_vectors(), None)
                for key, (weight, _) in views.addends(inputs, hidden, masked).items()
            }

    @torch.no_grad()
    def score_parts(self, query: Query, items: Tensor) -> dict[PathKey, Tensor]:
        """The Shapley values of own vectors and of meta-paths in the inner products of users and items.

        The fine view is a sum over paths and propagation is linear: the vectors x of a user and y of an item have
        addends x_a, y_a of path a, whose part is ``(x_a . y + x . y_a) / 2``. The parts sum to the score; one of
        cosines has none.
        """
        if self.loss.cosine:
            return {}
        assert self.space is not None
        addends = self._addends()
        users = self._user_vectors(query, torch.cat(list(addends.values()), 1))
        xs = users.view(len(users), len(addends), -1).unbind(1)
        ys = [nodes[self.space.n_users + items] for nodes in addends.values()]
        x, y = sum(xs), sum(ys)
        pairs = zip(addends, xs, ys, strict=True)
        return {key: (y @ a[:, :, None] + b @ x[:, :, None])[..., 0] / 2 for key, a, b in pairs}  # type: ignore

    def _addends(self) -> dict[PathKey, Tensor]:
        """[n_users + n_items, D] each: the addends of :meth:`nodes`, of own vectors and of each path."""
        assert self.space is not None
        own, by = self.own_vectors(), self.config.recommend_by
        found = {} if by == "fine" else {PathKey(): self.encoder(own)}
        if by == "interactions":
            return found
        with evaluating(self.views):
            for views, inputs, hidden, masked in self.read_views(own, None):
                start = 0 if inputs.target == SIDES[0] else self.space.n_users
                for key, (_, addend) in views.addends(inputs, hidden, masked).items():
                    alone = torch.zeros_like(own)
                    alone[start : start + len(addend)] = addend
                    found[key] = self.encoder(alone)
        return found

    def _masked(self, h: Tensor, generators: Generators | None) -> Tensor:
        """[n, D]: the own vectors of a side, a share of them 0 in training."""
        share = self.config.twins.node_mask
        if generators is None or not self.training or not share:
            return h
        keep_mask: Tensor = (
            torch.rand(len(h), 1, generator=generators["views"], device=h.device, dtype=h.dtype) >= share
        )
        return h * keep_mask

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        vectors, contrasts, fine = self.own_vectors(), wanted - {"l2", "rec"}, None
        own = self.encoder(vectors)
        found: dict[str, Tensor] = {}
        if contrasts or self._reads_fine:
            fine = self.encoder(self.fine_vectors(vectors, batch.generators))
        if contrasts and fine is not None:
            found |= self.contrasts_of(self._sides(batch, own, fine), contrasts)
        if "l2" in wanted:
            found["l2"] = self._l2(batch)
        if "rec" in wanted:
            found["rec"] = self._rec(batch, self._scored(own, fine))
        return found

    def _sides(self, batch: PairBatch, own: Tensor, fine: Tensor) -> list[Side]:
        """The projected views of the users and of the items of a batch, each node once."""
        assert self.space is not None
        sizes = [self.space.n_users, self.space.n_items]
        found = []
        for number, (ids, a, b) in enumerate(
            zip(batch.distinct(), torch.split(own, sizes), torch.split(fine, sizes), strict=True)
        ):
            views = self.views[number]
            assert isinstance(views, MetaPathViews)
            first, second = (views.head(x.index_select(0, ids)) for x in (a, b))
            found.append(Side(number, ids, first, second, batch))
        return found

    def contrast_of(self, side: Side) -> ContrastiveTerm:
        """The term that contrasts the views of a side."""
        term = self.contrasts[side.number]
        assert isinstance(term, ContrastiveTerm)
        return term

    def contrast(self, side: Side, fine_first: bool) -> Tensor:
        """The weighted InfoNCE of a side; 0 where no node has a candidate, as in a last batch of one.

        Args:
            fine_first: the fine views are the anchors; False: the own vectors.
        """
        term, batch = self.contrast_of(side), side.batch
        anchors, candidates = (side.fine, side.own) if fine_first else (side.own, side.fine)
        loss: Tensor = term(anchors, candidates, side.ids, generator=term.stream(batch.generators))
        return loss

    def contrasts_of(self, sides: list[Side], wanted: frozenset[str]) -> dict[str, Tensor]:
        """The terms that are wanted of those that contrast the views of both sides; ``info`` is one of them."""
        raise TypeError(f"{type(self).__name__} must define contrasts_of(sides, wanted)")


def _transform(layer: nn.Module, x: Tensor | Csr) -> Tensor:
    assert isinstance(layer, nn.Linear)
    if isinstance(x, Csr):
        return spmm(x, layer.weight.t()) + layer.bias
    return F.linear(x, layer.weight, layer.bias)


class MEOWRecConfig(MetaPathRecommenderConfig):
    contrast: Annotated[Contrast, Field(description="of a node's two views, and what both terms share")] = Contrast(
        objective={"name": "info_nce", "count_positive": False}, weight="cluster", temperature=0.2
    )
    # of a batch's nodes of a side, of which the authors' hundreds would be clusters of a few nodes each
    prototypes: Annotated[PrototypesConfig, Field(description="clusters of a side's fine views")] = PrototypesConfig(
        n_clusters=(20, 60), iterations=10, restarts=1
    )
    proto_weight: Annotated[
        float,
        Field(ge=0, description="of ProtoNCE, relative to the contrast of the views"),
        Search(0.01, 2.0, log=True),
    ] = 0.1


class MEOWRec(MEOWLoss, MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in MEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023),
    for nodes with classes (:class:`MEOW`); for recommendation see :class:`MetaPathRecommender`. The terms ``info`` and
    ``proto`` are those of :class:`MEOWLoss`, summed over users and items, with the own vectors in the place of the
    coarse view. The batch's nodes of a side are clustered anew in each step.
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

    def contrasts_of(self, sides: list[Side], wanted: frozenset[str]) -> dict[str, Tensor]:
        found = {}

        @cache
        def prototypes(number: int) -> list[PrototypeSet]:  # step 1, where a part reads them
            return self.cluster(sides[number].fine)

        if "info" in wanted:
            losses = []
            for side in sides:
                offer(self.contrast_of(side), partial(prototypes, side.number), side.ids)  # step 2
                losses.append(self.contrast(side, fine_first=False))  # step 3
            found["info"] = torch.stack(losses).sum()
        if "proto" in wanted:  # step 4
            losses = [proto_nce(self.proto_contrast, side.own, prototypes(side.number)) for side in sides]
            found["proto"] = torch.stack(losses).sum()
        return found


class AdaMEOWRecConfig(MetaPathRecommenderConfig):
    contrast: Annotated[Contrast, Field(description="of a node's two views")] = Contrast(
        objective={"name": "info_nce", "weigh_positive": True}, weight="learned", temperature=0.2
    )


class AdaMEOWRec(MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in AdaMEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples
    (TKDE 2024, arXiv 2212.13847), for nodes with classes (:class:`AdaMEOW`); for recommendation see
    :class:`MetaPathRecommender`. The fine views are the anchors; all candidates, the positive too, are weighted by a
    network of each side.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWRecConfig

    def contrasts_of(self, sides: list[Side], wanted: frozenset[str]) -> dict[str, Tensor]:
        losses = [self.contrast(side, fine_first=True) for side in sides]
        return {"info": torch.stack(losses).sum()} if "info" in wanted else {}
