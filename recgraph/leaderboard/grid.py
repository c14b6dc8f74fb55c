"""Numbers and names as the page writes them.

The tables of the page as values: a row an entry, columns in groups, one protocol a group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from recgraph.leaderboard.entry import MARKS, Cost, Entry, Groups, Mark, Score, Stat
from recgraph.leaderboard.sheet import Sheet, Table

__all__ = [
    "Cell",
    "Column",
    "ColumnGroup",
    "Grid",
    "Row",
    "anchors",
    "count",
    "duration",
    "group_grids",
    "listed",
    "marks_of",
    "memory",
    "metric_name",
    "score_grid",
    "short_hash",
    "spread",
]


_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}
_HASH = re.compile(r"[0-9a-f]{32,}")


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    words = [word.upper() if word in _ABBREVIATIONS else word for word in name.split("_")]
    text = " ".join(words)
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def spread(stat: Stat) -> str:
    """``±.0012``; empty of one seed."""
    if stat.sd is None:
        return ""
    return f"±{stat.sd:.4f}".replace("±0.", "±.") if stat.sd else "±0"


def duration(seconds: float) -> str:
    """Seconds as people say them, to three digits."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    for most, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def count(number: float) -> str:
    """``1.87 M`` of 1,871,496."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def memory(mib: float) -> str:
    """``624 MiB``, ``1.2 GiB``."""
    return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.3g} GiB"


def short_hash(text: str) -> str:
    """A text in which long hashes are cut to 12 digits."""
    return _HASH.sub(lambda found: found[0][:12], text)


def listed(names: Iterable[str], most: int = 3) -> str:
    """``A, B and 2 more``."""
    every = list(names)
    shown, left = every[:most], len(every) - most
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def anchors(names: Iterable[str]) -> list[str]:
    """A name for an address each: small letters, digits and dashes, all different."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "entry"
        same = sum(re.fullmatch(rf"{plain}(-\d+)?", other) is not None for other in found)
        found.append(f"{plain}-{same + 1}" if same else plain)
    return found


#: protocols that are shown at first; the reader turns on the others
_SHOWN = 3
_COSTS = ("Training", "Inference", "Parameters", "Memory")
#: what a sign says to those who cannot see it
_SAID: dict[Mark, str] = {
    "best": "significantly best",
    "tied": "not significantly below the highest",
    "untested": "not tested",
}


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    Attributes:
        text: empty where there is nothing.
        value: by which it is sorted; None goes last.
        spread: over seeds.
        sign, said: of its standing, to be seen and to be heard.
        is_highest: whether no other row has a higher value.
        hint: shown where the pointer rests; it stands on the card too.
    """

    text: str = ""
    value: float | None = None
    spread: str = ""
    sign: str = ""
    said: str = ""
    is_highest: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        label: its heading.
        first: the order that a reader asks for first.
        orders: whether the rows are in its order to begin with.
    """

    label: str
    first: Literal["descending", "ascending"] = "descending"
    orders: bool = False


@dataclass(frozen=True)
class ColumnGroup:
    """Columns under one heading, with a note.

    Attributes:
        is_shown: to begin with.
        is_of_scores: whether they hold metrics, all written with four digits.
    """

    title: str
    note: str
    columns: tuple[Column, ...]
    is_shown: bool = True
    is_of_scores: bool = True


@dataclass(frozen=True)
class Row:
    """An entry's row; the cells of each group of columns."""

    entry: Entry
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A table of entries."""

    caption: str
    groups: tuple[ColumnGroup, ...]
    rows: tuple[Row, ...]


def marks_of(sheet: Sheet) -> list[Mark]:
    """The marks that the main table shows; none where nothing was tested."""
    scores = [
        score
        for entry in sheet.entries
        for table in sheet.tables
        for metric in table.metrics
        if (score := entry.score(table.title, metric)) is not None
    ]
    found = {score.mark for score in scores}
    return [mark for mark in MARKS if mark in found] if found - {"untested", ""} else []


def score_grid(sheet: Sheet) -> Grid:
    """The main table: a group of columns a protocol, then what one seed cost."""
    groups = [_protocol(table, place) for place, table in enumerate(sheet.tables)]
    groups.append(
        ColumnGroup("cost of a seed", "mean", tuple(Column(name, "ascending") for name in _COSTS), is_of_scores=False)
    )
    columns = [_scores(sheet.entries, table, bool(marks_of(sheet))) for table in sheet.tables]
    rows = [
        Row(entry, (*(cells[place] for cells in columns), _costs(entry.cost)))
        for place, entry in enumerate(sheet.entries)
    ]
    return Grid(f"Results on {sheet.title}", tuple(groups), tuple(rows))


def group_grids(sheet: Sheet) -> list[Grid]:
    """The breakdowns: a table a kind of groups of users, in it a group of columns a protocol."""
    kinds = dict.fromkeys(groups.kind for groups in sheet.groups)
    return [_breakdown(sheet, [groups for groups in sheet.groups if groups.kind == kind]) for kind in kinds]


def _protocol(table: Table, place: int) -> ColumnGroup:
    columns = [Column(metric_name(metric), orders=place == 0 and at == 0) for at, metric in enumerate(table.metrics)]
    note = "" if table.n_users is None else f"{table.n_users:,} users"
    return ColumnGroup(table.title, note, tuple(columns), place < _SHOWN)


def _scores(entries: Sequence[Entry], table: Table, are_marked: bool) -> list[tuple[Cell, ...]]:
    """The cells of each entry."""
    columns = [_column([entry.score(table.title, metric) for entry in entries]) for metric in table.metrics]
    if are_marked:
        columns = [
            [_marked(cell, entry.score(table.title, metric)) for cell, entry in zip(column, entries, strict=True)]
            for metric, column in zip(table.metrics, columns, strict=True)
        ]
    return list(zip(*columns, strict=True))


def _marked(cell: Cell, score: Score | None) -> Cell:
    return cell if score is None else replace(cell, sign=score.sign, said=_SAID.get(score.mark, ""))


def _column(stats: Iterable[Stat | None]) -> list[Cell]:
    """A column of means over seeds; the highest one is told, as it is read, unless all are alike."""
    found = list(stats)
    read = {round(stat.mean, 4) for stat in found if stat is not None}
    highest = max(read) if len(read) > 1 else math.inf
    return [Cell() if stat is None else _cell(stat, highest) for stat in found]


def _cell(stat: Stat, highest: float) -> Cell:
    hint = "; ".join(f"seed {seed}: {value:.6f}" for seed, value in stat.by_seed.items())
    return Cell(f"{stat.mean:.4f}", stat.mean, spread(stat), is_highest=round(stat.mean, 4) == highest, hint=hint)


def _costs(cost: Cost | None) -> tuple[Cell, ...]:
    if cost is None:
        return (Cell(),) * len(_COSTS)
    training, inference = cost.training_seconds.mean, cost.inference_seconds.mean
    parameters, peak = cost.n_parameters.mean, cost.peak_memory_mb.mean
    return (
        Cell(duration(training), training),
        Cell(duration(inference), inference),
        Cell(count(parameters), parameters, hint=f"{parameters:,.0f}"),
        Cell(memory(peak), peak),
    )


def _breakdown(sheet: Sheet, kinds: Sequence[Groups]) -> Grid:
    shown = [entry for entry in sheet.entries if any(entry.name in groups.rows for groups in kinds)]
    columns = [
        [_column([groups.rows.get(entry.name, {}).get(name) for entry in shown]) for name in groups.sizes]
        for groups in kinds
    ]
    rows = [
        Row(entry, tuple(tuple(column[place] for column in of_kind) for of_kind in columns))
        for place, entry in enumerate(shown)
    ]
    heads = [
        ColumnGroup(groups.title, metric_name(groups.metric), tuple(map(_of_group, groups.sizes.items())))
        for groups in kinds
    ]
    return Grid(kinds[0].label, tuple(heads), tuple(rows))


def _of_group(group: tuple[str, int]) -> Column:
    name, n_users = group
    return Column(f"{name} ({n_users:,})")
