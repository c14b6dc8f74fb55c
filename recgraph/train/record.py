"""The record of a run: what was fitted to what, how, at what cost, on which machine and with which
results.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from recgraph.data.strategies import EVERYTHING
from recgraph.files import read_object, reading, write_json, write_text
from recgraph.models.base import Model
from recgraph.pages import block, table
from recgraph.pages.charts import Figure, curve
from recgraph.pages.plot import drawing, html_page, notebook_html
from recgraph.registry import imported
from recgraph.train.observers import duration

_PACKAGES = ("recgraph", "torch", "numpy", "scipy", "scikit-learn", "accelerate", "polars")
#: the fields that identify a run; ``config.json`` in its folder holds them
IDENTIFYING = (
    "model",
    "config",
    "training",
    "seed",
    "fitted_on",
    "data",
    "init_items",
    "task",
    "evaluation",
)
#: name of the folder, inside a run's, of the run that chose its number of epochs
SELECTION = "selection"
_SEEN = {"keep": "seen kept", "exclude": "seen excluded"}
#: what selects an epoch without a validation: its loss, or that it is the last
_NOT_ON_VALID = ("loss", "last")


class _Entries(BaseModel):
    """Values written as a JSON object: those that were set."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


class DataRecord(_Entries):
    """What a model was fitted to: a part of a split, or a graph.

    Attributes:
        dataset, settings: the data card and the :class:`recgraph.train.settings.DataConfig` that
            made the split.
        file: which file of one's own it was, see :meth:`recgraph.data.read.LogFile.fingerprint`.
        features: likewise the files of features, by their names in the settings, or the frames and
            the graph of data in memory; absent where there are none.
        split, split_params, split_hash, n_users, n_items, times: of a split; ``times`` is their
            unit, or ``"none"``.
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
        resolved: of settings that the data decides (``"auto"``, or none), what they became.
        fitted_on: ``"train"``, ``"train+valid"``, ``"all"``, ``"graph"`` or ``"update"``.
        init_items: where the vectors of items came from, see
            :class:`recgraph.train.pretrained.InitItems`.
        history: one row an epoch.
        targets_per_epoch, targets: the targets of the last epoch, and all interactions that could
            be one.
        results: of the evaluations, by part of the split; ``"nodes"`` for classes of nodes.
        unsealed: why test data was read, one reason each time.
        selection: of a run that was fitted anew on more data: the training settings, best epoch,
            curve and cost of the run that chose the number of epochs.
        task, evaluation: ``"nodes"``, and the settings of the probe, where the nodes of a graph
            were embedded.
        preparation, cost: of building the model, and of the training, over all processes of one
            that was resumed.
        best_epoch, best: the epoch whose weights the run holds, from 1, and its value of the metric
            that selects (None where nothing selects).
        n_ranks: the most processes that have trained together, where there were several; ``cost``
            has the CPU seconds of all and the largest peak memory.
        update: of a run that :func:`recgraph.train.update.update` made: its parent, what was new,
            both validations.
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
    targets_per_epoch: int | None = None
    targets: int | None = None
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
        return self.to_json()[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An entry as the file has it, or ``default`` where the record has none."""
        return self.to_json().get(name, default)

    def only(self, *names: str) -> dict[str, Any]:
        """Some of the entries, those of them that the record has."""
        return self.model_dump(include={*names}, exclude_unset=True)

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
            raise ValueError(
                f"{folder} is not a finished run; one that was stopped goes on with --resume"
            )
        with reading(path):
            return cls(**read_object(path))


def identity(values: Mapping[str, Any] | RunRecord) -> dict[str, Any]:
    """The fields that identify a run, as plain JSON values, of its record or of what
    ``config.json`` holds.

    A split is identified by its hash, wherever it came from; which of its features may be others
    depends on the model.
    """
    given = values.to_json() if isinstance(values, RunRecord) else values
    found = {name: json.loads(json.dumps(given[name])) for name in IDENTIFYING if name in given}
    data = found.get("data") or {}
    if "split_hash" in data:
        places = ("dataset", "settings", "file", "features")
        found["data"] = {name: value for name, value in data.items() if name not in places}
    return found


def provenance() -> dict[str, Any]:
    """Versions, machine, threads, the user's files that were imported and, in a checkout, the
    commit.
    """
    import torch

    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    own = imported()
    return {
        "python": platform.python_version(),
        "packages": versions,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        **({"imports": own} if own else {}),
    }


def machine() -> str:
    """The processor and its number of cores."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name
        )
    return f"{name}, {os.cpu_count()} cores"


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    return (
        subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    )


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of a block, which is known at its end."""
    cost = Cost(seconds=0.0, cpu_seconds=0.0)
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    unit = 2**20 if sys.platform == "darwin" else 2**10
    cost.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# -- a run in a line and as a block of a notebook, from its record alone


def run_text(record: RunRecord, folder: Path | None) -> str:
    """``Run(sasrec on ml-100k, fitted on train, ndcg@10 0.0812 at epoch 12 of 22, in runs/a)``."""
    parts = [f"{record.model} on {_source(record)}", f"fitted on {record.fitted_on}", _best(record)]
    parts.append("" if folder is None else f"in {folder}")
    kind = "NodeRun" if record.task == "nodes" else "Run"
    return f"{kind}({', '.join(part for part in parts if part)})"


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
    return block(f"Run of {record.model}", facts, tables)


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
    """The rows of one entry of ``record.results``: metrics by convention, or the scores of
    probes.
    """
    if isinstance(found, Mapping):
        probes = [
            (name, labels, scores)
            for name in ("linear", "logistic")
            for labels, scores in found[name].items()
        ]
        return [
            {"probe": name, "labels": labels, **scores["mean"]} for name, labels, scores in probes
        ]
    titles = [_SEEN.get(one["protocol"]["seen"], one["protocol_hash"]) for one in found]
    names = dict.fromkeys(name for one in found for name in one["metrics"])
    columns = list(zip(titles, found, strict=True))
    return [
        {"metric": name} | {title: one["metrics"].get(name) for title, one in columns}
        for name in names
    ]


# -- the learning curves


@dataclass(frozen=True)
class Plot:
    """Charts that a notebook shows, and that :meth:`save` writes; ``rows`` are the numbers that are
    drawn.
    """

    title: str
    figures: tuple[Figure, ...]
    rows: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return f"Plot({self.title}: {', '.join(figure.title for figure in self.figures)})"

    def _repr_html_(self) -> str:
        return notebook_html(self.figures)

    def save(self, path: str | Path) -> Path:
        """Write the charts: a drawing where the name ends in ``.svg``, else a page of HTML."""
        path = Path(path)
        write_text(
            drawing(self.figures) if path.suffix == ".svg" else html_page(self.title, self.figures),
            path,
        )
        return path


def curves(record: RunRecord, model: Model) -> Plot:
    """Loss terms and the metric that selects, by epoch."""
    history, metric = record.history, record.training.get("metric", "loss")
    if not history:
        raise ValueError(f"{record.model} is fitted in one step: it has no learning curve")
    of_phases = [term for phase in getattr(model, "phases", ()) for term in phase.terms]
    terms = [name for name in dict.fromkeys(of_phases) if name in history[0]]
    losses = ["loss", *terms] if len(terms) > 1 else ["loss"]
    figures = [curve("Loss", history, losses, record.best_epoch if metric == "loss" else None)]
    if metric not in _NOT_ON_VALID:
        figures.append(curve(f"{metric} on valid", history, [metric], record.best_epoch))
    if (
        chosen := record.selection
    ) is not None:  # the training before this one, which chose its number of epochs
        selects = chosen["training"]["metric"]
        title = f"{selects} on valid, of the fit that chose the epochs"
        figures.append(curve(title, chosen["history"], [selects], chosen["best_epoch"]))
    columns = ["epoch", *losses, *([metric] if metric not in _NOT_ON_VALID else [])]
    rows = [{column: row[column] for column in columns if column in row} for row in history]
    data = record.data.dataset or record.data.split or "a graph"
    return Plot(f"{record.model} on {data}: learning curves", tuple(figures), tuple(rows))
