"""A sheet: the records of one data set of a board as entries, and their numbers over seeds."""

from __future__ import annotations

import inspect
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

import polars as pl

from recgraph import pages, registry
from recgraph.config import checked, setting_text
from recgraph.evaluate.metrics import best_first
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard import compare
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.compare import MARKS, Column, Comparison, Comparisons, Mark
from recgraph.leaderboard.plan import SEEN, TITLES, Job, Record, Records, plan_of
from recgraph.models.base import Model

#: entry, table (title of a protocol), kind of groups of users, group, metric or cost; what does not
#: apply is empty
Key = tuple[str, str, str, str, str]
#: what a core at work is taken to draw, as a server's processor of 200 to 280 W has 24 to 64 of
#: them; and memory, as codecarbon has it, 3 W for 8 GiB
WATTS_PER_CORE, WATTS_PER_GIB = 10.0, 0.375
#: an entry is nearly the best where it is within this share of the best mean
NEAR = 0.01
#: of a frame of numbers
_COLUMNS = [
    "board",
    "sheet",
    "dataset",
    "entry",
    "address",
    "table",
    "group_kind",
    "group",
    "metric",
    "seed",
    "value",
    "mark",
    "p_adjusted",
]


@dataclass(frozen=True)
class Number:
    """A score or cost of an entry over seeds, or a metric of a group of users.

    A score that is compared has a mark, and ``versus``: the column's best entry less this one.
    """

    by_seed: Mapping[int, float]
    mark: Mark = ""
    versus: tuple[Comparison, ...] = ()

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    @property
    def sd(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for one seed, NaN where a value is not
        finite.
        """
        if len(self.by_seed) < 2:
            return None
        if not math.isfinite(self.mean):  # statistics itself fails on these
            return math.nan
        return statistics.stdev(self.by_seed.values())

    @property
    def sign(self) -> str:
        return MARKS.get(self.mark, ("", ""))[0]

    def text(self, digits: int = 4) -> str:
        """``0.0551 ± 0.0003``, without the deviation where there is one seed."""
        text = f"{self.mean:.{digits}f}"
        if self.sd is not None:
            text += f" ± {self.sd:.{digits}f}"
        return text


def _numbers(record: Record) -> Iterator[tuple[Any, ...]]:
    """A record's numbers, each after its key without the entry."""
    # kind of groups -> table -> group -> metric -> value
    scores = {title: {"": values} for title, values in record["scores"].items()}
    costs = {"": {"": costs_of(record)}}
    for kind, tables in (("", scores), *record.get("groups", {}).items(), ("", costs)):
        for title, groups in tables.items():
            for group, values in groups.items():
                for metric, value in values.items():
                    yield title, kind, group, metric, value


def costs_of(record: Record) -> dict[str, float | None]:
    """The costs of one seed: wall-clock and CPU seconds, watt hours, MiB of memory; None where
    there is none.

    Training includes building the model; inference is one pass over all test cases, or the probes
    of a node task. The watt hours are an estimate; of a training on an accelerator, whose energy
    CPU time does not tell, there is none.
    """
    training, inference = record["training"], record["inference"]
    watts = WATTS_PER_CORE + WATTS_PER_GIB * record["peak_memory_mb"] / 1024
    watt_hours = None
    if device_of(record).startswith("cpu"):
        watt_hours = watts * training["cpu_seconds"] / 3600
    return {
        "training_seconds": training["seconds"],
        "training_cpu_seconds": training["cpu_seconds"],
        "training_wh": watt_hours,
        "inference_seconds": inference["seconds"],
        "inference_cpu_seconds": inference["cpu_seconds"],
        "peak_memory_mb": record["peak_memory_mb"],
        "n_parameters": record["n_parameters"],
        "epochs": training["epochs"] or None,
    }


def device_of(record: Record) -> str:
    """Where a record was made; ``auto`` was the accelerator, if the machine had one."""
    device = str(record.get("device", "cpu"))
    if device != "auto":
        return device
    return "cuda" if record["provenance"]["cuda"] else "cpu"


def text_of(cls: type[Model]) -> list[str]:
    """The first paragraph of a model's docstring, its source up to the year, and departures from
    it, as plain text.
    """
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("``", "")
    first, *others = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    credits = r"Source: .*?\([^)]*\d{4}[^)]*\)|Departures?: .*"
    return [first, *re.findall(credits, "\n".join(others))]


def _at_hand(records: Mapping[int, Record | None]) -> dict[int, Record]:
    return {seed: record for seed, record in records.items() if record is not None}


@dataclass(frozen=True)
class Entry:
    """A row of a board: a model with its settings.

    Attributes:
        jobs: one a seed.
        records: seed -> the record, of the jobs that are done; ``failures``: of those that failed.
        n_stale: number of records that were made with other data than the newest of the sheet; they
            are ignored.
    """

    spec: EntrySpec
    jobs: list[Job]
    records: dict[int, Record]
    failures: dict[int, Record]
    n_stale: int

    @classmethod
    def read(cls, spec: EntrySpec, jobs: list[Job]) -> Self:
        """An entry with all records of its jobs."""
        records = {job.seed: job.record for job in jobs}
        failures = {job.seed: job.failure for job in jobs}
        return cls(spec, jobs, records=_at_hand(records), failures=_at_hand(failures), n_stale=0)

    def of_data(self, data_hash: str) -> Self:
        """The entry with its records of the data with this hash."""
        records = {
            seed: record
            for seed, record in self.records.items()
            if record["data_hash"] == data_hash
        }
        return replace(self, records=records, n_stale=len(self.records) - len(records))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def address(self) -> str:
        return self.jobs[0].address

    @property
    def cls(self) -> type[Model]:
        model: type[Model] = registry.load("model", self.spec.model)
        return model

    @property
    def settings(self) -> list[str]:
        """``key=value`` of all that are not defaults."""
        return [setting_text(*pair) for pair in self.jobs[0].settings.items()]

    @property
    def configuration(self) -> dict[str, Any]:
        """All settings, by part."""
        identity = self.jobs[0].identity
        return {name: identity[name] for name in ("config", "training", "data") if name in identity}

    @property
    def curves(self) -> list[tuple[int, str, list[tuple[int, float]]]]:
        """Of each seed the metric that selected its weights, and the values of that by epoch."""
        curves = []
        for seed, record in self.records.items():
            metric = record["training"]["selected_by"]
            columns = record["curve"]
            pairs = zip(columns.get("epoch", ()), columns.get(metric, ()), strict=False)
            points = [(epoch, value) for epoch, value in pairs if value is not None]
            if points:
                curves.append((seed, metric, points))
        return curves

    def command(self, job: Job) -> str:
        """The commands that reproduce a job's numbers, on the device and with the threads of its
        record.
        """
        record = self.records.get(job.seed)
        if record is None:
            return job.command()
        return job.command(record["provenance"]["threads"], device_of(record))

    @property
    def provenance(self) -> dict[str, list[str]]:
        """What made the records: each machine, each set of versions of packages, each commit of the
        code, once.
        """
        machines, versions, commits = [], [], []
        for record in self.records.values():
            made = record["provenance"]
            threads = f"{made['threads']} thread{'' if made['threads'] == 1 else 's'}"
            machines.append(", ".join(filter(None, (made["machine"], made["cuda"], threads))))
            packages = {"Python": made["python"], **made["packages"]}
            versions.append(
                ", ".join(f"{name} {version}" for name, version in packages.items() if version)
            )
            commits.append(made["commit"] or "unknown")
        texts = {"machine": machines, "versions": versions, "code": commits}
        return {name: list(dict.fromkeys(several)) for name, several in texts.items()}


class ScoreTable(NamedTuple):
    """The protocol and the columns of one table; numbers of different protocols must not be
    compared.

    Attributes:
        title: ``seen excluded``, ``20 labels a class``, ...
        metrics: the compared metrics; the first one orders the rows.
        n_users: number of ranked users; None for a node task.
        n_unreachable_users: number of users with a relevant item that the protocol excludes;
            counted as misses.
    """

    title: str
    metrics: tuple[str, ...]
    protocol: dict[str, str]
    protocol_hash: str
    n_users: int | None
    n_unreachable_users: int


@dataclass(frozen=True)
class Sheet:
    """One data set of a board.

    Attributes:
        folder: of its records.
        tables: one for each title; the first one's first metric orders the entries, best first,
            those without last.
        comparisons: of these scores, without those that take values of users which are not at hand;
            ``is_compared``: none is lacking.
    """

    board: str
    spec: SheetSpec
    folder: Path
    tables: tuple[ScoreTable, ...]
    entries: tuple[Entry, ...]
    comparisons: Comparisons
    is_compared: bool

    @property
    def protocols(self) -> list[tuple[str, ScoreTable]]:
        """The different protocols: the titles of a protocol's tables, and the last of these."""
        titles: dict[str, list[str]] = {}
        tables = {}
        for table in self.tables:
            titles.setdefault(table.protocol_hash, []).append(table.title)
            tables[table.protocol_hash] = table
        return [(", ".join(titles[key]), table) for key, table in tables.items()]

    @property
    def records(self) -> list[Record]:
        return list(chain.from_iterable(entry.records.values() for entry in self.entries))

    @property
    def data(self) -> dict[str, str]:
        """What the records say of the data."""
        if not self.records:
            return {}
        return {name: text(value) for name, value in self.records[0]["data"].items() if value}

    @property
    def tested(self) -> str:
        """How the entries were compared."""
        if any(number.versus for number in self.numbers.values()):
            return compare.TESTED
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."

    @property
    def n_done(self) -> int:
        return len(self.records)

    @property
    def n_jobs(self) -> int:
        return sum(len(entry.jobs) for entry in self.entries)

    @property
    def lacking(self) -> list[tuple[Entry, Job, Record | None]]:
        """The jobs without a record; with that of the failure, where they failed when they were
        last tried.
        """
        lacking = []
        for entry in self.entries:
            missing = [job for job in entry.jobs if job.seed not in entry.records]
            lacking += [(entry, job, entry.failures.get(job.seed)) for job in missing]
        return lacking

    @property
    def compared(self) -> tuple[Records, compare.Metrics]:
        """What is compared: the records of the entries by their addresses, and the metrics of each
        table.
        """
        records = {entry.address: entry.records for entry in self.entries}
        return records, {table.title: table.metrics for table in self.tables}

    @cached_property
    def numbers(self) -> dict[Key, Number]:
        """All numbers over seeds; scores have their marks."""
        values: dict[Key, dict[int, float]] = {}
        for entry in self.entries:
            for seed, record in entry.records.items():
                for *key, value in _numbers(record):
                    if value is not None:
                        values.setdefault((entry.name, *key), {})[seed] = float(value)
        numbers = {key: Number(by_seed) for key, by_seed in values.items()}
        for table in self.tables:
            for metric in table.metrics:
                self._mark(numbers, table.title, metric)
        return numbers

    def _mark(self, numbers: dict[Key, Number], title: str, metric: str) -> None:
        """Give the scores of a column their marks and comparisons; one alone has none."""
        column = self.comparisons.get(title, {}).get(metric, Column(""))
        keys = [key for key in numbers if key[1:] == (title, "", "", metric)]
        if len(keys) < 2:
            return
        for key in keys:
            address = self._addresses[key[0]]
            versus = column.versus.get(address, ())
            numbers[key] = replace(numbers[key], mark=column.mark(address), versus=versus)

    @property
    def _addresses(self) -> dict[str, str]:
        return {entry.name: entry.address for entry in self.entries}

    @property
    def frame(self) -> pl.DataFrame:
        """All numbers, a row for each seed of each, with the mark of the score and the adjusted p
        that decided it.
        """
        addresses = self._addresses
        sheet = (self.board, self.spec.name, self.spec.dataset)
        rows = []
        for key, number in self.numbers.items():
            p_adjusted = None
            if number.versus:
                p_adjusted = number.versus[0].p_adjusted
            for seed, value in number.by_seed.items():
                name, *place = key
                score = (seed, value, number.mark or None, p_adjusted)
                rows.append((*sheet, name, addresses[name], *place, *score))
        return pl.DataFrame(rows, _COLUMNS, orient="row", infer_schema_length=None)

    def __repr__(self) -> str:
        return f"Sheet({self.board}, {self.spec.dataset}: {self.n_done} of {self.n_jobs} trainings are done)"

    def _repr_html_(self) -> str:
        tables = [pages.table(self._means(table), table.title) for table in self.tables]
        return pages.block(repr(self), {}, tables, self.tested)

    def _means(self, table: ScoreTable) -> list[dict[str, Any]]:
        rows = []
        for entry in self.ranked(table):
            scores = self.scores(entry.name, table.title)
            means = {metric: scores[metric].mean for metric in table.metrics}
            rows.append({"model": entry.name, **means})
        return rows

    def score(self, entry: str, title: str, metric: str) -> Number | None:
        return self.numbers.get((entry, title, "", "", metric))

    def scores(self, entry: str, title: str) -> dict[str, Number]:
        """The scores of an entry in a table, or with an empty title its costs."""
        return {
            key[4]: number
            for key, number in self.numbers.items()
            if key[:4] == (entry, title, "", "")
        }

    def column(self, title: str, metric: str) -> dict[str, Number]:
        """The scores of the entries in a column of a table, by their names; with an empty title a
        cost.
        """
        return {
            key[0]: number
            for key, number in self.numbers.items()
            if key[1:] == (title, "", "", metric)
        }

    def cost(self, entry: str, name: str) -> Number | None:
        """A cost of an entry, of :func:`costs_of`."""
        return self.score(entry, "", name)

    def ranked(self, table: ScoreTable) -> list[Entry]:
        """The entries with a score by the first metric of a table, the best first."""
        metric = table.metrics[0]
        means = {name: score.mean for name, score in self.column(table.title, metric).items()}
        entries = {entry.name: entry for entry in self.entries}
        return [entries[name] for name in best_first(means, metric)]

    @property
    def cheapest(self) -> tuple[str, str] | None:
        """Of the first column the best entry, and the one nearly as good that trains in the fewest
        CPU seconds.

        None where fewer than two entries have a score and a cost.
        """
        if not self.tables:
            return None
        table = self.tables[0]
        scores = self.column(table.title, table.metrics[0])
        costs = self.column("", "training_cpu_seconds")
        candidates = []
        for entry in self.ranked(table):
            score = scores[entry.name].mean
            if entry.name in costs and math.isfinite(score):
                candidates.append(_Candidate(entry.name, score, costs[entry.name].mean))
        if len(candidates) < 2:
            return None
        best = candidates[0]
        least = NEAR * abs(best.score)
        near = [other for other in candidates if abs(other.score - best.score) <= least]
        return best.name, min(near, key=attrgetter("cpu_seconds")).name


class _Candidate(NamedTuple):
    """An entry, its mean score and the CPU seconds of its training."""

    name: str
    score: float
    cpu_seconds: float


def text(value: Any) -> str:
    """A value of a record as text."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(inner)}" for name, inner in value.items())
    return f"{value}"


@checked
def open_sheet(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> Sheet:
    """Read the records of one data set of a board; no model is run and no data is read.

    Raises:
        ProtocolMismatch: records of one table have different protocols.
    """
    entries = [Entry.read(spec, jobs) for spec, jobs in plan_of(board, sheet, results)]
    newest = max(
        chain.from_iterable(entry.records.values() for entry in entries),
        key=lambda record: str(record["at"]),
        default={"data_hash": ""},
    )
    opened = Sheet(
        board=board.name,
        spec=sheet,
        folder=board.folder_of(sheet, results),
        tables=(),
        entries=tuple(entry.of_data(newest["data_hash"]) for entry in entries),
        comparisons={},
        is_compared=True,
    )
    tables = _score_tables(sheet, opened.records)
    if not tables:
        return opened
    opened = replace(opened, tables=tables)
    ranked = opened.ranked(tables[0])
    others = [entry for entry in opened.entries if entry not in ranked]
    comparisons, is_compared = compare.load_comparisons(
        opened.folder / sheet.comparisons, *opened.compared
    )
    return replace(
        opened,
        entries=(*ranked, *others),
        comparisons=comparisons,
        is_compared=is_compared,
    )


def update_comparisons(sheet: Sheet) -> Sheet:
    """The sheet with comparisons of its current scores, which are kept beside the records.

    Where values of users, which are not in git, are not at hand, those on file stay, and what they
    lack is untested.
    """
    if sheet.is_compared:
        return sheet
    records, metrics = sheet.compared
    comparisons = compare.compare(records, metrics, sheet.folder)
    if comparisons is None:
        return sheet
    compare.save_comparisons(comparisons, records, metrics, sheet.folder / sheet.spec.comparisons)
    return replace(sheet, comparisons=comparisons, is_compared=True)


def _score_tables(sheet: SheetSpec, records: Sequence[Record]) -> tuple[ScoreTable, ...]:
    by_title: dict[str, list[Record]] = {}
    for record in records:
        for title in record["scores"]:
            by_title.setdefault(title, []).append(record)
    # the convention of most papers comes first
    titles = sorted(by_title, key=lambda title: title != TITLES["exclude"])
    tables = [_score_table(sheet, title, by_title[title]) for title in titles]
    return tuple(table for table in tables if table.metrics)


def _score_table(sheet: SheetSpec, title: str, records: Sequence[Record]) -> ScoreTable:
    first = records[0]["protocols"][title]
    for record in records:
        _check_protocols(sheet.dataset, title, first, record["protocols"][title])
    available = dict.fromkeys(chain.from_iterable(each["scores"][title] for each in records))
    metrics = [metric for metric in sheet.metrics if metric in available]
    # of nodes' clusters other ones than of classes
    if not metrics and title not in SEEN:
        metrics = list(available)
    protocol = {
        name: text(value) for name, value in first["protocol"].items() if value not in (None, "")
    }
    return ScoreTable(
        title=title,
        metrics=tuple(metrics),
        protocol=protocol,
        protocol_hash=first["protocol_hash"],
        n_users=first.get("n_users"),
        n_unreachable_users=first.get("n_unreachable_users", 0),
    )


def _check_protocols(
    dataset: str, title: str, first: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    """Refuse records of one table that were made in different ways."""
    if first["protocol_hash"] == other["protocol_hash"]:
        return
    names = {**first["protocol"], **other["protocol"]}
    differing = [
        name for name in names if first["protocol"].get(name) != other["protocol"].get(name)
    ]
    # a metric at a cut-off of both is the same number
    if differing != ["cutoffs"]:
        raise ProtocolMismatch(
            f"records of {dataset!r} under {title!r} have protocols {first['protocol_hash']} and "
            f"{other['protocol_hash']}, which differ in {', '.join(differing)}; remove those of one and run "
            "the board again"
        )
