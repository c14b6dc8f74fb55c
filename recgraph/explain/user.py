"""The recommendations for a user with their evidence, and what of the history they come from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recgraph.config import checked, is_list
from recgraph.data.batches import Query
from recgraph.data.dataframe import from_native
from recgraph.evaluate.ranking import device_of, evaluating, item_vectors_of
from recgraph.explain.attribution import Attribution, Method, Quantity, Subject, attribute_to_history, make_methods
from recgraph.explain.evidence import UserQuery, Walks, evidence_for_user
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
from recgraph.explain.items import Items
from recgraph.explain.nodes import index_of, nearest, node_of, related_nodes
from recgraph.graph.frames import INTERACTS
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.recommender import NoHistoryError, Recommender, load
from recgraph.sparse.products import distinct

#: connects history and item where the model has no meta-paths
_CO_OCCURRENCE = "item-user-item"


def recommender_of(run: Any) -> Recommender:
    """The recommender of a run, of itself, or of the folder of a run or bundle.

    Raises:
        ValueError: it has none.
    """
    loaded = load(run) if isinstance(run, str | Path) else run
    recommender = getattr(loaded, "recommender", loaded)
    if not isinstance(recommender, Recommender):
        raise ValueError(f"run is a {type(recommender).__name__}, which has no users; see explain_node (--node ID)")
    return recommender


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

    For models with meta-paths (:class:`recgraph.models.MEOWRec`): the path weights, the part of each score that comes
    from each meta-path, and the paths between user and item in the graph that the model was fitted to. For all others:
    the history items that other users had together with the item. For models with item vectors: the nearest items.

    Paths are followed outwards from the user and the history, so the cost grows with the number of edges that they
    reach, never with the square of a number of nodes. Paths are counted in the whole graph, also where the model keeps
    only the ``top_k`` nearest along a meta-path.

    Args:
        run: a :class:`recgraph.train.run.Run`, a recommender, or the folder of a run or of a bundle.
        user: the id of a user of the training data.
        k: number of recommendations; history items are left out.
        n_near: number of nearest items of each item.
        n_connections, n_paths: the most connections of a meta-path, and paths of a connection.
        attribution: methods that attribute each recommendation to the history, as :func:`attribute` takes them; empty:
            none is attributed.
        seed: of what these methods draw.

    Raises:
        ValueError: the user is unknown, there is no bundle, or a method does not apply to the model.
        NoHistoryError: the model cannot rank for a user without history.
    """
    recommender = recommender_of(run)
    found = _User(recommender, index_of(recommender.users, user, "user"), n_near)
    methods = make_methods(attribution)
    items, scores = found.recommended(k)
    attributed: Sequence[Attributed | None] = [None] * len(items)
    if methods and items:
        attributed = attribute_to_history(found.subject(items), methods, found.items.item, seed)
    return found.explanation(items, scores, attributed, n_connections, n_paths)


@checked
def attribute(
    run: Any,
    user: Any,
    items: Any = None,
    methods: Sequence[Method] | None = None,
    *,
    k: int = 10,
    of: Quantity = "log_probability",
    seed: int = 0,
) -> tuple[Attributed, ...]:
    """What of a user's history recommendations come from, by one or more methods.

    Each method divides a value of the item for the user among the events that the model reads. Beside the values stand
    whether methods agree, and whether their orders are faithful to the model.

    Args:
        run: a :class:`recgraph.train.run.Run`, a recommender, or the folder of a run or of a bundle.
        user: the id of a user of the training data.
        items: an id or ids of items, also of the history; None: the k recommendations.
        methods: names of the registry's kind ``attribution`` (``"leave_one_out"``, ``"integrated_gradients"``,
            ``"attention"``), mappings with name and settings, or attributions themselves; None: ``"leave_one_out"``,
            and ``"integrated_gradients"`` where the model reads vectors of items.
        k: number of recommendations.
        of: what is attributed, ``"log_probability"`` (of the item in the softmax over all) or the ``"score"``.
        seed: of what methods draw, and of random orders.

    Returns:
        One for each item, in the order given.

    Raises:
        ImportError: the extra ``explain`` is not installed, for integrated gradients.
        ValueError: the user or an item is unknown, the scores do not depend on the history, or a method does not apply
            to the model.
        NoHistoryError: the model cannot rank for a user without history.
    """
    recommender = recommender_of(run)
    found = _User(recommender, index_of(recommender.users, user, "user"), 0)
    if items is None:
        indices, _ = found.recommended(k)
    else:
        wanted = items if is_list(items) else [items]
        indices = [index_of(recommender.items, item, "items") for item in wanted]
    if not indices:
        return ()
    subject = found.subject(indices, of)
    if methods is None:
        methods = ["leave_one_out", *(["integrated_gradients"] if subject.has_inputs else [])]
    made: dict[str, Attribution] = make_methods(methods)
    return attribute_to_history(subject, made, found.items.item, seed)


class _User:
    """A user of a recommender, with the graph that connects the user to the items."""

    def __init__(self, recommender: Recommender, user: int, n_near: int) -> None:
        self.recommender, self.model, self.user, self.n_near = recommender, recommender.model, user, n_near
        self.items = Items(recommender)
        self.seen = recommender.seen.row(user)
        self.unseen_mask = torch.ones(len(recommender.items), dtype=torch.bool)
        self.unseen_mask[self.seen] = False
        self.weights = self.model.path_weights()
        vectors = item_vectors_of(self.model)
        self.vectors = None if vectors is None else vectors.detach().to("cpu")

    @cached_property
    def fitted_graph(self) -> HeteroGraph | None:
        """The graph that the model was fitted to; None for a model without meta-paths."""
        space = self.model.space
        return space.graph.to("cpu") if self.weights and isinstance(space, GraphSpace) else None

    @cached_property
    def graph(self) -> HeteroGraph:
        """The fitted graph; for a model without meta-paths the interactions of both fitted parts."""
        if self.fitted_graph is not None:
            return self.fitted_graph
        rows = distinct(self.recommender.seen, len(self.recommender.items))
        counts = {"user": rows.n_rows, "item": len(self.recommender.items)}
        ids = {"user": self.recommender.users, "item": self.recommender.items}
        return HeteroGraph.from_edge_lists(counts, {INTERACTS: (rows.rows, rows.values)}, ids=ids)

    def _query(self) -> Query:
        user, times = torch.tensor([self.user]), self.recommender.times
        return Query(user, self.recommender.seen.take(user), None if times is None else times.take(user))

    def subject(self, items: Sequence[int], of: Quantity = "log_probability") -> Subject:
        """What is attributed: some items for this user."""
        if not len(self.seen):
            raise NoHistoryError(f"user {self.recommender.users.ids([self.user])[0]!r} has no history to attribute to")
        return Subject(self.model, self._query(), torch.tensor(items, dtype=torch.int64), of)

    def recommended(self, k: int) -> tuple[list[int], list[float]]:
        """The first k items and their scores."""
        frame = from_native(self.recommender.recommend(users=self.recommender.users.ids([self.user]), k=k))
        return self.recommender.items.index(frame.to_series(1)).tolist(), frame["score"].to_list()

    def explanation(
        self,
        items: Sequence[int],
        scores: Sequence[float],
        attributed: Sequence[Attributed | None],
        n_connections: int,
        n_paths: int,
    ) -> Explanation:
        parts = self._parts(items)
        evidence = self._evidence(items, parts, n_connections, n_paths)
        rows = torch.tensor(items, dtype=torch.int64)
        near, near_seen = self._near(rows), self._near(rows, torch.unique(self.seen))
        recommendations = tuple(
            Recommendation(rank, self.items.item(item), *reasons)
            for rank, (item, *reasons) in enumerate(
                zip(items, scores, parts, evidence, near, near_seen, attributed, strict=True), 1
            )
        )
        (own,) = self.recommender.users.ids([self.user]).to_list()
        return Explanation(
            model=type(self.model).__name__,
            dataset=self.recommender.record.get("data", {}).get("dataset"),
            user=own,
            related=related_nodes(self.graph, "user", self.user, exclude=("user", "item")),
            history=self._history(),
            recommendations=recommendations,
            path_weights=tuple(PathWeight(key.node_type, key.path, weight) for key, weight in self.weights.items()),
        )

    def _parts(self, items: Sequence[int]) -> list[tuple[ScorePart, ...]]:
        device = device_of(self.model)
        with evaluating(self.model):
            wanted = torch.tensor([items], dtype=torch.int64, device=device)
            found = self.model.score_parts(self._query().to(device), wanted)
        values = {key: part[0].tolist() for key, part in found.items()}
        return [
            tuple(ScorePart(key.node_type, key.path, part[place]) for key, part in values.items())
            for place in range(len(items))
        ]

    def _evidence(
        self, items: Sequence[int], parts: Sequence[tuple[ScorePart, ...]], n_connections: int, n_paths: int
    ) -> list[tuple[Evidence, ...]]:
        """Sorted by what a meta-path adds to the score; where none adds, by the rank of the item."""
        interactions = self.graph.adjacency(INTERACTS).pattern()
        query = UserQuery(self.user, interactions, self.unseen_mask, self._node, n_connections, n_paths)
        weights: dict[str, float | None] = {key.path: weight for key, weight in self.weights.items()}
        by_path = [
            evidence_for_user(Walks(path, self.graph), weight, items, query)
            for path, weight in (weights or {_CO_OCCURRENCE: None}).items()
        ]
        sorted_evidence = []
        for item, of_item in zip(items, parts, strict=True):
            adds = {(part.side, part.path): part.value for part in of_item}
            found = [each[item] for each in by_path if item in each]
            found.sort(key=lambda one: (-adds.get((one.side, one.path), 0.0), one.rank / one.n_ranked))
            sorted_evidence.append(tuple(found))
        return sorted_evidence

    def _node(self, node_type: str, index: int) -> Node:
        return self.items.node(index) if node_type == "item" else node_of(self.graph, node_type, index)

    def _near(self, rows: Tensor, among: Tensor | None = None) -> list[tuple[Near, ...]]:
        """The nearest items of each of some items; empty where the model has no item vectors."""
        if self.vectors is None:
            return [()] * len(rows)
        distinct_rows, places = torch.unique(rows, return_inverse=True)
        found = [
            tuple(Near(self.items.node(index), cosine, not bool(self.unseen_mask[index])) for index, cosine in each)
            for each in nearest(self.vectors, distinct_rows, self.n_near, among)
        ]
        return [found[place] for place in places.tolist()]

    def _history(self) -> tuple[HistoryItem, ...]:
        history = self.seen.tolist()
        # without a graph the recommender holds all parts as one, and not which item was in which
        on_history = self.recommender.record.get("fitted_on") in ("train+valid", "all")
        fitted = [True if on_history else None] * len(history)
        if self.fitted_graph is not None:
            row = self.fitted_graph.adjacency(INTERACTS).take_rows(torch.tensor([self.user]))
            known = set(row.indices.tolist())
            fitted = [index in known for index in history]
        return tuple(map(HistoryItem, map(self.items.item, history), fitted, self._near(self.seen)))
