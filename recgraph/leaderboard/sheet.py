"""A sheet: the records of one data set of a board, as a list of entries and one frame of numbers."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from recgraph import pages, registry
from recgraph.config import checked, setting_text
from recgraph.evaluate.metrics import best_first, higher_is_better
from recgraph.evaluate.significance import OF_FOLD
from recgraph.files import read_object
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.compare import (
    Column,
    Comparisons,
    check_protocols,
    compare,
    describe_tests,
    inputs_of,
    load_comparisons,
    save_comparisons,
    tested,
    values_over_seeds,
)
from recgraph.leaderboard.numbers import Key, Number, device_of, frame_of, numbers_of
from recgraph.leaderboard.plan import (
    TITLES,
    Job,
    Record,
    Repeat,
    Store,
    check_entries,
    digest,
    jobs_of,
    lacking,
    mean_of,
    repeat_of,
    shown_study,
    without_fold,
)
from recgraph.models.base import Model

#: kind of groups of users -> heading
GROUPS = {"history": "Interactions known of a user", "popularity": "Popularity of what is looked for"}
#: the parts of a job's identity that are its configuration
_PARTS = ("config", "training", "data")
_OF_FAILURE = ("error", "message", "traceback", "at")
#: an entry is nearly the best where it is within this share of the best mean
NEAR = 0.01


# up to the venue and the year, or to the end of the paragraph where there are none
_SOURCE = re.compile(r"Source:\s*((?:(?!\n\s*\n).)+?\([^)]*\d{4}[^)]*\)|.+?(?=\n\s*\n|\Z))", re.DOTALL)
_DEPARTURES = re.compile(r"Departures?:\s*(.+?)(?=\n\s*\n|\Z)", re.DOTALL)


def text_of(cls: type[Model]) -> dict[str, str]:
    """The ``summary``, ``source`` and ``departures`` of a model's docstring as plain text, empty where not given."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    found = {"source": _SOURCE.search(text), "departures": _DEPARTURES.search(text)}
    parts = {name: _plain(each.group(1)) if each else "" for name, each in found.items()}
    return {"summary": _plain(text.partition("\n")[0]), **parts}


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)
    return re.sub(r"\s+", " ", text.replace("``", "")).strip()


@dataclass(frozen=True)
class Entry:
    """A row of a board: a model with its settings. With folds, a seed is a pair of fold and seed.

    Attributes:
        text: the docstring of the model, see :func:`text_of`.
        note: of the board, and what the model is made of.
        address: of the configuration, as in the names of its records; of a board with folds that of all folds.
        seeds: those that the board wants; ``done`` are those with a record.
        settings: ``key=value`` of all that are not defaults; ``configuration``: all settings, by part.
        commands: seed -> the commands that reproduce its numbers; ``command``: with ``$seed`` in place of the seed.
        records: seed -> the file, relative to the sheet's folder; ``times``: seed -> when, UTC, ISO 8601.
    """

    name: str
    model: str
    class_name: str
    text: Mapping[str, str]
    note: str
    study: str | None
    address: str
    seeds: tuple[Repeat, ...]
    settings: tuple[str, ...]
    configuration: Mapping[str, Any]
    best_epochs: Mapping[Repeat, int | None]
    commands: Mapping[Repeat, str]
    command: str
    records: Mapping[Repeat, str]
    machines: tuple[str, ...]
    versions: tuple[str, ...]
    commits: tuple[str, ...]
    times: Mapping[Repeat, str]

    @property
    def done(self) -> tuple[Repeat, ...]:
        return tuple(self.records)


def entry_of(spec: EntrySpec, jobs: list[Job], records: Mapping[Repeat, Record]) -> Entry:
    """Build an entry from its jobs and their records, where there are any."""
    cls: type[Model] = registry.load("model", spec.model)
    first, provenance = jobs[0], [record["provenance"] for record in records.values()]
    parts: dict[str, Any] = {name: first.identity[name] for name in _PARTS if name in first.identity}
    settings = first.settings
    if first.fold is not None:
        settings, parts = without_fold(settings), {**parts, "data": without_fold(parts["data"])}
    notes = spec.note, cls.said_of(first.identity["config"])
    return Entry(
        name=spec.name,
        model=first.model,
        class_name=cls.__name__,
        text=text_of(cls),
        note=" ".join(filter(None, notes)),
        study=shown_study(spec),
        address=first.of_all_folds,
        seeds=tuple(job.repeat for job in jobs),
        settings=tuple(setting_text(*each) for each in settings.items()),
        configuration=parts,
        best_epochs={seed: record["training"]["best_epoch"] for seed, record in records.items()},
        commands={job.repeat: _command(job, records.get(job.repeat)) for job in jobs},
        command=_command(first, next(iter(records.values()), None), "$seed"),
        records={job.repeat: f"{job.stem}.json" for job in jobs if job.repeat in records},
        machines=_each(_machine(each) for each in provenance),
        versions=_each(_versions(each) for each in provenance),
        commits=_each(each["commit"] or "unknown" for each in provenance),
        times={seed: record["at"] for seed, record in records.items()},
    )


def _command(job: Job, record: Record | None, seed: str | None = None) -> str:
    if record is None:
        return job.command(seed)
    return job.command(seed, threads=record["provenance"]["threads"], device=device_of(record))


def _machine(provenance: Mapping[str, Any]) -> str:
    device = f", {provenance['cuda']}" if provenance["cuda"] else ""
    return f"{provenance['machine']}{device}, {provenance['threads']} thread{'' if provenance['threads'] == 1 else 's'}"


def _versions(provenance: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items() if version)
    return f"Python {provenance['python']}, {packages}"


def _each(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class ScoreTable:
    """The protocol and the columns of one table; numbers of different protocols must not be compared.

    Attributes:
        title: ``seen excluded``, ``20 labels a class``, ...
        metrics: the compared metrics; the first one orders the rows.
        n_users: number of ranked users, over all folds; None for a node task.
        n_unreachable_users: number of users with a relevant item that the protocol excludes; counted as misses.
        n_folds: those with a record; None where there are no folds.
    """

    title: str
    metrics: tuple[str, ...]
    protocol: Mapping[str, str]
    protocol_hash: str
    n_users: int | None
    n_unreachable_users: int
    n_folds: int | None = None

    @property
    def in_folds(self) -> str:
        return "" if self.n_folds is None else f" in {self.n_folds} folds"


@dataclass(frozen=True)
class GroupTable:
    """One metric under one protocol (``table``) by groups of users of one kind: the size of each group, and name of an
    entry -> group -> the metric, without groups in which the entry has no users."""

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
class Cheapest:
    """The entry that trains in the fewest CPU seconds of those nearly as good as the best in the first column."""

    entry: str
    best: str
    table: str
    metric: str
    score: Number
    best_score: Number
    cost: Number
    best_cost: Number

    @property
    def text(self) -> str:
        column = f"{self.metric}, {self.table}"
        if self.entry == self.best:
            return f"Nothing that trains in less CPU time is within {NEAR:.0%} of the best, {self.best} ({column})."
        return (
            f"The cheapest within {NEAR:.0%} of the best ({column}): {self.entry}, {self.score.mean:.4f} for "
            f"{self.cost.mean:.3g} CPU seconds of training; the best, {self.best}, has {self.best_score.mean:.4f} for "
            f"{self.best_cost.mean:.3g}, {self.best_cost.mean / self.cost.mean:.3g} times as many."
        )


@dataclass(frozen=True)
class Sheet:
    """One data set of a board.

    Attributes:
        folder: of its records.
        tables: one for each title; the first one's first metric orders the entries, best first.
        frame: all numbers of the records, see :data:`recgraph.leaderboard.numbers.SCHEMA`; equality of sheets compares
            ``inputs``, the digest of the scores, instead.
        failures, missing: seeds without a record.
        n_stale: number of records that were made with other data than the newest one; they are ignored.
        comparisons: of these scores, without those that take values of users which are not at hand; ``is_compared``:
            none is lacking.
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
    def protocols(self) -> list[tuple[str, ScoreTable]]:
        """The different protocols: the titles of a protocol's tables, and the last of these."""
        tables = {table.protocol_hash: table for table in self.tables}
        titles = {key: [table.title for table in self.tables if table.protocol_hash == key] for key in tables}
        return [(", ".join(titles[key]), table) for key, table in tables.items()]

    @property
    def tested(self) -> str:
        return describe_tests(self.comparisons, self.spec.protocol.n_folds is not None)

    @property
    def repeats(self) -> str:
        return "seeds" if self.spec.protocol.n_folds is None else "folds and seeds"

    @property
    def n_done(self) -> int:
        """Number of trainings with a whole record."""
        short = {(one.entry, seed) for one in self.missing for seed in one.seeds}
        return sum((entry.name, seed) not in short for entry in self.entries for seed in entry.done)

    @property
    def n_asked(self) -> int:
        return self.n_done + len(self.failures) + sum(len(one.seeds) for one in self.missing)

    @cached_property
    def numbers(self) -> dict[Key, Number]:
        """All numbers over seeds; scores have their marks."""
        found = numbers_of(self.frame)
        addresses = {entry.name: entry.address for entry in self.entries}
        for table in self.tables:
            for metric in table.metrics:
                keys = [key for name in addresses if (key := (name, table.title, "", "", metric)) in found]
                column = self.comparisons.get(table.title, {}).get(metric, Column(""))
                for key in keys if len(keys) > 1 else ():
                    address = addresses[key[0]]
                    tests = column.versus.get(address, ())
                    found[key] = replace(found[key], mark=column.mark(address), versus=tests)
        return found

    def __repr__(self) -> str:
        return f"Sheet({self.board}, {self.spec.dataset}: {self.n_done} of {self.n_asked} trainings are done)"

    def _repr_html_(self) -> str:
        shown = []
        for of in self.tables:
            ranked = {one.name: self.scores(one.name, of.title) for one in self.ranked(of.title, of.metrics[0])}
            rows = [
                {"model": name} | {key: own[key].mean if key in own else None for key in of.metrics}
                for name, own in ranked.items()
            ]
            shown.append(pages.table(rows, of.title))
        return pages.block(repr(self), {}, shown, self.tested)

    def score(self, entry: str, title: str, metric: str) -> Number | None:
        return self.numbers.get((entry, title, "", "", metric))

    def scores(self, entry: str, title: str) -> dict[str, Number]:
        return {key[4]: number for key, number in self.numbers.items() if key[:4] == (entry, title, "", "")}

    def cost(self, entry: str, name: str) -> Number | None:
        """A cost of an entry, of :data:`recgraph.leaderboard.numbers.COSTS`."""
        return self.numbers.get((entry, "", "", "", name))

    def ranked(self, title: str, metric: str) -> list[Entry]:
        means = {entry.name: own.mean for entry in self.entries if (own := self.score(entry.name, title, metric))}
        entries = {entry.name: entry for entry in self.entries}
        return [entries[name] for name in best_first(means, metric)]

    @property
    def cheapest(self) -> Cheapest | None:
        """The cheapest entry that is nearly the best; None where fewer than two entries have a score and a cost."""
        if not self.tables:
            return None
        title, metric = self.tables[0].title, self.tables[0].metrics[0]
        found = {
            one.name: (score, cost)
            for one in self.ranked(title, metric)
            if (score := self.score(one.name, title, metric))
            and math.isfinite(score.mean)
            and (cost := self.cost(one.name, "training_cpu_seconds"))
        }
        if len(found) < 2:
            return None
        best, (best_score, best_cost) = next(iter(found.items()))
        sign = 1 if higher_is_better(metric) else -1
        edge = sign * best_score.mean - NEAR * abs(best_score.mean)
        near = [name for name, (score, _) in found.items() if sign * score.mean >= edge]
        entry = min(near, key=lambda name: found[name][1].mean)
        score, cost = found[entry]
        return Cheapest(entry, best, title, metric, score, best_score, cost, best_cost)

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
        summed = own.group_by("group", maintain_order=True).agg(pl.col("value").sum())
        sizes = {group: int(n) for group, n in summed.iter_rows()}
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

    Raises:
        ProtocolMismatch: records of one table have different protocols.
    """
    folder = board.folder_of(sheet, results)
    store = Store(folder)
    planned, missing = _plan(sheet)
    found = {
        entry.name: {job.repeat: record for job in jobs if (record := store.record(job)) is not None}
        for entry, jobs in planned
    }
    every = [record for own in found.values() for record in own.values()]
    data_hash = max(every, key=lambda record: str(record["at"]))["data_hash"] if every else None
    current = {
        name: {repeat: record for repeat, record in own.items() if record["data_hash"] == data_hash}
        for name, own in found.items()
    }
    tables = _score_tables(sheet, [record for own in current.values() for record in own.values()])
    failures: list[Failure] = []
    for spec, jobs in planned:
        own = current[spec.name]
        left = [job for job in jobs if job.repeat not in own]
        seeds: list[Repeat] = []
        for job in left:
            if (failure := store.failure(job)) is None:
                seeds.append(job.repeat)
                continue
            said = {name: failure.get(name, "") for name in _OF_FAILURE}
            failures.append(Failure(spec.name, job.repeat, command=job.command(), **said))
        if seeds:
            is_old = not found[spec.name].keys().isdisjoint(seeds)
            missing.append(
                Missing(spec.name, tuple(seeds), "made with other data, to be run again" if is_old else "not run")
            )
        if short := {
            job.repeat: names for job in jobs if job.repeat in own and (names := lacking(job, own[job.repeat]))
        }:
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

    Where values of users, which are not in git, are not at hand, the marks of the entries that need them are
    ``untested``.
    """
    if sheet.is_compared:
        return sheet
    records = {
        one.address: {seed: read_object(sheet.folder / name) for seed, name in one.records.items()}
        for one in sheet.entries
    }
    metrics = {table.title: table.metrics for table in sheet.tables}
    found, is_whole = compare(records, metrics, Store(sheet.folder), sheet.comparisons)
    if not is_whole and tested(found) == tested(sheet.comparisons):
        return sheet
    save_comparisons(found, records, metrics, sheet.folder / sheet.spec.comparisons, is_whole=is_whole)
    return replace(sheet, comparisons=found, is_compared=is_whole)


def _score_tables(sheet: SheetSpec, records: list[Record]) -> tuple[ScoreTable, ...]:
    titles = list(dict.fromkeys(title for record in records for title in record["scores"]))
    # the convention of most papers comes first
    titles.sort(key=lambda title: title != TITLES["exclude"])
    tables = [
        _score_table(sheet, title, [record for record in records if title in record["scores"]]) for title in titles
    ]
    return tuple(table for table in tables if table.metrics)


def _score_table(sheet: SheetSpec, title: str, records: list[Record]) -> ScoreTable:
    check_protocols(sheet.dataset, title, records)
    first = records[0]["protocols"][title]
    of_folds = {record.get("fold"): record["protocols"][title] for record in reversed(records)}
    protocol, protocol_hash, n_folds = first["protocol"], first["protocol_hash"], sheet.protocol.n_folds
    if n_folds is not None:
        protocol = {name: value for name, value in protocol.items() if name not in OF_FOLD}
        protocol["folds"] = f"{_text(sorted(of_folds))} of {n_folds}; numbers are means over folds and seeds"
        protocol_hash = digest(protocol)
    available = list(dict.fromkeys(metric for record in records for metric in record["scores"][title]))
    metrics = tuple(metric for metric in sheet.metrics if metric in available)
    if not metrics and title not in TITLES.values():  # of nodes' clusters other ones than of classes
        metrics = tuple(available)
    return ScoreTable(
        title,
        metrics,
        {name: _text(value) for name, value in protocol.items() if value not in (None, "")},
        protocol_hash,
        sum(each["n_users"] for each in of_folds.values()) if "n_users" in first else None,
        sum(each.get("n_unreachable_users", 0) for each in of_folds.values()),
        None if n_folds is None else len(of_folds),
    )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(held)}" for name, held in value.items())
    return f"{value}"


def _best_first(records: Mapping[str, Mapping[Repeat, Record]], tables: tuple[ScoreTable, ...]) -> list[str]:
    if not tables:
        return [*records]
    metric = tables[0].metrics[0]
    scores = values_over_seeds(records, tables[0].title, metric)
    ordered = best_first({name: mean_of(values) for name, values in scores.items()}, metric)
    return [*ordered, *(name for name in records if name not in scores)]


def _plan(sheet: SheetSpec) -> tuple[list[tuple[EntrySpec, list[Job]]], list[Missing]]:
    planned, missing = [], []
    for entry in sheet.models:
        try:
            planned.append((entry, jobs_of(sheet, entry)))
        except FileNotFoundError as error:
            seeds = tuple(repeat_of(fold, seed) for fold in sheet.protocol.folds for seed in entry.seeds or sheet.seeds)
            missing.append(Missing(entry.name, seeds, f"{error}"))
    check_entries(sheet, ((entry, job) for entry, jobs in planned for job in jobs))
    return planned, missing


def _data(current: Mapping[str, Mapping[Repeat, Record]]) -> dict[str, str]:
    record = next((record for own in current.values() for record in own.values()), None)
    if record is None:
        return {}
    of_fold = OF_FOLD if record.get("fold") is not None else ()
    return {name: _text(value) for name, value in record["data"].items() if value and name not in of_fold}
