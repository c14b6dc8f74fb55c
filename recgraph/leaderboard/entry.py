"""A number over seeds.

What a model's docstring says, for its card.

Breakdowns: the entries' metrics on groups of users.

An entry of a sheet: one model with its settings, what it scored and what it cost, over seeds.
"""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recgraph import registry
from recgraph.config import setting_text
from recgraph.leaderboard.board import EntrySpec
from recgraph.leaderboard.comparisons import ALPHA, Versus
from recgraph.leaderboard.plan import Job
from recgraph.leaderboard.store import Record
from recgraph.models.base import Model

__all__ = [
    "GROUPS",
    "MARKS",
    "Cost",
    "CostName",
    "Curve",
    "Entry",
    "Groups",
    "Mark",
    "ModelText",
    "Score",
    "Stat",
    "entry_of",
    "groups_of",
    "text_of",
]


@dataclass(frozen=True)
class Stat:
    """A number that each seed gave once.

    Attributes:
        by_seed: seed -> its value; at least one.
    """

    by_seed: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds (n - 1); None of one seed."""
        return statistics.stdev(self.by_seed.values()) if self.n > 1 else None

    def text(self, digits: int = 4) -> str:
        """``0.0551 ± 0.0003``, without the deviation where there is one seed."""
        spread = "" if self.sd is None else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


# up to the venue and the year, or to the end of the paragraph where there are none
_SOURCE = re.compile(r"Source:\s*((?:(?!\n\s*\n).)+?\([^)]*\d{4}[^)]*\)|.+?(?=\n\s*\n|\Z))", re.DOTALL)
_DEPARTURES = re.compile(r"Departures?:\s*(.+?)(?=\n\s*\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class ModelText:
    """The parts of a docstring as plain text.

    Attributes:
        summary: its first sentence.
        source: the paper, what follows ``Source:`` up to venue and year; empty where it names none.
        departures: what differs from the paper, what follows ``Departures:``.
        paragraphs: all of it; those that begin with ``- `` are items of a list.
    """

    summary: str
    source: str
    departures: str
    paragraphs: tuple[str, ...]


def text_of(cls: type[Model]) -> ModelText:
    """The docstring of a model; empty where it has none of its own."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    paragraphs = tuple(_plain(part) for part in re.split(r"\n\s*\n|\n(?=- )", text) if part.strip())
    return ModelText(_plain(text.partition("\n")[0]), _found(_SOURCE, text), _found(_DEPARTURES, text), paragraphs)


def _found(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return _plain(found.group(1)) if found else ""


def _plain(text: str) -> str:
    """One line without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "")).strip()


#: how users are grouped, and what it is called
GROUPS = {"history": "Interactions known of a user", "popularity": "Popularity of what is looked for"}


@dataclass(frozen=True)
class Groups:
    """One metric under one protocol on one kind of groups.

    Attributes:
        kind: ``history`` or ``popularity``.
        label: what the groups are, for people.
        title: of the protocol.
        metric: which.
        sizes: group -> its users, in order.
        rows: name of an entry -> group -> the metric over seeds; a group that an entry has no users of is left out.
    """

    kind: str
    label: str
    title: str
    metric: str
    sizes: Mapping[str, int]
    rows: Mapping[str, Mapping[str, Stat]]


def groups_of(records: Mapping[str, Mapping[int, Record]], titles: Sequence[str], metric: str) -> tuple[Groups, ...]:
    """The breakdowns of the records of a data set, for each kind and protocol.

    Args:
        records: name of an entry -> seed -> record.
    """
    there = [record["groups"] for own in records.values() for record in own.values() if "groups" in record]
    kinds = list(dict.fromkeys(kind for groups in there for kind in groups))
    return tuple(_table(records, kind, title, metric) for kind in kinds for title in titles)


def _table(records: Mapping[str, Mapping[int, Record]], kind: str, title: str, metric: str) -> Groups:
    sizes: dict[str, int] = {}
    rows: dict[str, dict[str, Stat]] = {}
    for name, own in records.items():
        found: dict[str, dict[int, float]] = {}
        for seed, record in own.items():
            groups: Mapping[str, Mapping[str, Any]] = record.get("groups", {}).get(kind, {}).get(title, {})
            for group, values in groups.items():
                sizes.setdefault(group, int(values["n_users"]))
                if metric in values:
                    found.setdefault(group, {})[seed] = float(values[metric])
        if found:
            rows[name] = {group: Stat(values) for group, values in found.items()}
    return Groups(kind, GROUPS.get(kind, kind), title, metric, sizes, rows)


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
