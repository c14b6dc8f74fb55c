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
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recgraph.config import Config, ConfigError, did_you_mean, load_toml, nearest_names
from recgraph.data.catalog.card_tables import (
    Counts,
    DataFiles,
    EdgeFile,
    GraphInteractions,
    Layout,
    NodeFile,
    NodeLabels,
    Preparation,
    check_nodes,
    check_parts,
)
from recgraph.data.catalog.sources import (
    PART_TABLES,
    Folder,
    Generated,
    Local,
    PlainName,
    Sha256,
    TableName,
    Url,
    Wheel,
)
from recgraph.data.log_file import LogFile, is_data_path
from recgraph.data.reading import PATHS, Reading

__all__ = [
    "AnyCard",
    "Card",
    "Counts",
    "DataFiles",
    "EdgeFile",
    "FileCard",
    "GraphCard",
    "GraphInteractions",
    "Layout",
    "LogCard",
    "NodeFile",
    "NodeLabels",
    "Preparation",
    "Source",
    "UnknownDatasetError",
    "card_files",
    "data_name",
    "find_card",
    "with_train",
]


# Raise it when the code prepares the data of a card in another way: it is part of every cache key.
_FORMAT = 1


class UnknownDatasetError(ValueError):
    """No card has that name."""


Source = Url | Wheel | Local | Generated


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
        """Read a card.

        Raises:
            ConfigError: no TOML, an unknown key or a value that is not allowed; names the file and the key.
        """
        values = _extended(load_toml(path), Path(path))
        is_graph = "nodes" in values or values.get("kind") == "graph" or values.get("task") == "nodes"
        card: AnyCard
        try:
            if "data" in values:
                card = FileCard.of(_from_folder(values, Path(path).parent))
            else:
                card = GraphCard.of(values) if is_graph else LogCard.of(values)
        except ConfigError as error:
            raise ConfigError(f"card {str(path)!r}: {error}") from None
        if card.name != Path(path).stem:
            raise ConfigError(f"card {str(path)!r}: name = {card.name!r} must be {Path(path).stem!r}, as the file is")
        return card


#: the fields of a card that are no part of its hash
_TEXTS = {"title", "description", "homepage", "licence", "citation", "acknowledgement", "task"}


class LogCard(Card):
    """A card of interactions, which a log or lists of items hold; or train, valid and test as files of their own."""

    expected: Counts | None = Field(None, description="checked after preparation; none: nothing is")
    prepare: Preparation = Preparation()
    layout: dict[TableName, Layout] = Field({}, description="of every table but that of a sequences file")
    sources: tuple[Annotated[Source, Field(discriminator="kind")], ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _every_file_has_a_layout(self) -> Self:
        for source in self.sources:
            files = getattr(source, "files", {})
            for table, file in files.items():
                if self.layout_of(table) is None and file.format != "sequences":
                    raise ValueError(f"layout.{table} is missing: a {source.kind} source has such a file")
            check_parts({table: self.layout_of(table) for table in PART_TABLES if table in files})
        return self

    def layout_of(self, table: TableName) -> Layout | None:
        """The layout of a table; that of the interactions is also that of the other parts."""
        return self.layout.get(table) or (self.layout.get("interactions") if table in PART_TABLES else None)

    @property
    def sizes(self) -> dict[str, int]:
        return _sizes(self.expected)

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json", exclude=_TEXTS) | {"prepare": self.prepare.identity()}
        for source in content["sources"]:  # limits do not decide what the data is
            source.pop("max_download", None)
            for file in source.get("files", {}).values():
                file.pop("max_bytes")
        return content


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
    def paths(self) -> list[str]:
        """The places of all its files."""
        return [self.data.file, *(path for name in PATHS if (path := getattr(self.data, name)) is not None)]

    @property
    def sizes(self) -> dict[str, int]:
        return _sizes(self.expected)

    @property
    def kinds(self) -> list[str]:
        return ["file"]

    @property
    def place(self) -> str:
        """64 hex digits of the card and of where its files lie: two cards of one name may be of different files."""
        return hashlib.sha256(f"{self.hash} {[str(file) for file in self.paths]}".encode()).hexdigest()

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
    if "file" in data:
        raise ConfigError(f"data: file = {data['file']!r} and train = {data['train']!r} are one setting; give train")
    return {"file" if name == "train" else name: value for name, value in data.items()}


def _extended(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values of a card in the place of those of the card that it ``extends``, which lies in the same folder."""
    values = dict(values)
    if (base := values.pop("extends", None)) is None:
        return values
    if not isinstance(base, str) or not (file := path.parent / f"{base}.toml").is_file():
        raise ConfigError(f"card {str(path)!r}: extends = {base!r} must be the name of a card in the same folder")
    return {**load_toml(file), **values}


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

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_format(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Earlier cards have ``kind = "graph"`` and a table ``[task]`` with a kind of its own."""
        if values.get("kind") == "graph":
            values = {name: value for name, value in values.items() if name != "kind"}
        if not isinstance(values.get("task"), Mapping):
            return values
        table = dict(values["task"])
        kind = table.pop("kind", None)
        if kind not in _TASK_TABLES:
            raise ValueError(f"task.kind = {kind!r} must be {' or '.join(map(repr, _TASK_TABLES))}")
        return values | {"task": kind, _TASK_TABLES[kind]: table}

    @model_validator(mode="after")
    def _task_has_its_table(self) -> Self:
        for task, table in _TASK_TABLES.items():
            if (getattr(self, table) is not None) != (task == self.task):
                needs = "needs a" if task == self.task else "has no"
                raise ValueError(f"task = {self.task!r} {needs} table [{table}]")
        check_nodes(self.nodes, self.edges, self.interactions is not None)
        if self.permutation is not None and self.task != "nodes":
            raise ValueError('permutation is of task = "nodes": users and items are numbered by their interactions')
        return self

    @model_validator(mode="after")
    def _every_file_has_a_hash(self) -> Self:
        used = [edge.file for edge in self.edges] + [n.features for n in self.nodes.values() if n.features]
        if self.labels is not None:
            used += [self.labels.file, *(name for parts in self.labels.splits.values() for name in parts)]
        if self.interactions is not None:
            used.append(self.interactions.file)
        missing = [name for name in used if name not in self.files]
        if missing:
            raise ValueError(f"files.{missing[0]!r} is missing: its sha256")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The published meta-paths."""
        table = self.labels or self.interactions
        assert table is not None
        return table.paths

    @property
    def sizes(self) -> dict[str, int]:
        if self.interactions is None:
            return {}
        users, items = self.nodes["user"].count, self.nodes["item"].count
        return {"users": users, "items": items, "interactions": self.interactions.interactions}

    def _content(self) -> dict[str, Any]:
        table = self.labels or self.interactions
        assert table is not None
        content = self.model_dump(mode="json", exclude={*_TEXTS, "labels", "interactions", "sources"})
        if self.permutation is None:  # cards had no such field once
            del content["permutation"]
        return content | {"kind": "graph", "task": {"kind": self.task, **table.identity()}}


AnyCard = LogCard | GraphCard | FileCard

#: task -> the table of a graph's card that describes it
_TASK_TABLES = {"nodes": "labels", "recommendation": "interactions"}


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
    """The card of a name, in a ``.toml`` file given by its path, or of files of the user's own given by theirs.

    Raises:
        UnknownDatasetError: there is none; lists the names that exist, the nearest first.
        ConfigError: the card is wrong.
    """
    if name.endswith(".toml"):
        return Card.load(name)
    files = card_files()
    if name not in files and is_data_path(name):
        return FileCard.of_path(name)
    if name not in files:
        meant = did_you_mean(nearest_names(name.lower(), files)).replace("did", "Did", 1)
        hint = f"{meant} " if meant else ""
        raise UnknownDatasetError(
            f"dataset {name!r} has no card. {hint}There are {', '.join(files)}. A log of your own is "
            "given as the path of its file (--data log.csv), a card as that of its .toml file, or put in a folder that "
            "RECGRAPH_CARDS names"
        )
    return Card.load(files[name])
