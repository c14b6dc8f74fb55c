"""A sheet: the records of one data set of a board, as a list of entries and one frame of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from recgraph import notebook
from recgraph.arguments import checked
from recgraph.evaluate.metrics.names import best_first
from recgraph.evaluate.significance import OF_FOLD
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.compare import (
    Comparisons,
    compare,
    describe_tests,
    tested,
    values_over_seeds,
)
from recgraph.leaderboard.comparisons import inputs_of, load_comparisons, save_comparisons
from recgraph.leaderboard.entry import Entry, entry_of
from recgraph.leaderboard.frame import Key, Number, frame_of, numbers_of
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.origin import check_origin, kept_data_hash
from recgraph.leaderboard.plan import check_entries, jobs_of
from recgraph.leaderboard.repeats import Repeat, mean_of, repeat_of
from recgraph.leaderboard.score_tables import ScoreTable, score_tables, text_of_field
from recgraph.leaderboard.store import Record, Store, lacking

__all__ = [
    "Failure",
    "GroupTable",
    "Missing",
    "Sheet",
    "compared_records",
    "open_sheet",
    "update_comparisons",
]

#: kind of groups of users -> heading
GROUPS = {"history": "Interactions known of a user", "popularity": "Popularity of what is looked for"}


@dataclass(frozen=True)
class GroupTable:
    """One metric under one protocol by groups of users.

    Attributes:
        kind: ``history`` or ``popularity``; ``label`` says what the groups are.
        table: title of the protocol.
        sizes: group -> its users, in order.
        rows: name of an entry -> group -> the metric; without groups in which an entry has no users.
    """

    kind: str
    label: str
    table: str
    metric: str
    sizes: Mapping[str, int]
    rows: Mapping[str, Mapping[str, Number]]


@dataclass(frozen=True)
class Failure:
    """A job that failed when it was last tried."""

    entry: str
    seed: Repeat
    error: str
    message: str
    traceback: str
    at: str
    command: str


@dataclass(frozen=True)
class Missing:
    """Seeds of an entry that have neither a whole record nor a failure, with the reason."""

    entry: str
    seeds: tuple[Repeat, ...]
    reason: str


@dataclass(frozen=True)
class Sheet:
    """One data set of a board.

    Attributes:
        board: its name.
        spec: the data set's part of the board.
        folder: of its records.
        tables: one for each title; the first one's first metric orders the entries.
        entries: best first, those without a record last.
        frame: all numbers of the records, see :data:`recgraph.leaderboard.frame.SCHEMA`. Equality of sheets compares
            ``inputs`` instead.
        failures, missing: seeds without a record.
        data: properties of the data: name -> text.
        n_stale: number of records that were made with other data than the current one; they are ignored.
        inputs: the digest of the scores.
        comparisons: of these scores; without those that take values of users which are not at hand.
        is_compared: whether there are all comparisons of these scores, or there is nothing to compare.
    """

    board: str
    spec: SheetSpec
    folder: Path
    tables: tuple[ScoreTable, ...]
    entries: tuple[Entry, ...]
    frame: pl.DataFrame = field(compare=False)
    failures: tuple[Failure, ...]
    missing: tuple[Missing, ...]
    data: Mapping[str, str]
    n_stale: int
    inputs: str
    comparisons: Comparisons
    is_compared: bool

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
    def protocols(self) -> list[tuple[str, ScoreTable]]:
        """The different protocols, each with the titles of its tables and the last of these tables."""
        tables = {table.protocol_hash: table for table in self.tables}
        titles = {key: [table.title for table in self.tables if table.protocol_hash == key] for key in tables}
        return [(", ".join(titles[key]), table) for key, table in tables.items()]

    @property
    def tested(self) -> str:
        """A sentence on how the entries were tested; says so where nothing was tested."""
        return describe_tests(self.comparisons, self.spec.protocol.n_folds is not None)

    @property
    def repeats(self) -> str:
        """What numbers are means over, and what is counted of an entry."""
        return "seeds" if self.spec.protocol.n_folds is None else "folds and seeds"

    @property
    def n_done(self) -> int:
        """Number of trainings with a whole record."""
        short = {(one.entry, seed) for one in self.missing for seed in one.seeds}
        return sum((entry.name, seed) not in short for entry in self.entries for seed in entry.done)

    @property
    def n_asked(self) -> int:
        """Number of trainings that the board asks for, with those of entries whose study does not exist yet."""
        return self.n_done + len(self.failures) + sum(len(one.seeds) for one in self.missing)

    @cached_property
    def numbers(self) -> dict[Key, Number]:
        """All numbers over seeds; scores have their marks."""
        found = numbers_of(self.frame)
        addresses = {entry.name: entry.address for entry in self.entries}
        for table in self.tables:
            for metric in table.metrics:
                keys = [key for name in addresses if (key := (name, table.title, "", "", metric)) in found]
                for key in keys if len(keys) > 1 else ():
                    found[key] = self._marked(found[key], addresses[key[0]], table.title, metric)
        return found

    def _marked(self, number: Number, address: str, title: str, metric: str) -> Number:
        """The score of an entry with its mark."""
        column = self.comparisons.get(title, {}).get(metric)
        if column is None:
            return replace(number, mark="untested")
        return replace(number, mark=column.mark(address), versus=column.versus.get(address, ()))

    def __repr__(self) -> str:
        return f"Sheet({self.board}, {self.dataset}: {self.n_done} of {self.n_asked} trainings are done)"

    def _repr_html_(self) -> str:
        shown = [notebook.table(self._means(table), table.title) for table in self.tables]
        return notebook.block(repr(self), {}, shown, self.tested)

    def _means(self, of: ScoreTable) -> list[dict[str, Any]]:
        ranked = {one.name: self.scores(one.name, of.title) for one in self.ranked(of.title, of.metrics[0])}
        return [
            {"model": name} | {key: own[key].mean if key in own else None for key in of.metrics}
            for name, own in ranked.items()
        ]

    def score(self, entry: str, title: str, metric: str) -> Number | None:
        """A metric of an entry in a table; None where no seed is done or the metric was not computed."""
        return self.numbers.get((entry, title, "", "", metric))

    def scores(self, entry: str, title: str) -> dict[str, Number]:
        """Metric -> score of an entry in a table."""
        return {key[4]: number for key, number in self.numbers.items() if key[:4] == (entry, title, "", "")}

    def cost(self, entry: str, name: str) -> Number | None:
        """A cost of an entry, see :data:`recgraph.leaderboard.costs.COSTS`; None where no seed is done."""
        return self.numbers.get((entry, "", "", "", name))

    def ranked(self, title: str, metric: str) -> list[Entry]:
        """The entries with a score, best first."""
        means = {entry.name: own.mean for entry in self.entries if (own := self.score(entry.name, title, metric))}
        entries = {entry.name: entry for entry in self.entries}
        return [entries[name] for name in best_first(means, metric)]

    @cached_property
    def groups(self) -> tuple[GroupTable, ...]:
        """The first metric by groups of users, where it has values of users: a table for each kind and protocol."""
        rows = self.frame.filter(pl.col("kind") == "group")
        kinds = rows["group_kind"].unique(maintain_order=True)
        made = (self._group_table(rows, kind, table.title) for kind in kinds for table in self.tables)
        return tuple(table for table in made if table.rows)  # of lists together, as gini, groups have no values

    def _group_table(self, rows: pl.DataFrame, kind: str, title: str) -> GroupTable:
        own = rows.filter(pl.col("group_kind") == kind, pl.col("table") == title, pl.col("metric") == "n_users")
        own = own.unique(["group", "fold"], keep="first", maintain_order=True)
        sizes = {
            group: int(n)
            for group, n in own.group_by("group", maintain_order=True).agg(pl.col("value").sum()).iter_rows()
        }
        metric = self.spec.metrics[0]
        found = {
            entry.name: {
                group: number
                for group in sizes
                if (number := self.numbers.get((entry.name, title, kind, group, metric)))
            }
            for entry in self.entries
        }
        label = GROUPS.get(kind, kind)
        return GroupTable(kind, label, title, metric, sizes, {name: values for name, values in found.items() if values})


@checked
def open_sheet(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> Sheet:
    """Read the records of one data set of a board; no model is run and no data is read.

    Args:
        results: the folder of records; by default ``results`` beside the board's folder.

    Raises:
        ConfigError: a setting of the board does not exist or is out of range.
        ProtocolMismatch: records of one table have different protocols.
    """
    folder = board.folder_of(sheet, results)
    check_origin(folder, sheet)
    store = Store(folder)
    planned, missing = _plan(sheet, store)
    found = {entry.name: _records(store, jobs) for entry, jobs in planned}
    data_hash = kept_data_hash(folder, sheet) or _newest_data(
        record for own in found.values() for record in own.values()
    )
    current = {
        name: {repeat: record for repeat, record in own.items() if record["data_hash"] == data_hash}
        for name, own in found.items()
    }
    tables = score_tables(sheet, [record for own in current.values() for record in own.values()])
    failures: list[Failure] = []
    for spec, jobs in planned:
        left = [job for job in jobs if job.repeat not in current[spec.name]]
        failed = {job.repeat: _failure(spec, job, record) for job in left if (record := store.failure(job)) is not None}
        failures += failed.values()
        seeds = tuple(job.repeat for job in left if job.repeat not in failed)
        old = [seed for seed in seeds if seed in found[spec.name]]
        if seeds:
            missing.append(Missing(spec.name, seeds, "made with other data, to be run again" if old else "not run"))
        own = current[spec.name]
        short = {job.repeat: names for job in jobs if job.repeat in own and (names := lacking(job, own[job.repeat]))}
        if short:
            reason = f"without {', '.join(next(iter(short.values())))}, to be run again"
            missing.append(Missing(spec.name, tuple(short), reason))
    entries = {spec.name: entry_of(spec, jobs, current[spec.name]) for spec, jobs in planned}
    by_address = {entry.address: current[name] for name, entry in entries.items()}
    metrics = {table.title: table.metrics for table in tables}
    inputs = inputs_of(by_address, metrics)
    comparisons, is_whole = load_comparisons(folder / sheet.comparisons, by_address, metrics, inputs)
    names = _best_first(current, tables)
    return Sheet(
        board=board.name,
        spec=sheet,
        folder=folder,
        tables=tables,
        entries=tuple(entries[name] for name in names),
        frame=frame_of({name: current[name] for name in names}),
        failures=tuple(failures),
        missing=tuple(missing),
        data=_data(current),
        n_stale=sum(len(found[name]) - len(current[name]) for name in found),
        inputs=inputs,
        comparisons=comparisons,
        is_compared=not tables or is_whole,
    )


def update_comparisons(sheet: Sheet) -> Sheet:
    """The sheet with comparisons of its current scores, which are kept beside the records.

    The sheet is returned unchanged where it has them. Where values of users, which are not in git, are not at hand, the
    marks of the entries that need them are ``untested``.
    """
    if sheet.is_compared:
        return sheet
    records, metrics = compared_records(sheet)
    found, is_whole = compare(records, metrics, Store(sheet.folder), sheet.comparisons)
    if not is_whole and tested(found) == tested(sheet.comparisons):
        return sheet
    save_comparisons(found, records, metrics, sheet.folder / sheet.spec.comparisons, is_whole=is_whole)
    return replace(sheet, comparisons=found, is_compared=is_whole)


def compared_records(sheet: Sheet) -> tuple[dict[str, dict[Repeat, Record]], dict[str, tuple[str, ...]]]:
    """The records of each address, and the metrics of each table."""
    read = Store(sheet.folder).read
    records = {one.address: {seed: read(name) for seed, name in one.records.items()} for one in sheet.entries}
    return records, {table.title: table.metrics for table in sheet.tables}


def _best_first(records: Mapping[str, Mapping[Repeat, Record]], tables: tuple[ScoreTable, ...]) -> list[str]:
    """The names of the entries by the first table's first metric; those without it last."""
    if not tables:
        return [*records]
    metric = tables[0].metrics[0]
    scores = values_over_seeds(records, tables[0].title, metric)
    ordered = best_first({name: mean_of(values) for name, values in scores.items()}, metric)
    return [*ordered, *(name for name in records if name not in scores)]


def _plan(sheet: SheetSpec, store: Store) -> tuple[list[tuple[EntrySpec, list[Job]]], list[Missing]]:
    planned, missing = [], []
    for entry in sheet.models:
        try:
            planned.append((entry, [store.placed(job) for job in jobs_of(sheet, entry)]))
        except FileNotFoundError as error:
            seeds = tuple(repeat_of(fold, seed) for fold in sheet.protocol.folds for seed in entry.seeds or sheet.seeds)
            missing.append(Missing(entry.name, seeds, f"{error}"))
    check_entries(sheet, ((entry, job) for entry, jobs in planned for job in jobs))
    return planned, missing


def _records(store: Store, jobs: Iterable[Job]) -> dict[Repeat, Record]:
    return {job.repeat: record for job in jobs if (record := store.record(job)) is not None}


def _newest_data(records: Iterable[Record]) -> str | None:
    newest = max(records, key=lambda record: str(record["at"]), default=None)
    return None if newest is None else str(newest["data_hash"])


def _failure(spec: EntrySpec, job: Job, record: Record) -> Failure:
    trace = record.get("traceback", "")
    return Failure(spec.name, job.repeat, record["error"], record["message"], trace, record["at"], job.command())


def _data(current: Mapping[str, Mapping[Repeat, Record]]) -> dict[str, str]:
    record = next((record for own in current.values() for record in own.values()), None)
    if record is None:
        return {}
    of_fold = OF_FOLD if record.get("fold") is not None else ()
    return {name: text_of_field(value) for name, value in record["data"].items() if value and name not in of_fold}
