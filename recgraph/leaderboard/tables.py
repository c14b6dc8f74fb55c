"""The tables of the page: one row for each entry, one group of columns for each protocol; and the format of numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from recgraph.evaluate.metrics.names import higher_is_better
from recgraph.leaderboard.compare import MARKS, Mark
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.frame import Number
from recgraph.leaderboard.repeats import named
from recgraph.leaderboard.score_tables import ScoreTable
from recgraph.leaderboard.sheet import GroupTable, Sheet

__all__ = [
    "ColumnGroup",
    "PageColumn",
    "PageTable",
    "anchors",
    "count",
    "duration",
    "group_tables",
    "listed",
    "marks_of",
    "memory",
    "metric_name",
    "score_table",
    "short_hash",
    "shown_scores",
    "spread",
]

_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}
_HASH = re.compile(r"[0-9a-f]{32,}")


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    text = " ".join(part.upper() if part in _ABBREVIATIONS else part for part in name.split("_"))
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def spread(number: Number) -> str:
    """The standard deviation as ``±.0012``; empty of one seed."""
    if number.sd is None:
        return ""
    return f"±{number.sd:.4f}".replace("±0.", "±.") if number.sd else "±0"


def duration(seconds: float) -> str:
    """Seconds to three digits in ms, s, min or h."""
    if seconds < 1:
        return f"{_three_digits(1000 * seconds)} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds / 3600)} h"


def _three_digits(number: float) -> str:
    """Three digits, or all before the point where there are more: ``:.3g`` writes 999.9 as ``1e+03``."""
    return f"{number:.3g}" if abs(number) < 999.5 else f"{number:.0f}"


def count(number: float) -> str:
    """``1.87 M`` of 1,871,496."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{_three_digits(number / size)}{unit}"
    return f"{number:.0f}"


def memory(mib: float) -> str:
    """``624 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.3g} GiB"


def short_hash(text: str) -> str:
    """The text with long hashes cut to 12 digits."""
    return _HASH.sub(lambda found: found[0][:12], text)


def listed(names: Iterable[str], limit: int = 3) -> str:
    """``A, B and 2 more``."""
    every = list(names)
    shown, left = every[:limit], len(every) - limit
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def anchors(names: Iterable[str]) -> list[str]:
    """An HTML id for each name: small letters, digits and dashes, all different."""
    found: dict[str, None] = {}
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "entry"
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        found[next(each for each in itertools.chain([plain], numbered) if each not in found)] = None
    return [*found]


#: number of protocols whose columns are visible at first; the reader can show the others
_VISIBLE = 3


@dataclass(frozen=True)
class PageColumn:
    """A column of scores or costs.

    Attributes:
        label: its heading.
        numbers: name of an entry -> its number.
        format: how a mean is written.
        order: the order of the first click, the best first: ``descending`` or ``ascending``.
        is_score: whether it is of a metric, not of a cost.
    """

    label: str
    numbers: Mapping[str, Number]
    format: Callable[[float], str] = "{:.4f}".format
    order: str = "descending"
    is_score: bool = True

    @classmethod
    def of_metric(cls, metric: str, label: str, numbers: Mapping[str, Number]) -> PageColumn:
        """A column of a metric's scores."""
        return cls(label, numbers, order="descending" if higher_is_better(metric) else "ascending")

    def hint(self, entry: str) -> str:
        """The tooltip of a cell: the value of each seed, or all digits of a count; else empty."""
        if self.format is count:
            return f"{self.numbers[entry].mean:,.0f}"
        if not self.is_score:
            return ""
        return "; ".join(f"{named(repeat)}: {value:.6f}" for repeat, value in self.numbers[entry].by_seed.items())

    @cached_property
    def _best(self) -> float:
        """The best mean as it is displayed; infinite where all are equal."""
        displayed = {round(number.mean, 4) for number in self.numbers.values() if not math.isnan(number.mean)}
        best = max if self.order == "descending" else min
        return best(displayed) if len(displayed) > 1 else math.inf

    def is_best(self, entry: str) -> bool:
        """Whether no other entry has a better mean."""
        return entry in self.numbers and round(self.numbers[entry].mean, 4) == self._best


@dataclass(frozen=True)
class ColumnGroup:
    """Columns under one heading, with a note.

    Attributes:
        is_visible: at first.
        is_of_scores: whether the columns are metrics, written with their deviation over seeds.
    """

    title: str
    note: str
    columns: tuple[PageColumn, ...]
    is_visible: bool = True
    is_of_scores: bool = True


@dataclass(frozen=True)
class PageTable:
    """A table with one row for each entry."""

    caption: str
    groups: tuple[ColumnGroup, ...]
    entries: tuple[Entry, ...]


def marks_of(sheet: Sheet) -> list[Mark]:
    """The marks in the tables of the page; empty where nothing was tested."""
    found = {number.mark for number in sheet.numbers.values()}
    return [mark for mark in MARKS if mark in found] if found - {"untested", ""} else []


def shown_scores(sheet: Sheet, entry: str, table: ScoreTable) -> dict[str, Number]:
    """The scores of an entry, compared metrics first; without marks where nothing was tested."""
    scores = sheet.scores(entry, table.title)
    names = dict.fromkeys([*(metric for metric in table.metrics if metric in scores), *scores])
    are_marked = bool(marks_of(sheet))
    return {name: scores[name] if are_marked else replace(scores[name], mark="") for name in names}


def score_table(sheet: Sheet) -> PageTable:
    """The main table: a group of columns for each protocol, then the cost of a seed."""
    groups = []
    for i, table in enumerate(sheet.tables):
        scores = {entry.name: shown_scores(sheet, entry.name, table) for entry in sheet.entries}
        columns = tuple(
            PageColumn.of_metric(
                metric, metric_name(metric), {name: own[metric] for name, own in scores.items() if metric in own}
            )
            for metric in table.metrics
        )
        note = "" if table.n_users is None else f"{table.n_users:,} users{table.in_folds}"
        groups.append(ColumnGroup(table.title, note, columns, is_visible=i < _VISIBLE))
    costs = (
        _cost(sheet, "Training", "training_seconds", duration),
        _cost(sheet, "Inference", "inference_seconds", duration),
        _cost(sheet, "Parameters", "n_parameters", count),
        _cost(sheet, "Memory", "peak_memory_mb", memory),
    )
    groups.append(ColumnGroup("cost of a seed", "mean", costs, is_of_scores=False))
    return PageTable(f"Results on {sheet.title}", tuple(groups), sheet.entries)


def _cost(sheet: Sheet, label: str, name: str, text: Callable[[float], str]) -> PageColumn:
    numbers = {entry.name: number for entry in sheet.entries if (number := sheet.cost(entry.name, name))}
    return PageColumn(label, numbers, text, "ascending", is_score=False)


def group_tables(sheet: Sheet) -> list[PageTable]:
    """The scores by groups of users: a table for each kind of groups, with a group of columns for each protocol."""
    kinds: dict[str, list[GroupTable]] = {}
    for table in sheet.groups:
        kinds.setdefault(table.kind, []).append(table)
    return [_group_table(sheet, tables) for tables in kinds.values()]


def _group_table(sheet: Sheet, tables: Sequence[GroupTable]) -> PageTable:
    entries = [entry for entry in sheet.entries if any(entry.name in table.rows for table in tables)]
    groups = []
    for table in tables:
        columns = [
            PageColumn.of_metric(
                table.metric,
                f"{group} ({size:,})",
                {name: own[group] for name, own in table.rows.items() if group in own},
            )
            for group, size in table.sizes.items()
        ]
        groups.append(ColumnGroup(table.table, metric_name(table.metric), tuple(columns)))
    return PageTable(tables[0].label, tuple(groups), tuple(entries))
