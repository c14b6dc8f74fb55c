"""The values of an explanation. Users, items and nodes appear with the user's own ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recgraph.explain.attribution.result import Attributed
from recgraph.explain.item import Item, Node

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
class Near:
    """A near node by the vectors of the model.

    Attributes:
        node: the node.
        similarity: cosine of the two vectors.
        seen: whether it is an item of the user's history.
    """

    node: Node
    similarity: float
    seen: bool = False


@dataclass(frozen=True)
class PathWeight:
    """The attention that a model gives to a meta-path.

    Attributes:
        side: the node type at both ends of the meta-path.
        path: the meta-path.
        weight: its semantic attention, that of its twin included; the weights of a side sum to 1.
    """

    side: str
    path: str
    weight: float


@dataclass(frozen=True)
class ScorePart:
    """The part of a score that comes from one meta-path.

    Attributes:
        side, path: as in :class:`PathWeight`; both empty for the nodes' own vectors.
        value: the Shapley value of the meta-path in the inner product of user and item: half of the product of the
            user's addend with the whole item, plus half of the reverse. Where the model scores by that inner product,
            the parts sum to the score.
    """

    side: str
    path: str
    value: float


@dataclass(frozen=True)
class Connection:
    """The paths from a user to an item through one node, or from one node to another.

    Attributes:
        via: the history item where the meta-path begins, or the similar user where it ends; in a
            :class:`NodeExplanation` the other node.
        similarity: of ``via`` to the item, user or node along the meta-path: PathSim, or ``count / sqrt(paths out *
            paths in)`` for a path that is no round trip. In [0, 1].
        count: number of paths through ``via``; repeated edges count once.
        paths: some of these paths, those of the highest random-walk probability first.
    """

    via: Node
    similarity: float
    count: int
    paths: tuple[tuple[Node, ...], ...]


@dataclass(frozen=True)
class Evidence:
    """How strongly one meta-path connects a user with an item, or a node with another.

    Attributes:
        side: ``"item"``: the meta-path leads from a history item to the item. ``"user"``: it leads from the user to
            another user, who had the item. In a :class:`NodeExplanation` the embedded node type.
        path: the meta-path.
        weight: its path weight; None where the model does not use the meta-path.
        count: number of paths.
        score: side ``item``: the mean similarity of the history items to the item; side ``user``: among the users that
            the meta-path reaches, the fraction, weighted by similarity, that had the item; between nodes their
            similarity. In [0, 1].
        rank: rank of the item by this score alone, from 1, among the items outside the history.
        n_ranked: how many of those items the meta-path reaches.
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
    """An item of the user's history.

    Attributes:
        item: the item.
        fitted: whether the model was fitted to it (items of the validation part may not have been); None where the run
            does not know, as for models without meta-paths.
        nearest: the items nearest to it, best first.
    """

    item: Item
    fitted: bool | None
    nearest: tuple[Near, ...] = ()


@dataclass(frozen=True)
class Recommendation:
    """A recommended item and the reasons for it.

    Attributes:
        rank: from 1.
        item: the item.
        score: the model's score.
        parts: the parts of the score; empty where the model has no meta-paths.
        evidence: by meta-path, the one that adds most to the score first (where none adds, the one that ranks the item
            highest).
        nearest: the items nearest to it, best first.
        nearest_seen: the history items nearest to it, best first.
        attributed: what of the history it comes from by the methods asked for; None where none was.
    """

    rank: int
    item: Item
    score: float
    parts: tuple[ScorePart, ...]
    evidence: tuple[Evidence, ...]
    nearest: tuple[Near, ...]
    nearest_seen: tuple[Near, ...]
    attributed: Attributed | None = None


#: field -> its key in JSON, which is also the earlier name of the attribute
_KEYS = {"related": "about", "path_weights": "views"}


class _Explained:
    related: Mapping[str, tuple[str, ...]]
    path_weights: tuple[PathWeight, ...]

    @property
    def about(self) -> Mapping[str, tuple[str, ...]]:
        """The earlier name of ``related``."""
        return self.related

    @property
    def views(self) -> tuple[PathWeight, ...]:
        """The earlier name of ``path_weights``."""
        return self.path_weights

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples, with the keys of ``recgraph inspect --format json``."""
        fields: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {_KEYS.get(name, name): value for name, value in fields.items()}


@dataclass(frozen=True)
class Explanation(_Explained):
    """The recommendations for a user, and the reasons for each.

    Attributes:
        model: class of the model.
        dataset: name of the data set; None where the run was made from the user's own frames.
        user: id.
        related: node type -> titles of the user's direct neighbours in the graph, at most ten; items are left out.
        history: oldest first.
        recommendations: best first.
        path_weights: of the model's meta-paths; empty where it has none.
        notes: what is missing, and why.
    """

    model: str
    dataset: str | None
    user: Any
    related: Mapping[str, tuple[str, ...]]
    history: tuple[HistoryItem, ...]
    recommendations: tuple[Recommendation, ...]
    path_weights: tuple[PathWeight, ...]
    notes: tuple[str, ...]

    @property
    def attributed(self) -> tuple[Attributed, ...]:
        """The attributions of the recommendations; empty where no method was asked for."""
        return tuple(each.attributed for each in self.recommendations if each.attributed is not None)


@dataclass(frozen=True)
class Neighbour:
    """A node near another by the model's vectors, with the meta-paths between the two.

    Attributes:
        rank: from 1.
        near: the node and the cosine.
        evidence: by meta-path; only those that connect the two nodes.
    """

    rank: int
    near: Near
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class NodeExplanation(_Explained):
    """The nearest nodes of a node of a typed graph, with the meta-paths between them.

    Attributes:
        model: class of the model.
        dataset: name of the data set, or None.
        node: the node.
        related: node type -> titles of its direct neighbours in the graph, at most ten.
        neighbours: nearest first.
        path_weights: of the model's meta-paths.
        notes: what is missing, and why.
    """

    model: str
    dataset: str | None
    node: Node
    related: Mapping[str, tuple[str, ...]]
    neighbours: tuple[Neighbour, ...]
    path_weights: tuple[PathWeight, ...]
    notes: tuple[str, ...]
