"""Records that lie at addresses of earlier versions, which held paths of this machine, get the addresses of today.

A folder with a board, its data and its records then keeps them wherever it is moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recgraph.leaderboard.board import Board, SheetSpec
from recgraph.leaderboard.compare import Comparisons
from recgraph.leaderboard.comparisons import save_comparisons
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.plan import jobs_of
from recgraph.leaderboard.sheet import compared_records, open_sheet
from recgraph.leaderboard.store import Store

__all__ = ["adopt"]


def adopt(board: Board, sheet: SheetSpec, results: str | Path | None = None) -> None:
    """Move the records of a sheet that lie at earlier addresses, with the comparisons that name these.

    Args:
        results: the folder of records; by default ``results`` beside the board's folder.
    """
    jobs = [job for job in _jobs(sheet) if job.earlier is not None] if sheet.data_places else []
    store = Store(board.folder_of(sheet, results))
    addresses = {job.before.entry: job.entry for job in jobs if job.before is not None}
    if any(store.placed(job) is not job for job in jobs):
        # first, so that a process which is killed in between leaves them to the records' new addresses
        found = open_sheet(board, sheet, results)
        if found.comparisons:
            records, metrics = compared_records(found)
            own = {addresses.get(address, address): each for address, each in records.items()}
            path = found.folder / sheet.comparisons
            save_comparisons(_renamed(found.comparisons, addresses), own, metrics, path, is_whole=found.is_compared)
    for job in jobs:
        store.adopt(job)


def _jobs(sheet: SheetSpec) -> list[Job]:
    found = []
    for entry in sheet.models:
        try:
            found += jobs_of(sheet, entry)
        except FileNotFoundError:  # its study is not there yet
            continue
    return found


def _renamed(comparisons: Comparisons, addresses: Mapping[str, str]) -> Comparisons:
    """The comparisons with other addresses of the entries."""

    def name(address: str) -> str:
        return addresses.get(address, address)

    return {
        title: {
            metric: replace(
                column, best=name(column.best), versus={name(each): tests for each, tests in column.versus.items()}
            )
            for metric, column in columns.items()
        }
        for title, columns in comparisons.items()
    }
