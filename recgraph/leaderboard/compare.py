"""Significance tests of the entries of a data set, each against the best entry of its column.

The results are kept in a small file beside the records, so that the marks need no values of users.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from recgraph.data.imprint import replace_json
from recgraph.evaluate.metrics.names import best_first, higher_is_better
from recgraph.evaluate.results import ProtocolMismatch, Result
from recgraph.evaluate.significance import holm, over_users
from recgraph.evaluate.statistics import welch
from recgraph.leaderboard.plan import TITLES, digest
from recgraph.leaderboard.store import Record, Store, read_json

__all__ = [
    "ALPHA",
    "MARKS",
    "Column",
    "Comparison",
    "Comparisons",
    "Mark",
    "check_protocols",
    "compare",
    "describe_tests",
    "inputs_of",
    "load_comparisons",
    "save_comparisons",
    "values_over_seeds",
]

#: an adjusted p-value below it counts as a difference
ALPHA = 0.05
Mark = Literal["best", "tied", "worse", "untested", ""]
#: mark -> its sign in a table, and its meaning
MARKS: dict[Mark, tuple[str, str]] = {
    "best": ("★", f"significantly better than every other entry that could be tested (adjusted p < {ALPHA:g})"),
    "tied": ("≈", f"not told from the entry with the highest mean (adjusted p ≥ {ALPHA:g}), or that entry itself"),
    "worse": ("", f"no sign: significantly worse than the entry with the highest mean (adjusted p < {ALPHA:g})"),
    "untested": ("?", "not tested: fewer than two seeds, or no values of users at hand"),
}


@dataclass
class Comparison:
    """The best entry of a column less another entry.

    Attributes:
        over: the unit that was resampled: ``users`` (each with the mean over an entry's seeds) or ``seeds``.
        n: number of users that both entries have, or of seeds of both together.
        difference: of the means.
        low, high: the 95 % interval of the difference: percentile bootstrap over users, Welch's interval over seeds.
        p_value: two-sided: Fisher's randomisation test over users, Welch's t-test over seeds.
        p_adjusted: by Holm's correction over all entries and metrics of the table.
        effect: the standardised difference: Cohen's d of the pairs over users, Hedges' g over seeds; None where it is
            not finite.
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
    """The comparisons of one metric under one protocol.

    Attributes:
        best: the address of the best entry.
        versus: the address of each other entry -> its comparisons; the first one decides its mark.
    """

    best: str
    versus: dict[str, tuple[Comparison, ...]] = field(default_factory=dict)

    def mark(self, address: str) -> Mark:
        """The mark of an entry, a key of ``MARKS``."""
        differs = {other: tests[0].p_adjusted < ALPHA for other, tests in self.versus.items() if tests}
        if address in differs:
            return "worse" if differs[address] else "tied"
        if address == self.best and differs:
            return "best" if all(differs.values()) else "tied"
        return "untested"


#: title of a protocol -> metric -> its column
Comparisons = dict[str, dict[str, Column]]


def compare(
    records: Mapping[str, Mapping[int, Record]], metrics: Mapping[str, Sequence[str]], store: Store
) -> Comparisons | None:
    """Compare the entries; None where the values of users that a table needs are not at hand.

    Entries are compared over users, each with the mean over an entry's seeds, where a metric has values of users; and
    over seeds where both entries have at least two. The first of these tests decides the mark. p-values of either kind
    are corrected over a table.

    Args:
        records: address of an entry -> seed -> its record; comparisons are in this order.
        metrics: title of a protocol -> the metrics to compare.
        store: where the values of users are.
    """
    found = {}
    for title, names in metrics.items():
        users = _users(records, title, store) if title in TITLES.values() else {}
        if users is None:
            return None
        found[title] = {metric: _compare_metric(records, title, metric, users) for metric in names}
        _adjust([test for column in found[title].values() for tests in column.versus.values() for test in tests])
    return found


def check_protocols(dataset: str, title: str, records: Sequence[Record]) -> None:
    """Refuse records of one table that were made in different ways.

    Their lists of cut-offs may differ: a metric at a cut-off of both is the same number.

    Raises:
        ProtocolMismatch: names what differs.
    """
    first = records[0]["protocols"][title]
    for record in records:
        other = record["protocols"][title]
        if other["protocol_hash"] == first["protocol_hash"]:
            continue
        fields = {**first["protocol"], **other["protocol"]}
        differing = [name for name in fields if first["protocol"].get(name) != other["protocol"].get(name)]
        if differing != ["cutoffs"]:
            raise ProtocolMismatch(
                f"records of {dataset!r} under {title!r} have protocols {first['protocol_hash']} and "
                f"{other['protocol_hash']}, which differ in {', '.join(differing)}; remove those of one and run the "
                "board again"
            )


def values_over_seeds(records: Mapping[str, Mapping[int, Record]], title: str, metric: str) -> dict[str, list[float]]:
    """Address (or name) of an entry -> its values of a metric, one for each seed; entries without it are left out."""
    found = {}
    for entry, own in records.items():
        scores = [record["scores"].get(title, {}) for record in own.values()]
        if values := [float(each[metric]) for each in scores if metric in each]:
            found[entry] = values
    return found


def _users(records: Mapping[str, Mapping[int, Record]], title: str, store: Store) -> dict[str, list[Result]] | None:
    """Address of an entry -> the values of users of each seed; None where a file is missing or is not its record's."""
    found: dict[str, list[Result]] = {}
    for address, own in records.items():
        for seed, record in own.items():
            result = store.values(f"{record['model']}-{address}-seed{seed}", title, record)
            if result is None:
                return None
            found.setdefault(address, []).append(result)
    return found


def _compare_metric(
    records: Mapping[str, Mapping[int, Record]], title: str, metric: str, users: Mapping[str, list[Result]]
) -> Column:
    """The best entry of a metric against each other one; p-values are not adjusted yet."""
    scores = values_over_seeds(records, title, metric)
    means = {address: statistics.fmean(values) for address, values in scores.items()}
    best = best_first(means, metric)[0]
    column = Column(best)
    for address, values in scores.items():
        if address != best and not math.isnan(means[address]):
            tests = tuple(_tests(values, scores[best], users.get(address), users.get(best), metric))
            if tests:
                column.versus[address] = tests
    return column


def _tests(
    own: list[float], best: list[float], own_users: list[Result] | None, best_users: list[Result] | None, metric: str
) -> Iterator[Comparison]:
    if own_users and best_users and metric in own_users[0].per_user and metric in best_users[0].per_user:
        found = over_users(own_users, best_users, metric)
        p, low, high = found.p_values["randomisation"], found.interval.low, found.interval.high
        yield Comparison("users", found.n, found.difference, low, high, p, p, _finite(found.cohen_d))
    if len(own) > 1 and len(best) > 1:
        t, n = welch(own, best), len(own) + len(best)
        low, high = t.interval.low, t.interval.high
        yield Comparison("seeds", n, t.difference, low, high, t.p_value, t.p_value, _finite(t.hedges_g))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _adjust(tests: Sequence[Comparison]) -> None:
    """Set ``p_adjusted`` by Holm's correction, over users and over seeds separately."""
    for over in ("users", "seeds"):
        own = [test for test in tests if test.over == over]
        for test, p in zip(own, holm([test.p_value for test in own]).tolist(), strict=True):
            test.p_adjusted = p


def describe_tests(comparisons: Comparisons) -> str:
    """A sentence on how the entries were tested; says so where nothing was tested."""
    columns = [(metric, column) for metrics in comparisons.values() for metric, column in metrics.items()]
    decisive = {tests[0].over for _, column in columns for tests in column.versus.values() if tests}
    if not decisive:
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."
    how = (
        "Fisher's randomisation test over users, each with the mean over an entry's seeds; intervals by the bootstrap"
        if "users" in decisive
        else "Welch's t-test over seeds; intervals are Welch's"
    )
    lower = ", ".join(
        metric for metric in dict.fromkeys(metric for metric, _ in columns) if not higher_is_better(metric)
    )
    best = f"highest mean of its column (the lowest of {lower})" if lower else "highest mean of its column"
    return f"Each entry against the {best}: {how}; p adjusted over a table by Holm's correction."


def inputs_of(records: Mapping[str, Mapping[int, Record]], metrics: Mapping[str, Sequence[str]]) -> str:
    """The digest of the scores that are compared: comparisons on file fit the records where it is the same.

    Args:
        records: address of an entry -> seed -> its record.
        metrics: title of a protocol -> the metrics that are compared.
    """
    scores = {f"{address}-{seed}": each["scores"] for address, own in records.items() for seed, each in own.items()}
    return digest({"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}})


def load_comparisons(path: Path, inputs: str) -> Comparisons:
    """Read the comparisons of some scores; empty where the file does not exist or is of other scores.

    Args:
        inputs: the digest of the scores, see :func:`inputs_of`.

    Raises:
        ValueError: the file is incomplete or was edited; names it.
    """
    # earlier versions kept one file for all sheets of a data set
    found = read_json(path) or read_json(path.with_name("comparisons.json"))
    if found is None or found["inputs"] != inputs:
        return {}
    return {
        title: {
            metric: Column(
                values["best"],
                {address: tuple(Comparison(**test) for test in tests) for address, tests in values["versus"].items()},
            )
            for metric, values in metrics.items()
        }
        for title, metrics in found["columns"].items()
    }


def save_comparisons(comparisons: Comparisons, inputs: str, path: Path) -> None:
    """Write the comparisons of the scores with digest ``inputs``, in one step."""
    columns = {
        title: {metric: asdict(column) for metric, column in metrics.items()} for title, metrics in comparisons.items()
    }
    replace_json({"inputs": inputs, "columns": columns}, path, allow_nan=False)
