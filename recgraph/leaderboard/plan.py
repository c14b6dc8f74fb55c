"""The jobs of a board, from its file: their settings, their addresses, and their records."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from polars.exceptions import PolarsError

from recgraph import registry
from recgraph.config import Config, ConfigError, assignments, merged, setting_text
from recgraph.data.catalog.cards import data_name, find_card
from recgraph.evaluate.metrics import DEFAULT_METRICS, split_metric
from recgraph.evaluate.nodes import NodeProtocol, ProbeConfig
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result, load_users
from recgraph.files import read_object, remove_folder, write_json
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec, is_of_nodes
from recgraph.models.base import Model, TrainableModel
from recgraph.train.config import GraphTrainConfig, share_out, training_config
from recgraph.train.pretrained import InitItemsConfig
from recgraph.train.settings import DataConfig, ProbeSettings

#: convention of seen items -> title of its table
TITLES = {"keep": "seen kept", "exclude": "seen excluded"}
#: the inverse
SEEN = {"seen kept": "keep", "seen excluded": "exclude"}
Record = dict[str, Any]
#: name or address of an entry -> seed -> its record
Records = Mapping[str, Mapping[int, Record]]


def digest(values: Any) -> str:
    """A hash of JSON values, 16 hexadecimal digits; equal values have equal digests on every
    machine.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(sheet: SheetSpec, cls: type[Model], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers of a job beside its seed: an entry's address is its digest. It is
    the resolved configuration, the card and the protocol; the hash of the data is compared
    separately."""
    parts = _parts_of(cls, is_of_nodes(sheet.dataset))
    by_part = share_out(cls, settings, parts)
    # which "auto" is on most logs
    by_part.get("training", {}).setdefault("select_seen", "exclude")
    configs = {name: part.of(by_part[name]) for name, part in parts.items()}
    if configs.get("items") == InitItemsConfig():  # entries that read none keep their address
        del configs["items"]
    return {
        "model": cls.key(),
        "dataset": data_name(sheet.dataset),
        "card": find_card(sheet.dataset).hash,
        **{name: config.model_dump(mode="json") for name, config in configs.items()},
        "protocols": _protocol_hashes(sheet),
    }


def _parts_of(cls: type[Model], of_nodes: bool) -> dict[str, type[Config]]:
    """The configurations of a job: of the model, its data and its training."""
    parts: dict[str, type[Config]] = {
        "config": cls.Config,
        "data": ProbeSettings if of_nodes else DataConfig,
    }
    if not issubclass(cls, TrainableModel):
        return parts
    if of_nodes:
        return {**parts, "training": GraphTrainConfig}
    return {**parts, "training": training_config(cls), "items": InitItemsConfig}


def _protocol_hashes(sheet: SheetSpec) -> list[str]:
    protocol = sheet.protocol
    if is_of_nodes(sheet.dataset):
        return [NodeProtocol(task_hash="", probe=ProbeConfig.of(protocol.probe)).hash]
    fields = {
        "part": "test",
        "fitted_on": protocol.fit_on,
        "history": "train+valid",
        "cutoffs": protocol.cutoffs,
    }
    return [Protocol.of(fields, seen=seen).hash for seen in TITLES]


@dataclass(frozen=True)
class Job:
    """One entry of a board with one seed, and its files in the folder of records.

    ``<folder>/<model>-<address>-seed<n>.json`` is its record, ``.failed.json`` the record of a
    failure. Values of users are in Parquet files beside the records, and unfinished trainings in
    ``.work``; neither belongs in git.

    Attributes:
        settings: those that are not defaults, as a tree, as for ``recgraph train``.
        metrics: those beyond the default ones; a record without them is made again, under the same
            address.
        imports: what the board's file imports; files by their absolute paths.
    """

    dataset: str
    model: str
    settings: dict[str, Any]
    seed: int
    cutoffs: tuple[int, ...]
    identity: dict[str, Any]
    metrics: tuple[str, ...]
    imports: tuple[str, ...]
    fit_on: Literal["train", "train+valid"]
    folder: Path

    @cached_property
    def address(self) -> str:
        return digest(self.identity)

    @property
    def metric_names(self) -> tuple[str, ...]:
        names = [split_metric(metric)[0] for metric in self.metrics]
        return tuple(dict.fromkeys((*DEFAULT_METRICS, *names)))

    @property
    def refit(self) -> bool:
        """Whether the number of epochs is chosen first, and the model is then fitted anew to
        more.
        """
        if self.fit_on == "train" or self.settings.get("metric") == "last":
            return False
        return issubclass(registry.load("model", self.model), TrainableModel)

    def command(self, threads: int = 1, device: str = "cpu") -> str:
        """The two commands that reproduce its numbers."""
        folder = shlex.quote(f"runs/{self.stem}")
        imports = "".join(f" --import {shlex.quote(name)}" for name in self.imports)
        fitted = ""
        if self.fit_on != "train":
            fitted = f" --fit-on {self.fit_on}"
        if self.refit:
            fitted += " --refit"
        train = (
            f"recgraph train {shlex.quote(self.model)} --dataset {shlex.quote(self.dataset)} "
            f"--seed {self.seed} --device {device}{fitted}{imports}"
        )
        sets = [f"--set {shlex.quote(setting_text(*pair))}" for pair in assignments(self.settings)]
        lines = " \\\n    ".join([train, *sets, f"--out {folder}"])
        measured = ""
        if not is_of_nodes(self.dataset):
            measured = "".join(f" --cutoff {cutoff}" for cutoff in self.cutoffs)
        if self.metrics:
            measured += "".join(f" --metric {shlex.quote(name)}" for name in self.metric_names)
        evaluate = f"recgraph evaluate {folder}{measured}{imports} --format json"
        return f"export OMP_NUM_THREADS={threads}\n{lines}\n{evaluate}"

    @property
    def described(self) -> Record:
        return {
            name: getattr(self, name)
            for name in ("model", "dataset", "seed", "identity", "settings")
        }

    @property
    def stem(self) -> str:
        return f"{self.model}-{self.address}-seed{self.seed}"

    @property
    def work(self) -> Path:
        return self.folder / ".work" / self.stem

    @property
    def record(self) -> Record | None:
        return read_json(self.folder / f"{self.stem}.json")

    @property
    def failure(self) -> Record | None:
        return read_json(self.folder / f"{self.stem}.failed.json")

    def is_done(self, data_hash: str, values: bool = False) -> bool:
        """Whether it has a record of this data with all its metrics, and with values of users."""
        record = self.record
        if record is None or record["data_hash"] != data_hash:
            return False
        metrics = set(self.metrics)
        if not all(scores.keys() >= metrics for scores in record["scores"].values()):
            return False
        if not values:
            return True
        titles = record["scores"].keys() & SEEN.keys()
        results = [load_values(self.folder, self.address, title, record) for title in titles]
        return None not in results

    def save(self, record: Record) -> None:
        """Write a record in one step, and remove an earlier failure and the training's files."""
        write_json(record, self.folder / f"{self.stem}.json")
        (self.folder / f"{self.stem}.failed.json").unlink(missing_ok=True)
        remove_folder(self.work)

    def save_failure(self, record: Record, restart: bool = True) -> None:
        """Write the record of a failure; with ``restart`` the next try starts from the beginning,
        else it resumes.
        """
        write_json(record, self.folder / f"{self.stem}.failed.json")
        if restart:
            remove_folder(self.work)


def users_file(folder: Path, stem: str, seen: str) -> Path:
    """The file of the values of users of a job under a convention of seen items."""
    return folder / f"{stem}-{seen}.parquet"


def load_values(folder: Path, address: str, title: str, record: Record) -> Result | None:
    """The values of users of one table of a record; None where the file is missing or does not fit
    the record.
    """
    stem = f"{record['model']}-{address}-seed{record['seed']}"
    try:
        result = load_users(users_file(folder, stem, SEEN[title]))
    except (PolarsError, ValueError, OSError):  # it is not there, or an incomplete copy
        return None
    if result.hash != record["protocols"][title]["protocol_hash"]:
        return None
    return result if result.metrics == record["scores"][title] else None


def plan_of(
    board: Board, sheet: SheetSpec, results: str | Path | None = None
) -> list[tuple[EntrySpec, list[Job]]]:
    """The jobs of the entries of a sheet, one a seed.

    Raises:
        ConfigError: a setting is wrong, or two entries have one configuration, which is the address
            of their records.
    """
    folder = board.folder_of(sheet, results)
    planned = []
    names: dict[str, str] = {}
    for entry in sheet.models:
        try:
            jobs = _jobs_of(sheet, entry, folder)
            name = names.setdefault(jobs[0].address, entry.name)
            if name != entry.name:
                raise ConfigError(
                    f"it has the configuration of {name!r} (seeds of one entry are a list)"
                )
        except ConfigError as error:
            raise ConfigError(
                f"board on {sheet.dataset!r}, model {entry.name!r}: {error}"
            ) from None
        planned.append((entry, jobs))
    return planned


def _jobs_of(sheet: SheetSpec, entry: EntrySpec, folder: Path) -> list[Job]:
    cls: type[Model] = registry.load("model", entry.model)
    protocol = sheet.protocol
    metrics: tuple[str, ...] = ()
    if is_of_nodes(sheet.dataset):
        of_test: type[Config] = ProbeSettings
        shared: dict[str, Any] = {"probe": protocol.probe}
    else:
        of_test = DataConfig
        shared = protocol.data.model_dump(mode="json", exclude_defaults=True)
        metrics = tuple(
            name for name in sheet.metrics if split_metric(name)[0] not in DEFAULT_METRICS
        )
    wrong = sorted(of_test.model_fields.keys() & {**sheet.training, **entry.settings}.keys())
    if wrong:
        raise ConfigError(
            f"{wrong[0]} is of the test, which all models share: give it in [protocol]"
        )
    settings = dict(entry.settings)
    if issubclass(cls, TrainableModel):
        settings = merged(sheet.training, settings)
    settings |= {name: value for name, value in shared.items() if value}
    identity = identity_of(sheet, cls, settings)
    located = sheet.located(settings)
    return [
        Job(
            dataset=sheet.dataset,
            model=cls.key(),
            settings=located,
            seed=seed,
            cutoffs=protocol.cutoffs,
            identity=identity,
            metrics=metrics,
            imports=sheet.imported,
            fit_on=protocol.fit_on,
            folder=folder,
        )
        for seed in dict.fromkeys(entry.seeds or sheet.seeds)
    ]


class DataHashes(NamedTuple):
    """Hashes of a sheet's data: of all that models read, and of the split or the graph."""

    data: str
    split: str


def load_data_hashes(sheet: SheetSpec) -> DataHashes:
    """The hashes of a sheet's data, which this reads."""
    if is_of_nodes(sheet.dataset):
        from recgraph.data.catalog import load_graph, load_node_task

        graph = load_graph(sheet.dataset).hash
        return DataHashes(digest([graph, load_node_task(sheet.dataset).hash]), graph)
    data = DataConfig.of(sheet.located(sheet.protocol.data.model_dump(exclude_defaults=True)))
    split = data.split_of(sheet.dataset).hash
    # models may read the files of features of one's own
    features = {name: file["sha256"] for name, file in data.features_of(sheet.dataset).items()}
    return DataHashes(digest([split, features] if features else split), split)


def read_json(path: Path) -> Record | None:
    """Read a JSON file, or None where it does not exist; one that is not whole is an error that
    names it.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
