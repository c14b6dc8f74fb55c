"""A board as rows: all numbers with full precision, a line a number, for a spreadsheet or a program."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from recgraph.leaderboard.entry import Cost, Entry, Score
from recgraph.leaderboard.sheet import Sheet
from recgraph.leaderboard.stat import Stat

__all__ = ["COLUMNS", "rows", "to_csv"]

_TEST = ("n", "low", "high", "p_value", "p_adjusted", "effect")
#: ``kind`` is score, group, cost, failure or missing; ``values`` are ``seed:value``; what does not apply is empty
COLUMNS = (
    *("board", "dataset", "entry", "model", "address", "kind", "table", "protocol", "group", "name"),
    *("mean", "sd", "n_seeds", "values", "mark", "difference"),
    *(f"{over}_{name}" for over in ("users", "seeds") for name in _TEST),
    "message",
)
_COSTS = tuple(Cost.__dataclass_fields__)


def to_csv(sheets: Sequence[Sheet]) -> str:
    """The rows of all sheets as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for sheet in sheets:
        writer.writerows(rows(sheet))
    return text.getvalue()


def rows(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """The rows of a sheet: scores, then groups, costs, failures and what is missing."""
    entries = {entry.name: _who(sheet, entry) for entry in sheet.entries}
    protocols = {table.title: table.protocol_hash for table in sheet.tables}
    for entry in sheet.entries:
        for title, scores in entry.scores.items():
            for score in scores.values():
                where = {"kind": "score", "table": title, "protocol": protocols[title], "name": score.metric}
                yield {**entries[entry.name], **where, **_stat(score), **_tests(score)}
    for groups in sheet.groups:
        for name, own in groups.rows.items():
            where = {"kind": "group", "table": groups.title, "protocol": protocols[groups.title], "name": groups.metric}
            for group, stat in own.items():
                yield {**entries[name], **where, "group": f"{groups.kind} {group}", **_stat(stat)}
    for entry in sheet.entries:
        for name in _COSTS if entry.cost is not None else ():
            stat = getattr(entry.cost, name)
            if stat is not None:
                yield {**entries[entry.name], "kind": "cost", "name": name, **_stat(stat)}
    for failure in sheet.failures:
        message = f"{failure.error}: {failure.message}"
        yield {**entries[failure.entry], "kind": "failure", "name": f"seed {failure.seed}", "message": message}
    for missing in sheet.missing:
        who = entries.get(missing.entry, {"board": sheet.board, "dataset": sheet.dataset, "entry": missing.entry})
        for seed in missing.seeds:
            yield {**who, "kind": "missing", "name": f"seed {seed}", "message": missing.reason}


def _who(sheet: Sheet, entry: Entry) -> dict[str, Any]:
    own = {"entry": entry.name, "model": entry.model, "address": entry.address}
    return {"board": sheet.board, "dataset": sheet.dataset, **own}


def _stat(stat: Stat) -> dict[str, Any]:
    values = " ".join(f"{seed}:{value!r}" for seed, value in stat.by_seed.items())
    return {"mean": stat.mean, "sd": "" if stat.sd is None else stat.sd, "n_seeds": stat.n, "values": values}


def _tests(score: Score) -> dict[str, Any]:
    found: dict[str, Any] = {"mark": score.mark}
    for test in score.versus:
        found["difference"] = test.difference
        found |= {f"{test.over}_{name}": getattr(test, name) for name in _TEST}
    return {name: "" if value is None else value for name, value in found.items()}
