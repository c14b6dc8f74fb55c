"""The record of a run: what was fitted to what, how, at what cost, on which machine and with which
results.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from recgraph import __version__
from recgraph.data.strategies import EVERYTHING
from recgraph.files import read_object, reading, write_json, write_text
from recgraph.models.base import Model, TrainableModel
from recgraph.pages import block, table
from recgraph.pages.charts import Figure, curve
from recgraph.pages.plot import drawing, html_page, notebook_html
from recgraph.registry import imported

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "accelerate", "polars")
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

    @property
    def title(self) -> str:
        """What the data is called: its data set, else what there is instead of one."""
        if self.dataset is not None:
            return self.dataset
        if self.nodes is not None:
            return f"a graph, {self.target}"
        if self.split in (None, EVERYTHING):
            return "a log"
        return str(self.split)


class Cost(_Entries):
    """Wall time and process CPU time in seconds, and the process's peak memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_memory_mb: float = 0.0


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


def identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON values of the fields that identify a run, in which two fits of one run are equal.

    A split is identified by its hash, wherever it came from; which of its features may be others
    depends on the model.
    """
    fields: dict[str, Any] = json.loads(json.dumps(values))
    data = fields.get("data", {})
    if "split_hash" in data:
        for name in ("dataset", "settings", "file", "features"):
            data.pop(name, None)
    return fields


def provenance() -> dict[str, Any]:
    """Versions, machine, threads, the user's files that were imported and, in a checkout, the
    commit.
    """
    import torch

    values: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {"recgraph": __version__, **{name: version(name) for name in _PACKAGES}},
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
    }
    imports = imported()
    if imports:
        values["imports"] = imports
    return values


def machine() -> str:
    """The processor and its number of cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
        if match:
            name = match[1]
    return f"{name}, {os.cpu_count()} cores"


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of a block, which is known at its end."""
    cost = Cost(seconds=0.0, cpu_seconds=0.0)
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    cost.seconds, cost.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    unit = 2**20 if sys.platform == "darwin" else 2**10
    cost.peak_memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def duration(seconds: float) -> str:
    """A duration in words: ``"0.2 s"``, ``"12 s"``, ``"6 min"``, ``"2.5 h"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


# -- a run in a line and as a block of a notebook, from its record alone


def run_text(record: RunRecord, folder: Path | None) -> str:
    """``sasrec on ml-100k, fitted on train, ndcg@10 0.0812 at epoch 12 of 22, in runs/a``."""
    parts = [f"{record.model} on {record.data.title}", f"fitted on {record.fitted_on}"]
    if record.best is not None:
        parts.append(_best(record))
    if folder is not None:
        parts.append(f"in {folder}")
    return ", ".join(parts)


def run_html(record: RunRecord, folder: Path | None) -> str:
    """The same with sizes, cost and results, as HTML."""
    data = record.data
    facts = {
        "data": data.title,
        "users": data.n_users,
        "items": data.n_items,
        "nodes": data.nodes,
        "fitted on": record.fitted_on,
        "seed": record.seed,
        "best": None if record.best is None else _best(record),
        "parameters": record.n_parameters,
        "time": None if record.cost is None else duration(record.cost.seconds),
        "folder": folder,
        "test data read": len(record.unsealed),
    }
    tables = [
        table(_rows(results), f"results on {part}") for part, results in record.results.items()
    ]
    return block(f"Run of {record.model}", facts, tables)


def _best(record: RunRecord) -> str:
    metric = record.training["metric"]
    return f"{metric} {record.best:.4f} at epoch {record.best_epoch} of {len(record.history)}"


def _rows(results: Any) -> list[dict[str, Any]]:
    """The rows of one entry of ``record.results``: metrics by convention, or the scores of
    probes.
    """
    if isinstance(results, Mapping):
        return [
            {"probe": probe, "labels": labels, **scores["mean"]}
            for probe in ("linear", "logistic")
            for labels, scores in results[probe].items()
        ]
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        title = _SEEN[result["protocol"]["seen"]]
        for name, value in result["metrics"].items():
            rows.setdefault(name, {"metric": name})[title] = value
    return [*rows.values()]


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
        if path.suffix == ".svg":
            write_text(drawing(self.figures), path)
        else:
            write_text(html_page(self.title, self.figures), path)
        return path


def curves(record: RunRecord, model: Model) -> Plot:
    """Loss terms and the metric that selects, by epoch."""
    history = record.history
    if not isinstance(model, TrainableModel) or not history:
        raise ValueError(f"{record.model} is fitted in one step: it has no learning curve")
    metric = record.training["metric"]
    losses = ["loss"]
    terms = dict.fromkeys(chain.from_iterable(phase.terms for phase in model.phases))
    if len(terms) > 1:
        losses += terms
    columns = ["epoch", *losses]
    figures = [curve("Loss", history, losses, record.best_epoch if metric == "loss" else None)]
    if metric not in _NOT_ON_VALID:
        figures.append(curve(f"{metric} on valid", history, [metric], record.best_epoch))
        columns.append(metric)
    # the training before this one, which chose its number of epochs
    selection = record.selection
    if selection is not None:
        selects = selection["training"]["metric"]
        title = f"{selects} on valid, of the fit that chose the epochs"
        figures.append(curve(title, selection["history"], [selects], selection["best_epoch"]))
    rows = [{column: row.get(column) for column in columns} for row in history]
    title = f"{record.model} on {record.data.title}: learning curves"
    return Plot(title, tuple(figures), tuple(rows))
