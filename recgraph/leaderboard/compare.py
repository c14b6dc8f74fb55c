"""Significance tests of the entries of a data set, each against the best entry of its column, and their file.

The file beside the records lets the marks of a board need no values of users. It names the scores of each entry that it
compared: where an entry is added to a board, or run again, the comparisons of the others stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Literal

from pydantic import TypeAdapter

from recgraph.evaluate.metrics import best_first, higher_is_better
from recgraph.evaluate.results import ProtocolMismatch, Result
from recgraph.evaluate.significance import TooFewPairs, holm, over_users, welch
from recgraph.files import write_json
from recgraph.leaderboard.plan import TITLES, Record, Records, digest, load_values, read_json

#: an adjusted p-value below it counts as a difference
ALPHA = 0.05
#: title of a protocol -> the metrics that are compared
Metrics = Mapping[str, Sequence[str]]
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
    """The best entry of a column less another entry, over ``n`` users that both have or seeds of both together.

    Attributes:
        low, high: the 95 % interval of the difference: percentile bootstrap over users, Welch's interval over seeds.
        p_value: two-sided: Fisher's randomisation test over users, Welch's t-test over seeds.
        p_adjusted: by Holm's correction over all entries and metrics of the table.
        effect: Cohen's d of the pairs over users, Hedges' g over seeds; None where it is not finite.
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
    """One metric under one protocol: the best entry's address, and that of each other -> its comparisons with it."""

    best: str
    versus: dict[str, tuple[Comparison, ...]] = field(default_factory=dict)

    def mark(self, address: str) -> Mark:
        """The mark of an entry; the first of its comparisons decides."""
        differs = {other: tests[0].p_adjusted < ALPHA for other, tests in self.versus.items() if tests}
        if address in differs:
            return "worse" if differs[address] else "tied"
        if address == self.best and differs:
            return "best" if all(differs.values()) else "tied"
        return "untested"


#: title of a protocol -> metric -> its column
Comparisons = dict[str, dict[str, Column]]
_FILE = TypeAdapter(Comparisons)


def compare(records: Records, metrics: Metrics, folder: Path, before: Comparisons) -> tuple[Comparisons, bool]:
    """Compare the entries; and whether none is left untested because values of users are not at hand.

    Entries are compared over users, each with the mean over an entry's seeds, where a metric has values of users; and
    over seeds where both entries have at least two. The first of these tests decides the mark. p-values of either kind
    are corrected over a table. Where values of users are not at hand, comparisons of ``before`` stay.
    """
    found, is_whole = {}, True
    for title, names in metrics.items():
        users = _users(records, title, folder) if title in TITLES.values() else None
        columns = found[title] = {metric: _compare_metric(records, title, metric, users) for metric in names}
        if users is None or users.keys() == {*_scored(records, title)}:
            _adjust(columns)
            continue
        is_whole = False
        for metric, column in columns.items():
            earlier = before.get(title, {}).get(metric)
            if earlier is not None and earlier.best == column.best:
                column.versus.update(one for one in earlier.versus.items() if one[0] not in column.versus)
        _adjust(columns, _n_untested(records, title, names, columns))
    return found, is_whole


def check_protocols(dataset: str, title: str, records: Sequence[Record]) -> None:
    """Refuse records of one table that were made in different ways; the message names what differs.

    Lists of cut-offs may differ: a metric at a cut-off of both is the same number.
    """
    one = records[0]["protocols"][title]
    for other in (record["protocols"][title] for record in records):
        fields = {**one["protocol"], **other["protocol"]}
        differing = [name for name in fields if one["protocol"].get(name) != other["protocol"].get(name)]
        if one["protocol_hash"] != other["protocol_hash"] and differing != ["cutoffs"]:
            raise ProtocolMismatch(
                f"records of {dataset!r} under {title!r} have protocols {one['protocol_hash']} and "
                f"{other['protocol_hash']}, which differ in {', '.join(differing)}; remove those of one and run the "
                "board again"
            )


def values_over_seeds(records: Records, title: str, metric: str) -> dict[str, dict[int, float]]:
    """Address (or name) of an entry -> its values of a metric, one for each seed; entries without it are left out."""
    found = {}
    for entry, own in records.items():
        scores = {seed: record["scores"].get(title, {}) for seed, record in own.items()}
        if values := {seed: float(each[metric]) for seed, each in scores.items() if metric in each}:
            found[entry] = values
    return found


def _scored(records: Records, title: str) -> list[str]:
    return [address for address, own in records.items() if any(title in record["scores"] for record in own.values())]


def _users(records: Records, title: str, folder: Path) -> dict[str, list[Result]]:
    """Address of an entry -> its values of users; without those of which a file is missing, or is not its record's."""
    found = {}
    for address in _scored(records, title):
        own = [
            load_values(folder, f"{record['model']}-{address}-seed{seed}", title, record)
            for seed, record in records[address].items()
        ]
        if None not in own:
            found[address] = [result for result in own if result is not None]
    return found


def _compare_metric(records: Records, title: str, metric: str, users: Mapping[str, list[Result]] | None) -> Column:
    """The best entry of a metric against each other one; p-values are not adjusted yet."""
    found = values_over_seeds(records, title, metric)
    best, scores = _best_of(found, metric), {address: [*own.values()] for address, own in found.items()}
    column = Column(best)
    for address, values in scores.items():
        if address == best or not all(map(math.isfinite, (*values, *scores[best]))):
            continue
        if users is not None and not {address, best} <= users.keys():
            continue
        # records from before the metric was asked for have no values of users of it
        own, other = ([one for one in (users or {}).get(of, ()) if metric in one.per_user] for of in (address, best))
        if tests := tuple(_tests(values, scores[best], own, other, metric)):
            column.versus[address] = tests
    return column


def _best_of(scores: Mapping[str, Mapping[int, float]], metric: str) -> str:
    return best_first({address: fmean(values.values()) for address, values in scores.items()}, metric)[0]


def _tests(
    own: list[float], best: list[float], own_users: list[Result], best_users: list[Result], metric: str
) -> Iterator[Comparison]:
    if own_users and best_users:
        try:
            found = over_users(own_users, best_users, metric)
        except TooFewPairs:  # a metric may leave users without a value
            pass
        else:
            p, low, high = found.p_values["randomisation"], found.interval.low, found.interval.high
            yield Comparison("users", found.n, found.difference, low, high, p, p, _finite(found.cohen_d))
    if len(own) > 1 and len(best) > 1:
        t, n = welch(own, best), len(own) + len(best)
        low, high = t.interval.low, t.interval.high
        yield Comparison("seeds", n, t.difference, low, high, t.p_value, t.p_value, _finite(t.hedges_g))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _n_untested(records: Records, title: str, metrics: Sequence[str], columns: Mapping[str, Column]) -> int:
    pairs = sum(max(len(values_over_seeds(records, title, metric)) - 1, 0) for metric in metrics)
    return pairs - sum(len(column.versus) for column in columns.values())


def _adjust(columns: Mapping[str, Column], n_untested: int = 0) -> None:
    """Set ``p_adjusted`` by Holm's correction, over users and over seeds; an untested pair counts with a p of 1."""
    tests = [test for column in columns.values() for several in column.versus.values() for test in several]
    for over in ("users", "seeds"):
        own = [test for test in tests if test.over == over]
        adjusted = holm([test.p_value for test in own] + [1.0] * n_untested).tolist()
        for test, p in zip(own, adjusted, strict=False):
            test.p_adjusted = p


def describe_tests(comparisons: Comparisons) -> str:
    """A sentence on how the entries were tested; says so where nothing was tested."""
    columns = [(metric, column) for metrics in comparisons.values() for metric, column in metrics.items()]
    decisive = {(metric, tests[0].over) for metric, column in columns for tests in column.versus.values() if tests}
    if not decisive:
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."
    of_users = (
        "Fisher's randomisation test over users, each with the mean over an entry's seeds; intervals by the bootstrap"
    )
    of_seeds = "Welch's t-test over seeds; intervals are Welch's"
    names = {over: [metric for metric, _ in columns if (metric, over) in decisive] for over in ("users", "seeds")}
    how = of_users if names["users"] else of_seeds
    if names["users"] and names["seeds"]:
        how += f"; where values of users are lacking ({', '.join(dict.fromkeys(names['seeds']))}), {of_seeds}"
    lower = ", ".join(dict.fromkeys(metric for metric, _ in columns if not higher_is_better(metric)))
    best = f"highest mean of its column{f' (the lowest of {lower})' if lower else ''}"
    return f"Each entry against the {best}: {how}; p adjusted over a table by Holm's correction."


# -- the file


def inputs_of(records: Records, metrics: Metrics) -> str:
    """The digest of the scores that are compared: comparisons on file fit the records where it is the same."""
    scores = {f"{address}-{seed}": each["scores"] for address, own in records.items() for seed, each in own.items()}
    return digest({"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}})


def _digests(records: Records) -> dict[str, str]:
    return {
        address: digest({"scores": {str(seed): record["scores"] for seed, record in own.items()}})
        for address, own in records.items()
    }


def load_comparisons(path: Path, records: Records, metrics: Metrics) -> tuple[Comparisons, bool]:
    """Read the comparisons of some records, and whether they are all of them; empty where the file does not exist.

    Where entries came, went or changed since, those comparisons are left that are of unchanged entries with an
    unchanged best one; the p of a table are then corrected as if each other entry had a p of 1.
    """
    file = read_json(path)
    if file is None:
        return {}, False
    is_whole = file["inputs"] == inputs_of(records, metrics)
    same = {address for address, own in _digests(records).items() if file["entries"].get(address) == own}
    before, found = _FILE.validate_python(file["columns"]), Comparisons()
    for title, names in metrics.items():
        columns = {}
        for metric, column in before.get(title, {}).items():
            scores = values_over_seeds(records, title, metric)
            if metric in names and column.best in same and _best_of(scores, metric) == column.best:
                versus = {address: tests for address, tests in column.versus.items() if address in same}
                columns[metric] = Column(column.best, versus)
        _adjust(columns, 0 if is_whole else _n_untested(records, title, names, columns))
        if columns:
            found[title] = columns
    return found, is_whole


def save_comparisons(
    comparisons: Comparisons, records: Records, metrics: Metrics, path: Path, *, is_whole: bool = True
) -> None:
    """Write the comparisons of some records; ``is_whole``: none is left to make."""
    columns = _FILE.dump_python(comparisons, mode="json")
    inputs = inputs_of(records, metrics) if is_whole else ""
    write_json({"inputs": inputs, "entries": _digests(records), "columns": columns}, path, allow_nan=False)
