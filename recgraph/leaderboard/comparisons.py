"""Comparisons of entries, kept in a small file beside the records, so that the marks need no values of users."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from recgraph.data.files import replace_text
from recgraph.evaluate.metrics.names import higher_is_better
from recgraph.leaderboard.plan import digest
from recgraph.leaderboard.store import Record, read_json

__all__ = [
    "ALPHA",
    "Column",
    "Comparisons",
    "Over",
    "Versus",
    "inputs_of",
    "load_comparisons",
    "save_comparisons",
    "tested",
]

#: below which an adjusted p-value counts as a difference
ALPHA = 0.05
Over = Literal["users", "seeds"]


@dataclass(frozen=True)
class Versus:
    """The best entry of a column less another one.

    Attributes:
        over: what was resampled, ``users`` (each with the mean over an entry's seeds) or ``seeds``.
        n: users that both have, or seeds of both together.
        difference: of the means, the best less this one.
        low, high: the 95 % interval of the difference: the percentile bootstrap over users, Welch's over seeds.
        p_value: two-sided: Fisher's randomisation test over users, Welch's t-test over seeds.
        p_adjusted: by Holm's correction over all entries and metrics of the table.
        effect: the standardised difference: Cohen's d of the pairs over users, Hedges' g over seeds; None where nothing
            deviates.
    """

    over: Over
    n: int
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float
    effect: float | None


@dataclass(frozen=True)
class Column:
    """One metric under one protocol.

    Attributes:
        best: the address of the entry with the highest mean.
        versus: the address of each other entry -> its comparisons; the first one decides its mark.
    """

    best: str
    versus: dict[str, tuple[Versus, ...]]


@dataclass(frozen=True)
class Comparisons:
    """The comparisons of one data set.

    Attributes:
        inputs: the digest of the scores that were compared.
        columns: title of a protocol -> metric -> its column.
    """

    inputs: str = ""
    columns: dict[str, dict[str, Column]] = field(default_factory=dict)


def inputs_of(records: Mapping[str, Mapping[int, Record]], metrics: Mapping[str, Sequence[str]]) -> str:
    """The digest of what is compared.

    Args:
        records: address of an entry -> seed -> its record.
        metrics: title of a protocol -> the metrics that are compared.
    """
    scores = {f"{address}-{seed}": each["scores"] for address, own in records.items() for seed, each in own.items()}
    return digest({"scores": scores, "metrics": {title: [*names] for title, names in metrics.items()}})


def load_comparisons(path: Path) -> Comparisons:
    """What was kept in a file; nothing where there is none.

    Raises:
        ValueError: the file was cut or edited; names it.
    """
    # earlier versions kept one file for all sheets of a data set; ``inputs`` shows whether it belongs to this one
    found = read_json(path) or read_json(path.with_name("comparisons.json"))
    if found is None:
        return Comparisons()
    columns = {
        title: {metric: _column(values) for metric, values in metrics.items()}
        for title, metrics in found["columns"].items()
    }
    return Comparisons(found["inputs"], columns)


def save_comparisons(comparisons: Comparisons, path: Path) -> None:
    """Keep comparisons in a file, whole or not at all."""
    replace_text(json.dumps(asdict(comparisons), indent=1, allow_nan=False) + "\n", path)


def tested(compared: Comparisons) -> str:
    """How the marks were tested, a sentence."""
    tests = [
        test
        for metrics in compared.columns.values()
        for column in metrics.values()
        for several in column.versus.values()
        for test in several[:1]
    ]
    if not tests:
        return "Nothing was tested: it takes two entries with values of users at hand, or with two seeds each."
    over_users = any(test.over == "users" for test in tests)
    how = (
        "Fisher's randomisation test over users, each with the mean over an entry's seeds; intervals by the bootstrap"
        if over_users
        else "Welch's t-test over seeds; intervals are Welch's"
    )
    columns = dict.fromkeys(metric for metrics in compared.columns.values() for metric in metrics)
    lower = ", ".join(metric for metric in columns if not higher_is_better(metric))
    best = f"highest mean of its column (the lowest of {lower})" if lower else "highest mean of its column"
    return f"Each entry against the {best}: {how}; p adjusted over a table by Holm's correction."


def _column(values: Mapping[str, Any]) -> Column:
    versus = {address: tuple(Versus(**each) for each in several) for address, several in values["versus"].items()}
    return Column(values["best"], versus)
