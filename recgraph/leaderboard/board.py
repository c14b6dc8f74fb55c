"""A board: for each data set its models with settings, seeds and protocol, read from TOML files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recgraph import registry
from recgraph.arguments import checked
from recgraph.config import Added, Config, ConfigError, load_toml
from recgraph.data.catalog.cards import UnknownDatasetError, data_name, find_card
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, full_name, metric_class, split_metric
from recgraph.evaluate.node_probe import SCORES, ProbeConfig
from recgraph.evaluate.protocol import check_cutoffs
from recgraph.imports import ImportFailed, import_all
from recgraph.leaderboard.places import with_data, with_inputs
from recgraph.runs.settings import DataConfig
from recgraph.setting_texts import with_none

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
        Added(),
    ] = "train"
    n_folds: Annotated[
        int | None,
        Field(ge=2, description="of a cross-validation: each entry is trained and tested on each fold of the split"),
        Added(),
    ] = None
    probe: Annotated[
        dict[str, Any], Field(default_factory=dict, description="of a node task: settings of the linear probe")
    ]

    @model_validator(mode="after")
    def _one_number_of_folds(self) -> Self:
        if self.n_folds is not None and (own := {"fold", "n_folds"} & self.split_options.keys()):
            raise ValueError(
                f"split_options: {min(own)} = {self.split_options[min(own)]!r} beside n_folds = {self.n_folds}: leave "
                "it out for all folds, or leave n_folds of the protocol out for that one"
            )
        return self

    @property
    def folds(self) -> tuple[int | None, ...]:
        """The folds; one None where there are none."""
        return (None,) if self.n_folds is None else tuple(range(self.n_folds))

    def data_of(self, fold: int | None = None) -> DataConfig:
        """How the data set is split, of a fold or without folds."""
        data = DataConfig.of(self.model_dump(include=set(DataConfig.model_fields)))
        if fold is None:
            return data
        return data.model_copy(update={"split_options": {**data.split_options, "n_folds": self.n_folds, "fold": fold}})


class EntrySpec(Config):
    """One row of a board: a model with its settings, or the best trial of a study."""

    model: Annotated[str, Field(description="of the registry")]
    name: Annotated[str, Field(description="shown; by default the model's")] = ""
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

    @model_validator(mode="after")
    def _named_in_a_storage(self) -> Self:
        if self.study_name is not None and (self.study is None or self.study.endswith(".json")):
            raise ValueError(
                f"study_name = {self.study_name!r} names a study of a storage that holds several: give the storage as "
                "study, or leave study_name out"
            )
        return self


class SheetSpec(Config):
    """The part of a board for one data set."""

    renamed: ClassVar[dict[str, str]] = {"import": "imports"}

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
        Field(description="written 'import': Python files, from the board's file on, or modules that register parts"),
    ] = ()
    file: Annotated[Path, Field(description="the board's file; paths of studies count from its folder on")] = Path()
    places: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            description="set when the file is read: a path that it gives from its folder on -> how addresses have it",
        ),
    ]
    data_places: Annotated[
        dict[str, str],
        Field(default_factory=dict, description="the same of paths in data, which addresses once had as absolute ones"),
    ]

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [entry.name for entry in self.models]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"models: two are called {min(twice)!r}; give each a name of its own")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a TOML file, and import the files that it names for the parts that they register.

        Raises:
            ConfigError: no TOML, a file that cannot be imported, an unknown key or a value that is not allowed; names
                the file.
        """
        values = load_toml(path)
        try:
            for name in ("file", "places", "data_places"):
                if name in values:
                    raise ConfigError(f"{name} = {values[name]!r} is no setting of a board; leave it out")
            values = {**values, "file": path, "places": {}, "data_places": {}}
            values = with_data(values, path)
            values.setdefault("title", data_name(values["dataset"]))
            own = values.get("import", ())
            if not isinstance(own, list | tuple) or not all(isinstance(each, str) for each in own):
                raise ConfigError(f'import = {own!r} must be a list of files, e.g. import = ["mymodel.py"]')
            import_all(own, path.parent)
            models = values.get("models", ())
            if isinstance(models, Mapping):
                raise ConfigError("models is one table; begin each of its entries with [[models]], not [models]")
            if not isinstance(models, list | tuple):
                raise ConfigError(f"models = {models!r} must be a list of tables; begin each with [[models]]")
            values["models"] = [_named(entry) for entry in models]
            return cls.of(with_inputs(values, path))._of_its_task()
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

    def _of_its_task(self) -> Self:
        """The sheet with the full names of its metrics, checked against its task.

        Raises:
            ConfigError: the protocol has settings of the other task, or a metric is not available.
        """
        of_nodes = is_of_nodes(self.dataset)
        others = {"cutoffs", "fit_on", "n_folds", *DataConfig.model_fields} if of_nodes else {"probe"}
        for name in sorted(self.protocol.model_fields_set & others):
            whose = "users to recommend to" if of_nodes else "nodes with classes"
            raise ConfigError(f"protocol: {name} is of {whose}, which {self.dataset!r} has not; leave it out")
        try:
            ProbeConfig.of(self.protocol.probe)
        except ConfigError as error:
            raise ConfigError(f"protocol: probe: {error}") from None
        cutoffs = () if of_nodes else self.protocol.cutoffs
        if "metrics" not in self.model_fields_set:
            if of_nodes or 10 in cutoffs:  # all metrics of a node task are shown
                return self
            names = [metric.partition("@")[0] for metric in self.metrics]
            return self.model_copy(update={"metrics": tuple(f"{name}@{max(cutoffs)}" for name in names)})
        of_task = _of_nodes if of_nodes else self._of_users
        # a metric that is named twice is one column, and counts once in the correction of a table
        return self.model_copy(update={"metrics": tuple(dict.fromkeys(map(of_task, self.metrics)))})

    @property
    def more_metrics(self) -> tuple[str, ...]:
        """The metrics beyond the default ones."""
        if is_of_nodes(self.dataset):
            return ()
        return tuple(metric for metric in self.metrics if split_metric(metric)[0] not in DEFAULT_METRICS)

    def _of_users(self, metric: str) -> str:
        """The full name of any registered metric."""
        cutoffs = ", ".join(map(str, self.protocol.cutoffs))
        wrong = (
            f"metrics: {metric!r} is not computed on {self.dataset!r}; give a metric at one of the cutoffs {cutoffs}"
        )
        try:
            name, k = split_metric(metric)
        except ValueError as error:
            raise ConfigError(f"metrics: {error}" if "@" in metric else wrong) from None
        own = metric_class(name)()
        if k is not None and k not in self.protocol.cutoffs:
            raise ConfigError(wrong)
        if "features" in own.needs:
            raise ConfigError(f"metrics: {metric!r} needs features of items, which a board does not have")
        return full_name(metric) if own.cut else name


def is_of_nodes(dataset: str) -> bool:
    """Whether a data set has classes of nodes rather than users to recommend to."""
    return find_card(dataset).task == "nodes"


def _of_nodes(metric: str) -> str:
    """The full name of a metric of a node task."""
    for name in _OF_NODES:
        if registry.key(name) == registry.key(metric):
            return name
    raise ConfigError(f"metrics: {metric!r} is not computed of nodes; there are {', '.join(_OF_NODES)}")


def _named(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise ConfigError(f"models = {entry!r} must be a table; begin each of its entries with [[models]]")
    if isinstance(name := entry.get("name"), str) and name and not name.strip():
        raise ConfigError(f"models: name = {name!r} shows nothing; give another one, or leave it out")
    if entry.get("name") or "model" not in entry:
        return dict(entry)
    try:
        return {**entry, "name": registry.load("model", entry["model"]).__name__}
    except ValueError as error:
        raise ConfigError(f"models: {error}") from None


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes:
        name: of its folder.
        folder: of its files.
        sheets: one for each file.
    """

    name: str
    folder: Path
    sheets: tuple[SheetSpec, ...]

    @property
    def results(self) -> Path:
        """The default folder of records: ``results`` beside the board's folder."""
        return self.folder.parent / "results"

    def folder_of(self, sheet: SheetSpec, results: str | Path | None = None) -> Path:
        """The folder of a sheet's records.

        Args:
            results: the folder of records; by default :attr:`results`.
        """
        return (self.results if results is None else Path(results)) / self.name / data_name(sheet.dataset)


@checked
def load_board(name: str | Path) -> Board:
    """Load a board by name (a folder of ``experiments/`` here or in the checkout), by its folder, or from one file.

    Raises:
        ValueError: it does not exist; the message lists those that do.
        ConfigError: one of its files is wrong, or two of them name different data sets whose records would be mixed.
    """
    path = _find(str(name))
    files = [path] if path.is_file() else sorted(path.glob("*.toml"))
    folder = path.parent if path.is_file() else path
    sheets = tuple(SheetSpec.load(file) for file in files)
    _check_records(sheets)
    return Board(folder.resolve().name, folder.resolve(), sheets)


def _check_records(sheets: tuple[SheetSpec, ...]) -> None:
    """Check that sheets of different data sets have different records: their addresses hold only a file's name.

    Raises:
        ConfigError: two have the same; names both files.
    """
    first: dict[str, SheetSpec] = {}
    for sheet in sheets:
        name = data_name(sheet.dataset)
        other = first.setdefault(name, sheet)
        if Path(other.dataset).resolve() != Path(sheet.dataset).resolve():
            raise ConfigError(
                f"board {str(sheet.file)!r}: data {sheet.dataset!r} has the same name, {name!r}, as "
                f"{other.dataset!r} of {str(other.file)!r}, and a board keeps records by that name: rename one of the "
                "two data files, or move one sheet to a board of its own (another folder)"
            )


def _find(name: str) -> Path:
    places = [Path("experiments"), Path(__file__).resolve().parents[2] / "experiments"]
    for path in (Path(name), *(place / name for place in places)):
        if path.suffix == ".toml" and path.is_file():
            return path
        if path.is_dir() and any(path.glob("*.toml")):
            return path
    known = sorted({file.parent.name for place in places for file in place.glob("*/*.toml")} - {"configs"})
    why = "does not exist"
    if (path := Path(name)).exists():
        why = "is a folder without a TOML file" if path.is_dir() else "is no TOML file"
    raise ValueError(f"board {name!r} {why}; give a TOML file, a folder of them or one of {', '.join(known) or '-'}")
