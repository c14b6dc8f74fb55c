"""A board: for each data set its models with settings, seeds and protocol, read from TOML files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recgraph import registry
from recgraph.config import Config, ConfigError, checked, load_toml, with_none
from recgraph.data.catalog.cards import UnknownDatasetError, card_files, data_name, find_card, with_train
from recgraph.data.read import PATHS, is_data_path
from recgraph.evaluate.metrics import DEFAULT_METRICS, full_name, metric_class, split_metric
from recgraph.evaluate.nodes import SCORES, ProbeConfig
from recgraph.evaluate.protocol import check_cutoffs
from recgraph.registry import ImportFailed, import_all, is_path
from recgraph.train.settings import DataConfig

__all__ = ["Board", "EntrySpec", "ProtocolSpec", "SheetSpec", "is_of_nodes", "load_board"]

#: metrics of a node task
_OF_NODES = (*SCORES, "nmi", "ari")


class ProtocolSpec(DataConfig):
    """The test of all models of a data set; it always covers both conventions, seen items kept and excluded."""

    cutoffs: Annotated[
        tuple[int, ...], Field(min_length=1, description="list lengths"), AfterValidator(check_cutoffs)
    ] = (5, 10, 20)
    fit_on: Annotated[
        Literal["train", "train+valid"],
        Field(
            description="what is learned from before the test; train+valid: of trained models after the number of "
            "epochs was chosen on the validation part, or at once with metric = 'last'"
        ),
    ] = "train"
    n_folds: Annotated[
        int | None,
        Field(ge=2, description="of a cross-validation: each entry is trained and tested on each fold of the split"),
    ] = None
    probe: Annotated[
        dict[str, Any], Field(default_factory=dict, description="of a node task: settings of the linear probe")
    ]

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The folds; one None where there are none."""
        return (None,) if self.n_folds is None else tuple(range(self.n_folds))

    def data_of(self, fold: int | None = None) -> DataConfig:
        """How the data set is split, of a fold or without folds; paths are those of the board's file."""
        data = DataConfig.of(self.model_dump(include=set(DataConfig.model_fields)))
        if fold is None:
            return data
        return data.model_copy(update={"split_options": {**data.split_options, "n_folds": self.n_folds, "fold": fold}})


class EntrySpec(Config):
    """One row of a board: a model with its settings, or the best trial of a study."""

    model: Annotated[str, Field(description="of the registry")]
    name: Annotated[str, Field(pattern=r"\S", description="shown; by default the model's")]
    study: Annotated[
        str | None,
        Field(description="its best trial's settings: a study's folder, record or storage, from the board's file on"),
    ] = None
    study_name: Annotated[str | None, Field(description="of the study, in a storage that holds several")] = None
    settings: Annotated[
        dict[str, Any],
        Field(default_factory=dict, description="of the model and its training; they win"),
        AfterValidator(with_none),
    ]
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None,
        Field(min_length=1, description="where not those of the board: one without chance"),
    ] = None
    note: Annotated[str, Field(description="shown on its card")] = ""

    @model_validator(mode="before")
    @classmethod
    def _called_like_its_model(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "name" in values or not isinstance(values.get("model"), str):
            return values
        return {**values, "name": registry.load("model", values["model"]).__name__}


class SheetSpec(Config):
    """The part of a board for one data set."""

    title: Annotated[str, Field(description="shown; by default the data set's name")] = ""
    note: Annotated[str, Field(description="shown above the table")] = ""
    dataset: Annotated[
        str,
        Field(
            description="a card, by default called like the file, or the path of one, from the board's file on; in its "
            "place, data: a file of one's own"
        ),
    ] = ""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, strict=True)], ...], Field(min_length=1)] = (2020, 2021, 2022)
    metrics: Annotated[
        tuple[str, ...], Field(min_length=1, description="shown and compared; the first one orders the table")
    ] = ("ndcg@10", "recall@10", "mrr@10")
    budget_hours: Annotated[float | None, Field(gt=0, description="the most that one seed of a model may take")] = None
    protocol: Annotated[ProtocolSpec, Field(default_factory=lambda: ProtocolSpec.of())]
    training: Annotated[
        dict[str, Any],
        Field(default_factory=dict, description="settings of training that all models begin with"),
        AfterValidator(with_none),
    ]
    models: Annotated[tuple[EntrySpec, ...], Field(min_length=1)]
    imports: Annotated[
        tuple[str, ...],
        Field(alias="import", description="Python files, from the board's file on, or modules that register parts"),
    ] = ()
    file: Annotated[Path, Field(description="the board's file, set when it is read: paths count from it on")] = Path()

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [entry.name for entry in self.models]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"models: two are called {min(twice)!r}; give each a name of its own")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file, and import the files that it names for the parts that they register."""
        values = load_toml(path)
        try:
            values = {**_with_data(values, path), "file": path}
            values.setdefault("title", data_name(values["dataset"]))
            own = values.get("import", ())
            import_all([own] if isinstance(own, str) else own, path.parent)
            return cls.of(values)._of_its_task()
        except (ConfigError, ImportFailed, UnknownDatasetError) as error:
            raise ConfigError(f"board {str(path)!r}: {error}") from None

    @property
    def name(self) -> str:
        """What it is called among the sheets of its board: as its file, or its data set where it has none."""
        return self.file.stem or data_name(self.dataset)

    @property
    def comparisons(self) -> str:
        """The name of the file of its comparisons, in the folder of records that sheets of one data set share."""
        return "comparisons.json" if self.name == data_name(self.dataset) else f"comparisons-{self.name}.json"

    @property
    def imported(self) -> tuple[str, ...]:
        """What it imports as a command takes it anywhere: a file by its absolute path, a module by its name."""
        return tuple(_path(self.file, each) if is_path(each) else each for each in self.imports)

    def located(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with their paths from the board's file on; addresses have them as they are written."""
        found = dict(settings)
        reading = found.get("reading") or {}
        if paths := {name: _path(self.file, reading[name]) for name in PATHS if reading.get(name) is not None}:
            found["reading"] = {**reading, **paths}
        if isinstance(run := found.get("init_items"), str):
            found["init_items"] = _path(self.file, run)
        return found

    def data_of(self, fold: int | None = None) -> DataConfig:
        """How the data set is read and split, of a fold or without folds."""
        return DataConfig.of(self.located(self.protocol.data_of(fold).model_dump()))

    def _of_its_task(self) -> Self:
        """The sheet with the full names of its metrics, checked against its task."""
        of_nodes = is_of_nodes(self.dataset)
        others = {"cutoffs", "fit_on", "n_folds", *DataConfig.model_fields} if of_nodes else {"probe"}
        if wrong := sorted(self.protocol.model_fields_set & others):
            raise ConfigError(f"protocol: {wrong[0]} is not of the task of {self.dataset!r}; leave it out")
        ProbeConfig.of(self.protocol.probe)
        if "metrics" in self.model_fields_set:
            of_task = _of_nodes if of_nodes else self._of_users
            # a metric that is named twice is one column, and counts once in the correction of a table
            return self.model_copy(update={"metrics": tuple(dict.fromkeys(map(of_task, self.metrics)))})
        cutoffs = self.protocol.cutoffs
        if of_nodes or 10 in cutoffs:  # all metrics of a node task are shown
            return self
        names = [metric.partition("@")[0] for metric in self.metrics]
        return self.model_copy(update={"metrics": tuple(f"{name}@{max(cutoffs)}" for name in names)})

    @property
    def more_metrics(self) -> tuple[str, ...]:
        """The metrics beyond the default ones."""
        if is_of_nodes(self.dataset):
            return ()
        return tuple(metric for metric in self.metrics if split_metric(metric)[0] not in DEFAULT_METRICS)

    def _of_users(self, metric: str) -> str:
        try:
            name, k = split_metric(metric)
        except ValueError as error:
            raise ConfigError(f"metrics: {error}") from None
        own = metric_class(name)()
        if k is not None and k not in self.protocol.cutoffs:
            raise ConfigError(f"metrics: {metric!r} is at none of the cutoffs {self.protocol.cutoffs}")
        if "features" in own.needs:
            raise ConfigError(f"metrics: {metric!r} needs features of items, which a board does not have")
        return full_name(metric) if own.cut else name


def is_of_nodes(dataset: str) -> bool:
    """Whether a data set has classes of nodes rather than users to recommend to."""
    return find_card(dataset).task == "nodes"


def _of_nodes(metric: str) -> str:
    for name in _OF_NODES:
        if registry.key(name) == registry.key(metric):
            return name
    raise ConfigError(f"metrics: {metric!r} is not computed of nodes; there are {', '.join(_OF_NODES)}")


def _path(board: Path, written: str) -> str:
    return os.path.normpath((board.parent / written).absolute())


def _with_data(values: Mapping[str, Any], board: Path) -> dict[str, Any]:
    """The values with the file of ``data`` as the data set, and with how it is read in the protocol."""
    found = dict(values)
    data = with_train(found.pop("data", None))
    if data is None:
        dataset = found.setdefault("dataset", board.stem)
        if isinstance(dataset, str) and (
            dataset.endswith(".toml") or (dataset not in card_files() and is_data_path(dataset))
        ):
            found["dataset"] = _path(board, dataset)
        return found
    if "dataset" in found:
        raise ConfigError(f"dataset = {found['dataset']!r} and data exclude one another; give one of them")
    table = dict(data) if isinstance(data, Mapping) else {"file": data}
    if not isinstance(file := table.pop("file", None), str):
        raise ConfigError(f"data = {data!r} must be the path of a file, or a table {{file = ..., user = ..., ...}}")
    if table:
        protocol = dict(found.get("protocol", {}))
        found["protocol"] = {**protocol, "reading": {**protocol.get("reading", {}), **table}}
    return found | {"dataset": _path(board, file)}


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
        return (self.results if results is None else Path(results)) / self.name / data_name(sheet.dataset)


@checked
def load_board(name: str | Path) -> Board:
    """Load a board by name (a folder of ``experiments/`` here or in the checkout), by its folder, or from one file."""
    path = _find(str(name))
    files = [path] if path.is_file() else sorted(path.glob("*.toml"))
    folder = (path.parent if path.is_file() else path).resolve()
    return Board(folder.name, folder, tuple(map(SheetSpec.load, files)))


def _find(name: str) -> Path:
    places = [Path("experiments"), Path(__file__).resolve().parents[2] / "experiments"]
    for path in (Path(name), *(place / name for place in places)):
        if (path.suffix == ".toml" and path.is_file()) or any(path.glob("*.toml")):
            return path
    known = sorted({file.parent.name for place in places for file in place.glob("*/*.toml")} - {"configs"})
    raise ValueError(f"board {name!r} is not there; give a TOML file, a folder of them or one of {', '.join(known)}")
