"""What an explanation holds: plain values, named by the user's own ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "Connection",
    "Evidence",
    "Explanation",
    "HistoryItem",
    "Item",
    "Near",
    "Neighbour",
    "Node",
    "NodeExplanation",
    "PathWeight",
    "Recommendation",
    "ScorePart",
]


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
        type: its node type.
        id: the user's own id; the index where the graph has no ids.
        title: what to call it: an item's title, else the id.
    """

    type: str
    id: Any
    title: str


@dataclass(frozen=True)
class Item:
    """An item.

    Attributes:
        id: the user's own.
        title: its title or name, where the item features have one, else the id.
        fields: its other features, by column; lists are tuples.
    """

    id: Any
    title: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Near:
    """A neighbour by the model's own vectors.

    Attributes:
        node: which one.
        similarity: cosine of the two vectors.
        seen: whether it is an item of the user's history.
    """

    node: Node
    similarity: float
    seen: bool = False


@dataclass(frozen=True)
class PathWeight:
    """How much a view counts in the model.

    Attributes:
        side: the node type that it is a view of.
        path: its meta-path.
        weight: its semantic attention, that of its twin included; those of a side sum to 1.
    """

    side: str
    path: str
    weight: float


@dataclass(frozen=True)
class ScorePart:
    """What one view adds to a score.

    Attributes:
        side, path: of the view; both empty for the nodes' own vectors.
        value: the Shapley value of the view in the inner product of user and item: half of what the user's addend
            gives with the whole item, half the reverse. The parts sum to the score, where the score is a model's own.
    """

    side: str
    path: str
    value: float


@dataclass(frozen=True)
class Connection:
    """The paths through one node that join a user to an item, or (of a node run) a node to another.

    Attributes:
        via: where the meta-path of the view begins or ends beside the item or the user: a history item, a similar user;
            of a node run the other node.
        similarity: of ``via`` to the item (or user, or node) by the view's meta-path: PathSim, or for a path that is no
            round trip ``count / sqrt(paths out * paths in)``. In [0, 1].
        count: paths through ``via``; repeated edges count once.
        paths: some of them whole, those of the highest random-walk probability first.
    """

    via: Node
    similarity: float
    count: int
    paths: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Evidence:
    """How strongly one meta-path joins the user with an item, or a node with another.

    Attributes:
        side: ``"item"``: history, then the path from item to item; ``"user"``: the path from user to user, then what
            those did; of a node run the target type.
        path: the meta-path.
        weight: the attention of its view; None where the model has no such view.
        count: how many paths there are.
        score: side ``item``: the mean similarity of the history's items; side ``user``: of the users that the path
            reaches, the share, weighted by similarity, that had the item; of a node run the similarity. In [0, 1].
        rank: place of the item by this score alone, from 1, among those that are not in the history.
        n_ranked: how many of those the path reaches.
        connections: the strongest, by similarity.
    """

    side: str
    path: str
    weight: float | None
    count: int
    score: float
    rank: int
    n_ranked: int
    connections: tuple[Connection, ...]


@dataclass(frozen=True)
class HistoryItem:
    """An item that the user had.

    Attributes:
        item: which one.
        fitted: whether the model was fitted to it (items of the validation part may not have been); None where the run
            does not know, as of models without views.
        nearest: the items nearest to it, best first.
    """

    item: Item
    fitted: bool | None
    nearest: tuple[Near, ...] = ()


@dataclass(frozen=True)
class Recommendation:
    """An item and what speaks for it.

    Attributes:
        rank: from 1.
        item: which one.
        score: the model's.
        parts: what each view adds to the score; empty where the model has no views.
        evidence: by meta-path, first that whose view adds most to the score (else, that ranks the item highest).
        nearest: the items nearest to it, best first.
        nearest_seen: of the history, the nearest to it.
    """

    rank: int
    item: Item
    score: float
    parts: tuple[ScorePart, ...]
    evidence: tuple[Evidence, ...]
    nearest: tuple[Near, ...]
    nearest_seen: tuple[Near, ...]


class _Plain:
    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and lists."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class Explanation(_Plain):
    """What is recommended to a user, and why.

    Attributes:
        model: its class.
        dataset: name of the data set; None where the run was made from the user's own frames.
        user: id.
        about: what the graph says of the user: node type -> titles.
        history: oldest first.
        recommendations: best first.
        views: weights of the model's views; empty where it has none.
        notes: what is missing, and why.
    """

    model: str
    dataset: str | None
    user: Any
    about: Mapping[str, tuple[str, ...]]
    history: tuple[HistoryItem, ...]
    recommendations: tuple[Recommendation, ...]
    views: tuple[PathWeight, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Neighbour:
    """A node near another by the model's vectors, and what they share.

    Attributes:
        rank: from 1.
        near: the node and the cosine.
        evidence: by meta-path; only paths that join the two.
    """

    rank: int
    near: Near
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class NodeExplanation(_Plain):
    """Which nodes a model of a typed graph places next to a node, and what they share.

    Attributes:
        model: its class.
        dataset: name of the data set, or None.
        node: which one.
        about: its direct neighbours in the graph: node type -> titles, at most ten.
        neighbours: nearest first.
        views: weights of the model's views.
        notes: what is missing, and why.
    """

    model: str
    dataset: str | None
    node: Node
    about: Mapping[str, tuple[str, ...]]
    neighbours: tuple[Neighbour, ...]
    views: tuple[PathWeight, ...]
    notes: tuple[str, ...]
