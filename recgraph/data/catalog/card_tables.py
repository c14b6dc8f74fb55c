"""The tables of data cards: layouts of files, steps of preparation, expected counts, the parts of a graph."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from recgraph.config import Config
from recgraph.data.catalog.sources import PlainName, Sha256
from recgraph.data.reading import Reading

__all__ = [
    "ColumnType",
    "Counts",
    "DataFiles",
    "EdgeFile",
    "GraphInteractions",
    "Layout",
    "NodeFile",
    "NodeLabels",
    "Preparation",
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


class Preparation(Config):
    """What is done to the interactions, in this order."""

    min_rating: float | None = Field(None, description="keep interactions rated at least so")
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

    Further columns are ignored.
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
