"""What a sheet shows beside its entries: tables, failures, what is missing, points of plots.

A sheet: what is known of one data set of a board, read from its records, ready to be shown.

Everything that a page or a table shows is a value here, so that whoever writes one only lays out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recgraph.evaluate.metrics.names import best_first, higher_is_better
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.comparisons import ALPHA, Column, Comparisons, inputs_of, load_comparisons, tested
from recgraph.leaderboard.entry import (
    MARKS,
    Cost,
    CostName,
    Curve,
    Entry,
    Groups,
    Mark,
    Score,
    Stat,
    entry_of,
    groups_of,
)
from recgraph.leaderboard.plan import TITLES, Job, check_entries, jobs_of
from recgraph.leaderboard.store import Record, Store

__all__ = [
    "MARKS",
    "Cost",
    "CostName",
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
    "by_score",
    "marked",
    "open_sheet",
]


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
        inputs: the digest of the scores that are shown.
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
    inputs: str

    @cached_property
    def records(self) -> dict[str, dict[int, Record]]:
        """Address of an entry -> seed -> record, of what is shown."""
        store = Store(self.folder)
        return {
            entry.address: {seed: store.read(name) for seed, name in entry.records.items()} for entry in self.entries
        }

    @property
    def title(self) -> str:
        return self.spec.title

    @property
    def note(self) -> str:
        return self.spec.note

    @property
    def dataset(self) -> str:
        return self.spec.dataset

    @property
    def n_done(self) -> int:
        """Trainings that have a record."""
        return sum(len(entry.done) for entry in self.entries)

    @property
    def n_asked(self) -> int:
        """Trainings that the board asks for, those of entries whose study is not there among them."""
        return self.n_done + len(self.failures) + sum(len(one.seeds) for one in self.missing)

    def points(self, cost: CostName, title: str | None = None, metric: str | None = None) -> tuple[Point, ...]:
        """Quality against a cost, with the Pareto front; by default quality is what orders the table."""
        if not self.tables:
            return ()
        title = title or self.tables[0].title
        metric = metric or self.tables[0].metrics[0]
        sign = 1 if higher_is_better(metric) else -1
        places = {
            entry.name: (getattr(entry.cost, cost).mean, sign * score.mean)
            for entry in self.entries
            if (score := entry.score(title, metric)) is not None
        }
        return tuple(
            Point(name, own[0], sign * own[1], on_front=not any(_dominates(other, own) for other in places.values()))
            for name, own in places.items()
        )


def _dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def by_score(entries: Sequence[Entry], title: str, metric: str) -> list[Entry]:
    """The entries that have a score, best first."""
    scored = {entry.name: entry for entry in entries if entry.score(title, metric) is not None}
    means = {name: entry.scores[title][metric].mean for name, entry in scored.items()}
    return [scored[name] for name in best_first(means, metric)]


def open_sheet(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> Sheet:
    """What the records say about one data set of a board. Nothing is computed and no data is read.

    Args:
        results: where records are kept; by default ``results`` beside the board's folder.

    Raises:
        ConfigError: a setting of the board does not exist or is out of range.
        ProtocolMismatch: records of one protocol's table were made in different ways.
    """
    folder = board.folder_of(sheet, results)
    store = Store(folder)
    planned, missing = _plan(sheet)
    found = {entry.name: _records(store, jobs) for entry, jobs in planned}
    current = _newest_data([record for own in found.values() for record in own.values()])
    shown = {
        name: {seed: record for seed, record in own.items() if record["data_hash"] == current}
        for name, own in found.items()
    }
    tables = _tables(sheet, [record for own in shown.values() for record in own.values()])
    titles = [table.title for table in tables]
    entries = [entry_of(spec, jobs, shown[spec.name], titles) for spec, jobs in planned]
    failures: list[Failure] = []
    for spec, jobs in planned:
        left = [job for job in jobs if job.seed not in shown[spec.name]]
        failed = {job.seed: _failure(spec, job, record) for job in left if (record := store.failure(job)) is not None}
        failures += failed.values()
        seeds = tuple(job.seed for job in left if job.seed not in failed)
        old = [seed for seed in seeds if seed in found[spec.name]]
        if seeds:
            missing.append(Missing(spec.name, seeds, "made with other data, to be run again" if old else "not run"))
    scored = by_score(entries, tables[0].title, tables[0].metrics[0]) if tables else []
    names = {entry.name for entry in scored}
    ordered = [*scored, *(entry for entry in entries if entry.name not in names)]
    compared = {entry.address: shown[entry.name] for entry in entries}
    inputs = inputs_of(compared, {table.title: table.metrics for table in tables})
    comparisons = load_comparisons(folder / sheet.comparisons)
    sheet_found = Sheet(
        board=board.name,
        spec=sheet,
        folder=folder,
        tables=tables,
        entries=tuple(ordered),
        groups=groups_of(
            {entry.name: shown[entry.name] for entry in ordered},
            titles,
            sheet.metrics[0],
        ),
        failures=tuple(failures),
        missing=tuple(missing),
        data=_data(shown),
        tested="",
        n_stale=sum(len(found[name]) - len(shown[name]) for name in found),
        inputs=inputs,
    )
    return marked(sheet_found, comparisons if comparisons.inputs == inputs else Comparisons())


def marked(sheet: Sheet, comparisons: Comparisons) -> Sheet:
    """The sheet with the marks that follow from comparisons."""

    scores = {entry.name: {title: {**own} for title, own in entry.scores.items()} for entry in sheet.entries}
    for table in sheet.tables:
        for metric in table.metrics:
            entries = [entry for entry in sheet.entries if entry.score(table.title, metric) is not None]
            column = comparisons.columns.get(table.title, {}).get(metric)
            for entry in entries if len(entries) > 1 else ():
                own = scores[entry.name][table.title]
                own[metric] = _mark(own[metric], entry.address, column)
    entries = [replace(entry, scores=scores[entry.name]) for entry in sheet.entries]
    return replace(sheet, entries=tuple(entries), tested=tested(comparisons))


def _mark(score: Score, address: str, column: Column | None) -> Score:
    if column is None:
        return replace(score, mark="untested", versus=())
    return replace(score, mark=_standing(address, column), versus=column.versus.get(address, ()))


def _standing(address: str, column: Column) -> Mark:
    """See ``MARKS``. The first comparison decides."""
    differs = {other: tests[0].p_adjusted < ALPHA for other, tests in column.versus.items() if tests}
    if address == column.best:
        return "untested" if not differs else "best" if all(differs.values()) else "tied"
    return "untested" if address not in differs else "worse" if differs[address] else "tied"


def _plan(sheet: SheetSpec) -> tuple[list[tuple[EntrySpec, list[Job]]], list[Missing]]:
    planned, missing = [], []
    for entry in sheet.models:
        try:
            planned.append((entry, jobs_of(sheet, entry)))
        except FileNotFoundError as error:
            missing.append(Missing(entry.name, entry.seeds or sheet.seeds, f"{error}"))
    check_entries(sheet, ((entry, job) for entry, jobs in planned for job in jobs))
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
    there = list(dict.fromkeys(metric for record in records for metric in record["scores"][title]))
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


def _failure(spec: EntrySpec, job: Job, record: Record) -> Failure:
    trace = record.get("traceback", "")
    return Failure(spec.name, job.seed, record["error"], record["message"], trace, record["at"], job.command())


def _data(shown: Mapping[str, Mapping[int, Record]]) -> dict[str, str]:
    record = next((record for own in shown.values() for record in own.values()), None)
    return {} if record is None else {name: _text(value) for name, value in record["data"].items() if value}
