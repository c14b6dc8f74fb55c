"""The recommendations for a user with their evidence, and what of the history they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recgraph.config import checked, is_list
from recgraph.data.dataframe import from_native
from recgraph.data.log import INTERACTS
from recgraph.evaluate.ranking import device_of, evaluating, item_vectors_of
from recgraph.explain.attribution import (
    Attribution,
    Method,
    Quantity,
    Subject,
    attribute_to_history,
    make_methods,
)
from recgraph.explain.explanation import (
    Attributed,
    Evidence,
    Explanation,
    HistoryItem,
    Near,
    Node,
    Recommendation,
    ScorePart,
)
from recgraph.explain.nodes import (
    Items,
    index_of,
    named_path_weights,
    nearest,
    node_of,
    recommender_of,
    related_nodes,
)
from recgraph.explain.paths import Walks, evidence_for_user
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace, path_weights
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.serve.recommender import NoHistoryError, Recommender
from recgraph.serve.request import query_of_users
from recgraph.sparse.products import distinct

#: connects history and item where the model has no meta-paths
_CO_OCCURRENCE = "item-user-item"


@checked
def explain(
    run: Any,
    user: Any,
    k: int = 10,
    *,
    n_near: int = 5,
    n_connections: int = 3,
    n_paths: int = 3,
    attribution: Sequence[Method] = (),
    seed: int = 0,
) -> Explanation:
    """The recommendations for a user, and the reasons for each.

    For models with meta-paths (:class:`recgraph.models.MEOWRec`): the path weights, the part of
    each score that comes from each meta-path, and the paths between user and item in the graph that
    the model was fitted to, also where it keeps only the ``top_k`` nearest along a meta-path. For
    all others: the history items that other users had together with the item. For models with item
    vectors: the nearest items.

    Args:
        run: a :class:`recgraph.train.run.Run`, a recommender, or the folder of a run or of a
            bundle.
        user: the id of a user of the training data.
        k: number of recommendations; history items are left out.
        n_near: number of nearest items of each item.
        n_connections, n_paths: the most connections of a meta-path, and paths of a connection.
        attribution, seed: methods that attribute each recommendation to the history, as
            :func:`attribute` takes them.

    Raises:
        ValueError: the user is unknown, or a method does not apply to the model.
        NoHistoryError: the model cannot rank for a user without history.
    """
    subject = _User(recommender_of(run), user)
    methods = make_methods(attribution)
    items, scores = subject.recommended(k)
    attributed: Sequence[Attributed | None] = [None] * len(items)
    if methods and items:
        attributed = subject.attributed(items, methods, seed=seed)
    parts = subject.parts(items)
    evidence = subject.evidence(items, parts, n_connections, n_paths)
    rows = torch.tensor(items, dtype=torch.int64)
    nearest_items = subject.near(rows, n_near)
    nearest_seen = subject.near(rows, n_near, torch.unique(subject.seen))
    recommendations = []
    for place, item in enumerate(items):
        recommendations.append(
            Recommendation(
                rank=place + 1,
                item=subject.items.item(item),
                score=scores[place],
                parts=parts[place],
                evidence=evidence[place],
                nearest=nearest_items[place],
                nearest_seen=nearest_seen[place],
                attributed=attributed[place],
            )
        )
    return Explanation(
        model=type(subject.model).__name__,
        dataset=subject.recommender.record.get("data", {}).get("dataset"),
        user=subject.id,
        related=related_nodes(subject.graph, "user", subject.user, exclude=("user", "item")),
        history=subject.history(n_near),
        recommendations=tuple(recommendations),
        path_weights=named_path_weights(subject.weights),
    )


@checked
def attribute(
    run: Any,
    user: Any,
    items: Any = None,
    methods: Sequence[Method] = ("leave_one_out",),
    *,
    k: int = 10,
    of: Quantity = "log_probability",
    seed: int = 0,
) -> tuple[Attributed, ...]:
    """What of a user's history recommendations come from, by one or more methods -> one for each
    item.

    Each method divides a value of the item for the user among the events that the model reads.
    Beside the values stands whether methods agree and are faithful to the model.

    Args:
        run: a :class:`recgraph.train.run.Run`, a recommender, or the folder of a run or of a
            bundle.
        user: the id of a user of the training data.
        items: an id or ids of items, also of the history; None: the k recommendations.
        methods: names of the registry's kind ``attribution`` (``"leave_one_out"``,
            ``"integrated_gradients"``, ``"attention"``), mappings with name and settings, or
            attributions themselves.
        of: what is attributed, ``"log_probability"`` (of the item in the softmax over all) or the
            ``"score"``.
        seed: of what methods draw, and of random orders.

    Raises:
        ValueError: the user or an item is unknown, or a method does not apply to the model.
        NoHistoryError: the user has no history.
    """
    subject = _User(recommender_of(run), user)
    if items is None:
        indices, _ = subject.recommended(k)
    else:
        if not is_list(items):
            items = [items]
        indices = [index_of(subject.recommender.items, item, "items") for item in items]
    if not indices:
        return ()
    return tuple(subject.attributed(indices, make_methods(methods), seed=seed, of=of))


class _User:
    """A user of a recommender, with the graph that connects the user to the items."""

    def __init__(self, recommender: Recommender, user_id: Any) -> None:
        self.recommender = recommender
        self.model = recommender.model
        self.items = Items(recommender)
        self.user = index_of(recommender.users, user_id, "user")
        (self.id,) = recommender.users.ids([self.user]).to_list()
        self.query = query_of_users(torch.tensor([self.user]), recommender.seen, recommender.times)
        self.seen = self.query.history.values
        self.unseen_mask = torch.ones(len(recommender.items), dtype=torch.bool)
        self.unseen_mask[self.seen] = False
        self.weights = path_weights(self.model)

    @cached_property
    def fitted_graph(self) -> HeteroGraph | None:
        """The graph that the model was fitted to; None for a model without meta-paths."""
        if not self.weights:
            return None
        assert isinstance(self.model.space, GraphSpace)
        return self.model.space.graph.to("cpu")

    @cached_property
    def graph(self) -> HeteroGraph:
        """The fitted graph; for a model without meta-paths the interactions of both fitted
        parts.
        """
        if self.fitted_graph is not None:
            return self.fitted_graph
        rows = distinct(self.recommender.seen, len(self.recommender.items))
        counts = {"user": rows.n_rows, "item": len(self.recommender.items)}
        ids = {"user": self.recommender.users, "item": self.recommender.items}
        return HeteroGraph.from_edge_lists(counts, {INTERACTS: (rows.rows, rows.values)}, ids=ids)

    def recommended(self, k: int) -> tuple[list[int], list[float]]:
        """The first k items and their scores."""
        frame = from_native(self.recommender.recommend(users=[self.id], k=k))
        return self.recommender.items.index(frame.to_series(1)).tolist(), frame["score"].to_list()

    def attributed(
        self,
        items: Sequence[int],
        methods: Mapping[str, Attribution],
        *,
        seed: int,
        of: Quantity = "log_probability",
    ) -> list[Attributed]:
        """What of the history some items come from."""
        if not len(self.seen):
            raise NoHistoryError(f"user {self.id!r} has no history to attribute to")
        subject = Subject(self.model, self.query, torch.tensor(items), of)
        return attribute_to_history(subject, methods, self.items, seed)

    def parts(self, items: Sequence[int]) -> list[tuple[ScorePart, ...]]:
        """The parts of the score of each item."""
        parts: list[tuple[ScorePart, ...]] = [()] * len(items)
        if not isinstance(self.model, MetaPathRecommender):
            return parts
        device = device_of(self.model)
        targets = torch.tensor([items], dtype=torch.int64, device=device)
        with evaluating(self.model):
            by_path = self.model.score_parts(self.query.to(device), targets)
        for key, (values,) in by_path.items():
            for place, value in enumerate(values.tolist()):
                parts[place] += (ScorePart(key.node_type, key.path, value),)
        return parts

    def evidence(
        self,
        items: Sequence[int],
        parts: Sequence[tuple[ScorePart, ...]],
        n_connections: int,
        n_paths: int,
    ) -> list[tuple[Evidence, ...]]:
        """Sorted by what a meta-path adds to the score; where none adds, by the rank of the
        item.
        """
        weights: dict[str, float | None] = {_CO_OCCURRENCE: None}
        if self.weights:
            weights = {key.path: weight for key, weight in self.weights.items()}
        evidence: dict[int, list[Evidence]] = {item: [] for item in items}
        for path, weight in weights.items():
            by_item = evidence_for_user(
                Walks(path, self.graph),
                weight,
                items,
                user=self.user,
                interactions=self.graph.adjacency(INTERACTS).pattern(),
                unseen_mask=self.unseen_mask,
                name=self._node,
                n_connections=n_connections,
                n_paths=n_paths,
            )
            for item, path_evidence in by_item.items():
                evidence[item].append(path_evidence)
        in_order = []
        for item, item_parts in zip(items, parts, strict=True):
            adds = {(part.side, part.path): part.value for part in item_parts}
            evidence[item].sort(key=lambda one: one.rank / one.n_ranked)
            evidence[item].sort(key=lambda one: -adds.get((one.side, one.path), 0.0))
            in_order.append(tuple(evidence[item]))
        return in_order

    def _node(self, node_type: str, index: int) -> Node:
        if node_type == "item":
            return self.items.node(index)
        return node_of(self.graph, node_type, index)

    def near(
        self, rows: Tensor, n_near: int, among: Tensor | None = None
    ) -> list[tuple[Near, ...]]:
        """The nearest items of each of some items; empty where the model has no item vectors."""
        if self._vectors is None:
            return [()] * len(rows)
        unique, places = torch.unique(rows, return_inverse=True)
        near = []
        for pairs in nearest(self._vectors, unique, n_near, among):
            entries = []
            for index, cosine in pairs:
                is_seen = not bool(self.unseen_mask[index])
                entries.append(Near(self.items.node(index), cosine, is_seen))
            near.append(tuple(entries))
        return [near[place] for place in places.tolist()]

    @cached_property
    def _vectors(self) -> Tensor | None:
        vectors = item_vectors_of(self.model)
        if vectors is None:
            return None
        return vectors.detach().to("cpu")

    def history(self, n_near: int) -> tuple[HistoryItem, ...]:
        """The items of the history, with the nearest items of each."""
        items = map(self.items.item, self.seen.tolist())
        return tuple(map(HistoryItem, items, self._fitted(), self.near(self.seen, n_near)))

    def _fitted(self) -> list[bool] | list[None]:
        """Whether the model was fitted to each item of the history; None where that is not
        known.
        """
        if self.fitted_graph is not None:
            row = self.fitted_graph.adjacency(INTERACTS).take_rows(torch.tensor([self.user]))
            return torch.isin(self.seen, row.indices).tolist()
        # without a graph the recommender holds all parts as one, and not which item was in which
        if self.recommender.record.get("fitted_on") in ("train+valid", "all"):
            return [True] * len(self.seen)
        return [None] * len(self.seen)
