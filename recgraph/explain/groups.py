"""By what the points of a map are coloured: a feature of items, or what nodes are joined to in the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.data.hetero import HeteroGraph
from recgraph.explain.names import ItemNames, node_of

__all__ = ["COLOURED", "Grouping", "choose", "of_columns", "of_relations"]

#: values that get a colour of their own, the most common ones
COLOURED = 7
#: share of the nodes that the coloured values of a feature are to have
_COVERED = 0.5


@dataclass(frozen=True)
class Grouping:
    """A feature with its values.

    Attributes:
        name: of the column or node type.
        nodes, values: [P] int64, which node has which value.
        titles: of the values.
    """

    name: str
    nodes: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    titles: tuple[str, ...]

    def coloured(self) -> npt.NDArray[np.int64]:
        """The most common values, the most common first; equals by their number."""
        counts = np.bincount(self.values, minlength=len(self.titles))
        return np.argsort(-counts, kind="stable")[:COLOURED]

    def coverage(self, n_nodes: int) -> float:
        """The share of nodes that have a coloured value."""
        return len(np.unique(self.nodes[np.isin(self.values, self.coloured())])) / max(n_nodes, 1)

    def colours(self, n_nodes: int) -> tuple[tuple[str, ...], list[int]]:
        """The coloured titles, and for each node the place of its value among them, -1 for none.

        Of several coloured values the rarest is taken: nearly every film is a drama or a comedy, too.
        """
        chosen = self.coloured()
        found = np.full(n_nodes, -1)
        for place, value in enumerate(chosen):  # rarer ones overwrite
            found[self.nodes[self.values == value]] = place
        return tuple(self.titles[value] for value in chosen), found.tolist()


def of_columns(names: ItemNames) -> Iterator[Grouping]:
    """Columns of lists and of texts, of which at least two items have the same value on average."""
    table = names.features
    if table is None:
        return
    for column in table.columns:
        kind = table[column].dtype
        if column in (names.key, names.title) or not (isinstance(kind, pl.List) or kind == pl.String):
            continue
        pairs = pl.DataFrame({"node": range(names.count), "value": pl.Series(names.column(column), dtype=kind)})
        pairs = (pairs.explode("value") if isinstance(kind, pl.List) else pairs).drop_nulls()
        values = pairs["value"].cast(pl.String)
        titles = values.unique(maintain_order=True)
        if len(values) >= 2 * len(titles) > 0:
            number = dict(zip(titles, range(len(titles)), strict=True))
            coded = np.array([number[value] for value in values], dtype=np.int64)
            yield Grouping(column, pairs["node"].to_numpy().astype(np.int64), coded, tuple(titles))


def of_relations(graph: HeteroGraph, node_type: str) -> Iterator[Grouping]:
    """The node types that a type is joined to, users and itself left out."""
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        other, matrix = (end, adj) if source == node_type else (source, adj.t())
        if node_type not in (source, end) or other in (node_type, "user", "item"):
            continue
        titles = tuple(node_of(graph, other, node).title for node in range(graph.count(other)))
        yield Grouping(other, matrix.rows.numpy(), matrix.indices.numpy(), titles)


def choose(found: list[Grouping], wanted: str | None, n_nodes: int) -> Grouping | None:
    """The feature to colour by: the one that is asked for, else the first whose common values most nodes have.

    Raises:
        ValueError: there is no such feature; names those that there are.
    """
    if wanted is not None:
        for grouping in found:
            if grouping.name == wanted:
                return grouping
        there = ", ".join(repr(grouping.name) for grouping in found) or "none"
        raise ValueError(f"color = {wanted!r} is no feature with values that several share; there are {there}")
    covered = [grouping.coverage(n_nodes) for grouping in found]
    enough = [place for place, share in enumerate(covered) if share >= _COVERED]
    if not found:
        return None
    return found[enough[0] if enough else covered.index(max(covered))]
