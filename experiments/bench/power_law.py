"""Generated logs with power laws, of any size.

A log of n interactions has n / 25 users and n / 100 items; its distributions do not change with n.
The users' numbers of interactions have a Pareto tail (at least 5, at most 2,000), the items'
probability falls as ``(rank + n_items / 1000) ** -0.9``, six in ten interactions are with an item
of the user's own community, one of 50, and the rows are in the order of time. Ids are integers, or
those of users are texts. The same size and seed give the same rows.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

#: interactions of a user and of an item, on average
OF_USER, OF_ITEM = 25, 100
NAMES = {"user": "user", "item": "item", "timestamp": "time"}
_LEAST, _MOST, _TAIL, _COMMUNITIES, _WITHIN = 5, 2000, 1.5, 50, 0.6
_BEGIN, _SECONDS = 1_500_000_000, 100_000_000
_CHUNK = 5_000_000
#: of the generator; a change of what it makes changes this
_VERSION = 2


def n_users(rows: int) -> int:
    return max(rows // OF_USER, 1)


def n_items(rows: int) -> int:
    return max(rows // OF_ITEM, _COMMUNITIES)


def generate(rows: int, seed: int = 0) -> pl.DataFrame:
    """The columns ``user`` and ``item`` (int32 numbers) and ``time`` (int64 seconds)."""
    rng = np.random.default_rng([seed, rows])
    users = np.repeat(np.arange(n_users(rows), dtype=np.int32), _activity(rows, rng))
    rng.shuffle(users)
    popularity = (np.arange(n_items(rows)) + n_items(rows) / 1000) ** -0.9
    cumulative = np.cumsum(popularity) / popularity.sum()
    names = rng.permutation(n_items(rows)).astype(np.int32)
    items = np.empty(rows, dtype=np.int32)
    for start in range(0, rows, _CHUNK):
        here = slice(start, min(start + _CHUNK, rows))
        items[here] = names[_ranks(users[here], cumulative, rng)]
    time = _BEGIN + (np.arange(rows) * (_SECONDS / rows)).astype(np.int64)
    return pl.DataFrame({"user": users, "item": items, "time": time})


def _activity(rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """[n_users]: the interactions of each user, ``rows`` together."""
    users = n_users(rows)
    weight = np.minimum(rng.pareto(_TAIL, users), 100.0)
    counts = (
        (_LEAST + weight * ((rows - _LEAST * users) / weight.sum()))
        .astype(np.int64)
        .clip(max=_MOST)
    )
    missing = rows - int(counts.sum())
    counts += missing // users
    counts[: missing % users] += 1
    return counts


def _ranks(
    users: npt.NDArray[np.int32], cumulative: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The popularity ranks of the items that users choose."""
    ranks = np.searchsorted(cumulative, rng.random(len(users), dtype=np.float32)).clip(
        max=len(cumulative) - 1
    )
    within = rng.random(len(users), dtype=np.float32) < _WITHIN
    own = ranks - ranks % _COMMUNITIES + users % _COMMUNITIES
    return np.where(within & (own < len(cumulative)), own, ranks)


def write(rows: int, path: Path, seed: int = 0, texts: bool = False) -> None:
    """Write a log as Parquet, or as CSV where the name ends so; ``texts``: users are named and not
    numbered.
    """
    lazy = generate(rows, seed).lazy()
    if texts:
        lazy = lazy.with_columns(
            pl.format("user-{}", pl.col("user").cast(pl.String).str.zfill(8)).alias("user")
        )
    (lazy.sink_csv if path.suffix == ".csv" else lazy.sink_parquet)(path)


def kept(rows: int, suffix: str = ".parquet", seed: int = 0, texts: bool = False) -> Path:
    """A log's file, made when it is first asked for: in RECGRAPH_BENCH_DATA, or in the system's
    temporary folder.
    """
    folder = Path(
        os.environ.get("RECGRAPH_BENCH_DATA", Path(tempfile.gettempdir()) / "recgraph-bench-data")
    )
    path = folder / f"power-law-{_VERSION}-{rows}-{seed}{'-texts' if texts else ''}{suffix}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{os.getpid()}-{path.name}"
        write(rows, beside, seed, texts)
        beside.replace(path)
    return path
