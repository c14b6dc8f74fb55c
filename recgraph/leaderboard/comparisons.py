"""The file of comparisons beside the records, so that the marks of a board need no values of users.

It names the scores of each entry that it compared: where an entry is added to a board, or run again, the comparisons of
the others stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from recgraph.data.imprint import replace_json
from recgraph.leaderboard.compare import (
    Column,
    Comparison,
    Comparisons,
    adjust_partly,
    best_of,
    values_over_seeds,
)
from recgraph.leaderboard.job import digest
from recgraph.leaderboard.repeats import Repeat
from recgraph.leaderboard.store import Record, read_json

__all__ = ["inputs_of", "load_comparisons", "save_comparisons"]


def inputs_of(records: Mapping[str, Mapping[Repeat, Record]], metrics: Mapping[str, Sequence[str]]) -> str:
    """The digest of the scores that are compared: comparisons on file fit the records where it is the same.

    Args:
        records: address of an entry -> seed -> its record.
        metrics: title of a protocol -> the metrics that are compared.
    """
    scores = {f"{address}-{seed}": each["scores"] for address, own in records.items() for seed, each in own.items()}
    return digest({"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}})


def _digests(records: Mapping[str, Mapping[Repeat, Record]]) -> dict[str, str]:
    """Address of an entry -> the digest of its scores."""
    return {
        address: digest({"scores": {str(seed): record["scores"] for seed, record in own.items()}})
        for address, own in records.items()
    }


def load_comparisons(
    path: Path, records: Mapping[str, Mapping[Repeat, Record]], metrics: Mapping[str, Sequence[str]], inputs: str
) -> tuple[Comparisons, bool]:
    """Read the comparisons of some records, and whether they are all of them; empty where the file does not exist.

    Where entries came, went or changed since, those comparisons are left that are of unchanged entries with an
    unchanged best one; the p of a table are then corrected as if each entry that is not compared had a p of 1.

    Args:
        records: address of an entry -> seed -> its record.
        metrics: title of a protocol -> the metrics that are compared.
        inputs: the digest of both, see :func:`inputs_of`.

    Raises:
        ValueError: the file is incomplete or was edited; names it.
    """
    # earlier versions kept one file for all sheets of a data set
    found = read_json(path) or read_json(path.with_name("comparisons.json"))
    if found is None:
        return {}, False
    columns: Comparisons = {
        title: {
            metric: Column(
                values["best"],
                {address: tuple(Comparison(**test) for test in tests) for address, tests in values["versus"].items()},
            )
            for metric, values in of_title.items()
        }
        for title, of_title in found["columns"].items()
    }
    if found["inputs"] == inputs:
        return columns, True
    # earlier versions did not say which scores of an entry they had compared
    digests = found.get("entries", {})
    same = {address for address, own in _digests(records).items() if digests.get(address) == own}
    left = {title: _still_valid(records, title, columns.get(title, {}), metrics[title], same) for title in metrics}
    return {title: own for title, own in left.items() if own}, False


def _still_valid(
    records: Mapping[str, Mapping[Repeat, Record]],
    title: str,
    columns: Mapping[str, Column],
    metrics: Sequence[str],
    same: set[str],
) -> dict[str, Column]:
    """The columns of a table that unchanged entries leave."""
    left = {}
    for metric in metrics:
        scores = values_over_seeds(records, title, metric)
        column = columns.get(metric)
        if column is not None and scores and column.best in same and best_of(scores, metric) == column.best:
            left[metric] = Column(column.best, {other: own for other, own in column.versus.items() if other in same})
    adjust_partly(records, title, metrics, left)
    return left


def save_comparisons(
    comparisons: Comparisons,
    records: Mapping[str, Mapping[Repeat, Record]],
    metrics: Mapping[str, Sequence[str]],
    path: Path,
    *,
    is_whole: bool = True,
) -> None:
    """Write the comparisons of some records, in one step.

    Args:
        records, metrics: as of :func:`load_comparisons`.
        is_whole: whether none is left to make.
    """
    columns = {
        title: {metric: asdict(column) for metric, column in of_title.items()}
        for title, of_title in comparisons.items()
    }
    inputs = inputs_of(records, metrics) if is_whole else ""
    replace_json({"inputs": inputs, "entries": _digests(records), "columns": columns}, path, allow_nan=False)
