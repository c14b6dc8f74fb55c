"""A sheet: the records of one data set of a board as entries, and their numbers over seeds."""

from __future__ import annotations

import inspect
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from recgraph import pages, registry
from recgraph.config import checked, setting_text
from recgraph.evaluate.metrics import best_first
from recgraph.evaluate.results import ProtocolMismatch
from recgraph.leaderboard import compare
from recgraph.leaderboard.board import Board, EntrySpec, SheetSpec
from recgraph.leaderboard.compare import MARKS, Column, Comparison, Comparisons, Mark
from recgraph.leaderboard.plan import TITLES, Job, Record, plan_of
from recgraph.models.base import Model

#: entry, table (title of a protocol), kind of groups of users, group, metric or cost; what does not
#: apply is empty
Key = tuple[str, str, str, str, str]
#: what a core at work is taken to draw, as a server's processor of 200 to 280 W has 24 to 64 of
#: them; and memory, as codecarbon has it, 3 W for 8 GiB
WATTS_PER_CORE, WATTS_PER_GIB = 10.0, 0.375
#: an entry is nearly the best where it is within this share of the best mean
NEAR = 0.01


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
        # statistics itself fails on these
        return statistics.stdev(self.by_seed.values()) if math.isfinite(self.mean) else math.nan

    @property
    def sign(self) -> str:
        return MARKS[self.mark][0] if self.mark else ""

    def text(self, digits: int = 4) -> str:
        """``0.0551 ± 0.0003``, without the deviation where there is one seed."""
        return f"{self.mean:.{digits}f}" + ("" if self.sd is None else f" ± {self.sd:.{digits}f}")


def _numbers(record: Record) -> Iterator[tuple[Any, ...]]:
    """A record's numbers, each after its key without the entry."""
    for table, scores in record["scores"].items():
        for metric, value in scores.items():
            yield table, "", "", metric, value
    for kind, tables in record.get("groups", {}).items():
        for table, groups in tables.items():
            for group, values in groups.items():
                for metric, value in values.items():
                    yield table, kind, group, metric, value
    for name, cost in costs_of(record).items():
        yield "", "", "", name, cost


def costs_of(record: Record) -> dict[str, float | None]:
    """The costs of one seed: wall-clock and CPU seconds, watt hours, MiB of memory; None where
    there is none.

    Training includes building the model; inference is one pass over all test cases, or the probes
    of a node task. The watt hours are an estimate; of a training on an accelerator, whose energy
    CPU time does not tell, there is none.
    """
    training, inference = record["training"], record["inference"]
    watts = WATTS_PER_CORE + WATTS_PER_GIB * record["peak_memory_mb"] / 1024
    return {
        "training_seconds": training["seconds"],
        "training_cpu_seconds": training["cpu_seconds"],
        "training_wh": watts * training["cpu_seconds"] / 3600
        if device_of(record).startswith("cpu")
        else None,
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
    text = re.sub(
        r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    )
    told = [" ".join(each.replace("``", "").split()) for each in re.split(r"\n\s*\n", text)]
    return [
        told[0],
        *re.findall(r"Source: .*?\([^)]*\d{4}[^)]*\)|Departures?: .*", "\n".join(told[1:])),
    ]


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

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def address(self) -> str:
        return self.jobs[0].address

    @property
    def cls(self) -> type[Model]:
        found: type[Model] = registry.load("model", self.spec.model)
        return found

    @property
    def settings(self) -> list[str]:
        """``key=value`` of all that are not defaults."""
        return [setting_text(*each) for each in self.jobs[0].settings.items()]

    @property
    def configuration(self) -> dict[str, Any]:
        """All settings, by part."""
        identity = self.jobs[0].identity
        return {name: identity[name] for name in ("config", "training", "data") if name in identity}

    @property
    def curves(self) -> list[tuple[int, str, list[tuple[int, float]]]]:
        """Of each seed the metric that selected its weights, and the values of that by epoch."""
        found = []
        for seed, record in self.records.items():
            metric, curve = record["training"]["selected_by"], record["curve"]
            pairs = zip(curve.get("epoch", ()), curve.get(metric, ()), strict=False)
            if points := [(epoch, value) for epoch, value in pairs if value is not None]:
                found.append((seed, metric, points))
        return found

    def command(self, job: Job) -> str:
        """The commands that reproduce a job's numbers, on the device and with the threads of its
        record.
        """
        record = self.records.get(job.seed)
        where = (
            {}
            if record is None
            else {"threads": record["provenance"]["threads"], "device": device_of(record)}
        )
        return job.command(**where)

    @property
    def provenance(self) -> dict[str, list[str]]:
        """What made the records: each machine, each set of versions of packages, each commit of the
        code, once.
        """
        found: dict[str, dict[str, None]] = {"machine": {}, "versions": {}, "code": {}}
        for made in (record["provenance"] for record in self.records.values()):
            packages = {"Python": made["python"], **made["packages"]}
            threads = f"{made['threads']} thread{'' if made['threads'] == 1 else 's'}"
            found["machine"][", ".join(filter(None, (made["machine"], made["cuda"], threads)))] = (
                None
            )
            found["versions"][
                ", ".join(f"{name} {version}" for name, version in packages.items() if version)
            ] = None
            found["code"][made["commit"] or "unknown"] = None
        return {name: [*texts] for name, texts in found.items()}


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
        tables = {table.protocol_hash: table for table in self.tables}
        titles = {
            key: [table.title for table in self.tables if table.protocol_hash == key]
            for key in tables
        }
        return [(", ".join(titles[key]), table) for key, table in tables.items()]

    @property
    def data(self) -> dict[str, str]:
        """What the records say of the data."""
        records = [record["data"] for entry in self.entries for record in entry.records.values()]
        return {name: text(value) for name, value in records[0].items() if value} if records else {}

    @property
    def tested(self) -> str:
        """How the entries were compared."""
        if any(
            column.versus for columns in self.comparisons.values() for column in columns.values()
        ):
            return compare.TESTED
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."

    @property
    def n_done(self) -> int:
        return sum(len(entry.records) for entry in self.entries)

    @property
    def n_jobs(self) -> int:
        return sum(len(entry.jobs) for entry in self.entries)

    @property
    def lacking(self) -> list[tuple[Entry, Job, Record | None]]:
        """The jobs without a record; with that of the failure, where they failed when they were
        last tried.
        """
        jobs = [
            (entry, job)
            for entry in self.entries
            for job in entry.jobs
            if job.seed not in entry.records
        ]
        return [(entry, job, entry.failures.get(job.seed)) for entry, job in jobs]

    @cached_property
    def numbers(self) -> dict[Key, Number]:
        """All numbers over seeds; scores have their marks."""
        values: dict[Key, dict[int, float]] = {}
        for entry in self.entries:
            for seed, record in entry.records.items():
                for *key, value in _numbers(record):
                    if value is not None:
                        values.setdefault((entry.name, *key), {})[seed] = float(value)
        found = {key: Number(by_seed) for key, by_seed in values.items()}
        for table in self.tables:
            for metric in table.metrics:
                column = self.comparisons.get(table.title, {}).get(metric, Column(""))
                addresses = {
                    (one.name, table.title, "", "", metric): one.address for one in self.entries
                }
                compared = {key: address for key, address in addresses.items() if key in found}
                for at, address in compared.items() if len(compared) > 1 else ():
                    versus = column.versus.get(address, ())
                    found[at] = replace(found[at], mark=column.mark(address), versus=versus)
        return found

    @property
    def frame(self) -> pl.DataFrame:
        """All numbers, a row for each seed of each, with the mark of the score and the adjusted p
        that decided it.
        """
        addresses = {one.name: one.address for one in self.entries}
        where, rows = (self.board, self.spec.name, self.spec.dataset), []
        for (entry, *key), number in self.numbers.items():
            mark = number.mark or None, number.versus[0].p_adjusted if number.versus else None
            rows += [
                (*where, entry, addresses[entry], *key, *pair, *mark)
                for pair in number.by_seed.items()
            ]
        names = (
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
        )
        return pl.DataFrame(
            rows, [*names, "value", "mark", "p_adjusted"], orient="row", infer_schema_length=None
        )

    def __repr__(self) -> str:
        return f"Sheet({self.board}, {self.spec.dataset}: {self.n_done} of {self.n_jobs} trainings are done)"

    def _repr_html_(self) -> str:
        shown = []
        for table in self.tables:
            scores = {
                entry.name: self.scores(entry.name, table.title) for entry in self.ranked(table)
            }
            means = {
                name: {metric: own[metric].mean for metric in table.metrics}
                for name, own in scores.items()
            }
            shown.append(
                pages.table([{"model": name, **own} for name, own in means.items()], table.title)
            )
        return pages.block(repr(self), {}, shown, self.tested)

    def score(self, entry: str, title: str, metric: str) -> Number | None:
        return self.numbers.get((entry, title, "", "", metric))

    def scores(self, entry: str, title: str) -> dict[str, Number]:
        """The scores of an entry in a table, or with an empty title its costs."""
        return {
            key[4]: number
            for key, number in self.numbers.items()
            if key[:4] == (entry, title, "", "")
        }

    def cost(self, entry: str, name: str) -> Number | None:
        """A cost of an entry, of :func:`costs_of`."""
        return self.numbers.get((entry, "", "", "", name))

    def ranked(self, table: ScoreTable) -> list[Entry]:
        """The entries with a score by the first metric of a table, the best first."""
        metric = table.metrics[0]
        scores = {entry.name: self.score(entry.name, table.title, metric) for entry in self.entries}
        order = best_first({name: score.mean for name, score in scores.items() if score}, metric)
        entries = {entry.name: entry for entry in self.entries}
        return [entries[name] for name in order]

    @property
    def cheapest(self) -> tuple[str, str] | None:
        """Of the first column the best entry, and the one nearly as good that trains in the fewest
        CPU seconds.

        None where fewer than two entries have a score and a cost.
        """
        found = [
            (cost.mean, score.mean, entry.name)
            for table in self.tables[:1]
            for entry in self.ranked(table)
            if (score := self.score(entry.name, table.title, table.metrics[0]))
            and math.isfinite(score.mean)
            if (cost := self.cost(entry.name, "training_cpu_seconds"))
        ]
        if len(found) < 2:
            return None
        _, highest, best = found[0]
        return best, min(one for one in found if abs(one[1] - highest) <= NEAR * abs(highest))[2]


def text(value: Any) -> str:
    """A value of a record as text."""
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(held)}" for name, held in value.items())
    return f"{value}"


@checked
def open_sheet(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> Sheet:
    """Read the records of one data set of a board; no model is run and no data is read.

    Raises:
        ProtocolMismatch: records of one table have different protocols.
    """
    folder = board.folder_of(sheet, results)
    planned = plan_of(board, sheet, results)
    read = [{job.seed: record for job in jobs if (record := job.record)} for _, jobs in planned]
    newest = max(
        (record for own in read for record in own.values()),
        key=lambda record: str(record["at"]),
        default={},
    )
    entries = []
    for (spec, jobs), own in zip(planned, read, strict=True):
        records = {
            seed: record
            for seed, record in own.items()
            if record["data_hash"] == newest["data_hash"]
        }
        failures = {
            job.seed: record for job in jobs if job.seed not in records and (record := job.failure)
        }
        entries.append(Entry(spec, jobs, records, failures, len(own) - len(records)))
    tables = _score_tables(
        sheet, [record for entry in entries for record in entry.records.values()]
    )
    metrics = {table.title: table.metrics for table in tables}
    by_address = {entry.address: entry.records for entry in entries}
    comparisons, is_whole = compare.load_comparisons(
        folder / sheet.comparisons, by_address, metrics
    )
    made = Sheet(
        board.name, sheet, folder, tables, tuple(entries), comparisons, not tables or is_whole
    )
    ranked = made.ranked(tables[0]) if tables else []
    return replace(made, entries=(*ranked, *(entry for entry in entries if entry not in ranked)))


def update_comparisons(sheet: Sheet) -> Sheet:
    """The sheet with comparisons of its current scores, which are kept beside the records.

    Where values of users, which are not in git, are not at hand, those on file stay, and what they
    lack is untested.
    """
    records = {one.address: one.records for one in sheet.entries}
    metrics = {table.title: table.metrics for table in sheet.tables}
    found = None if sheet.is_compared else compare.compare(records, metrics, sheet.folder)
    if found is None:
        return sheet
    compare.save_comparisons(found, records, metrics, sheet.folder / sheet.spec.comparisons)
    return replace(sheet, comparisons=found, is_compared=True)


def _score_tables(sheet: SheetSpec, records: Sequence[Record]) -> tuple[ScoreTable, ...]:
    titles = list(dict.fromkeys(title for record in records for title in record["scores"]))
    # the convention of most papers comes first
    titles.sort(key=lambda title: title != TITLES["exclude"])
    tables = []
    for title in titles:
        own = [record for record in records if title in record["scores"]]
        first = own[0]["protocols"][title]
        for other in (record["protocols"][title] for record in own):
            fields = {**first["protocol"], **other["protocol"]}
            differing = [
                name
                for name in fields
                if first["protocol"].get(name) != other["protocol"].get(name)
            ]
            # a metric at a cut-off of both is the same number
            if first["protocol_hash"] != other["protocol_hash"] and differing != ["cutoffs"]:
                raise ProtocolMismatch(
                    f"records of {sheet.dataset!r} under {title!r} have protocols {first['protocol_hash']} and "
                    f"{other['protocol_hash']}, which differ in {', '.join(differing)}; remove those of one and run "
                    "the board again"
                )
        available = dict.fromkeys(metric for record in own for metric in record["scores"][title])
        metrics = [metric for metric in sheet.metrics if metric in available]
        if (
            not metrics and title not in TITLES.values()
        ):  # of nodes' clusters other ones than of classes
            metrics = [*available]
        if metrics:
            protocol = {
                name: text(value)
                for name, value in first["protocol"].items()
                if value not in (None, "")
            }
            users = first.get("n_users"), first.get("n_unreachable_users", 0)
            tables.append(
                ScoreTable(title, tuple(metrics), protocol, first["protocol_hash"], *users)
            )
    return tuple(tables)
