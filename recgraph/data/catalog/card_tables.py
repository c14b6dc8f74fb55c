"""The tables of data cards: layouts of files, steps of preparation, expected counts, the parts of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from recgraph.config import Added, Config
from recgraph.data.catalog.sources import PlainName, Sha256, TableName
from recgraph.data.reading import Reading
from recgraph.texts import listed

__all__ = [
    "SEQUENCES",
    "ColumnType",
    "Counts",
    "DataFiles",
    "EdgeFile",
    "GraphInteractions",
    "Layout",
    "NodeFile",
    "NodeLabels",
    "Preparation",
    "check_nodes",
    "check_parts",
]

ColumnType = Literal["int", "float", "text"]


class Layout(Config):
    """How the columns of a file become those of a table.

    The columns of the result have fixed names: ``user_id``, ``item_id``, ``timestamp``, ``rating`` and ``weight``
    in interactions; the id and any features in items and users.
    """

    columns: dict[str, ColumnType] = Field(description="the file's columns in their order, with their types")
    rename: dict[str, str] = Field({}, description="the file's name -> the table's name")
    flags: dict[str, tuple[str, ...]] = Field(
        {}, description="table column -> the 0/1 columns of which it lists the names of those that are 1"
    )
    split: dict[str, str] = Field({}, description="table column of text -> the separator of the list that it is")
    extract: dict[str, tuple[str, str]] = Field(
        {}, description="table column -> (table column, pattern): an integer, the pattern's first group"
    )
    keep: tuple[str, ...] = Field((), description="the table's columns; empty for all")

    @property
    def _renamed(self) -> dict[str, str]:
        """The file's columns by their names in the table, with their types."""
        return {self.rename.get(name, name): kind for name, kind in self.columns.items()}

    @property
    def _all_made(self) -> dict[str, str]:
        made = self._renamed | dict.fromkeys([*self.flags, *self.split], "list")
        return made | dict.fromkeys(self.extract, "int")

    @property
    def made(self) -> dict[str, str]:
        """The columns of the table, with what they hold: the file's types, or lists."""
        made = self._all_made
        return {name: made[name] for name in self.keep} if self.keep else made

    @model_validator(mode="after")
    def _names_its_columns(self) -> Self:
        _check_there("rename", self.rename, self.columns)
        names = self._renamed
        if len(names) < len(self.columns):
            raise ValueError(f"rename = {self.rename} gives two columns one name")
        for name, flags in self.flags.items():
            _check_there(f"flags.{name}", flags, {name: kind for name, kind in names.items() if kind != "text"})
        texts = {name: kind for name, kind in names.items() if kind == "text"}
        _check_there("split", self.split, texts)
        for name, (source, pattern) in self.extract.items():
            _check_there(f"extract.{name}", [source], {text: "text" for text in texts if text not in self.split})
            try:
                n_groups = len(pl.select(pl.lit("").str.extract_groups(pattern)).to_series().struct.fields)
            except pl.exceptions.PolarsError as error:
                raise ValueError(f"extract.{name}: {pattern!r} is no pattern: {error}") from None
            if not n_groups:
                raise ValueError(f"extract.{name}: the pattern {pattern!r} has no group; put what is wanted in (...)")
        _check_there("keep", self.keep, self._all_made)
        return self


def _check_there(setting: str, names: Iterable[str], there: Mapping[str, Any]) -> None:
    for name in names:
        if name not in there:
            raise ValueError(f"{setting}: there is no such column {name!r}; there are {listed(there)}")


#: the layout of a file of sequences
SEQUENCES = Layout(columns={"user_id": "int", "item_id": "int"})


def check_parts(layouts: Mapping[TableName, Layout | None]) -> None:
    """Refuse parts whose tables have other columns than the first one's; None: a file of sequences.

    Raises:
        ValueError: names both layouts and what they make.
    """
    made = {table: (layout or SEQUENCES).made for table, layout in layouts.items()}
    first = next(iter(made), None)
    for table, columns in made.items():
        if first is not None and columns != made[first]:
            raise ValueError(
                f"layout.{table} makes the columns {_told(columns)}, layout.{first} {_told(made[first])}: the parts of "
                "one log have the same"
            )


def _told(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in columns.items())


class Preparation(Config):
    """What is done to the interactions, in this order."""

    min_rating: float | None = Field(None, description="keep interactions rated at least so")
    negative: Annotated[Literal["error", "drop"], Added()] = Field(
        "error", description="what min_rating does with ratings below 0, which often stand for 'not rated'"
    )
    duplicates: Literal["all", "first", "last"] = Field("all", description="of the same user and item")
    k_core: int = Field(1, ge=1, description="keep users and items with at least so many interactions")


class Counts(Config):
    """What the prepared interactions must be."""

    users: int = Field(ge=1)
    items: int = Field(ge=1)
    interactions: int = Field(ge=1)
    sha256: Sha256 | None = Field(
        None,
        description="of the interactions before preparation, as tab-separated text in the layout's order",
    )


class DataFiles(Reading):
    """The table ``[data]`` of a card: files of the user's own, and how they are read."""

    file: str = Field(description="a file, a folder or a pattern, from the card's folder on")


class NodeFile(Config):
    """The nodes of one type."""

    count: int = Field(ge=1, description="how many there must be")
    features: PlainName | None = Field(None, description="a scipy .npz or numpy .npy file, one row a node")
    normalise: bool = Field(True, description="the features of a node are divided by their sum")


class EdgeFile(Config):
    """The edges of one type: a text file, a pair of integers a line, separated by spaces or tabs.

    Further columns are refused where the task is one of nodes, and ignored where it is recommendation, whose published
    files have them.
    """

    type: tuple[str, str, str] = Field(description="source type, relation, target type, in the order of the columns")
    file: PlainName
    count: int = Field(ge=0, description="how many lines there must be")


class NodeLabels(Config):
    """Classes of the nodes of one type, and published splits."""

    renamed: ClassVar[dict[str, str]] = {"labels": "file"}

    target: str = Field(description="the node type")
    file: PlainName = Field(description="a .npy file, one class a node")
    classes: int = Field(ge=2, description="how many there must be")
    splits: dict[str, tuple[PlainName, PlainName, PlainName]] = Field(
        description="labels a class -> .npy files: train, valid, test"
    )
    paths: tuple[str, ...] = Field(description="the published meta-paths")


class GraphInteractions(Config):
    """Interactions without times beside a graph; every one is a positive."""

    file: PlainName = Field(description="a text file: user id, item id, and columns that are ignored")
    interactions: int = Field(ge=1, description="how many there must be")
    split: dict[str, Any] = Field(description="strategy, seed and its options")
    paths: tuple[str, ...] = Field(description="meta-paths of users and of items")


def check_nodes(nodes: Mapping[str, NodeFile], edges: Sequence[EdgeFile], with_interactions: bool) -> None:
    """Refuse edges or interactions of nodes that have no table, and tables of nodes that nothing reads.

    Raises:
        ValueError: names the table.
    """
    ends = {end for edge in edges for end in (edge.type[0], edge.type[2])}
    for name in sorted(ends | ({"user", "item"} if with_interactions else set())):
        if name not in nodes:
            raise ValueError(f"nodes.{name} is missing; there are {listed(nodes)}")
    if not with_interactions:
        return
    for name, node in nodes.items():
        if node.features is not None:
            raise ValueError(
                f"nodes.{name}.features: features of nodes are read where task = 'nodes' alone; leave it out"
            )
        if name not in {"user", "item", *ends}:
            raise ValueError(f"nodes.{name} is in no edge, and its nodes are those of the edges; leave it out")
