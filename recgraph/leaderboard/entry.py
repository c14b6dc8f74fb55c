"""An entry of a sheet: one model with its settings, what it scored and what it cost, over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from recgraph import registry
from recgraph.config import setting_text
from recgraph.leaderboard.board import EntrySpec
from recgraph.leaderboard.comparisons import ALPHA, Versus
from recgraph.leaderboard.model_text import ModelText, text_of
from recgraph.leaderboard.plan import Job
from recgraph.leaderboard.stat import Stat
from recgraph.leaderboard.store import Record

__all__ = ["MARKS", "Cost", "CostName", "Curve", "Entry", "Mark", "Score", "entry_of"]

Mark = Literal["best", "tied", "worse", "untested", ""]
CostName = Literal["training_seconds", "training_cpu_seconds", "inference_seconds", "inference_cpu_seconds"]
#: mark -> its sign in a table, and what it means
MARKS: dict[Mark, tuple[str, str]] = {
    "best": ("★", f"significantly better than every other entry that could be tested (adjusted p < {ALPHA:g})"),
    "tied": ("≈", f"not told from the entry with the highest mean (adjusted p ≥ {ALPHA:g}), or that entry itself"),
    "worse": ("", f"no sign: significantly worse than the entry with the highest mean (adjusted p < {ALPHA:g})"),
    "untested": ("?", "not tested: fewer than two seeds, or no values of users at hand"),
}


@dataclass(frozen=True)
class Score(Stat):
    """A metric of an entry under a protocol, over seeds.

    Attributes:
        metric: e.g. ``ndcg@10``.
        mark: its standing in the column, a key of ``MARKS``; empty of metrics that are not compared.
        versus: the column's best entry less this one; empty of the best itself and where nothing was tested.
    """

    metric: str
    mark: Mark = ""
    versus: tuple[Versus, ...] = ()

    @property
    def sign(self) -> str:
        """The mark as a sign."""
        return MARKS[self.mark][0] if self.mark else ""


@dataclass(frozen=True)
class Cost:
    """What an entry costs, over seeds: seconds of the wall clock and of the processor, and sizes.

    Attributes:
        training_seconds, training_cpu_seconds: building the model counts.
        inference_seconds, inference_cpu_seconds: one pass over all test cases, or the probes of a node task.
        peak_memory_mb: MiB of the process that trained and tested.
        n_parameters: learned numbers.
        epochs: trained, None of a model without epochs.
    """

    training_seconds: Stat
    training_cpu_seconds: Stat
    inference_seconds: Stat
    inference_cpu_seconds: Stat
    peak_memory_mb: Stat
    n_parameters: Stat
    epochs: Stat | None


@dataclass(frozen=True)
class Curve:
    """The course of one training.

    Attributes:
        seed: of the training.
        metric: by which its weights were selected; ``loss`` where no labels are read.
        epochs, values: [E] each; epochs without a value are left out.
        best_epoch: whose weights were kept.
    """

    seed: int
    metric: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]
    best_epoch: int | None


@dataclass(frozen=True)
class Entry:
    """A row: one model with its settings.

    Attributes:
        name: shown, different from all others of the sheet.
        model: its key in the registry.
        class_name: of the model.
        text: what its docstring says: summary, paper, departures.
        note: of the board.
        study: whose best trial gave settings, or None.
        address: of the configuration, as in the names of its records.
        seeds: that the board asks for; ``done`` of them have a record.
        settings: ``key=value``, all that are not defaults; ``configuration``: all, by part.
        scores: title of a protocol -> metric -> score; all metrics that were computed.
        cost: None where no seed is done.
        curves: one a seed; none of a model without epochs.
        commands: seed -> the commands that make its numbers again; of every seed, done or not. ``command``: the same
            with ``$seed`` in place of the seed.
        records: seed -> the file, relative to the sheet's folder.
        machines: where it was run; ``versions``: of packages; ``commits``: of this library. More than one only where
            the records differ.
        times: seed -> when its record was made, UTC, ISO 8601.
    """

    name: str
    model: str
    class_name: str
    text: ModelText
    note: str
    study: str | None
    address: str
    seeds: tuple[int, ...]
    settings: tuple[str, ...]
    configuration: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Score]]
    cost: Cost | None
    curves: tuple[Curve, ...]
    commands: Mapping[int, str]
    command: str
    records: Mapping[int, str]
    machines: tuple[str, ...]
    versions: tuple[str, ...]
    commits: tuple[str, ...]
    times: Mapping[int, str]

    @property
    def done(self) -> tuple[int, ...]:
        """The seeds that have a record."""
        return tuple(self.records)

    def score(self, title: str, metric: str) -> Score | None:
        """A cell; None where no seed is done, or the metric was not computed."""
        return self.scores.get(title, {}).get(metric)


def entry_of(spec: EntrySpec, jobs: list[Job], records: Mapping[int, Record], titles: Iterable[str]) -> Entry:
    """An entry from its records.

    Args:
        jobs: one a seed.
        records: seed -> record, of those that are done.
        titles: of the sheet's tables.
    """
    cls = registry.load("model", spec.model)
    first, told = jobs[0], [record["provenance"] for record in records.values()]
    return Entry(
        name=spec.name,
        model=first.model,
        class_name=cls.__name__,
        text=text_of(cls),
        note=spec.note,
        study=spec.study,
        address=first.entry,
        seeds=tuple(job.seed for job in jobs),
        settings=tuple(setting_text(*each) for each in first.settings.items()),
        configuration={name: first.identity[name] for name in ("config", "training", "data") if name in first.identity},
        scores={title: _scores(title, records) for title in titles if records},
        cost=_cost(records) if records else None,
        curves=tuple(curve for seed, record in records.items() if (curve := _curve(seed, record)) is not None),
        commands={job.seed: _command(job, records.get(job.seed)) for job in jobs},
        command=_command(first, next(iter(records.values()), None), "$seed"),
        records={job.seed: f"{job.stem}.json" for job in jobs if job.seed in records},
        machines=_each(_machine(each) for each in told),
        versions=_each(_versions(each) for each in told),
        commits=_each(each["commit"] or "unknown" for each in told),
        times={seed: record["at"] for seed, record in records.items()},
    )


def _scores(title: str, records: Mapping[int, Record]) -> dict[str, Score]:
    scores = {seed: record["scores"].get(title, {}) for seed, record in records.items()}
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    return {name: Score({seed: own[name] for seed, own in scores.items() if name in own}, name) for name in names}


def _cost(records: Mapping[int, Record]) -> Cost:
    def over(*path: str) -> Stat:
        return Stat({seed: _at(record, path) for seed, record in records.items()})

    has_epochs = any(record["training"]["epochs"] for record in records.values())
    return Cost(
        over("training", "seconds"),
        over("training", "cpu_seconds"),
        over("inference", "seconds"),
        over("inference", "cpu_seconds"),
        over("peak_memory_mb"),
        over("n_parameters"),
        over("training", "epochs") if has_epochs else None,
    )


def _at(record: Record, path: Iterable[str]) -> float:
    value: Any = record
    for name in path:
        value = value[name]
    return float(value)


def _curve(seed: int, record: Record) -> Curve | None:
    metric, columns = record["training"]["selected_by"], record["curve"]
    if metric not in columns:
        return None
    rows = [(epoch, value) for epoch, value in zip(columns["epoch"], columns[metric], strict=True) if value is not None]
    epochs, values = zip(*rows, strict=True) if rows else ((), ())
    return Curve(seed, metric, tuple(epochs), tuple(values), record["training"]["best_epoch"])


def _command(job: Job, record: Record | None, seed: str | None = None) -> str:
    if record is None:
        return job.command(seed)
    told, device = record["provenance"], record["device"]
    if device == "auto":
        device = "cuda" if told["cuda"] else "cpu"
    return job.command(seed, threads=told["threads"], device=device)


def _machine(told: Mapping[str, Any]) -> str:
    device = f", {told['cuda']}" if told["cuda"] else ""
    return f"{told['machine']}{device}, {told['threads']} thread{'' if told['threads'] == 1 else 's'}"


def _versions(told: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items() if version)
    return f"Python {told['python']}, {packages}"


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
