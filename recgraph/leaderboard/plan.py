"""The jobs of a board, from its file: their settings, their addresses, and the store of their records."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from polars.exceptions import PolarsError

from recgraph import registry
from recgraph.config import Config, ConfigError, assignments, merged, setting_text
from recgraph.data.catalog.cards import data_name, find_card
from recgraph.data.split import Split
from recgraph.evaluate.metrics import DEFAULT_METRICS, split_metric
from recgraph.evaluate.nodes import NodeProtocol, ProbeConfig
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result, load_users
from recgraph.files import locked, read_object, remove_folder, write_json
from recgraph.leaderboard.board import EntrySpec, ProtocolSpec, SheetSpec, is_of_nodes
from recgraph.models.base import Model, TrainableModel
from recgraph.train.config import GraphTrainConfig, TrainConfig, share_out, training_config
from recgraph.train.pretrained import InitItemsConfig, input_digests
from recgraph.train.settings import DataConfig, Fingerprints, ProbeSettings
from recgraph.tuning.objectives import selecting
from recgraph.tuning.report import best_trial, settings_of
from recgraph.tuning.storage import find_study, located, without_password

#: convention of seen items -> title of its table
TITLES = {"keep": "seen kept", "exclude": "seen excluded"}
Record = dict[str, Any]
_SEEN = {title: seen for seen, title in TITLES.items()}


class FoldSeed(NamedTuple):
    """A seed on a fold; ``1/2020`` is seed 2020 on fold 1."""

    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.fold}/{self.seed}"


#: which of an entry's trainings a record is of: its seed, and on a board with folds its fold
Repeat = int | FoldSeed


def repeat_of(fold: int | None, seed: int) -> Repeat:
    return seed if fold is None else FoldSeed(fold, seed)


def fold_of(repeat: Repeat) -> int | None:
    return repeat.fold if isinstance(repeat, FoldSeed) else None


def seed_of(repeat: Repeat) -> int:
    return repeat.seed if isinstance(repeat, FoldSeed) else repeat


def named(repeat: Repeat) -> str:
    """``seed 2020``, or ``fold 1, seed 2020``."""
    return f"fold {repeat.fold}, seed {repeat.seed}" if isinstance(repeat, FoldSeed) else f"seed {repeat}"


def mean_of(values: Mapping[Repeat, float]) -> float:
    """The mean over an entry's trainings, each fold alike: a seed may be done on some of the folds alone."""
    folds: dict[int | None, list[float]] = {}
    for repeat, value in values.items():
        folds.setdefault(fold_of(repeat), []).append(value)
    return fmean(map(fmean, folds.values()))


def digest(values: Any) -> str:
    """A hash of JSON values, 16 hexadecimal digits; equal values have equal digests on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Job:
    """One model with one seed on one data set.

    Attributes:
        settings: those that are not defaults, as a tree, as for ``recgraph train``.
        identity: what identifies a job and decides its numbers: the resolved configuration, the card and the
            protocol. The hash of the data is compared separately.
        metrics: those beyond the default ones; a record without them is made again, under the same address.
        imports: what the board's file imports; files by their absolute paths.
        fit_on: the parts that the tested model learns from, see :class:`recgraph.leaderboard.board.ProtocolSpec`.
        fold: of the split, where the board has folds.
    """

    dataset: str
    model: str
    settings: dict[str, Any]
    seed: int
    cutoffs: tuple[int, ...]
    identity: dict[str, Any]
    metrics: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    fit_on: Literal["train", "train+valid"] = "train"
    fold: int | None = None

    @cached_property
    def entry(self) -> str:
        """The address of the configuration, equal for all seeds."""
        return digest(self.identity)

    @property
    def repeat(self) -> Repeat:
        return repeat_of(self.fold, self.seed)

    @cached_property
    def of_all_folds(self) -> str:
        """The address of the configuration, equal for all folds, too."""
        if self.fold is None:
            return self.entry
        return digest({**self.identity, "data": without_fold(self.identity["data"])})

    @cached_property
    def inputs(self) -> dict[str, str]:
        """The digests of the runs and bundles that its training reads."""
        return input_digests(self.settings)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*DEFAULT_METRICS, *(split_metric(metric)[0] for metric in self.metrics))))

    @property
    def refit(self) -> bool:
        """Whether the number of epochs is chosen first, and the model is then fitted anew to more."""
        chooses = self.fit_on != "train" and self.settings.get("metric") != "last"
        return chooses and issubclass(registry.load("model", self.model), TrainableModel)

    @property
    def stem(self) -> str:
        """The name of its files without suffix."""
        return f"{self.model}-{self.entry}-seed{self.seed}"

    def command(self, seed: str | None = None, threads: int = 1, device: str = "cpu") -> str:
        """The two commands that reproduce this job's numbers; ``seed``: text in place of the job's seed."""
        number = f"{self.seed}" if seed is None else seed
        sets = [f"--set {shlex.quote(setting_text(*each))}" for each in assignments(self.settings)]
        model, data = shlex.quote(self.model), shlex.quote(self.dataset)
        folder = f"runs/{model}-{self.entry}-seed{number}"
        own = "".join(f" --import {shlex.quote(each)}" for each in self.imports)
        part = "" if self.fit_on == "train" else f" --fit-on {self.fit_on}{' --refit' if self.refit else ''}"
        first = f"recgraph train {model} --dataset {data} --seed {number} --device {device}{part}{own}"
        train = " \\\n    ".join([first, *sets, f"--out {folder}"])
        cutoffs = "" if is_of_nodes(self.dataset) else "".join(f" --cutoff {each}" for each in self.cutoffs)
        metrics = "".join(f" --metric {shlex.quote(name)}" for name in self.metric_names) if self.metrics else ""
        evaluate = f"recgraph evaluate {folder}{cutoffs}{metrics}{own} --format json"
        return f"export OMP_NUM_THREADS={threads}\n{train}\n{evaluate}"


def without_fold(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fold without the number that says which one it is."""
    options = {name: value for name, value in settings["split_options"].items() if name != "fold"}
    return {**settings, "split_options": options}


def jobs_of(sheet: SheetSpec, entry: EntrySpec) -> list[Job]:
    """The jobs of an entry, one a seed, or one a seed and fold; FileNotFoundError where its study is not there."""
    cls: type[Model] = registry.load("model", entry.model)
    training = sheet.training if issubclass(cls, TrainableModel) else {}
    try:
        _check_no_test_settings(sheet, entry)
        # of all folds at once: the best trial of a study that goes on may change
        given = merged(merged(training, _settings_of_study(sheet, entry, cls)), entry.settings)
        return [job for fold in sheet.protocol.folds for job in _jobs_of_fold(sheet, entry, cls, given, fold)]
    except ConfigError as error:
        raise ConfigError(f"board on {sheet.dataset!r}, model {entry.name!r}: {error}") from None


def _jobs_of_fold(
    sheet: SheetSpec, entry: EntrySpec, cls: type[Model], given: Mapping[str, Any], fold: int | None
) -> list[Job]:
    protocol, of_nodes = sheet.protocol, is_of_nodes(sheet.dataset)
    if of_nodes:
        settings = {**given, "probe": protocol.probe} if protocol.probe else dict(given)
    else:
        split = protocol.data_of(fold).model_dump(mode="json", exclude_defaults=True)
        settings = {**given, **{name: value for name, value in split.items() if value}}
    identity = {
        "model": cls.key(),
        "dataset": data_name(sheet.dataset),
        "card": find_card(sheet.dataset).hash,
        **_resolve(cls, of_nodes, settings),
        "protocols": _protocol_hashes(protocol, of_nodes),
    }
    shared = (sheet.more_metrics, sheet.imported, protocol.fit_on, fold)
    settings = sheet.located(settings)
    return [
        Job(sheet.dataset, cls.key(), settings, seed, protocol.cutoffs, identity, *shared)
        for seed in dict.fromkeys(entry.seeds or sheet.seeds)
    ]


def _resolve(cls: type[Model], of_nodes: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    parts: dict[str, type[Config]] = {"config": cls.Config, "data": ProbeSettings if of_nodes else DataConfig}
    if of_nodes and issubclass(cls, TrainableModel):
        parts |= {"training": GraphTrainConfig}
    elif issubclass(cls, TrainableModel):
        parts |= {"training": training_config(cls), "items": InitItemsConfig}
    shared = share_out(cls, settings, parts)
    made = {name: part.of(shared[name]) for name, part in parts.items()}
    if made.get("items") == InitItemsConfig():  # entries that read none keep their address
        del made["items"]
    return {name: part.model_dump(mode="json") for name, part in made.items()}


def _protocol_hashes(protocol: ProtocolSpec, of_nodes: bool) -> list[str]:
    if of_nodes:
        return [NodeProtocol(task_hash="", probe=ProbeConfig.of(protocol.probe)).hash]
    fields = {"part": "test", "fitted_on": protocol.fit_on, "history": "train+valid", "cutoffs": protocol.cutoffs}
    return [Protocol.of(fields, seen=seen).hash for seen in ("keep", "exclude")]


def _check_no_test_settings(sheet: SheetSpec, entry: EntrySpec) -> None:
    """Neither an entry nor ``[training]`` sets the split or the probe: all entries share them."""
    own = (ProbeSettings if is_of_nodes(sheet.dataset) else DataConfig).model_fields
    for given, where in ((sheet.training, "[training]"), (entry.settings, "its settings")):
        if wrong := sorted(own.keys() & given.keys()):
            raise ConfigError(
                f"{wrong[0]} = {given[wrong[0]]!r} in {where} is of the test, which all models share: give it in "
                "[protocol]"
            )


def check_entries(sheet: SheetSpec, planned: Iterable[tuple[EntrySpec, Job]]) -> None:
    """Refuse two entries with one configuration, since it is the address of their records."""
    names: dict[str, str] = {}
    for entry, job in planned:
        if (other := names.setdefault(job.entry, entry.name)) != entry.name:
            raise ConfigError(
                f"board on {sheet.dataset!r}: entries {other!r} and {entry.name!r} have the same configuration; leave "
                "one out, or change a setting (seeds of one entry are a list)"
            )


@dataclass(frozen=True)
class TunedSettings:
    """The settings of a study's best trial, without those of the split, and the split they were selected on.

    ``model`` is the name of its class. What a record does not name is None.
    """

    settings: dict[str, Any]
    model: str | None
    dataset: str | None
    split_hash: str | None


def shown_study(entry: EntrySpec) -> str | None:
    """Where an entry's settings are from, as it may be shown: an address without its password."""
    if entry.study is None:
        return None
    place = without_password(entry.study)
    return place if entry.study_name is None else f"{entry.study_name} in {place}"


def load_tuned(place: str, folder: Path, name: str | None = None) -> TunedSettings:
    """Load the settings of the best trial of a study.

    Args:
        place: a study's folder, a storage, or the ``result.json`` of a study that was tested; a path counts from
            ``folder`` on.
        name: of the study, in a storage that holds several.
    """
    if place.endswith(".json"):
        record = read_object(folder / place)
        identity, source = record.get("recgraph") or {}, record.get("source") or {}
        settings = {**source.get("settings", {}), **record["settings"]["tuned"]}
        if identity.get("metrics"):
            settings.setdefault("metric", selecting(tuple(identity["metrics"])))
        return _tuned(settings, {"split_hash": record.get("split_hash"), **identity}, source)
    with find_study(located(place, folder), name) as (study, _):
        best = best_trial(study)
        if best is None:  # its entry waits, as for a study that does not exist yet
            raise FileNotFoundError(f"study {without_password(place)!r} has no complete trial")
        return _tuned(settings_of(study, best), study.user_attrs["recgraph"], study.user_attrs.get("source") or {})


def _tuned(settings: Mapping[str, Any], identity: Mapping[str, Any], source: Mapping[str, Any]) -> TunedSettings:
    return TunedSettings(
        {name: value for name, value in settings.items() if name not in DataConfig.model_fields},
        identity["model"].rpartition(":")[2] if "model" in identity else None,
        source.get("dataset"),
        identity.get("split_hash"),
    )


def _settings_of_study(sheet: SheetSpec, entry: EntrySpec, cls: type[Model]) -> dict[str, Any]:
    if entry.study is None:
        return {}
    tuned = load_tuned(entry.study, sheet.file.parent, entry.study_name)
    if tuned.model not in (None, cls.__qualname__):
        raise ConfigError(f"study {shown_study(entry)!r} is of {tuned.model}, not of {cls.__name__}")
    if issubclass(cls, TrainableModel):
        return tuned.settings
    # a study's record names the metric that was tuned for, which for a trained model selects the epoch
    return {name: value for name, value in tuned.settings.items() if name not in TrainConfig.model_fields}


def check_study(sheet: SheetSpec, entry: EntrySpec, tuning: str) -> None:
    """Refuse settings that were tuned on another split than ``tuning``: its valid part may hold what is tested on."""
    if entry.study is None:
        return
    tuned = load_tuned(entry.study, sheet.file.parent, entry.study_name)
    if tuned.dataset is None or tuned.split_hash is None or data_name(tuned.dataset) != data_name(sheet.dataset):
        return
    if tuned.split_hash != tuning:
        raise ConfigError(
            f"board on {sheet.dataset!r}, model {entry.name!r}: study {shown_study(entry)!r} was tuned on another "
            f"split, {tuned.split_hash[:12]}, whose valid part may hold what is tested here; tune on the board's "
            "split, and where there are folds on the oldest one of time or leave-one-out"
        )


class DataHashes(NamedTuple):
    """Hashes of the data of a sheet, and of the split, or the graph, that settings may be tuned on (empty: none).

    ``splits`` are those of the split of each fold, of the one split, or of the graph.
    """

    data: str
    tuning: str
    splits: tuple[str, ...]


def load_data_hashes(sheet: SheetSpec) -> DataHashes:
    """The hashes of a sheet's data; reads the data."""
    if is_of_nodes(sheet.dataset):
        from recgraph.data.catalog import load_graph, load_node_task

        graph = load_graph(sheet.dataset).hash
        found = digest([graph, load_node_task(sheet.dataset).hash])
        return DataHashes(found, graph, (graph,))
    chosen = sheet.data_of(sheet.protocol.folds[-1])
    split, features = chosen.split_of(sheet.dataset), chosen.features_of(sheet.dataset)
    if sheet.protocol.n_folds is None:
        return DataHashes(_data_hash(split.hash, features), split.hash, (split.hash,))
    options = chosen.split_options
    others = (
        Split.of(split.interactions, split.name, seed=chosen.split_seed, **{**options, "fold": fold}).hash
        for fold in range(sheet.protocol.n_folds - 1)
    )
    splits = (*others, split.hash)
    # the oldest fold of these holds nothing that a fold tests
    oldest = split.hash if split.name in ("time", "leave-one-out") else ""
    return DataHashes(_data_hash(digest(splits), features), oldest, splits)


def _data_hash(split_hash: str, features: Fingerprints) -> str:
    """The hash of the data of a split, with the files of features of one's own if there are: models may read them."""
    hashes = {name: file["sha256"] for name, file in features.items()}
    return digest([split_hash, hashes] if hashes else split_hash)


def lacking(job: Job, record: Record) -> list[str]:
    """The metrics that a job asks for and that its record, made before they were asked for, lacks."""
    return [metric for metric in job.metrics if any(metric not in scores for scores in record["scores"].values())]


@dataclass(frozen=True)
class Store:
    """The records of one data set of a board.

    ``<folder>/<model>-<address>-seed<n>.json`` is a record, ``.failed.json`` the record of a failure. Values of users
    are in Parquet files beside the records, and unfinished trainings in ``.work``; neither belongs in git.
    """

    folder: Path

    def record(self, job: Job) -> Record | None:
        return read_json(self.folder / f"{job.stem}.json")

    def failure(self, job: Job) -> Record | None:
        return read_json(self._failed(job))

    def is_done(self, job: Job, data_hash: str, values: bool = False) -> bool:
        """Whether a job has a record of this data and its inputs with all its metrics, and with values of users."""
        record = self.record(job)
        if record is None or record["data_hash"] != data_hash or record.get("inputs", {}) != job.inputs:
            return False
        if lacking(job, record):
            return False
        needed = [title for title in TITLES.values() if values and title in record["scores"]]
        return all(self.values(job.stem, title, record) is not None for title in needed)

    def save(self, job: Job, record: Record) -> None:
        """Write a record in one step, and remove an earlier failure and the training's files."""
        write_json(record, self.folder / f"{job.stem}.json")
        self._failed(job).unlink(missing_ok=True)
        remove_folder(self.work(job))

    def save_failure(self, job: Job, record: Record, restart: bool = True) -> None:
        """Write the record of a failure; with ``restart`` the next try starts from the beginning, else it resumes."""
        write_json(record, self._failed(job))
        if restart:
            remove_folder(self.work(job))

    def users(self, stem: str, seen: str) -> Path:
        """The file of the values of users of a job under a convention of seen items."""
        return self.folder / f"{stem}-{seen}.parquet"

    def values(self, stem: str, title: str, record: Record) -> Result | None:
        """The values of users of one table of a record; None where the file is missing or does not fit the record."""
        path = self.users(stem, _SEEN[title])
        if not path.is_file():
            return None
        try:
            result = load_users(path)
        except (PolarsError, ValueError, OSError):  # an incomplete copy
            return None
        protocol, scores = record["protocols"][title]["protocol_hash"], record["scores"][title]
        return result if result.hash == protocol and result.metrics == scores else None

    def work(self, job: Job) -> Path:
        return self.folder / ".work" / job.stem

    def lock(self, job: Job, wait: bool = True) -> AbstractContextManager[None]:
        """Hold the lock of a job; BlockingIOError where another process has it and ``wait`` is False."""
        return locked(self.folder / ".work" / f"{job.stem}.lock", wait)

    def _failed(self, job: Job) -> Path:
        return self.folder / f"{job.stem}.failed.json"


def read_json(path: Path) -> Record | None:
    """Read a JSON file, or None where it does not exist; one that is not whole is an error that names it."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
