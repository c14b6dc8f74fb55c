"""Significance tests of a sheet: each entry against the best of its column."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import holm, over_users
from recgraph.evaluate.statistics import welch
from recgraph.leaderboard.comparisons import Column, Comparisons, Over, Versus, load_comparisons, save_comparisons
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.frame import Number
from recgraph.leaderboard.plan import TITLES
from recgraph.leaderboard.sheet import ScoreTable, Sheet
from recgraph.leaderboard.store import Store

__all__ = ["compared", "is_compared", "update_comparisons"]


def update_comparisons(sheet: Sheet) -> Sheet:
    """The sheet with marks that fit its records; what was computed is kept beside them.

    Nothing is computed where what is kept fits, and nothing is changed where the values of users, which are not in git,
    are not at hand: the marks are those of a run on a machine that has them, or ``untested``.
    """
    if is_compared(sheet):
        return sheet
    found = compared(sheet)
    if found is None:
        return sheet
    save_comparisons(found, sheet.folder / sheet.spec.comparisons)
    return replace(sheet, comparisons=found)


def is_compared(sheet: Sheet) -> bool:
    """Whether what is kept fits the sheet's records, or there is nothing to compare."""
    return not sheet.tables or load_comparisons(sheet.folder / sheet.spec.comparisons).inputs == sheet.inputs


def compared(sheet: Sheet) -> Comparisons | None:
    """Compare the entries; None where the values of users that a table needs are not at hand.

    Over users, each counting with the mean over an entry's seeds, where a metric has values of users; and over seeds,
    of entries with two seeds or more. The first of them decides, each is corrected over the table it is in.
    """
    columns = {}
    for table in sheet.tables:
        users = _users(sheet, table)
        if users is None:
            return None
        columns[table.title] = _columns(sheet, table, users)
    return Comparisons(sheet.inputs, columns)


def _columns(sheet: Sheet, table: ScoreTable, users: dict[str, list[Result]]) -> dict[str, Column]:
    best: dict[str, Entry] = {}
    tests: list[tuple[str, str, Versus]] = []
    for metric in table.metrics:
        ranked = sheet.ranked(table.title, metric)
        best[metric] = ranked[0]
        scores = {entry.name: sheet.numbers[entry.name, table.title, "", "", metric] for entry in ranked}
        # in the order of the board's main table
        for entry in sheet.entries:
            if entry is ranked[0] or entry.name not in scores or math.isnan(scores[entry.name].mean):
                continue
            pair = scores[entry.name], scores[ranked[0].name]
            results = users.get(entry.address), users.get(ranked[0].address)
            tests += [(metric, entry.address, test) for test in _tests(*pair, *results, metric)]
    adjusted = _adjusted(tests)
    return {metric: Column(own.address, _of_column(metric, adjusted)) for metric, own in best.items()}


def _tests(
    own: Number, best: Number, own_users: list[Result] | None, best_users: list[Result] | None, metric: str
) -> Iterable[Versus]:
    """The best less an entry, p not adjusted yet."""
    if own_users and best_users and metric in own_users[0].per_user and metric in best_users[0].per_user:
        found = over_users(own_users, best_users, metric)
        p, low, high = found.p_values["randomisation"], found.interval.low, found.interval.high
        yield Versus("users", found.n, found.difference, low, high, p, p, _finite(found.cohen_d))
    if own.n > 1 and best.n > 1:
        t = welch(list(own.by_seed.values()), list(best.by_seed.values()))
        low, high = t.interval.low, t.interval.high
        yield Versus("seeds", own.n + best.n, t.difference, low, high, t.p_value, t.p_value, _finite(t.hedges_g))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _adjusted(tests: Sequence[tuple[str, str, Versus]]) -> list[tuple[str, str, Versus]]:
    """The same with Holm's correction, over all tests of a kind."""
    kinds: tuple[Over, ...] = ("users", "seeds")
    adjusted: dict[int, float] = {}
    for over in kinds:
        places = [place for place, (_, _, test) in enumerate(tests) if test.over == over]
        values = holm([tests[place][2].p_value for place in places]).tolist()
        adjusted.update(zip(places, values, strict=True))
    return [
        (metric, address, replace(test, p_adjusted=adjusted[place]))
        for place, (metric, address, test) in enumerate(tests)
    ]


def _of_column(metric: str, tests: Iterable[tuple[str, str, Versus]]) -> dict[str, tuple[Versus, ...]]:
    found: dict[str, tuple[Versus, ...]] = {}
    for of, address, test in tests:
        if of == metric:
            found[address] = (*found.get(address, ()), test)
    return found


def _users(sheet: Sheet, table: ScoreTable) -> dict[str, list[Result]] | None:
    """Address of an entry -> the values of users of each of its seeds, none where a table has no users.

    None where a file is missing, or is not of its record.
    """
    found: dict[str, list[Result]] = {}
    if table.title not in TITLES.values():
        return found
    store = Store(sheet.folder)
    for entry in sheet.entries:
        for name in entry.records.values():
            result = store.values(name.removesuffix(".json"), table.title, store.read(name))
            if result is None:
                return None
            found.setdefault(entry.address, []).append(result)
    return found
