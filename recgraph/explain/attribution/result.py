"""The values of an attribution, and of several in tables: for people, programs and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recgraph.explain.attribution.faithfulness import Faithfulness
from recgraph.explain.item import Item, Node
from recgraph.notebook import block, table

__all__ = [
    "BY_CHANCE",
    "Attributed",
    "MethodAttribution",
    "MethodPair",
    "Removal",
    "agreement_rows",
    "faithfulness_rows",
    "mean",
]


@dataclass(frozen=True)
class MethodAttribution:
    """What one method says of one recommended item.

    Attributes:
        method: its name.
        values: one for each event, oldest first.
        shares: of the sum of the values above 0; 0 of the others.
        order: the events' places, the highest value first, the newest first among equal ones.
        n_half: how many events, the highest first, hold half of what is above 0; 0 where nothing is.
        faithfulness: of its order.
    """

    method: str
    values: tuple[float, ...]
    shares: tuple[float, ...]
    order: tuple[int, ...]
    n_half: int
    faithfulness: Faithfulness


@dataclass(frozen=True)
class MethodPair:
    """Whether two methods agree on one recommended item.

    Attributes:
        first, second: their names.
        spearman, kendall: rank correlations of their values; None where one is constant.
        overlap: the share of their first ``n_first`` events that both have.
        n_first: how many are compared.
    """

    first: str
    second: str
    spearman: float | None
    kendall: float | None
    overlap: float
    n_first: int


@dataclass(frozen=True)
class Removal:
    """What becomes of the recommendation without the events that carry it.

    Attributes:
        places: of the events that are left out, the highest share first.
        rank: of the item with the whole history, among the unseen items.
        rank_without: without those events.
    """

    places: tuple[int, ...]
    rank: int
    rank_without: int


@dataclass(frozen=True)
class Attributed:
    """A recommended item, and what of the history it comes from.

    Attributes:
        item: the item.
        of: what is attributed, ``"log_probability"`` or ``"score"``.
        value: of the item with the whole history.
        events: what the model reads of the history, oldest first.
        n_unread: events of the history that it does not read.
        methods: in the order asked for; the first leads the sentence and the removal.
        agreement: every pair of methods.
        by_chance: the faithfulness of random orders, the mean over several.
        removal: of the first method's events; None where no value is above 0.
        k: the length of the list of recommendations.
        sentence: the same in words (:func:`recgraph.explain.attribution.sentence.sentence_of`).
    """

    item: Item
    of: str
    value: float
    events: tuple[Node, ...]
    n_unread: int
    methods: tuple[MethodAttribution, ...]
    agreement: tuple[MethodPair, ...]
    by_chance: Faithfulness
    removal: Removal | None
    k: int
    sentence: str = ""

    def rows(self, most: int) -> list[dict[str, Any]]:
        """A row for each of the events that one of the methods puts among its first ``most``: its values."""
        shown = dict.fromkeys(place for one in self.methods for place in one.order[:most])
        by = self.methods[0].order if self.methods else ()
        return [
            {"place": place + 1, "item": self.events[place].title}
            | {one.method: one.values[place] for one in self.methods}
            for place in sorted(shown, key=by.index)
        ]

    def _repr_html_(self) -> str:
        facts = {"of": self.of, "value": self.value, "events": len(self.events), "not read": self.n_unread or None}
        tables = [table(self.rows(10), "attribution of the events")]
        tables += [table(agreement_rows([self]), "agreement"), table(faithfulness_rows([self]), "faithfulness")]
        return block(f"Why {self.item.title}", facts, tables, self.sentence)


#: the name of random orders in tables
BY_CHANCE = "random order"


def mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def agreement_rows(several: Sequence[Attributed]) -> list[dict[str, Any]]:
    """A row for each pair of methods: means over the recommended items for which they are known."""
    if not several:
        return []
    found = []
    for number, pair in enumerate(several[0].agreement):
        each = [one.agreement[number] for one in several]
        found.append(
            {
                "method": pair.first,
                "and": pair.second,
                "Spearman": mean([one.spearman for one in each]),
                "Kendall": mean([one.kendall for one in each]),
                f"first {pair.n_first} shared": mean([one.overlap for one in each]),
            }
        )
    return found


def faithfulness_rows(several: Sequence[Attributed]) -> list[dict[str, Any]]:
    """A row for each method and one for random orders: means over the recommended items."""
    if not several:
        return []
    orders = {
        one.method: [each.methods[n].faithfulness for each in several] for n, one in enumerate(several[0].methods)
    }
    orders[BY_CHANCE] = [each.by_chance for each in several]
    return [{"method": name} | _numbers(Faithfulness.mean(each)) for name, each in orders.items()]


def _numbers(one: Faithfulness) -> dict[str, float]:
    return {name: getattr(one, name) for name in Faithfulness.__annotations__}
