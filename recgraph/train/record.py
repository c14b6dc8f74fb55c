"""The record of a run: what was fitted to what, how, at what cost, on which machine and with which results."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recgraph.data.errors import CorruptFileError
from recgraph.data.strategies import EVERYTHING
from recgraph.files import read_object, write_json
from recgraph.pages import block, table
from recgraph.registry import imported
from recgraph.train.observers import duration

_PACKAGES = ("recgraph", "torch", "numpy", "scipy", "scikit-learn", "accelerate", "polars")
#: the fields that identify a run; ``config.json`` in its folder holds them
IDENTIFYING = ("model", "config", "training", "seed", "fitted_on", "data", "init_items", "task", "evaluation")
#: name of the folder, inside a run's, of the run that chose its number of epochs
SELECTION = "selection"
_SEEN = {"keep": "seen kept", "exclude": "seen excluded"}


class _Entries(BaseModel):
    """Values written as a JSON object: those that were set."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class DataRecord(_Entries):
    """What a model was fitted to: a part of a split, or a graph.

    Attributes:
        dataset, settings: the data card and the :class:`recgraph.train.settings.DataConfig` that made the split.
        file: which file of one's own it was, see :meth:`recgraph.data.read.LogFile.fingerprint`.
        features: likewise the files of features, by their names in the settings, or the frames and the graph of data in
            memory; absent where there are none.
        split, split_params, split_hash, n_users, n_items: of a split.
        target, graph_hash, nodes, edges: of a graph: the embedded node type, and counts by type.
    """

    dataset: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    file: dict[str, Any] | None = None
    features: dict[str, dict[str, Any]] | None = None
    split: str | None = None
    split_params: dict[str, Any] | None = None
    split_hash: str | None = None
    n_users: int | None = None
    n_items: int | None = None
    target: str | None = None
    graph_hash: str | None = None
    nodes: dict[str, int] | None = None
    edges: dict[str, int] | None = None


class Cost(_Entries):
    """Wall time and process CPU time in seconds, and the process's peak memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float | None = None


class RunRecord(_Entries):
    """The record of a run; ``record.json`` in its folder.

    ``record["seed"]`` and ``record.get("best")`` read an entry as the file has it.

    Attributes:
        model: its name in the registry.
        config, training: settings of the model and of the training.
        resolved: of settings that the data decides (``"auto"``, or none), what they became.
        fitted_on: ``"train"``, ``"train+valid"``, ``"all"``, ``"graph"`` or ``"update"``.
        init_items: where the vectors of items came from, see :class:`recgraph.train.pretrained.InitItems`.
        history: one row an epoch.
        results: of the evaluations, by part of the split; ``"nodes"`` for classes of nodes.
        unsealed: why test data was read, one reason each time.
        selection: of a run that was fitted anew on more data: the training settings, best epoch, curve and cost of the
            run that chose the number of epochs.
        task: ``"nodes"`` where the nodes of a graph were embedded.
        evaluation: the settings of the probe of such a run.
        preparation: what building the model cost.
        best_epoch, best: the epoch whose weights the run holds, from 1, and its value of the metric that selects
            (None where nothing selects).
        cost: what the training cost, over all processes of a training that was resumed.
        n_ranks: the most processes that have trained together, where there were several; ``cost`` has the CPU seconds
            of all and the largest peak memory.
        provenance: see :func:`provenance`.
        update: of a run that :func:`recgraph.train.update.update` made: its parent, what was new, both validations.
    """

    model: str
    config: dict[str, Any]
    resolved: dict[str, Any] | None = None
    training: dict[str, Any]
    seed: int
    fitted_on: str
    data: DataRecord
    init_items: dict[str, Any] | None = None
    history: list[dict[str, Any]] = Field(default_factory=list)
    results: dict[str, Any] = Field(default_factory=dict)
    unsealed: list[str] = Field(default_factory=list)
    selection: dict[str, Any] | None = None
    task: Literal["nodes"] | None = None
    evaluation: dict[str, Any] | None = None
    preparation: Cost | None = None
    best_epoch: int | None = None
    best: float | None = None
    cost: Cost | None = None
    n_ranks: int | None = None
    n_parameters: int | None = None
    provenance: dict[str, Any] | None = None
    update: dict[str, Any] | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in self.model_fields_set:
            raise KeyError(name)
        value = getattr(self, name)
        return value.to_json() if isinstance(value, _Entries) else value

    def get(self, name: str, default: Any = None) -> Any:
        """An entry as the file has it, or ``default`` where the record has none."""
        return self[name] if name in self.model_fields_set else default

    def only(self, *names: str) -> dict[str, Any]:
        """Some of the entries, those of them that the record has."""
        return {name: self[name] for name in names if name in self.model_fields_set}

    def write(self, folder: Path) -> None:
        """Write ``record.json``."""
        write_json(self.to_json(), folder / "record.json")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a finished run.

        Raises:
            ValueError: the folder holds none, or a damaged one.
        """
        path = folder / "record.json"
        if not path.is_file():
            goes_on = (folder / "config.json").is_file() and not (folder / "model.safetensors").is_file()
            way_out = "go on with --resume" if goes_on else "give a folder that `recgraph train` wrote"
            raise ValueError(f"{folder} is not a finished run; {way_out}")
        try:
            return cls.from_json(read_object(path))
        except ValidationError as error:
            names = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise CorruptFileError(f"the record's entries {names} are missing or do not fit", path=path) from None


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that identify a run, as plain JSON values.

    A split is identified by its hash, wherever it came from; which of its features may be others depends on the model.

    Args:
        values: of a record, or what ``config.json`` holds.
    """
    found = {name: json.loads(json.dumps(values[name])) for name in IDENTIFYING if name in values}
    data = found.get("data") or {}
    if "split_hash" in data:
        places = ("dataset", "settings", "file", "features")
        found["data"] = {name: value for name, value in data.items() if name not in places}
    return found


def provenance() -> dict[str, Any]:
    """Versions, machine, threads, the user's files that were imported and, in a checkout, the commit."""
    import torch

    own = [each.to_dict() for each in imported()]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        **({"imports": own} if own else {}),
    }


def machine() -> str:
    """The processor and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() or None


class Measured:
    """Measures wall time, process CPU time and the peak memory of a block."""

    seconds = 0.0
    cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._wall
        self.cpu_seconds = time.process_time() - self._cpu

    def to_dict(self) -> dict[str, float]:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "peak_memory_mb": peak}


# -- a run in a line and as a block of a notebook, from its record alone


def run_text(record: RunRecord, folder: Path | None) -> str:
    """``Run(sasrec on ml-100k, fitted on train, ndcg@10 0.0812 at epoch 12 of 22, in runs/a)``."""
    parts = [f"{record.model} on {_source(record)}", f"fitted on {record.fitted_on}", _best(record)]
    parts.append("" if folder is None else f"in {folder}")
    return f"{_kind(record)}({', '.join(part for part in parts if part)})"


def run_html(record: RunRecord, folder: Path | None) -> str:
    """The same with sizes, cost and results, as HTML."""
    data = record.data
    facts = {
        "data": _source(record),
        "users": data.n_users,
        "items": data.n_items,
        "nodes": data.nodes,
        "fitted on": record.fitted_on,
        "seed": record.seed,
        "best": _best(record) or None,
        "parameters": record.n_parameters,
        "time": None if record.cost is None else duration(record.cost.seconds),
        "folder": folder,
        "test data read": len(record.unsealed) or None,
    }
    tables = [table(_rows(found), f"results on {part}") for part, found in record.results.items()]
    return block(f"{_kind(record)} of {record.model}", facts, tables)


def _kind(record: RunRecord) -> str:
    return "NodeRun" if record.task == "nodes" else "Run"


def _source(record: RunRecord) -> str:
    data = record.data
    if data.nodes is not None:
        return data.dataset or f"a graph, {data.target}"
    return data.dataset or ("a log" if data.split in (None, EVERYTHING) else f"{data.split}")


def _best(record: RunRecord) -> str:
    if record.best is None:
        return ""
    metric = record.training.get("metric", "loss")
    return f"{metric} {record.best:.4f} at epoch {record.best_epoch} of {len(record.history)}"


def _rows(found: Any) -> list[dict[str, Any]]:
    """The rows of one entry of ``record.results``: metrics by convention, or the scores of probes."""
    if isinstance(found, Mapping):
        probes = [(name, labels, scores) for name in ("linear", "logistic") for labels, scores in found[name].items()]
        return [{"probe": name, "labels": labels, **scores["mean"]} for name, labels, scores in probes]
    titles = [_SEEN.get(one["protocol"]["seen"], one["protocol_hash"]) for one in found]
    names = dict.fromkeys(name for one in found for name in one["metrics"])
    columns = list(zip(titles, found, strict=True))
    return [{"metric": name} | {title: one["metrics"].get(name) for title, one in columns} for name in names]
