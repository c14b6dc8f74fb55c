"""Significance tests of the entries of a data set, each against the best entry of its column, and
their file.

The file beside the records lets the marks of a board need no values of users. It names the scores
of each entry that it compared: where an entry is added to a board, or run again, the comparisons of
the others stay.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import TypeAdapter

from recgraph.evaluate import significance
from recgraph.evaluate.metrics import best_first
from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import TooFewPairs, holm, welch
from recgraph.files import write_json
from recgraph.leaderboard.plan import TITLES, Records, digest, load_values, read_json

#: an adjusted p-value below it counts as a difference
ALPHA = 0.05
#: title of a protocol -> the metrics that are compared
Metrics = Mapping[str, Sequence[str]]
Mark = Literal["best", "tied", "worse", "untested", ""]
#: mark -> its sign in a table, and its meaning
MARKS: dict[Mark, tuple[str, str]] = {
    "best": (
        "★",
        f"significantly better than every other entry that could be tested (adjusted p < {ALPHA:g})",
    ),
    "tied": (
        "≈",
        f"not told from the entry with the highest mean (adjusted p ≥ {ALPHA:g}), or that entry itself",
    ),
    "worse": (
        "",
        f"no sign: significantly worse than the entry with the highest mean (adjusted p < {ALPHA:g})",
    ),
    "untested": ("?", "not tested: fewer than two seeds, or no values of users at hand"),
}
TESTED = (
    "Each entry against the best of its column: Fisher's randomisation test over users, each with the mean over an "
    "entry's seeds, with intervals by the bootstrap; where a metric has no values of users, Welch's t-test over seeds; "
    "p adjusted over a table by Holm's correction."
)


@dataclass
class Comparison:
    """The best entry of a column less another entry, over ``n`` users that both have or seeds of
    both together.

    Attributes:
        low, high: the 95 % interval of the difference: percentile bootstrap over users, Welch's
            interval over seeds.
        p_value: two-sided: Fisher's randomisation test over users, Welch's t-test over seeds.
        p_adjusted: by Holm's correction over all entries and metrics of the table.
        effect: Cohen's d of the pairs over users, Hedges' g over seeds; None where it is not
            finite.
    """

    over: Literal["users", "seeds"]
    n: int
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    effect: float | None


@dataclass(frozen=True)
class Column:
    """One metric under one protocol: the best entry's address, and that of each other -> its
    comparisons with it.
    """

    best: str
    versus: dict[str, tuple[Comparison, ...]] = field(default_factory=dict)

    def mark(self, address: str) -> Mark:
        """The mark of an entry; the first of its comparisons decides."""
        differs = {other: tests[0].p_adjusted < ALPHA for other, tests in self.versus.items()}
        if address in differs:
            return "worse" if differs[address] else "tied"
        if not differs or address != self.best:
            return "untested"
        return "best" if all(differs.values()) else "tied"


#: title of a protocol -> metric -> its column
Comparisons = dict[str, dict[str, Column]]
#: address of an entry -> the values of its users, a result for each seed
_Users = Mapping[str, list[Result]]
_FILE = TypeAdapter(Comparisons)


def compare(records: Records, metrics: Metrics, folder: Path) -> Comparisons | None:
    """Compare the entries; None where values of users of some are not at hand.

    Entries are compared over users, each with the mean over an entry's seeds, where a metric has
    values of users; and over seeds where both entries have at least two. p-values of either kind
    are corrected over a table.
    """
    comparisons = Comparisons()
    for title, names in metrics.items():
        users: _Users | None = {}
        if title in TITLES.values():
            users = _load_users(records, title, folder)
        if users is None:
            return None
        comparisons[title] = {
            metric: _compare_metric(records, title, metric, users) for metric in names
        }
        _adjust(comparisons[title])
    return comparisons


def _load_users(records: Records, title: str, folder: Path) -> _Users | None:
    """Address of an entry -> the values of its users in a table, a result for each seed; None where
    some are not at hand.
    """
    users = defaultdict(list)
    for address, by_seed in records.items():
        for record in by_seed.values():
            if title in record["scores"]:
                result = load_values(folder, address, title, record)
                if result is None:
                    return None
                users[address].append(result)
    return users


def _compare_metric(records: Records, title: str, metric: str, users: _Users) -> Column:
    """The best entry of a metric against each other one; p-values are not adjusted yet."""
    scores = _over_seeds(records, title, metric)
    best = _best_of(scores, metric)
    column = Column(best)
    for address, values in scores.items():
        if address == best or not all(map(math.isfinite, values + scores[best])):
            continue
        tests = []
        over_users = _over_users(users.get(address), users.get(best), metric)
        if over_users is not None:
            tests.append(over_users)
        if min(len(values), len(scores[best])) > 1:
            test = welch(values, scores[best])
            n = len(values) + len(scores[best])
            tests.append(_comparison("seeds", n, test, test.p_value, test.hedges_g))
        if tests:
            column.versus[address] = tuple(tests)
    return column


def _over_users(
    results: list[Result] | None, best: list[Result] | None, metric: str
) -> Comparison | None:
    # a metric of lists together has no values of users
    if not results or not best or metric not in best[0].per_user:
        return None
    try:
        test = significance.over_users(results, best, metric)
    except TooFewPairs:  # a metric may leave users without a value
        return None
    return _comparison("users", test.n, test, test.p_values["randomisation"], test.cohen_d)


def _comparison(
    over: Literal["users", "seeds"], n: int, test: Any, p_value: float, effect: float
) -> Comparison:
    return Comparison(
        over=over,
        n=n,
        difference=test.difference,
        low=test.interval.low,
        high=test.interval.high,
        p_value=p_value,
        p_adjusted=p_value,
        effect=_finite(effect),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _over_seeds(records: Records, title: str, metric: str) -> dict[str, list[float]]:
    """Address of an entry -> its values of a metric over seeds; entries without it are left out."""
    values = defaultdict(list)
    for address, by_seed in records.items():
        for record in by_seed.values():
            scores = record["scores"].get(title, {})
            if metric in scores:
                values[address].append(float(scores[metric]))
    return dict(values)


def _best_of(scores: Mapping[str, list[float]], metric: str) -> str:
    return best_first({address: fmean(values) for address, values in scores.items()}, metric)[0]


def _adjust(columns: Mapping[str, Column], n_untested: int = 0) -> None:
    """Set ``p_adjusted`` by Holm's correction, over users and over seeds; an untested pair counts
    with a p of 1.
    """
    of_kind: dict[str, list[Comparison]] = {"users": [], "seeds": []}
    for column in columns.values():
        for test in chain.from_iterable(column.versus.values()):
            of_kind[test.over].append(test)
    for tests in of_kind.values():
        adjusted = holm([test.p_value for test in tests] + [1.0] * n_untested)
        for test, p in zip(tests, adjusted.tolist(), strict=False):
            test.p_adjusted = p


# -- the file


def _digests(records: Records) -> dict[str, str]:
    """Address of an entry -> the digest of its scores."""
    return {
        address: digest({"scores": {str(seed): record["scores"] for seed, record in own.items()}})
        for address, own in records.items()
    }


def _inputs(records: Records, metrics: Metrics) -> str:
    """The digest of the scores that are compared: comparisons on file are all there are where it is
    the same.
    """
    scores = {}
    for address, by_seed in records.items():
        for seed, record in by_seed.items():
            scores[f"{address}-{seed}"] = record["scores"]
    return digest({"scores": scores, "metrics": dict(metrics)})


def load_comparisons(path: Path, records: Records, metrics: Metrics) -> tuple[Comparisons, bool]:
    """Read the comparisons of some records, and whether they are all of them; empty where the file
    does not exist.

    Where entries came, went or changed since, those comparisons are left that are of unchanged
    entries with an unchanged best one; the p of a table are then corrected as if each other entry
    had a p of 1.
    """
    file = read_json(path)
    if file is None:
        return {}, False
    is_whole = file["inputs"] == _inputs(records, metrics)
    unchanged = dict(file["entries"].items() & _digests(records).items())
    before = _FILE.validate_python(file["columns"])
    comparisons = Comparisons()
    for title, names in metrics.items():
        columns: dict[str, Column] = {}
        n_untested = 0
        for metric in names:
            scores = _over_seeds(records, title, metric)
            n_untested += max(len(scores) - 1, 0)
            column = before.get(title, {}).get(metric, Column(""))
            if column.best in unchanged and column.best == _best_of(scores, metric):
                versus = {
                    address: tests
                    for address, tests in column.versus.items()
                    if address in unchanged
                }
                columns[metric] = Column(column.best, versus)
                n_untested -= len(versus)
        _adjust(columns, 0 if is_whole else n_untested)
        comparisons[title] = columns
    return comparisons, is_whole


def save_comparisons(
    comparisons: Comparisons, records: Records, metrics: Metrics, path: Path
) -> None:
    columns = _FILE.dump_python(comparisons, mode="json")
    file: dict[str, Any] = {
        "inputs": _inputs(records, metrics),
        "entries": _digests(records),
        "columns": columns,
    }
    write_json(file, path, allow_nan=False)
