"""Significance tests of the entries of a data set, each against the best entry of its column, and their file.

The file beside the records lets the marks of a board need no values of users. It names the scores of each entry that it
compared: where an entry is added to a board, or run again, the comparisons of the others stay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from recgraph.evaluate.metrics import best_first, higher_is_better
from recgraph.evaluate.results import ProtocolMismatch, Result
from recgraph.evaluate.significance import OF_FOLD, TooFewPairs, holm, over_folds, over_users, welch
from recgraph.files import write_json
from recgraph.leaderboard.plan import TITLES, Record, Repeat, Store, digest, fold_of, mean_of, read_json, seed_of

#: an adjusted p-value below it counts as a difference
ALPHA = 0.05
#: address of an entry -> seed, or fold and seed -> its record
Records = Mapping[str, Mapping[Repeat, Record]]
#: title of a protocol -> the metrics that are compared
Metrics = Mapping[str, Sequence[str]]
#: fold (None without folds) -> the values of users of each seed
_Users = Mapping[int | None, list[Result]]
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


def compare(
    records: Records, metrics: Metrics, store: Store, before: Comparisons | None = None
) -> tuple[Comparisons, bool]:
    """Compare the entries; and whether none is left untested because values of users are not at hand.

    Entries are compared over users, each with the mean over an entry's seeds, where a metric has values of users; and
    over seeds where both entries have at least two. The first of these tests decides the mark. p-values of either kind
    are corrected over a table. Where there are folds, a user and a seed count once, with all of them, and entries with
    records of different folds are not compared. Where values of users are not at hand, comparisons of ``before`` stay.
    """
    found, is_whole = {}, True
    for title, names in metrics.items():
        users = _users(records, title, store) if title in TITLES.values() else None
        columns = found[title] = {metric: _compare_metric(records, title, metric, users) for metric in names}
        if users is not None and len(users) < len(_scored(records, title)):
            is_whole = False
            for metric, column in columns.items():
                earlier = (before or {}).get(title, {}).get(metric)
                if earlier is not None and earlier.best == column.best:
                    column.versus.update(one for one in earlier.versus.items() if one[0] not in column.versus)
            _adjust_partly(records, title, names, columns)
        else:
            _adjust(columns)
    return found, is_whole


def tested(comparisons: Comparisons) -> set[tuple[str, str, str]]:
    """Title, metric and address of each entry that is compared with the best one."""
    return {
        (title, metric, address)
        for title, columns in comparisons.items()
        for metric, column in columns.items()
        for address in column.versus
    }


def _scored(records: Records, title: str) -> list[str]:
    return [address for address, own in records.items() if any(title in record["scores"] for record in own.values())]


def _adjust_partly(records: Records, title: str, metrics: Sequence[str], columns: Mapping[str, Column]) -> None:
    """Correct a table some of whose entries are not tested: as if each of them had a p of 1, which lowers no other."""
    pairs = sum(max(len(values_over_seeds(records, title, metric)) - 1, 0) for metric in metrics)
    _adjust(columns, pairs - sum(len(column.versus) for column in columns.values()))


def check_protocols(dataset: str, title: str, records: Sequence[Record]) -> None:
    """Refuse records of one table that were made in different ways; the message names what differs.

    Lists of cut-offs may differ: a metric at a cut-off of both is the same number. Each fold has a split of its own.
    """
    of_folds: dict[int | None, Record] = {}
    for record in records:
        first, may_differ = of_folds.setdefault(record.get("fold"), record), {"cutoffs"}
        if first is record:  # its fold's first, beside that of all
            first, may_differ = records[0], {"cutoffs", *OF_FOLD}
        one, other = (each["protocols"][title] for each in (first, record))
        if one["protocol_hash"] == other["protocol_hash"]:
            continue
        fields = {**one["protocol"], **other["protocol"]}
        differing = [name for name in fields if one["protocol"].get(name) != other["protocol"].get(name)]
        if not differing or not may_differ.issuperset(differing):
            raise ProtocolMismatch(
                f"records of {dataset!r} under {title!r} have protocols {one['protocol_hash']} and "
                f"{other['protocol_hash']}, which differ in {', '.join(differing)}; remove those of one and run the "
                "board again"
            )


def values_over_seeds(records: Records, title: str, metric: str) -> dict[str, dict[Repeat, float]]:
    """Address (or name) of an entry -> its values of a metric, one for each seed; entries without it are left out."""
    found = {}
    for entry, own in records.items():
        scores = {repeat: record["scores"].get(title, {}) for repeat, record in own.items()}
        if values := {repeat: float(each[metric]) for repeat, each in scores.items() if metric in each}:
            found[entry] = values
    return found


def _users(records: Records, title: str, store: Store) -> dict[str, _Users]:
    """Address of an entry -> its values of users; without those of which a file is missing, or is not its record's."""
    found: dict[str, _Users] = {}
    for address in _scored(records, title):
        own: dict[int | None, list[Result]] = {}
        for repeat, record in records[address].items():
            # folds of an entry have addresses of their own
            stem = f"{record['model']}-{digest(record['identity'])}-seed{seed_of(repeat)}"
            if (result := store.values(stem, title, record)) is None:
                break
            own.setdefault(fold_of(repeat), []).append(result)
        else:
            found[address] = own
    return found


def _compare_metric(records: Records, title: str, metric: str, users: Mapping[str, _Users] | None) -> Column:
    """The best entry of a metric against each other one; p-values are not adjusted yet."""
    scores = values_over_seeds(records, title, metric)
    best = _best_of(scores, metric)
    column = Column(best)
    for address, values in scores.items():
        if address == best or not all(math.isfinite(value) for value in (*values.values(), *scores[best].values())):
            continue
        folds, others = ({fold_of(repeat) for repeat in records[of]} for of in (address, best))
        if folds != others or (users is not None and not {address, best} <= users.keys()):
            continue
        of_seeds = [_over_folds(scores[of]) for of in (address, best)]
        of_users = [(users or {}).get(of, {}) for of in (address, best)]
        if tests := tuple(_tests(of_seeds, of_users, metric)):
            column.versus[address] = tests
    return column


def _best_of(scores: Mapping[str, Mapping[Repeat, float]], metric: str) -> str:
    return best_first({address: mean_of(values) for address, values in scores.items()}, metric)[0]


def _over_folds(values: Mapping[Repeat, float]) -> list[float]:
    """The value of each seed, the mean over its folds; without seeds that lack a fold that others have."""
    seeds: dict[int, dict[int | None, float]] = {}
    for repeat, value in values.items():
        seeds.setdefault(seed_of(repeat), {})[fold_of(repeat)] = value
    folds = set().union(*seeds.values())
    return [statistics.fmean(each.values()) for each in seeds.values() if each.keys() == folds]


def _tests(seeds: Sequence[list[float]], users: Sequence[_Users], metric: str) -> Iterator[Comparison]:
    (own, best), (own_users, best_users) = seeds, users
    if own_users and best_users and (of_users := _over_users(own_users, best_users, metric)) is not None:
        yield of_users
    if len(own) > 1 and len(best) > 1:
        t, n = welch(own, best), len(own) + len(best)
        low, high = t.interval.low, t.interval.high
        yield Comparison("seeds", n, t.difference, low, high, t.p_value, t.p_value, _finite(t.hedges_g))


def _over_users(own: _Users, best: _Users, metric: str) -> Comparison | None:
    """None where fewer than two users have a value of both: a metric may leave users without one."""
    # records from before the metric was asked for lack it
    ours, theirs = (
        [[one for one in of[fold] if metric in one.per_user] for fold in own if fold in of] for of in (own, best)
    )
    if not all([*ours, *theirs]) or len(ours) != len(theirs):
        return None
    try:
        found = over_users(ours[0], theirs[0], metric) if None in own else over_folds(ours, theirs, metric)
    except TooFewPairs:
        return None
    p, low, high = found.p_values["randomisation"], found.interval.low, found.interval.high
    return Comparison("users", found.n, found.difference, low, high, p, p, _finite(found.cohen_d))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _adjust(columns: Mapping[str, Column], untested: int = 0) -> None:
    """Set ``p_adjusted`` by Holm's correction, over users and over seeds; further tests count with a p of 1."""
    tests = [test for column in columns.values() for several in column.versus.values() for test in several]
    for over in ("users", "seeds"):
        own = [test for test in tests if test.over == over]
        adjusted = holm([test.p_value for test in own] + [1.0] * untested).tolist()
        for test, p in zip(own, adjusted, strict=False):
            test.p_adjusted = p


def describe_tests(comparisons: Comparisons, has_folds: bool = False) -> str:
    """A sentence on how the entries were tested; says so where nothing was tested."""
    columns = [(metric, column) for metrics in comparisons.values() for metric, column in metrics.items()]
    decisive = {(metric, tests[0].over) for metric, column in columns for tests in column.versus.values() if tests}
    if not decisive:
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."
    of_users = (
        f"Fisher's randomisation test over users, each with {'all its folds and ' if has_folds else ''}the mean over "
        "an entry's seeds; intervals by the bootstrap"
    )
    of_seeds = (
        f"Welch's t-test over seeds{', each with the mean over the folds' if has_folds else ''}; intervals are Welch's"
    )
    names = {over: [metric for metric, _ in columns if (metric, over) in decisive] for over in ("users", "seeds")}
    how = of_users if names["users"] else of_seeds
    if names["users"] and names["seeds"]:
        how += f"; where values of users are lacking ({', '.join(dict.fromkeys(names['seeds']))}), {of_seeds}"
    lower = ", ".join(dict.fromkeys(metric for metric, _ in columns if not higher_is_better(metric)))
    best = f"highest mean of its column{f' (the lowest of {lower})' if lower else ''}"
    return f"Each entry against the {best}: {how}; p adjusted over a table by Holm's correction."


def inputs_of(records: Records, metrics: Metrics) -> str:
    """The digest of the scores that are compared: comparisons on file fit the records where it is the same."""
    scores = {f"{address}-{seed}": each["scores"] for address, own in records.items() for seed, each in own.items()}
    return digest({"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}})


def _digests(records: Records) -> dict[str, str]:
    return {
        address: digest({"scores": {str(seed): record["scores"] for seed, record in own.items()}})
        for address, own in records.items()
    }


def load_comparisons(path: Path, records: Records, metrics: Metrics, inputs: str) -> tuple[Comparisons, bool]:
    """Read the comparisons of some records, and whether they are all of them; empty where the file does not exist.

    Where entries came, went or changed since (``inputs`` are others), those comparisons are left that are of unchanged
    entries with an unchanged best one; the p of a table are then corrected as if each other entry had a p of 1.
    """
    found = read_json(path)
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
    same = {address for address, own in _digests(records).items() if found["entries"].get(address) == own}
    left = {title: _still_valid(records, title, columns.get(title, {}), metrics[title], same) for title in metrics}
    return {title: own for title, own in left.items() if own}, False


def _still_valid(
    records: Records, title: str, columns: Mapping[str, Column], metrics: Sequence[str], same: set[str]
) -> dict[str, Column]:
    left = {}
    for metric in metrics:
        scores, column = values_over_seeds(records, title, metric), columns.get(metric)
        if column is not None and scores and column.best in same and _best_of(scores, metric) == column.best:
            left[metric] = Column(column.best, {other: own for other, own in column.versus.items() if other in same})
    _adjust_partly(records, title, metrics, left)
    return left


def save_comparisons(
    comparisons: Comparisons, records: Records, metrics: Metrics, path: Path, *, is_whole: bool = True
) -> None:
    """Write the comparisons of some records; ``is_whole``: none is left to make."""
    columns = {
        title: {metric: asdict(column) for metric, column in of_title.items()}
        for title, of_title in comparisons.items()
    }
    inputs = inputs_of(records, metrics) if is_whole else ""
    write_json({"inputs": inputs, "entries": _digests(records), "columns": columns}, path, allow_nan=False)
