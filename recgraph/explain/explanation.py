"""The values of an explanation. Users, items and nodes appear with the user's own ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from recgraph.pages import block, table


@dataclass(frozen=True)
class Node:
    """A node of the graph: its own id, or its index in a graph without ids; an item's title, else
    the id as text.
    """

    type: str
    id: Any
    title: str


@dataclass(frozen=True)
class Item:
    """An item: its title or name from the item features, else the id as text, and the other
    features but vectors.
    """

    id: Any
    title: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Near:
    """A near node by the cosine of the model's vectors, and whether it is an item of the user's
    history.
    """

    node: Node
    similarity: float
    seen: bool = False


@dataclass(frozen=True)
class PathWeight:
    """The semantic attention that a model gives to a meta-path, its twin included; those of a side,
    the node type at both ends, sum to 1."""

    side: str
    path: str
    weight: float


@dataclass(frozen=True)
class ScorePart:
    """The part of a score that comes from one meta-path, or, with empty ``side`` and ``path``, from
    own vectors.

    It is the Shapley value of the meta-path in the inner product of user and item: half of the
    product of the user's addend with the whole item, plus half of the reverse. Where the model
    scores by that product, the parts sum to it.
    """

    side: str
    path: str
    value: float


@dataclass(frozen=True)
class Connection:
    """The paths from a user to an item through one node, or from one node to another.

    Attributes:
        via: the history item where the meta-path begins, the similar user where it ends, or the
            other node.
        similarity: of ``via`` to the item, user or node along the meta-path, in [0, 1]: PathSim, or
            ``count / sqrt(paths out * paths in)`` for a path that is no round trip.
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
        side: ``"item"``: the meta-path leads from a history item to the item. ``"user"``: it leads
            from the user to another user, who had the item. Between nodes their type.
        path, weight: the meta-path and its path weight; None where the model does not use the
            meta-path.
        count: number of paths.
        score: in [0, 1]. Side ``item``: the mean similarity of the history items to the item; side
            ``user``: among the users that the meta-path reaches, the fraction, weighted by
            similarity, that had the item.
        rank, n_ranked: of the item by this score alone, from 1, among the items outside the history
            that it reaches.
        connections: the strongest.
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
    """An item of the user's history, and whether the model was fitted to it (items of the
    validation part may not have been); None where the run does not know, as for models without
    meta-paths."""

    item: Item
    fitted: bool | None
    nearest: tuple[Near, ...] = ()


@dataclass(frozen=True)
class Faithfulness:
    """How the value of a recommended item follows an order of the events; in units of the value.

    Attributes:
        comprehensiveness: the mean over shares r of 1, 5, 10, 20 and 50 % of ``f(S) - f(S without
            the first r H)``: higher is better.
        sufficiency: the mean over the same shares of ``f(S) - f(the first r H alone)``: lower is
            better.

    Source: DeYoung et al., ERASER (ACL 2020). Departures: f is the attributed quantity (there a
    probability); of ``r H`` events the ceiling is taken, so that at least one goes.
    """

    comprehensiveness: float
    sufficiency: float

    @classmethod
    def mean(cls, several: Sequence[Faithfulness]) -> Faithfulness:
        """The mean of each number."""
        return cls(
            comprehensiveness=sum(one.comprehensiveness for one in several) / len(several),
            sufficiency=sum(one.sufficiency for one in several) / len(several),
        )


@dataclass(frozen=True)
class MethodAttribution:
    """What one method says of one recommended item: ``values``, one for each event, oldest first;
    ``order``, the places of events, the highest value first, the newest first among equal ones; and
    how faithful that is."""

    method: str
    values: tuple[float, ...]
    order: tuple[int, ...]
    faithfulness: Faithfulness


@dataclass(frozen=True)
class Attributed:
    """A recommended item, and what of the history it comes from.

    Attributes:
        of, value: what is attributed, ``"log_probability"`` or ``"score"``, and its value with the
            whole history.
        events: what the model reads of the history, oldest first.
        n_unread: events of the history that it does not read.
        agreement: pairs of methods, with Spearman's rank correlation of their values; None where
            one is constant.
        by_chance: the faithfulness of random orders, the mean over several.
    """

    item: Item
    of: str
    value: float
    events: tuple[Node, ...]
    n_unread: int
    methods: tuple[MethodAttribution, ...]
    agreement: tuple[tuple[str, str, float | None], ...]
    by_chance: Faithfulness

    def rows(self, most: int) -> list[dict[str, Any]]:
        """A row for each of the events that one of the methods puts among its first ``most``: its
        values.
        """
        shown = set[int]()
        for method in self.methods:
            shown.update(method.order[:most])
        rows = []
        for place in sorted(shown, key=self.methods[0].order.index):
            values = {method.method: method.values[place] for method in self.methods}
            rows.append({"place": place + 1, "item": self.events[place].title} | values)
        return rows

    def _repr_html_(self) -> str:
        facts = {
            "of": self.of,
            "value": self.value,
            "events": len(self.events),
            "not read": self.n_unread or None,
        }
        tables = [
            table(self.rows(10), "attribution of the events"),
            table(agreement_rows([self]), "agreement"),
            table(faithfulness_rows([self]), "faithfulness"),
        ]
        return block(f"Why {self.item.title}", facts, tables)


def agreement_rows(several: Sequence[Attributed]) -> list[dict[str, Any]]:
    """A row for each pair of methods: means over the recommended items for which the correlation is
    known.

    That two explanations correlate does not prove either (Neely et al., A Song of (Dis)agreement,
    2022).
    """
    rows = []
    for pairs in zip(*(one.agreement for one in several), strict=True):
        known = [spearman for _, _, spearman in pairs if spearman is not None]
        mean = sum(known) / len(known) if known else None
        first, second, _ = pairs[0]
        rows.append({"method": first, "and": second, "Spearman": mean})
    return rows


def faithfulness_rows(several: Sequence[Attributed]) -> list[dict[str, Any]]:
    """A row for each method and one for random orders: means over the recommended items."""
    if not several:
        return []
    rows = []
    for methods in zip(*(one.methods for one in several), strict=True):
        mean = Faithfulness.mean([method.faithfulness for method in methods])
        rows.append({"method": methods[0].method} | asdict(mean))
    by_chance = Faithfulness.mean([one.by_chance for one in several])
    rows.append({"method": "random order"} | asdict(by_chance))
    return rows


@dataclass(frozen=True)
class Recommendation:
    """A recommended item and the reasons for it.

    Attributes:
        parts: the parts of the score; empty where the model has no meta-paths.
        evidence: by meta-path, the one that adds most to the score first (where none adds, the one
            that ranks the item highest).
        nearest, nearest_seen: the items and the history items nearest to it, best first.
        attributed: what of the history it comes from, where methods were given.
    """

    rank: int
    item: Item
    score: float
    parts: tuple[ScorePart, ...]
    evidence: tuple[Evidence, ...]
    nearest: tuple[Near, ...]
    nearest_seen: tuple[Near, ...]
    attributed: Attributed | None = None


@dataclass(frozen=True)
class Explanation:
    """The recommendations for a user, and the reasons for each.

    Attributes:
        dataset: name of the data set; None where the run was made from the user's own frames.
        related: node type -> titles of the user's direct neighbours in the graph, at most ten;
            items are left out.
        path_weights: of the model's meta-paths; empty where it has none.
    """

    model: str
    dataset: str | None
    user: Any
    related: Mapping[str, tuple[str, ...]]
    history: tuple[HistoryItem, ...]
    recommendations: tuple[Recommendation, ...]
    path_weights: tuple[PathWeight, ...]

    @property
    def attributed(self) -> tuple[Attributed, ...]:
        """The attributions of the recommendations; empty where no method was given."""
        return tuple(filter(None, (each.attributed for each in self.recommendations)))

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples."""
        return asdict(self)


@dataclass(frozen=True)
class Neighbour:
    """A node near another by the model's vectors, with the meta-paths that connect the two."""

    rank: int
    near: Near
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True)
class NodeExplanation:
    """The nearest nodes of a node of a typed graph, nearest first; other attributes as in
    :class:`Explanation`.
    """

    model: str
    dataset: str | None
    node: Node
    related: Mapping[str, tuple[str, ...]]
    neighbours: tuple[Neighbour, ...]
    path_weights: tuple[PathWeight, ...]

    def to_dict(self) -> dict[str, Any]:
        """As nested dictionaries and tuples."""
        return asdict(self)
