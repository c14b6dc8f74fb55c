"""Data cards of graphs: a folder of published files, the types that they hold, and the task on them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recgraph.config import Config, ConfigError, load_toml
from recgraph.data.card import Sha256, card_files, find_card

__all__ = ["EdgeFile", "Folder", "GraphCard", "NodeFile", "NodeTaskFiles", "RecommendationFiles", "find_graph_card"]

# Raise it when the code reads a card otherwise than before: it is part of every cache key.
_FORMAT = 1


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
        content = {"format": _FORMAT, "card": self.model_dump(mode="json", exclude=texts)}
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
