"""Results: metrics over all users and of each user, with the protocol that made them; their files;
groups of users.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from recgraph.config import checked
from recgraph.data.part import Cases
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.rerank import reranker_of
from recgraph.files import replacing
from recgraph.pages import block, table


class ProtocolMismatch(ValueError):
    """Two numbers were made in different ways and must not be compared."""


@dataclass(frozen=True)
class Result:
    """The metrics under one protocol."""

    protocol: Protocol
    #: [U] int64 user indices
    users: NDArray[np.int64]
    #: metric (``"ndcg@10"``) -> [U] float64; NaN where a user has no value
    per_user: dict[str, NDArray[np.float64]] = field(repr=False)
    #: metric -> its value over all users, which is not always the mean of theirs (``"gini@10"``)
    overall: dict[str, float] = field(default_factory=dict)
    #: users with a relevant item that the protocol takes out of the candidates, a miss
    n_unreachable_users: int = 0
    #: [U], where the users are known by their ids
    user_ids: pl.Series | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> value over all users, by default the mean."""
        means = {
            name: float(values.mean())
            for name, values in self.per_user.items()
            if name not in self.overall
        }
        return {**self.overall, **means}

    @property
    def hash(self) -> str:
        return self.protocol.hash

    def __repr__(self) -> str:
        values = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"Result({len(self.users):,} users, protocol {self.hash}: {values})"

    def __getitem__(self, metric: str) -> float:
        metrics = self.metrics
        if metric not in metrics:
            raise KeyError(f"metric {metric!r} was not computed; there are {', '.join(metrics)}")
        return metrics[metric]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "protocol": self.protocol.to_dict(),
            "protocol_hash": self.hash,
            "n_users": len(self.users),
            "n_unreachable_users": self.n_unreachable_users,
            "metrics": self.metrics,
        }

    def users_frame(self) -> pl.DataFrame:
        """One row a user: ``user_idx`` (``user_id`` where ids are known), then a column a
        metric.
        """
        column = users_column(self)
        return pl.DataFrame({column.name: column, **self.per_user})


def users_column(result: Result) -> pl.Series:
    """[U]: who the users are, ``user_id`` where their ids are known, else ``user_idx``."""
    if result.user_ids is None:
        return pl.Series("user_idx", result.users)
    return result.user_ids.alias("user_id")


class Printed(ABC):
    """What ``print`` and notebooks show as a table."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Texts and numbers by column; the first column names the row."""

    def facts(self) -> dict[str, str]:
        """What stands above the table in a notebook."""
        return {}

    def notes(self) -> list[str]:
        """What stands below the table."""
        return []

    def __str__(self) -> str:
        rows = self.rows()
        texts = [list(rows[0])]
        texts.extend(list(map(_cell_text, row.values())) for row in rows)
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = []
        for first, *others in texts:
            cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *self.notes()])

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {fact}" for name, fact in self.facts().items())
        return f"{type(self).__name__}({facts})\n{self}"

    def _repr_html_(self) -> str:
        return block(
            type(self).__name__, self.facts(), [table(self.rows())], "; ".join(self.notes())
        )


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.4f}"


class Results(Printed):
    """What one call of ``evaluate`` computed, a result for each protocol: ``results["exclude"]``
    finds one by its seen-item convention or its protocol's hash, ``results[0]`` by position."""

    def __init__(self, results: list[Result]) -> None:
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def __getitem__(self, which: int | str) -> Result:
        if isinstance(which, int):
            return self._results[which]
        matches = [result for result in self if which in (result.protocol.seen, result.hash)]
        if len(matches) == 1:
            return matches[0]
        names = ", ".join(f"{result.protocol.seen} ({result.hash})" for result in self)
        raise KeyError(f"{which!r} names {len(matches)} results; there are {names}")

    def titles(self) -> list[str]:
        """A column heading for each result."""
        titles = []
        for result in self:
            title = {"keep": "seen kept", "exclude": "seen excluded"}[result.protocol.seen]
            if result.protocol.rerank:
                reranker = reranker_of(result.protocol.rerank)
                title = f"{title}, {reranker.specification['name']}"
            titles.append(title)
        if len(set(titles)) == len(titles):
            return titles
        return [f"{title} {result.hash[:6]}" for title, result in zip(titles, self, strict=True)]

    def to_dict(self) -> list[dict[str, Any]]:
        return [result.to_dict() for result in self]

    def to_polars(self) -> pl.DataFrame:
        """One row a metric: ``metric``, then a column for each result."""
        by_result = pl.DataFrame([result.metrics for result in self], infer_schema_length=None)
        return by_result.transpose(
            include_header=True, header_name="metric", column_names=self.titles()
        )

    def rows(self) -> list[dict[str, Any]]:
        return self.to_polars().to_dicts()

    def facts(self) -> dict[str, str]:
        return {
            title: f"{len(result.users):,} users of {result.protocol.part}, protocol {result.hash}"
            for title, result in zip(self.titles(), self, strict=True)
        }

    def notes(self) -> list[str]:
        return [
            f"{title}: {result.n_unreachable_users} users have unreachable relevant items"
            for title, result in zip(self.titles(), self, strict=True)
            if result.n_unreachable_users
        ]


@checked
def compare(a: Result, b: Result) -> dict[str, float]:
    """The difference ``b - a`` of each metric that both results have; raises as
    :func:`comparable`.
    """
    ours, others = a.metrics, b.metrics
    return {name: others[name] - ours[name] for name in comparable(a, b)}


def comparable(a: Result, b: Result) -> list[str]:
    """The metrics that both results have. Raises ProtocolMismatch where protocols differ in more
    than the cut-offs: a metric at a cut-off of both is the same number."""
    shared = [name for name in a.metrics if name in b.metrics]
    if a.hash == b.hash:
        return shared
    differing = a.protocol.differences(b.protocol)
    if shared:
        differing.pop("cutoffs", None)
    if differing:
        lines = [f"  {name}: {own!r} and {other!r}" for name, (own, other) in differing.items()]
        raise ProtocolMismatch(
            f"results of protocols {a.hash} and {b.hash} cannot be compared; they differ in\n"
            + "\n".join(lines)
        )
    return shared


@checked
def save_users(result: Result, path: str | Path) -> None:
    """Write a result for :func:`load_users`, and any reader of Parquet: a row a user, a column a
    metric; protocol and overall values in the file's metadata."""
    about = {**result.to_dict(), "overall": result.metrics}
    with replacing(Path(path)) as new:
        result.users_frame().write_parquet(new, metadata={"recgraph": json.dumps(about)})


@checked
def load_users(path: str | Path) -> Result:
    """Read what :func:`save_users` wrote."""
    about = json.loads(pl.read_parquet_metadata(path).get("recgraph", "{}"))
    if "protocol" not in about:
        raise ValueError(f"{path} holds no protocol; give a file that save_users wrote")
    protocol = Protocol.of(about["protocol"])
    if protocol.hash != about["protocol_hash"]:
        raise ValueError(
            f"{path} names protocol {about['protocol_hash']}, but its protocol has hash {protocol.hash}"
        )
    users, *values = pl.read_parquet(path)
    result = Result(
        protocol,
        users=np.arange(len(users)),
        per_user={column.name: column.to_numpy() for column in values},
        overall=about["overall"],
        n_unreachable_users=about["n_unreachable_users"],
        user_ids=users,
    )
    if users.name == "user_id":
        return result
    return replace(result, users=users.to_numpy(), user_ids=None)


def by_group(result: Result, labels: Sequence[str] | pl.Series) -> pl.DataFrame:
    """A row for each group of labels [U], in order of first appearance: ``group``, ``n_users``, and
    a column a metric with values of users: the mean of those that have one (null if none has)."""
    of_user = pl.Series("group", labels)
    rows = []
    # polars' means of groups differ in the last digit by the number of threads
    for group in of_user.unique(maintain_order=True):
        mask = of_user.eq_missing(group).to_numpy()
        row: dict[str, Any] = {"group": group, "n_users": int(mask.sum())}
        for name, values in result.per_user.items():
            known = values[mask & ~np.isnan(values)]
            if len(known):
                row[name] = float(known.mean())
        rows.append(row)
    schema: dict[str, Any] = {"group": of_user.dtype, "n_users": pl.UInt32}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(result.per_user, pl.Float64))


def history_groups(cases: Cases, edges: Sequence[int] = (1, 5, 20)) -> list[str]:
    """[U] labels by the number of interactions that are known of a user, e.g. ``"0"``, ``"1-4"``,
    ``"20+"``; each edge opens a group."""
    starts = [0, *edges]
    names = []
    for low, high in pairwise(starts):
        names.append(str(low) if high == low + 1 else f"{low}-{high - 1}")
    names.append(f"{starts[-1]}+")
    lengths = cases.history.lengths.numpy(force=True)
    groups = np.searchsorted(np.asarray(edges), lengths, side="right")
    labels: list[str] = np.array(names)[groups].tolist()
    return labels


def popularity_groups(cases: Cases, counts: Tensor, head: float = 0.2) -> list[str]:
    """[U] labels: ``"head"``, ``"tail"`` or ``"cold"`` where all relevant items of a user are so,
    else ``"mixed"``. An item without interactions, by ``counts`` [n_items], is cold; the share
    ``head`` of the others (at least one), the most popular ones and then by index, is the head."""
    kinds = np.array(["cold", "tail", "head", "mixed"])
    kind = (counts > 0).long()
    popular = counts.argsort(descending=True, stable=True)
    kind[popular[: max(int(head * int((counts > 0).sum())), 1)]] *= 2
    of_items = kind[cases.truth.values]
    low = torch.full((len(cases),), 2)
    low = low.scatter_reduce(0, cases.truth.rows, of_items, "amin")
    high = torch.zeros(len(cases), dtype=torch.int64)
    high = high.scatter_reduce(0, cases.truth.rows, of_items, "amax")
    labels: list[str] = kinds[torch.where(low == high, low, 3).numpy(force=True)].tolist()
    return labels
