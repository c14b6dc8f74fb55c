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
    of_nodes, protocol = is_of_nodes(sheet.dataset), sheet.protocol
    parts: dict[str, type[Config]] = {
        "config": cls.Config,
        "data": ProbeSettings if of_nodes else DataConfig,
    }
    if of_nodes and issubclass(cls, TrainableModel):
        parts |= {"training": GraphTrainConfig}
    elif issubclass(cls, TrainableModel):
        parts |= {"training": training_config(cls), "items": InitItemsConfig}
    shared = share_out(cls, settings, parts)
    shared.get("training", {}).setdefault("select_seen", "exclude")  # which "auto" is on most logs
    made = {name: part.of(shared[name]) for name, part in parts.items()}
    if made.get("items") == InitItemsConfig():  # entries that read none keep their address
        del made["items"]
    if of_nodes:
        hashes = [NodeProtocol(task_hash="", probe=ProbeConfig.of(protocol.probe)).hash]
    else:
        fields = {
            "part": "test",
            "fitted_on": protocol.fit_on,
            "history": "train+valid",
            "cutoffs": protocol.cutoffs,
        }
        hashes = [Protocol.of(fields, seen=seen).hash for seen in TITLES]
    return {
        "model": cls.key(),
        "dataset": data_name(sheet.dataset),
        "card": find_card(sheet.dataset).hash,
        **{name: part.model_dump(mode="json") for name, part in made.items()},
        "protocols": hashes,
    }


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
        return tuple(
            dict.fromkeys((*DEFAULT_METRICS, *(split_metric(metric)[0] for metric in self.metrics)))
        )

    @property
    def refit(self) -> bool:
        """Whether the number of epochs is chosen first, and the model is then fitted anew to
        more.
        """
        chooses = self.fit_on != "train" and self.settings.get("metric") != "last"
        return chooses and issubclass(registry.load("model", self.model), TrainableModel)

    def command(self, threads: int = 1, device: str = "cpu") -> str:
        """The two commands that reproduce its numbers."""
        folder, model = shlex.quote(f"runs/{self.stem}"), shlex.quote(self.model)
        own = "".join(f" --import {shlex.quote(each)}" for each in self.imports)
        part = (
            ""
            if self.fit_on == "train"
            else f" --fit-on {self.fit_on}{' --refit' if self.refit else ''}"
        )
        train = f"recgraph train {model} --dataset {shlex.quote(self.dataset)} --seed {self.seed}"
        sets = [f"--set {shlex.quote(setting_text(*each))}" for each in assignments(self.settings)]
        lines = " \\\n    ".join(
            [f"{train} --device {device}{part}{own}", *sets, f"--out {folder}"]
        )
        cutoffs = (
            ""
            if is_of_nodes(self.dataset)
            else "".join(f" --cutoff {each}" for each in self.cutoffs)
        )
        metrics = (
            "".join(f" --metric {shlex.quote(name)}" for name in self.metric_names)
            if self.metrics
            else ""
        )
        evaluate = f"recgraph evaluate {folder}{cutoffs}{metrics}{own} --format json"
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
        if any(
            metric not in scores for scores in record["scores"].values() for metric in self.metrics
        ):
            return False
        titles = [title for title in TITLES.values() if values and title in record["scores"]]
        return all(
            load_values(self.folder, self.address, title, record) is not None for title in titles
        )

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
    (seen,) = (seen for seen, name in TITLES.items() if name == title)
    try:
        result = load_users(
            users_file(folder, f"{record['model']}-{address}-seed{record['seed']}", seen)
        )
    except (PolarsError, ValueError, OSError):  # it is not there, or an incomplete copy
        return None
    protocol, scores = record["protocols"][title]["protocol_hash"], record["scores"][title]
    return result if result.hash == protocol and result.metrics == scores else None


def plan_of(
    board: Board, sheet: SheetSpec, results: str | Path | None = None
) -> list[tuple[EntrySpec, list[Job]]]:
    """The jobs of the entries of a sheet, one a seed.

    Raises:
        ConfigError: a setting is wrong, or two entries have one configuration, which is the address
            of their records.
    """
    folder, planned, names = board.folder_of(sheet, results), [], dict[str, str]()
    for entry in sheet.models:
        try:
            jobs = _jobs_of(sheet, entry, folder)
            if (other := names.setdefault(jobs[0].address, entry.name)) != entry.name:
                raise ConfigError(
                    f"it has the configuration of {other!r} (seeds of one entry are a list)"
                )
        except ConfigError as error:
            raise ConfigError(
                f"board on {sheet.dataset!r}, model {entry.name!r}: {error}"
            ) from None
        planned.append((entry, jobs))
    return planned


def _jobs_of(sheet: SheetSpec, entry: EntrySpec, folder: Path) -> list[Job]:
    cls: type[Model] = registry.load("model", entry.model)
    protocol, of_nodes = sheet.protocol, is_of_nodes(sheet.dataset)
    settings = merged(sheet.training if issubclass(cls, TrainableModel) else {}, entry.settings)
    own = (ProbeSettings if of_nodes else DataConfig).model_fields
    if wrong := sorted(own.keys() & {**sheet.training, **entry.settings}.keys()):
        raise ConfigError(
            f"{wrong[0]} is of the test, which all models share: give it in [protocol]"
        )
    if of_nodes:
        settings |= {"probe": protocol.probe} if protocol.probe else {}
    else:
        split = protocol.data.model_dump(mode="json", exclude_defaults=True)
        settings |= {name: value for name, value in split.items() if value}
    identity = identity_of(sheet, cls, settings)
    metrics = (
        ()
        if of_nodes
        else tuple(each for each in sheet.metrics if split_metric(each)[0] not in DEFAULT_METRICS)
    )
    more = (metrics, sheet.imported, protocol.fit_on, folder)
    found = sheet.located(settings)
    return [
        Job(sheet.dataset, cls.key(), found, seed, protocol.cutoffs, identity, *more)
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
    chosen = DataConfig.of(sheet.located(sheet.protocol.data.model_dump()))
    split, features = chosen.split_of(sheet.dataset).hash, chosen.features_of(sheet.dataset)
    # models may read the files of features of one's own
    hashes = {name: file["sha256"] for name, file in features.items()}
    return DataHashes(digest([split, hashes] if hashes else split), split)


def read_json(path: Path) -> Record | None:
    """Read a JSON file, or None where it does not exist; one that is not whole is an error that
    names it.
    """
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
