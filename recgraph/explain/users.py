"""The recommendations for a user with their evidence, and what of the history they come from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recgraph.config import checked, is_list
from recgraph.data.batches import Query
from recgraph.data.dataframe import from_native
from recgraph.data.log import INTERACTS
from recgraph.evaluate.ranking import device_of, evaluating, item_vectors_of
from recgraph.explain.attribution import (
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
    PathWeight,
    Recommendation,
    ScorePart,
)
from recgraph.explain.nodes import Items, index_of, nearest, node_of, recommender_of, related_nodes
from recgraph.explain.paths import Walks, evidence_for_user
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace, path_weights
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.serve.recommender import NoHistoryError, Recommender
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
    recommender = recommender_of(run)
    found = _User(recommender, index_of(recommender.users, user, "user"))
    methods = make_methods(attribution)
    items, scores = found.recommended(k)
    attributed: Sequence[Attributed | None] = [None] * len(items)
    if methods and items:
        attributed = attribute_to_history(found.subject(items), methods, found.items.item, seed)
    parts = found.parts(items)
    evidence = found.evidence(items, parts, n_connections, n_paths)
    rows, history = torch.tensor(items, dtype=torch.int64), found.seen
    near, near_seen = found.near(rows, n_near), found.near(rows, n_near, torch.unique(history))
    reasons = zip(items, scores, parts, evidence, near, near_seen, attributed, strict=True)
    return Explanation(
        model=type(found.model).__name__,
        dataset=recommender.record.get("data", {}).get("dataset"),
        user=recommender.users.ids([found.user]).to_list()[0],
        related=related_nodes(found.graph, "user", found.user, exclude=("user", "item")),
        history=tuple(
            map(
                HistoryItem,
                map(found.items.item, history.tolist()),
                found.fitted(),
                found.near(history, n_near),
            )
        ),
        recommendations=tuple(
            Recommendation(rank, found.items.item(item), *own)
            for rank, (item, *own) in enumerate(reasons, 1)
        ),
        path_weights=tuple(
            PathWeight(key.node_type, key.path, weight) for key, weight in found.weights.items()
        ),
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
    recommender = recommender_of(run)
    found = _User(recommender, index_of(recommender.users, user, "user"))
    if items is None:
        indices, _ = found.recommended(k)
    else:
        indices = [
            index_of(recommender.items, item, "items")
            for item in (items if is_list(items) else [items])
        ]
    if not indices:
        return ()
    return attribute_to_history(
        found.subject(indices, of), make_methods(methods), found.items.item, seed
    )


class _User:
    """A user of a recommender, with the graph that connects the user to the items."""

    def __init__(self, recommender: Recommender, user: int) -> None:
        self.recommender, self.model, self.user = recommender, recommender.model, user
        self.items, self.seen = Items(recommender), recommender.seen.row(user)
        self.unseen_mask = torch.ones(len(recommender.items), dtype=torch.bool)
        self.unseen_mask[self.seen] = False
        self.weights = path_weights(self.model)
        times, row = recommender.times, torch.tensor([user])
        self.query = Query(
            row, recommender.seen.take(row), None if times is None else times.take(row)
        )

    @cached_property
    def fitted_graph(self) -> HeteroGraph | None:
        """The graph that the model was fitted to; None for a model without meta-paths."""
        space = self.model.space
        return space.graph.to("cpu") if self.weights and isinstance(space, GraphSpace) else None

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

    def subject(self, items: Sequence[int], of: Quantity = "log_probability") -> Subject:
        """What is attributed: some items for this user."""
        if not len(self.seen):
            raise NoHistoryError(
                f"user {self.recommender.users.ids([self.user])[0]!r} has no history to attribute to"
            )
        return Subject(self.model, self.query, torch.tensor(items, dtype=torch.int64), of)

    def recommended(self, k: int) -> tuple[list[int], list[float]]:
        """The first k items and their scores."""
        frame = from_native(
            self.recommender.recommend(users=self.recommender.users.ids([self.user]), k=k)
        )
        return self.recommender.items.index(frame.to_series(1)).tolist(), frame["score"].to_list()

    def parts(self, items: Sequence[int]) -> list[tuple[ScorePart, ...]]:
        """The parts of the score of each item."""
        if not isinstance(self.model, MetaPathRecommender):
            return [()] * len(items)
        device = device_of(self.model)
        with evaluating(self.model):
            found = self.model.score_parts(
                self.query.to(device), torch.tensor([items], device=device).long()
            )
        values = {key: part[0].tolist() for key, part in found.items()}
        return [
            tuple(ScorePart(key.node_type, key.path, part[place]) for key, part in values.items())
            for place in range(len(items))
        ]

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
        interactions = self.graph.adjacency(INTERACTS).pattern()
        weights: dict[str, float | None] = {
            key.path: weight for key, weight in self.weights.items()
        }
        given = self.user, interactions, self.unseen_mask, self._node, n_connections, n_paths
        by_path = [
            evidence_for_user(Walks(path, self.graph), weight, items, *given)
            for path, weight in (weights or {_CO_OCCURRENCE: None}).items()
        ]
        in_order = []
        for item, of_item in zip(items, parts, strict=True):
            adds = {(part.side, part.path): part.value for part in of_item}
            found = [each[item] for each in by_path if item in each]
            found.sort(
                key=lambda one: (-adds.get((one.side, one.path), 0.0), one.rank / one.n_ranked)
            )
            in_order.append(tuple(found))
        return in_order

    def _node(self, node_type: str, index: int) -> Node:
        return (
            self.items.node(index) if node_type == "item" else node_of(self.graph, node_type, index)
        )

    def near(
        self, rows: Tensor, n_near: int, among: Tensor | None = None
    ) -> list[tuple[Near, ...]]:
        """The nearest items of each of some items; empty where the model has no item vectors."""
        if self._vectors is None:
            return [()] * len(rows)
        unique, places = torch.unique(rows, return_inverse=True)
        found = [
            tuple(
                Near(self.items.node(index), cosine, not bool(self.unseen_mask[index]))
                for index, cosine in each
            )
            for each in nearest(self._vectors, unique, n_near, among)
        ]
        return [found[place] for place in places.tolist()]

    @cached_property
    def _vectors(self) -> Tensor | None:
        vectors = item_vectors_of(self.model)
        return None if vectors is None else vectors.detach().to("cpu")

    def fitted(self) -> list[bool | None]:
        """Whether the model was fitted to each item of the history; None where that is not
        known.
        """
        if self.fitted_graph is not None:
            row = self.fitted_graph.adjacency(INTERACTS).take_rows(torch.tensor([self.user]))
            known = set(row.indices.tolist())
            return [index in known for index in self.seen.tolist()]
        # without a graph the recommender holds all parts as one, and not which item was in which
        on_history = self.recommender.record.get("fitted_on") in ("train+valid", "all")
        return [True if on_history else None] * len(self.seen)
