"""The jobs of a board, from its file: their settings, tuned ones among them, and what makes their addresses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recgraph import registry
from recgraph.config import Config, ConfigError
from recgraph.data.catalog.cards import data_name, find_card
from recgraph.data.log_file import is_data_path
from recgraph.data.reading import PATHS
from recgraph.data.split import Split
from recgraph.evaluate.metrics.names import modules_of
from recgraph.evaluate.node_probe import ProbeConfig
from recgraph.evaluate.node_results import NodeProtocol
from recgraph.evaluate.protocol import Protocol
from recgraph.imports import is_file
from recgraph.leaderboard.board import EntrySpec, ProtocolSpec, SheetSpec, is_of_nodes
from recgraph.leaderboard.job import Job, digest
from recgraph.leaderboard.studies import TunedSettings, load_tuned, shown_study
from recgraph.models.base import Model, TrainableModel
from recgraph.models.distil import DistilConfig
from recgraph.runs.pretrained import InitItemsConfig
from recgraph.runs.settings import DataConfig, Fingerprints, ProbeSettings, check_task
from recgraph.train.config import GraphTrainConfig, TrainConfig, share_out, training_config

__all__ = [
    "DataHashes",
    "check_entries",
    "check_study",
    "data_hash_of",
    "hashes_of_folds",
    "jobs_of",
    "load_data_hashes",
]


#: strategies whose oldest fold holds nothing that a fold tests
_BACK_IN_TIME = ("time", "leave-one-out")


def jobs_of(sheet: SheetSpec, entry: EntrySpec) -> list[Job]:
    """The jobs of an entry, one a seed, or one a seed and fold.

    Raises:
        ConfigError: a setting does not exist, is out of range or belongs to the protocol, the model is not for such
            data, or the study is of another model; names the entry.
        FileNotFoundError, ValueError: the study cannot be read.
    """
    cls: type[Model] = registry.load("model", entry.model)
    if cls.__module__ == "__main__":
        raise ConfigError(
            f"board on {sheet.dataset!r}, model {entry.name!r}: {cls.__qualname__} is a class of the running script, "
            "which worker processes do not run: move it into a file of its own, and name that in the board, "
            'import = ["FILE.py"], or import it with rg.import_file("FILE.py")'
        )
    training = sheet.training if issubclass(cls, TrainableModel) else {}
    try:
        check_task(cls, sheet.dataset, is_of_nodes(sheet.dataset))
        _check_no_test_settings(sheet, entry, is_of_nodes(sheet.dataset))
        # of all folds at once: the best trial of a study that goes on may change
        given = {**training, **_settings_of_study(sheet, entry, cls), **entry.settings}
        return [job for fold in sheet.protocol.folds for job in _jobs_of_fold(sheet, entry, cls, given, fold)]
    except ConfigError as error:
        raise ConfigError(f"board on {sheet.dataset!r}, model {entry.name!r}: {error}") from None


def _jobs_of_fold(
    sheet: SheetSpec, entry: EntrySpec, cls: type[Model], given: Mapping[str, Any], fold: int | None
) -> list[Job]:
    of_nodes = is_of_nodes(sheet.dataset)
    settings = {**given, **(_probe(sheet.protocol) if of_nodes else _split(sheet.protocol.data_of(fold)))}
    resolved = _resolve(cls, of_nodes, settings)
    identity = {
        "model": cls.key(),
        "revision": cls.revision_of(resolved["config"]),
        # where files of one's own lie does not matter, as long as they lie alike beside the board
        "dataset": data_name(sheet.dataset) if is_data_path(sheet.dataset) else _written(sheet.dataset, sheet.places),
        "card": find_card(sheet.dataset).hash,
        **resolved,
        "protocols": _protocol_hashes(sheet.protocol, of_nodes),
    }
    if issubclass(cls.Config, DistilConfig) and (teacher := resolved["config"].get("teacher")):
        identity["config"] = {**resolved["config"], "teacher": _written(teacher, sheet.places)}
    if items := resolved.get("items", {}).get("init_items"):
        identity["items"] = {**resolved["items"], "init_items": _written(items, sheet.places)}
    before = {**identity, "data": _with_written(resolved["data"], sheet.places)}
    identity = {**identity, "data": _with_written(resolved["data"], sheet.places | sheet.data_places)}
    earlier = None if before == identity else before
    seeds, metrics = entry.seeds or sheet.seeds, sheet.more_metrics
    imports = tuple(_place(each, sheet.file.parent) for each in sheet.imports)
    protocol = sheet.protocol
    shared = (protocol.cutoffs, identity, metrics, modules_of(metrics), imports, protocol.fit_on, earlier, fold)
    return [Job(sheet.dataset, cls.key(), settings, seed, *shared) for seed in dict.fromkeys(seeds)]


def _written(path: str, places: Mapping[str, str]) -> str:
    """A path as an address has it, see :attr:`recgraph.leaderboard.board.SheetSpec.places`."""
    return places.get(path, path)


def _with_written(data: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """The settings of data with the paths of their files as an address has them."""
    reading = data.get("reading")
    if not isinstance(reading, dict):
        return dict(data)
    paths = {name: _written(reading[name], places) for name in PATHS if isinstance(reading.get(name), str)}
    return {**data, "reading": {**reading, **paths}}


def _place(what: str, folder: Path) -> str:
    """What a board imports as a command takes it anywhere: a file by its absolute path, a module by its name."""
    return os.path.normpath((folder / what).absolute()) if is_file(what) else what


def check_entries(sheet: SheetSpec, planned: Iterable[tuple[EntrySpec, Job]]) -> None:
    """Check that no two entries have the same configuration, since it is the address of their records.

    Raises:
        ConfigError: two entries have; names both.
    """
    names: dict[str, str] = {}
    for entry, job in planned:
        if (other := names.setdefault(job.entry, entry.name)) != entry.name:
            raise ConfigError(
                f"board on {sheet.dataset!r}: entries {other!r} and {entry.name!r} have the same configuration; leave "
                "one out, or change a setting (seeds of one entry are a list)"
            )


def check_study(sheet: SheetSpec, entry: EntrySpec, tuning: str) -> None:
    """Check that an entry's settings were not tuned on another split of the data set.

    The validation part of another split may hold interactions that the board tests on.

    Args:
        entry: with a study or without.
        tuning: the hash of the data that settings may be tuned on, see :func:`load_data_hashes`.

    Raises:
        ConfigError: they were tuned on another split; names the entry and the study.
    """
    tuned = _study_of(sheet, entry)
    if tuned is None or tuned.dataset is None or tuned.split_hash is None:
        return
    if data_name(tuned.dataset) != data_name(sheet.dataset):
        return
    if data_hash_of(tuned.split_hash, sheet.protocol.data_of().features_of(sheet.dataset)) != tuning:
        raise ConfigError(
            f"board on {sheet.dataset!r}, model {entry.name!r}: study {shown_study(entry)!r} was tuned on another "
            f"split of {tuned.dataset!r}, {tuned.split_hash[:12]}: interactions that are tested on here may have "
            f"chosen its settings; {_where_to_tune(sheet)}"
        )


def _where_to_tune(sheet: SheetSpec) -> str:
    n_folds = sheet.protocol.n_folds
    if n_folds is None:
        return "tune on the board's split, or give the board the study's in [protocol]"
    if (sheet.protocol.split or "leave-one-out") in _BACK_IN_TIME:
        return f"tune on the oldest fold, fold = {n_folds - 1} of n_folds = {n_folds}, of which no fold tests anything"
    return "each fold trains on what others test: tune on other data"


def _study_of(sheet: SheetSpec, entry: EntrySpec) -> TunedSettings | None:
    return None if entry.study is None else load_tuned(entry.study, sheet.file.parent, entry.study_name)


def _settings_of_study(sheet: SheetSpec, entry: EntrySpec, cls: type[Model]) -> dict[str, Any]:
    """The settings of the best trial of an entry's study; empty without a study."""
    tuned = _study_of(sheet, entry)
    if tuned is None:
        return {}
    if tuned.model not in (None, cls.__qualname__):
        shown = shown_study(entry)
        raise ConfigError(f"study {shown!r} is of {tuned.model}, not of {cls.__name__}; give one of this model")
    if issubclass(cls, TrainableModel):
        return tuned.settings
    # a study's record names the metric that was tuned for, which for a trained model selects the epoch
    return {name: value for name, value in tuned.settings.items() if name not in TrainConfig.model_fields}


def _check_no_test_settings(sheet: SheetSpec, entry: EntrySpec, of_nodes: bool) -> None:
    """Check that neither the entry nor ``[training]`` sets the split or the probe: all entries share them."""
    own = (ProbeSettings if of_nodes else DataConfig).model_fields
    for given, where in ((sheet.training, "[training]"), (entry.settings, "its settings")):
        for name in sorted(own.keys() & given.keys()):
            key = f"probe = {{ {name.removeprefix('probe_')} = ... }}" if of_nodes else name
            raise ConfigError(
                f"{name} = {given[name]!r} in {where} is of the test, which is the same for all models; give {key} in "
                "[protocol], or write another board"
            )


def _split(data: DataConfig) -> dict[str, Any]:
    return {name: value for name, value in data.model_dump(mode="json", exclude_defaults=True).items() if value}


def _probe(protocol: ProtocolSpec) -> dict[str, Any]:
    return {f"probe_{name}": value for name, value in protocol.probe.items()}


def _resolve(cls: type[Model], of_nodes: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with all defaults, by part."""
    parts: dict[str, type[Config]] = {"config": cls.Config, "data": ProbeSettings if of_nodes else DataConfig}
    if of_nodes and issubclass(cls, TrainableModel):
        parts |= {"training": GraphTrainConfig}
    elif issubclass(cls, TrainableModel):
        parts |= {"training": training_config(cls), "items": InitItemsConfig}
    shared = share_out(cls, settings, parts)
    made = {name: part.of(shared[name]) for name, part in parts.items()}
    if made.get("items") == InitItemsConfig():  # entries that read none keep their address
        del made["items"]
    return {name: part.identity() for name, part in made.items()}


def _protocol_hashes(protocol: ProtocolSpec, of_nodes: bool) -> list[str]:
    """The hashes of the protocols, without the data."""
    if of_nodes:
        return [NodeProtocol(task_hash="", probe=ProbeConfig.of(protocol.probe)).hash]
    fields = {"part": "test", "fitted_on": protocol.fit_on, "history": "train+valid", "cutoffs": protocol.cutoffs}
    return [Protocol.of(fields, seen=seen).hash for seen in ("keep", "exclude")]


class DataHashes(NamedTuple):
    """Hashes of the data of a sheet.

    Attributes:
        data: of the training and test data, of all folds.
        tuning: of the data that settings may be tuned on; empty where there is none.
        folds: of the split of each fold, where there are folds.
    """

    data: str
    tuning: str
    folds: tuple[str, ...] = ()


def load_data_hashes(sheet: SheetSpec) -> DataHashes:
    """The hashes of a sheet's data; reads the data.

    Raises:
        UnavailableError: the data set is not available.
    """
    if is_of_nodes(sheet.dataset):
        from recgraph.data.catalog import load_graph, load_node_task

        found = digest([load_graph(sheet.dataset).hash, load_node_task(sheet.dataset).hash])
        return DataHashes(found, found)
    chosen = sheet.protocol.data_of(sheet.protocol.folds[-1])
    split, features = chosen.split_of(sheet.dataset), chosen.features_of(sheet.dataset)
    last = data_hash_of(split.hash, features)
    if sheet.protocol.n_folds is None:
        return DataHashes(last, last)
    folds = hashes_of_folds(split, chosen)
    return DataHashes(data_hash_of(digest(folds), features), last if split.name in _BACK_IN_TIME else "", folds)


def hashes_of_folds(split: Split, data: DataConfig) -> tuple[str, ...]:
    """The hash of the split of each fold, given any of the folds and the settings of its data."""
    log, options = split.interactions, data.split_options
    return tuple(
        split.hash
        if fold == options["fold"]
        else Split.of(log, split.name, seed=data.split_seed, **{**options, "fold": fold}).hash
        for fold in range(options["n_folds"])
    )


def data_hash_of(split_hash: str, features: Fingerprints) -> str:
    """The hash of the data of a split, with the files of features of one's own if there are: models may read them."""
    hashes = {name: file["sha256"] for name, file in features.items()}
    return digest([split_hash, hashes] if hashes else split_hash)
