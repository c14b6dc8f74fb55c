"""Results: metric means and per-user values, each with the protocol that made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recgraph.evaluate.protocol import Protocol

if TYPE_CHECKING:
    import polars as pl


class ProtocolMismatch(ValueError):
    """Two numbers were made in different ways and must not be compared."""


@dataclass(frozen=True)
class Result:
    """The metrics under one protocol.

    Attributes:
        protocol: how the numbers were made.
        users: [U] int64 user indices.
        per_user: metric (``"ndcg@10"``) -> [U] float64; NaN where a user has no value.
        overall: metric -> its value over all users, which is not always the mean of theirs; metrics without values of
            users (``"gini@10"``) are here alone.
        n_unreachable_users: users with a relevant item that the protocol takes out of the candidates;
            counted as misses.
        user_ids: [U], where the users are known by their ids.
    """

    protocol: Protocol
    users: NDArray[np.int64]
    per_user: dict[str, NDArray[np.float64]] = field(repr=False)
    overall: dict[str, float] = field(default_factory=dict)
    n_unreachable_users: int = 0
    user_ids: pl.Series | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Metric -> value over all users, by default the mean."""
        means = {name: float(values.mean()) for name, values in self.per_user.items() if name not in self.overall}
        return {**self.overall, **means}

    @property
    def hash(self) -> str:
        return self.protocol.hash

    def __getitem__(self, metric: str) -> float:
        metrics = self.metrics
        if metric not in metrics:
            raise KeyError(f"metric {metric!r} was not computed; there are {', '.join(metrics)}")
        return metrics[metric]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "protocol_hash": self.hash,
            "n_users": len(self.users),
            "n_unreachable_users": self.n_unreachable_users,
            "metrics": self.metrics,
        }

    def users_frame(self) -> pl.DataFrame:
        """One row a user: ``user_idx`` (``user_id`` where ids are known), then a column a metric."""
        import polars as pl

        who = {"user_idx": self.users} if self.user_ids is None else {"user_id": self.user_ids}
        return pl.DataFrame({**who, **self.per_user})


class Results:
    """What one call of ``evaluate`` computed: a result for each protocol.

    ``results["exclude"]["ndcg@10"]`` finds a result by its seen-item convention (or by its protocol's hash),
    ``results[0]`` by place; ``print(results)`` shows the table.
    """

    def __init__(self, results: list[Result]) -> None:
        self._results = list(results)

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def __getitem__(self, which: int | str) -> Result:
        if isinstance(which, int):
            return self._results[which]
        found = [result for result in self if which in (result.protocol.seen, result.hash)]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{result.protocol.seen} ({result.hash})" for result in self)
        raise KeyError(f"{which!r} names {len(found)} results; there are {there}")

    def titles(self) -> list[str]:
        """A column heading for each result."""
        words = {"keep": "seen kept", "exclude": "seen excluded"}
        plain = [words[result.protocol.seen] for result in self]
        if len(set(plain)) == len(plain):
            return plain
        return [f"{title} {result.hash[:6]}" for title, result in zip(plain, self, strict=True)]

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values, ready for JSON, a dictionary for each result."""
        return [result.to_dict() for result in self]

    def to_polars(self) -> pl.DataFrame:
        """One row a metric: ``metric``, then a column for each result."""
        import polars as pl

        names = list(dict.fromkeys(name for result in self for name in result.metrics))
        columns: dict[str, list[Any]] = {"metric": names}
        for title, result in zip(self.titles(), self, strict=True):
            means = result.metrics
            columns[title] = [means.get(name) for name in names]
        return pl.DataFrame(columns)

    def __str__(self) -> str:
        titles = self.titles()
        rows = [["metric", *titles]]
        for name, *values in self.to_polars().rows():
            rows.append([name, *("" if value is None else f"{value:.4f}" for value in values)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(titles) + 1)]
        lines = ["  ".join(_pad(row, widths)) for row in rows]
        for title, result in zip(titles, self, strict=True):
            if result.n_unreachable_users:
                lines.append(f"{title}: {result.n_unreachable_users} users have unreachable relevant items")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Results({', '.join(self.titles())})\n{self}"


def _pad(row: list[str], widths: list[int]) -> list[str]:
    first = row[0].ljust(widths[0])
    return [first, *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def compare(a: Result, b: Result) -> dict[str, float]:
    """The difference ``b - a`` of each metric that both results have.

    Raises:
        ProtocolMismatch: the protocols' hashes differ; the message shows what differs.
    """
    if a.hash != b.hash:
        lines = [
            f"  {name}: {own!r} and {other!r}" for name, (own, other) in a.protocol.differences(b.protocol).items()
        ]
        raise ProtocolMismatch(
            f"results of protocols {a.hash} and {b.hash} cannot be compared; they differ in\n" + "\n".join(lines)
        )
    ours, others = a.metrics, b.metrics
    return {name: others[name] - ours[name] for name in ours if name in others}
