"""A sheet: what is known of one data set of a board, read from its records, ready to be shown.

Everything that a page or a table shows is a value here, so that whoever writes one only lays out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from recgraph import registry
from recgraph.config import setting_text
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.comparisons import ALPHA, Column, Comparisons, Versus, inputs_of, load_comparisons
from recgraph.leaderboard.grouped import Groups, groups_of
from recgraph.leaderboard.model_text import ModelText, text_of
from recgraph.leaderboard.plan import TITLES, Job, jobs_of
from recgraph.leaderboard.stat import Stat
from recgraph.leaderboard.store import Record, Store

__all__ = [
    "MARKS",
    "Cost",
    "Curve",
    "Entry",
    "Failure",
    "Mark",
    "Missing",
    "Point",
    "Score",
    "Sheet",
    "Stat",
    "Table",
    "open_sheet",
]

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
        commands: seed -> the commands that make its numbers again; of every seed, done or not.
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


@dataclass(frozen=True)
class Table:
    """The protocol of one table, and its columns. A sheet has several, and their numbers must not be compared.

    Attributes:
        title: ``seen excluded``, ``20 labels a class``, ...
        metrics: shown and compared; the first one orders the rows.
        protocol: field -> value as text; empty where no record is there.
        protocol_hash: 16 digits.
        n_users: that were ranked; None of a node task.
        n_unreachable_users: those with a relevant item that the protocol takes out; they count as misses.
    """

    title: str
    metrics: tuple[str, ...]
    protocol: Mapping[str, str]
    protocol_hash: str
    n_users: int | None
    n_unreachable_users: int


@dataclass(frozen=True)
class Failure:
    """A training or test that ended in an error when it was last tried."""

    entry: str
    seed: int
    error: str
    message: str
    traceback: str
    at: str
    command: str


@dataclass(frozen=True)
class Missing:
    """What the board asks for and no record answers, with the reason."""

    entry: str
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Point:
    """An entry in a plot of quality against cost; on the front where none dominates it."""

    entry: str
    cost: float
    quality: float
    on_front: bool


@dataclass(frozen=True)
class Sheet:
    """One data set of a board.

    Attributes:
        board: its name.
        spec: what the board says.
        folder: where its records are.
        tables: one a protocol; the first one's first metric orders the entries.
        entries: best first, those without a record last.
        groups: breakdowns by groups of users.
        failures, missing: what has no record.
        data: facts of the data: name -> text.
        tested: what the marks of this sheet rest on, a sentence; says so where nothing was tested.
        n_stale: records that were made with other data than the newest one and are not shown.
    """

    board: str
    spec: SheetSpec
    folder: Path
    tables: tuple[Table, ...]
    entries: tuple[Entry, ...]
    groups: tuple[Groups, ...]
    failures: tuple[Failure, ...]
    missing: tuple[Missing, ...]
    data: Mapping[str, str]
    tested: str
    n_stale: int

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def note(self) -> str:
        return self.spec.note

    @property
    def dataset(self) -> str:
        return self.spec.dataset

    @cached_property
    def records(self) -> dict[str, dict[int, Record]]:
        """Address of an entry -> seed -> record, of what is shown."""
        store = Store(self.folder)
        return {
            entry.address: {seed: store.read(name) for seed, name in entry.records.items()} for entry in self.entries
        }

    def points(self, cost: CostName, title: str | None = None, metric: str | None = None) -> tuple[Point, ...]:
        """Quality against a cost, with the Pareto front; by default quality is what orders the table."""
        if not self.tables:
            return ()
        title = title or self.tables[0].title
        metric = metric or self.tables[0].metrics[0]
        places = [
            (entry.name, getattr(entry.cost, cost).mean, score.mean)
            for entry in self.entries
            if (score := entry.score(title, metric)) is not None
        ]
        return tuple(Point(*place, on_front=not any(_dominates(other, place) for other in places)) for place in places)


def _dominates(a: tuple[str, float, float], b: tuple[str, float, float]) -> bool:
    return a[1] <= b[1] and a[2] >= b[2] and a[1:] != b[1:]


def open_sheet(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> Sheet:
    """What the records say about one data set of a board. Nothing is computed and no data is read.

    Args:
        results: where records are kept; by default ``results`` beside the board's folder.

    Raises:
        ConfigError: a setting of the board does not exist or is out of range.
        ProtocolMismatch: records of one protocol's table were made in different ways.
    """
    folder = (board.results if results is None else Path(results)) / board.name / sheet.dataset
    store = Store(folder)
    planned, missing = _plan(sheet)
    found = {entry.name: _records(store, jobs) for entry, jobs in planned}
    current = _newest_data([record for own in found.values() for record in own.values()])
    shown = {
        name: {seed: record for seed, record in own.items() if record["data_hash"] == current}
        for name, own in found.items()
    }
    tables = _tables(sheet, [record for own in shown.values() for record in own.values()])
    kept = load_comparisons(folder)
    fresh = kept.inputs == inputs_of(
        (jobs[0].entry, seed, record) for entry, jobs in planned for seed, record in shown[entry.name].items()
    )
    comparisons = kept if fresh else Comparisons()
    entries = [_entry(spec, jobs, shown[spec.name], tables, comparisons) for spec, jobs in planned]
    failures: list[Failure] = []
    for spec, jobs in planned:
        left = [job for job in jobs if job.seed not in shown[spec.name]]
        failed = {job.seed: _failure(spec, job, record) for job in left if (record := store.failure(job)) is not None}
        failures += failed.values()
        seeds = tuple(job.seed for job in left if job.seed not in failed)
        old = [seed for seed in seeds if seed in found[spec.name]]
        if seeds:
            missing.append(Missing(spec.name, seeds, "made with other data, to be run again" if old else "not run"))
    ordered = sorted(entries, key=lambda entry: -_quality(entry, tables))
    return Sheet(
        board=board.name,
        spec=sheet,
        folder=folder,
        tables=tables,
        entries=tuple(ordered),
        groups=groups_of(
            {entry.name: shown[entry.name] for entry in ordered},
            [table.title for table in tables],
            sheet.metrics[0],
        ),
        failures=tuple(failures),
        missing=tuple(missing),
        data=_data(shown),
        tested=_tested(comparisons),
        n_stale=sum(len(found[name]) - len(shown[name]) for name in found),
    )


def _plan(sheet: SheetSpec) -> tuple[list[tuple[EntrySpec, list[Job]]], list[Missing]]:
    planned, missing = [], []
    for entry in sheet.models:
        try:
            planned.append((entry, jobs_of(sheet, entry)))
        except FileNotFoundError as error:
            missing.append(Missing(entry.name, entry.seeds or sheet.seeds, f"{error}"))
    return planned, missing


def _records(store: Store, jobs: Iterable[Job]) -> dict[int, Record]:
    return {job.seed: record for job in jobs if (record := store.record(job)) is not None}


def _newest_data(records: Iterable[Record]) -> str | None:
    newest = max(records, key=lambda record: str(record["at"]), default=None)
    return None if newest is None else str(newest["data_hash"])


def _tables(sheet: SheetSpec, records: list[Record]) -> tuple[Table, ...]:
    titles = list(dict.fromkeys(title for record in records for title in record["scores"]))
    # how most papers count comes first
    titles.sort(key=lambda title: title != TITLES["exclude"])
    return tuple(_table(sheet, title, [record for record in records if title in record["scores"]]) for title in titles)


def _table(sheet: SheetSpec, title: str, records: list[Record]) -> Table:
    told = records[0]["protocols"][title]
    for record in records:
        other = record["protocols"][title]["protocol_hash"]
        if other != told["protocol_hash"]:
            raise ProtocolMismatch(
                f"records of {sheet.dataset!r} under {title!r} have protocols {told['protocol_hash']} and {other}; "
                "remove those of one and run the board again"
            )
    there = list(records[0]["scores"][title])
    return Table(
        title,
        tuple(metric for metric in sheet.metrics if metric in there) or tuple(there),
        {name: _text(value) for name, value in told["protocol"].items() if value not in (None, "")},
        told["protocol_hash"],
        told.get("n_users"),
        told.get("n_unreachable_users", 0),
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(held)}" for name, held in value.items())
    return f"{value}"


def _entry(
    spec: EntrySpec, jobs: list[Job], records: Mapping[int, Record], tables: Iterable[Table], compared: Comparisons
) -> Entry:
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
        scores={table.title: _scores(table, first.entry, records, compared) for table in tables if records},
        cost=_cost(records) if records else None,
        curves=tuple(curve for seed, record in records.items() if (curve := _curve(seed, record)) is not None),
        commands={job.seed: _command(job, records.get(job.seed)) for job in jobs},
        records={job.seed: f"{job.stem}.json" for job in jobs if job.seed in records},
        machines=_each(_machine(each) for each in told),
        versions=_each(_versions(each) for each in told),
        commits=_each(each["commit"] or "unknown" for each in told),
        times={seed: record["at"] for seed, record in records.items()},
    )


def _scores(table: Table, address: str, records: Mapping[int, Record], compared: Comparisons) -> dict[str, Score]:
    scores = {seed: record["scores"].get(table.title, {}) for seed, record in records.items()}
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    columns = compared.columns.get(table.title, {})
    return {
        name: _score(
            name,
            {seed: own[name] for seed, own in scores.items() if name in own},
            address,
            columns.get(name),
            name in table.metrics,
        )
        for name in names
    }


def _score(name: str, values: Mapping[int, float], address: str, column: Column | None, compared: bool) -> Score:
    if not compared:
        return Score(values, name)
    if column is None:
        return Score(values, name, "untested")
    return Score(values, name, _mark(address, column), column.versus.get(address, ()))


def _mark(address: str, column: Column) -> Mark:
    """See ``MARKS``. The first comparison decides."""
    decided = {other: tests[0].p_adjusted < ALPHA for other, tests in column.versus.items() if tests}
    if address != column.best:
        return "untested" if address not in decided else "worse" if decided[address] else "tied"
    if not decided:
        return "untested"
    return "best" if all(decided.values()) else "tied"


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


def _command(job: Job, record: Record | None) -> str:
    if record is None:
        return job.command()
    told, device = record["provenance"], record["device"]
    if device == "auto":
        device = "cuda" if told["cuda"] else "cpu"
    return job.command(threads=told["threads"], device=device)


def _machine(told: Mapping[str, Any]) -> str:
    device = f", {told['cuda']}" if told["cuda"] else ""
    return f"{told['machine']}{device}, {told['threads']} thread{'' if told['threads'] == 1 else 's'}"


def _versions(told: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items() if version)
    return f"Python {told['python']}, {packages}"


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _failure(spec: EntrySpec, job: Job, record: Record) -> Failure:
    trace = record.get("traceback", "")
    return Failure(spec.name, job.seed, record["error"], record["message"], trace, record["at"], job.command())


def _data(shown: Mapping[str, Mapping[int, Record]]) -> dict[str, str]:
    record = next((record for own in shown.values() for record in own.values()), None)
    return {} if record is None else {name: _text(value) for name, value in record["data"].items() if value}


def _quality(entry: Entry, tables: tuple[Table, ...]) -> float:
    score = entry.score(tables[0].title, tables[0].metrics[0]) if tables else None
    return -math.inf if score is None else score.mean


def _tested(compared: Comparisons) -> str:
    """What the marks rest on."""
    tests = [
        test
        for metrics in compared.columns.values()
        for column in metrics.values()
        for several in column.versus.values()
        for test in several[:1]
    ]
    if not tests:
        return "Nothing was tested: there is nothing to compare, or its values of users are not at hand."
    over_users = any(test.over == "users" for test in tests)
    how = (
        "Fisher's randomisation test over users, each with the mean over an entry's seeds; intervals by the bootstrap"
        if over_users
        else "Welch's t-test over seeds; intervals are Welch's"
    )
    return f"Each entry against the highest mean of its column: {how}; p adjusted over a table by Holm's correction."
