"""The tables of a sheet: for each title its protocol and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recgraph.evaluate.significance import OF_FOLD
from recgraph.leaderboard.board import SheetSpec
from recgraph.leaderboard.compare import check_protocols
from recgraph.leaderboard.job import TITLES, digest
from recgraph.leaderboard.store import Record

__all__ = ["ScoreTable", "score_tables", "text_of_field"]


@dataclass(frozen=True)
class ScoreTable:
    """The protocol and the columns of one table; numbers of different protocols must not be compared.

    Attributes:
        title: ``seen excluded``, ``20 labels a class``, ...
        metrics: the compared metrics; the first one orders the rows.
        protocol: field -> value as text.
        protocol_hash: 16 digits.
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
        """``" in 3 folds"``, where there are folds."""
        return "" if self.n_folds is None else f" in {self.n_folds} folds"


def score_tables(sheet: SheetSpec, records: list[Record]) -> tuple[ScoreTable, ...]:
    """The tables of a sheet's records.

    Raises:
        ProtocolMismatch: records of one table have different protocols.
    """
    titles = list(dict.fromkeys(title for record in records for title in record["scores"]))
    # the convention of most papers comes first
    titles.sort(key=lambda title: title != TITLES["exclude"])
    tables = [_table(sheet, title, [record for record in records if title in record["scores"]]) for title in titles]
    return tuple(table for table in tables if table.metrics)


def _table(sheet: SheetSpec, title: str, records: list[Record]) -> ScoreTable:
    check_protocols(sheet.dataset, title, records)
    first = records[0]["protocols"][title]
    of_folds = {record.get("fold"): record["protocols"][title] for record in reversed(records)}
    protocol, digits, n_folds = first["protocol"], first["protocol_hash"], sheet.protocol.n_folds
    if n_folds is not None:
        protocol = {name: value for name, value in protocol.items() if name not in OF_FOLD}
        protocol["folds"] = f"{text_of_field(sorted(of_folds))} of {n_folds}; numbers are means over folds and seeds"
        digits = digest(protocol)
    available = list(dict.fromkeys(metric for record in records for metric in record["scores"][title]))
    metrics = tuple(metric for metric in sheet.metrics if metric in available)
    if not metrics and title not in TITLES.values():  # of nodes' clusters other ones than of classes
        metrics = tuple(available)
    return ScoreTable(
        title,
        metrics,
        {name: text_of_field(value) for name, value in protocol.items() if value not in (None, "")},
        digits,
        sum(each["n_users"] for each in of_folds.values()) if "n_users" in first else None,
        sum(each.get("n_unreachable_users", 0) for each in of_folds.values()),
        None if n_folds is None else len(of_folds),
    )


def text_of_field(value: Any) -> str:
    """A field of a protocol or of the data as text."""
    if isinstance(value, list):
        return ", ".join(map(text_of_field, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of_field(held)}" for name, held in value.items())
    return f"{value}"
