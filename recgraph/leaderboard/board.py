"""A board: for each data set its models with settings, seeds and protocol, read from TOML files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recgraph import registry
from recgraph.config import Config, ConfigError, checked, merged, with_none
from recgraph.data.catalog.cards import card_files, data_name, find_card, with_train
from recgraph.data.read import PATHS, is_data_path
from recgraph.evaluate.metrics import full_name
from recgraph.evaluate.nodes import SCORES
from recgraph.evaluate.protocol import Cutoff
from recgraph.files import read_toml
from recgraph.registry import ImportFailed, import_all
from recgraph.train.settings import DataConfig

__all__ = ["Board", "EntrySpec", "ProtocolSpec", "SheetSpec", "is_of_nodes", "load_board"]

Seeds = tuple[Annotated[int, Field(ge=0, strict=True)], ...]
Settings = Annotated[dict[str, Any], AfterValidator(with_none)]


class ProtocolSpec(DataConfig):
    """The test of all models of a data set; it always covers both conventions, seen items kept and
    excluded.
    """

    cutoffs: tuple[Cutoff, ...] = Field((5, 10, 20), min_length=1, description="list lengths")
    fit_on: Literal["train", "train+valid"] = Field(
        "train",
        description="what is learned from before the test; train+valid: of trained models after the number of epochs "
        "was chosen on the validation part, or at once with metric = 'last'",
    )
    probe: dict[str, Any] = Field({}, description="of a node task: settings of the linear probe")

    @property
    def data(self) -> DataConfig:
        """How the data set is split; paths are those of the board's file."""
        return DataConfig.of(self.model_dump(include=set(DataConfig.model_fields)))


class EntrySpec(Config):
    """One row of a board: a model with its settings."""

    model: str = Field(description="of the registry")
    name: str = Field(pattern=r"\S", description="shown; by default the model's")
    settings: Settings = Field({}, description="of the model and its training; they win")
    seeds: Seeds | None = Field(
        None, min_length=1, description="where not those of the board: one without chance"
    )
    note: str = Field("", description="shown on its card")

    @model_validator(mode="before")
    @classmethod
    def _named_like_its_model(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "model" not in values:
            return values
        return {"name": registry.load("model", f"{values['model']}").__name__, **values}


class SheetSpec(Config):
    """The part of a board for one data set."""

    title: str = Field("", description="shown; by default the data set's name")
    note: str = Field("", description="shown above the table")
    dataset: str = Field(
        "",
        description="a card, by default called like the file, or the path of one, from the board's file on; in its "
        "place, data: a file of one's own",
    )
    seeds: Seeds = Field((2020, 2021, 2022), min_length=1)
    metrics: tuple[str, ...] = Field(
        ("ndcg@10", "recall@10", "mrr@10"),
        min_length=1,
        description="shown and compared; the first one orders the table",
    )
    protocol: ProtocolSpec = Field(default_factory=lambda: ProtocolSpec.of())
    training: Settings = Field({}, description="settings of training that all models begin with")
    models: tuple[EntrySpec, ...] = Field(min_length=1)
    imports: tuple[str, ...] = Field(
        (),
        description="written 'import': Python files, from the board's file on, or modules that register parts",
    )
    file: Path = Field(
        Path(), description="the board's file, set when it is read: paths count from it on"
    )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file, and import the files that it names for the parts that they register."""
        values = read_toml(path)
        try:
            values = {**_with_data(values, path), "file": path}
            values.setdefault("title", data_name(values["dataset"]))
            imports = values.pop("import", ())
            if isinstance(imports, str):
                imports = [imports]
            import_all(imports, path.parent)
            sheet = cls.of(values, imports=imports)
            name, count = Counter(entry.name for entry in sheet.models).most_common(1)[0]
            if count > 1:
                raise ConfigError(f"models: two are called {name!r}; give each a name of its own")
            return sheet.model_copy(update={"metrics": sheet._full_metrics()})
        except (ValueError, ImportFailed) as error:
            raise ConfigError(f"board {str(path)!r}: {error}") from None

    @property
    def name(self) -> str:
        """What it is called among the sheets of its board: as its file."""
        return self.file.stem

    @property
    def comparisons(self) -> str:
        """The name of the file of its comparisons, in the folder of records that sheets of one data
        set share.
        """
        if self.name == data_name(self.dataset):
            return "comparisons.json"
        return f"comparisons-{self.name}.json"

    @property
    def imported(self) -> tuple[str, ...]:
        """What it imports as a command takes it anywhere: a file by its absolute path, a module by
        its name.
        """
        return tuple(
            _path(self.file, name) if name.endswith(".py") else name for name in self.imports
        )

    def located(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with their paths from the board's file on; addresses have them as they are
        written.
        """
        located = dict(settings)
        if "reading" in settings:
            located["reading"] = dict(settings["reading"])
            for name in settings["reading"].keys() & set(PATHS):
                located["reading"][name] = _path(self.file, settings["reading"][name])
        if isinstance(settings.get("init_items"), str):
            located["init_items"] = _path(self.file, settings["init_items"])
        return located

    def _full_metrics(self) -> tuple[str, ...]:
        """The full names of the metrics, each once."""
        cutoffs = self.protocol.cutoffs
        name_of = _node_metric if is_of_nodes(self.dataset) else full_name
        if "metrics" in self.model_fields_set:
            return tuple(dict.fromkeys(map(name_of, self.metrics)))
        if name_of is _node_metric or 10 in cutoffs:  # all metrics of a node task are shown
            return self.metrics
        return tuple(metric.replace("@10", f"@{max(cutoffs)}") for metric in self.metrics)


def is_of_nodes(dataset: str) -> bool:
    """Whether a data set has classes of nodes rather than users to recommend to."""
    return find_card(dataset).task == "nodes"


def _node_metric(metric: str) -> str:
    """The full name of a metric of a node task."""
    names = {registry.key(name): name for name in (*SCORES, "nmi", "ari")}
    if registry.key(metric) not in names:
        raise ConfigError(
            f"metrics: {metric!r} is not computed of nodes; there are {', '.join(names.values())}"
        )
    return names[registry.key(metric)]


def _path(board: Path, written: str) -> str:
    return os.path.normpath((board.parent / written).absolute())


def _with_data(values: Mapping[str, Any], board: Path) -> dict[str, Any]:
    """The values with the file of ``data`` as the data set, and with how it is read in the
    protocol.
    """
    values = dict(values)
    data = with_train(values.pop("data", None))
    if data is None:
        dataset = str(values.setdefault("dataset", board.stem))
        is_log = dataset not in card_files() and is_data_path(dataset)
        if is_log or dataset.endswith(".toml"):
            values["dataset"] = _path(board, dataset)
        return values
    table = dict(data) if isinstance(data, Mapping) else {"file": data}
    file = table.pop("file", None)
    if "dataset" in values or not isinstance(file, str):
        raise ConfigError(
            f"data = {data!r}: a path, or a table {{file = ..., user = ..., ...}}, in place of dataset"
        )
    values["dataset"] = _path(board, file)
    if table:
        values["protocol"] = merged(values.get("protocol", {}), {"reading": table})
    return values


@dataclass(frozen=True)
class Board:
    """A board: its folder, the name of that, and a sheet for each file in it."""

    name: str
    folder: Path
    sheets: tuple[SheetSpec, ...]

    @property
    def results(self) -> Path:
        """The default folder of records."""
        return self.folder.parent / "results"

    def folder_of(self, sheet: SheetSpec, results: str | Path | None = None) -> Path:
        """The folder of a sheet's records, in :attr:`results` by default."""
        return Path(results or self.results) / self.name / data_name(sheet.dataset)


@checked
def load_board(name: str | Path | Board) -> Board:
    """Load a board by name (a folder of ``experiments/`` here or in the checkout), by its folder,
    or from one file; one that is loaded is returned.
    """
    if isinstance(name, Board):
        return name
    places = [Path("experiments"), Path(__file__).resolve().parents[2] / "experiments"]
    for path in (Path(name), *(place / name for place in places)):
        files = [path] if path.is_file() else sorted(path.glob("*.toml"))
        if files:
            folder = files[0].parent.resolve()
            return Board(folder.name, folder, tuple(map(SheetSpec.load, files)))
    known = {file.parent.name for place in places for file in place.glob("*/*.toml")} - {"configs"}
    raise ValueError(
        f"board {str(name)!r} is not there; give a TOML file, a folder of them or one of {', '.join(sorted(known))}"
    )
