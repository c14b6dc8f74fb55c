"""Significance tests of the entries of a data set, each against the best entry of its column, and
their file.

The file beside the records lets the marks of a board need no values of users. It names the scores
of each entry that it compared: where an entry is added to a board, or run again, the comparisons of
the others stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import TypeAdapter

from recgraph.evaluate.metrics import best_first
from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import TooFewPairs, holm, over_users, welch
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
        if address == self.best and differs:
            return "best" if all(differs.values()) else "tied"
        return "untested"


#: title of a protocol -> metric -> its column
Comparisons = dict[str, dict[str, Column]]
_FILE = TypeAdapter(Comparisons)


def compare(records: Records, metrics: Metrics, folder: Path) -> Comparisons | None:
    """Compare the entries; None where values of users of some are not at hand.

    Entries are compared over users, each with the mean over an entry's seeds, where a metric has
    values of users; and over seeds where both entries have at least two. p-values of either kind
    are corrected over a table.
    """
    found = Comparisons()
    for title, names in metrics.items():
        users: dict[str, list[Result]] = {}
        for address, own in records.items() if title in TITLES.values() else ():
            scored = [record for record in own.values() if title in record["scores"]]
            results = [load_values(folder, address, title, record) for record in scored]
            users[address] = [result for result in results if result is not None]
            if len(users[address]) < len(scored):
                return None
        found[title] = {metric: _compare_metric(records, title, metric, users) for metric in names}
        _adjust(found[title])
    return found


def _compare_metric(
    records: Records, title: str, metric: str, users: Mapping[str, list[Result]]
) -> Column:
    """The best entry of a metric against each other one; p-values are not adjusted yet."""
    scores = _over_seeds(records, title, metric)
    column = Column(_best_of(scores, metric))
    # a metric of lists together has no values of users
    of_users = {
        address: [each for each in own if metric in each.per_user] for address, own in users.items()
    }
    best, best_users = scores[column.best], of_users.get(column.best)
    for address, own in scores.items():
        if address != column.best and all(map(math.isfinite, (*own, *best))):
            tests = tuple(_tests(own, best, of_users.get(address), best_users, metric))
            column.versus.update({address: tests} if tests else {})
    return column


def _tests(
    own: list[float],
    best: list[float],
    own_users: list[Result] | None,
    best_users: list[Result] | None,
    metric: str,
) -> Iterator[Comparison]:
    if own_users and best_users:
        try:
            found = over_users(own_users, best_users, metric)
        except TooFewPairs:  # a metric may leave users without a value
            pass
        else:
            p, low, high = found.p_values["randomisation"], found.interval.low, found.interval.high
            yield Comparison(
                "users", found.n, found.difference, low, high, p, p, _finite(found.cohen_d)
            )
    if len(own) > 1 and len(best) > 1:
        t, n = welch(own, best), len(own) + len(best)
        low, high = t.interval.low, t.interval.high
        yield Comparison(
            "seeds", n, t.difference, low, high, t.p_value, t.p_value, _finite(t.hedges_g)
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _over_seeds(records: Records, title: str, metric: str) -> dict[str, list[float]]:
    """Address of an entry -> its values of a metric over seeds; entries without it are left out."""
    values = {
        address: [
            float(scores[metric])
            for record in own.values()
            if metric in (scores := record["scores"].get(title, {}))
        ]
        for address, own in records.items()
    }
    return {address: own for address, own in values.items() if own}


def _best_of(scores: Mapping[str, list[float]], metric: str) -> str:
    return best_first({address: fmean(values) for address, values in scores.items()}, metric)[0]


def _adjust(columns: Mapping[str, Column], n_untested: int = 0) -> None:
    """Set ``p_adjusted`` by Holm's correction, over users and over seeds; an untested pair counts
    with a p of 1.
    """
    tests = [
        test
        for column in columns.values()
        for several in column.versus.values()
        for test in several
    ]
    for over in ("users", "seeds"):
        own = [test for test in tests if test.over == over]
        adjusted = holm([test.p_value for test in own] + [1.0] * n_untested).tolist()
        for test, p in zip(own, adjusted, strict=False):
            test.p_adjusted = p


# -- the file


def _digests(records: Records) -> dict[str, str]:
    return {
        address: digest({"scores": {str(seed): record["scores"] for seed, record in own.items()}})
        for address, own in records.items()
    }


def _inputs(records: Records, metrics: Metrics) -> str:
    """The digest of the scores that are compared: comparisons on file are all there are where it is
    the same.
    """
    scores = {
        f"{address}-{seed}": each["scores"]
        for address, own in records.items()
        for seed, each in own.items()
    }
    return digest(
        {"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}}
    )


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
    same = {
        address for address, own in _digests(records).items() if file["entries"].get(address) == own
    }
    before, found = _FILE.validate_python(file["columns"]), Comparisons()
    for title, names in metrics.items():
        columns, n_pairs = dict[str, Column](), 0
        for metric in names:
            scores = _over_seeds(records, title, metric)
            n_pairs += max(len(scores) - 1, 0)
            column = before.get(title, {}).get(metric)
            if (
                column is not None
                and column.best in same
                and _best_of(scores, metric) == column.best
            ):
                versus = {
                    address: tests for address, tests in column.versus.items() if address in same
                }
                columns[metric] = Column(column.best, versus)
        n_untested = n_pairs - sum(len(column.versus) for column in columns.values())
        _adjust(columns, 0 if is_whole else n_untested)
        found[title] = columns
    return found, is_whole


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
