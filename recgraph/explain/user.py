"""``explain``: what a run recommends to a user, and why; nearest neighbours by the cosine of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.dataframe import from_native
from recgraph.evaluate.ranking import device_of, evaluating, item_vectors_of
from recgraph.explain.evidence import Support, UserQuery, Walks, evidence_of, from_history, from_users
from recgraph.explain.explanation import (
    Evidence,
    Explanation,
    HistoryItem,
    Near,
    Node,
    PathWeight,
    Recommendation,
    ScorePart,
)
from recgraph.explain.names import ItemNames, about, index_of, node_of
from recgraph.graph.frames import INTERACTS
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.loading import load
from recgraph.serve.recommender import Recommender
from recgraph.sparse.products import distinct

__all__ = ["HasRecommender", "explain", "load_run", "nearest", "recommender_of"]


#: cosines that are held at a time
_CELLS = 1 << 22


def nearest(vectors: Tensor, rows: Tensor, k: int, among: Tensor | None = None) -> list[list[tuple[int, float]]]:
    """The k nearest others of some rows, best first; equals by index.

    A vector of zeros (an item that was never trained) is nobody's neighbour and has none.

    Args:
        vectors: [N, D].
        rows: [R] int64.
        k: at most so many each.
        among: [M] int64, ascending, who may be a neighbour; None: all.

    Returns:
        For each row pairs of index and cosine.
    """
    units = F.normalize(vectors.to(torch.float64), dim=1)
    candidates = torch.arange(len(vectors)) if among is None else among
    candidates = candidates[units[candidates].any(1)]
    found: list[list[tuple[int, float]]] = []
    for block in rows.split(max(_CELLS // max(len(candidates), 1), 1)):  # type: ignore[no-untyped-call]
        cosines = units[block] @ units[candidates].T
        for row, values in zip(block.tolist(), cosines, strict=True):
            values[candidates == row] = -torch.inf
            order = torch.argsort(values, descending=True, stable=True)[:k]
            best = [] if not bool(units[row].any()) else order[values[order] > -torch.inf].tolist()
            found.append([(int(candidates[place]), float(values[place])) for place in best])
    return found


#: what joins history and item where the model has no views
_TOGETHER = PathKey("item", "item-user-item")


@runtime_checkable
class HasRecommender(Protocol):
    """A :class:`recgraph.runs.run.Run`."""

    @property
    def recommender(self) -> Recommender: ...


def load_run(run: str | Path) -> Any:
    """What the bundle of a run holds.

    Raises:
        ValueError: the folder holds no bundle; says what to do.
    """
    folder = Path(run)
    inside = folder / "bundle"
    if not folder.is_dir():
        raise ValueError(f"run = {str(run)!r} is no folder; give one that `recgraph train --out` wrote, or a bundle")
    of_a_run = any((folder / name).exists() for name in ("record.json", "checkpoint"))
    if of_a_run and not inside.is_dir():
        raise ValueError(
            f"run = {str(run)!r} has no bundle: it has not finished, or its bundle was taken away; go on with "
            "`recgraph train ... --resume`, or write one with Run.save(folder)"
        )
    return load(folder)


def recommender_of(run: Any) -> Recommender:
    """The recommender of a run.

    Args:
        run: a :class:`recgraph.runs.run.Run`, a recommender, or the folder of a run or of a bundle.

    Raises:
        ValueError: it has none.
    """
    found = load_run(run) if isinstance(run, str | Path) else run
    if isinstance(found, HasRecommender):
        found = found.recommender
    if not isinstance(found, Recommender):
        raise ValueError(
            f"run is a {type(found).__name__}, which has no users to recommend to; for the nodes of a graph see "
            "explain_node (`recgraph inspect RUN --node ID`)"
        )
    return found


def explain(
    run: Any,
    user: Any,
    k: int = 10,
    *,
    n_near: int = 5,
    n_connections: int = 3,
    n_paths: int = 3,
) -> Explanation:
    """What a run recommends to a user, and what speaks for each item.

    For models with views of meta-paths (:class:`recgraph.models.MEOWRec`): the attention of the views, what each adds
    to each score, and the paths of the graph that they were fitted to which join the user with the item. For all
    others: the items of the history that were had together with the item. For all with item vectors: nearest items.

    Paths are followed from the user and the history out; their number is that of the edges reached, never
    the square of a number of nodes. They are counted in the whole graph, where a view may keep the ``top_k`` nearest
    alone.

    Args:
        run: a :class:`recgraph.runs.run.Run`, a recommender, or the folder of a run or of a bundle.
        user: the id of a user of the training data.
        k: how many recommendations; items of the history are left out.
        n_near: nearest items of each item.
        n_connections, n_paths: the most connections of a meta-path, and whole paths of a connection.

    Raises:
        ValueError: the user is not known (names the nearest ids), there is no bundle, or a number is too small.
        NoHistoryError: nothing is known of the user.
    """
    for name, value, least in (("k", k, 1), ("n_near", n_near, 0), ("n_connections", n_connections, 1)):
        if value < least:
            raise ValueError(f"{name} = {value} must be at least {least}")
    if n_paths < 1:
        raise ValueError(f"n_paths = {n_paths} must be at least 1")
    recommender = recommender_of(run)
    index = index_of(recommender.users, len(recommender.users), user, "user")
    return _Case(recommender, index, n_near, n_connections, n_paths).explanation(user, k)


class _Case:
    """One user of a recommender."""

    def __init__(self, recommender: Recommender, user: int, n_near: int, n_connections: int, n_paths: int) -> None:
        self.recommender, self.model, self.user = recommender, recommender.model, user
        self.n_near, self.n_connections, self.n_paths = n_near, n_connections, n_paths
        self.names = ItemNames(recommender)
        self.notes: list[str] = []
        self.seen = recommender.seen.row(user)
        self.unseen_mask = torch.ones(len(recommender.items), dtype=torch.bool)
        self.unseen_mask[self.seen] = False
        self.weights = self.model.view_weights()

    @cached_property
    def own_graph(self) -> HeteroGraph | None:
        """That the model was fitted to; None of a model without views."""
        space = self.model.space
        return space.graph.to("cpu") if self.weights and isinstance(space, GraphSpace) else None

    @cached_property
    def graph(self) -> HeteroGraph:
        """That of the model; of a model without views its users and what they did, in the validation part too."""
        if self.own_graph is not None:
            return self.own_graph
        rows = distinct(self.recommender.seen, len(self.recommender.items))
        counts = {"user": rows.n_rows, "item": len(self.recommender.items)}
        ids = {"user": self.recommender.users, "item": self.recommender.items}
        return HeteroGraph.from_edge_lists(counts, {INTERACTS: (rows.rows, rows.values)}, ids=ids)

    def explanation(self, user: Any, k: int) -> Explanation:
        items, scores = self._recommended(k)
        parts = self._parts(items)
        evidence = self._evidence(items, parts)
        near, near_seen, near_history = self._nearest(items)
        recommendations = tuple(
            Recommendation(
                place + 1,
                self.names.item(item),
                scores[place],
                parts[place],
                evidence[place],
                near[place],
                near_seen[place],
            )
            for place, item in enumerate(items)
        )
        record = self.recommender.record
        return Explanation(
            model=type(self.model).__name__,
            dataset=record.get("data", {}).get("dataset"),
            user=user,
            about=about(self.graph, "user", self.user, ("user", "item")),
            history=self._history(near_history),
            recommendations=recommendations,
            views=tuple(PathWeight(view.node_type, view.path, weight) for view, weight in self.weights.items()),
            notes=tuple(self.notes),
        )

    def _recommended(self, k: int) -> tuple[list[int], list[float]]:
        ids = self.recommender.users.ids([self.user])
        frame = from_native(self.recommender.recommend(users=ids, k=k))
        places = self.recommender.items.index(frame.to_series(1))
        return places.tolist(), frame["score"].to_list()

    def _parts(self, items: Sequence[int]) -> list[tuple[ScorePart, ...]]:
        query = Query(torch.tensor([self.user]), self.recommender.seen.take(torch.tensor([self.user])))
        device = device_of(self.model)
        with evaluating(self.model):
            found = self.model.score_parts(query.to(device), torch.tensor([list(items)], device=device))
        if self.weights and not any(view.path for view in found):
            self.notes.append(
                "the views take no part in the scores: they shaped the vectors in training alone "
                "(setting recommend_by='interactions')"
            )
        each = {view: values[0].tolist() for view, values in found.items()}
        return [
            tuple(ScorePart(view.node_type, view.path, values[place]) for view, values in each.items())
            for place in range(len(items))
        ]

    def _evidence(self, items: Sequence[int], parts: Sequence[tuple[ScorePart, ...]]) -> list[tuple[Evidence, ...]]:
        if not self.weights:
            self.notes.append(
                f"{type(self.model).__name__} has no views of meta-paths: shown are items of the history that "
                "others had together with the recommended one; the model need not have read that"
            )
        had = self.graph.adjacency(INTERACTS).pattern()
        history = had.take_rows(torch.tensor([self.user])).indices
        wanted = torch.tensor(list(items))
        user_query = UserQuery(self.user, self.unseen_mask, self._name, self.n_connections, self.n_paths)
        found: list[list[Evidence]] = [[] for _ in items]
        for view in self.weights or (_TOGETHER,):
            walks = Walks(view.path, self.graph)
            support: Support = (
                from_history(walks, history, wanted, len(self.recommender.items))
                if view.node_type == "item"
                else from_users(walks, self.user, had, wanted)
            )
            for place, item in enumerate(items):
                one = evidence_of(support, view.node_type, self.weights.get(view), place, item, user_query)
                if one is not None:
                    found[place].append(one)
        return [tuple(sorted(each, key=_order(parts[place]))) for place, each in enumerate(found)]

    def _name(self, node_type: str, index: int) -> Node:
        return self.names.node(index) if node_type == "item" else node_of(self.graph, node_type, index)

    def _nearest(
        self, items: Sequence[int]
    ) -> tuple[list[tuple[Near, ...]], list[tuple[Near, ...]], list[tuple[Near, ...]]]:
        """Of the recommended items among all and among the history, and of the history among all."""
        vectors = self._vectors
        if vectors is None:
            self.notes.append(
                f"{type(self.model).__name__} ranks by scores alone and has no item vectors: there are no nearest items"
            )
            return [()] * len(items), [()] * len(items), [()] * len(self.seen)
        wanted, had = torch.tensor(list(items)), torch.unique(self.seen)
        return (
            self._near(nearest(vectors, wanted, self.n_near)),
            self._near(nearest(vectors, wanted, self.n_near, had)),
            self._near(nearest(vectors, self.seen, self.n_near)),
        )

    @cached_property
    def _vectors(self) -> Tensor | None:
        found = item_vectors_of(self.model)
        return None if found is None else found.detach().to("cpu")

    def _near(self, found: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[Near, ...]]:
        return [
            tuple(Near(self.names.node(index), cosine, not bool(self.unseen_mask[index])) for index, cosine in each)
            for each in found
        ]

    def _history(self, near: Sequence[tuple[Near, ...]]) -> tuple[HistoryItem, ...]:
        history = self.seen.tolist()
        # a recommender holds what users did in both parts, and not which was which
        fitted = [True if self.recommender.record.get("fitted_on") == "train+valid" else None] * len(history)
        if self.own_graph is not None:
            row = self.own_graph.adjacency(INTERACTS).take_rows(torch.tensor([self.user]))
            known = set(row.indices.tolist())
            fitted = [index in known for index in history]
        return tuple(
            HistoryItem(self.names.item(index), fitted[place], near[place]) for place, index in enumerate(history)
        )


def _order(parts: Sequence[ScorePart]) -> Callable[[Evidence], tuple[float, float]]:
    """First what adds most to the score; where views add nothing, what ranks the item highest."""
    adds = {(part.side, part.path): part.value for part in parts}
    return lambda one: (-adds.get((one.side, one.path), 0.0), one.rank / one.n_ranked)
