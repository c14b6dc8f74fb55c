"""A board: for each data set which models, with which settings, seeds and protocol. Values alone, no logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from recgraph.config import Config, ConfigError, load_toml
from recgraph.run import DataConfig

__all__ = ["Board", "EntrySpec", "ProtocolSpec", "SheetSpec", "load_board"]


class ProtocolSpec(DataConfig):
    """How every model of a data set is tested. Seen items are kept and excluded, both, always."""

    cutoffs: Annotated[tuple[int, ...], Field(min_length=1, description="list lengths")] = (5, 10, 20)
    probe: Annotated[
        dict[str, Any], Field(default_factory=dict, description="of a node task: settings of the linear probe")
    ]


class EntrySpec(Config):
    """One row of a board: a model with its settings, or the best trial of a study."""

    model: Annotated[str, Field(description="of the registry")]
    name: Annotated[str, Field(description="shown; by default the model's")] = ""
    study: Annotated[
        str | None,
        Field(description="its best trial's settings: a study's folder or record, from the board's file on"),
    ] = None
    settings: Annotated[
        dict[str, Any], Field(default_factory=dict, description="of the model and its training; they win")
    ]
    seeds: Annotated[
        tuple[int, ...] | None, Field(min_length=1, description="where not those of the board: one without chance")
    ] = None
    note: Annotated[str, Field(description="shown on its card")] = ""


class SheetSpec(Config):
    """What is compared on one data set."""

    title: Annotated[str, Field(description="shown; by default the data set's name")] = ""
    note: Annotated[str, Field(description="shown above the table")] = ""
    dataset: Annotated[str, Field(description="a card; by default called like the file")] = ""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (2020, 2021, 2022)
    metrics: Annotated[
        tuple[str, ...], Field(min_length=1, description="shown and compared; the first one orders the table")
    ] = ("ndcg@10", "recall@10", "mrr@10")
    budget_hours: Annotated[float | None, Field(gt=0, description="the most that one seed of a model may take")] = None
    protocol: Annotated[ProtocolSpec, Field(default_factory=lambda: ProtocolSpec.of())]
    training: Annotated[
        dict[str, Any], Field(default_factory=dict, description="settings of training that all models begin with")
    ]
    models: Annotated[tuple[EntrySpec, ...], Field(min_length=1)]
    folder: Annotated[Path, Field(description="of the file; studies are found from here on")] = Path()

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [entry.name for entry in self.models]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"models: two are called {min(twice)!r}; give each a name of its own")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            ConfigError: no TOML, an unknown key or a value that is not allowed; names the file.
        """
        values: dict[str, Any] = {"dataset": path.stem, "folder": path.parent, **load_toml(path)}
        values["models"] = [_named(entry) for entry in values.get("models", ())]
        values.setdefault("title", values["dataset"])
        try:
            return cls.of(values)
        except ConfigError as error:
            raise ConfigError(f"board {str(path)!r}: {error}") from None


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    from recgraph import registry

    if entry.get("name") or "model" not in entry:
        return dict(entry)
    return {**entry, "name": registry.load("model", entry["model"]).__name__}


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes:
        name: of its folder.
        folder: where its files lie.
        sheets: one a data set.
    """

    name: str
    folder: Path
    sheets: tuple[SheetSpec, ...]

    @property
    def results(self) -> Path:
        """Where its records are kept, unless told otherwise: ``results`` beside the boards."""
        return self.folder.parent / "results"


def load_board(name: str | Path) -> Board:
    """A board by name (a folder of ``experiments/`` here or in the checkout), its folder, or one of its files.

    Raises:
        ValueError: there is none; the message lists those that exist.
        ConfigError: one of its files is wrong.
    """
    path = _find(str(name))
    files = [path] if path.is_file() else sorted(path.glob("*.toml"))
    folder = path.parent if path.is_file() else path
    return Board(folder.resolve().name, folder.resolve(), tuple(SheetSpec.load(file) for file in files))


def _find(name: str) -> Path:
    places = [Path("experiments"), Path(__file__).resolve().parents[2] / "experiments"]
    for path in (Path(name), *(place / name for place in places)):
        if path.suffix == ".toml" and path.is_file():
            return path
        if path.is_dir() and any(path.glob("*.toml")):
            return path
    known = sorted({file.parent.name for place in places for file in place.glob("*/*.toml")} - {"configs"})
    raise ValueError(f"board {name!r} does not exist; give a folder of TOML files or one of {', '.join(known) or '-'}")
