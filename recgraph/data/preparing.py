"""Split a large log shard by shard, so that only some shards are in memory at a time.

There are three passes, each of pieces that an engine runs. The first encodes each shard (a file, or a range of the rows
of a Parquet file) with ids of its own. The second replaces these by the ids of the whole log, and divides the rows
among ranges of users. The third sorts, labels and writes each range. The calling process holds the ids and how many
interactions each user has, and no rows.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from recgraph import parallel
from recgraph.bounded.tables import read_schema
from recgraph.data.columns import Columns, TimeUnit
from recgraph.data.diagnose import collect
from recgraph.data.errors import EmptyLogError, MixedIdError, TimestampError
from recgraph.data.files import replacing_folder, sweep
from recgraph.data.ids import IdMap, family
from recgraph.data.imprint import load_frame, replace_parquet
from recgraph.data.ingest import encode
from recgraph.data.kinds import ids_of_one_kind
from recgraph.data.labels import Label, Strategy
from recgraph.data.log import InteractionLog
from recgraph.data.log_file import LogFile
from recgraph.data.part import order
from recgraph.data.preparing_memory import check_preparation, n_rows_of_text
from recgraph.data.readers import source_of_all
from recgraph.data.reading import FileFormat, Reading
from recgraph.data.source import Raw, Source
from recgraph.data.split_files import (
    OPEN_FILE,
    TEST_FILE,
    Column,
    check_replaceable,
    open_and_test,
    parts_folder,
    save_head,
    split_hash,
)
from recgraph.data.strategies import strategy_of
from recgraph.parallel import Engine, Piece

__all__ = ["FORMATS", "PreparedSplit", "prepare"]

#: what can be read in shards: a file of it, or rows of one, says all about its rows
FORMATS: tuple[FileFormat, ...] = ("csv", "tsv", "jsonl", "parquet")


@dataclass(frozen=True)
class PreparedSplit:
    """What was written; :meth:`recgraph.data.split.SealedSplit.load` reads it.

    Attributes:
        folder: of the split.
        n_shards: that the log was read in.
        n_ranges: of users, a file of each part.
        hash: of the split.
    """

    folder: Path
    n_users: int
    n_items: int
    n_interactions: int
    n_shards: int
    n_ranges: int
    hash: str


@dataclass(frozen=True)
class _Shard:
    """A file, or of a Parquet file ``count`` rows from ``start`` on."""

    number: int
    file: str
    start: int = 0
    count: int | None = None

    @property
    def name(self) -> str:
        return (
            self.file
            if self.count is None
            else f"rows {self.start:,} to {self.start + self.count - 1:,} of {self.file}"
        )


@dataclass(frozen=True)
class _Encoded:
    """What is known of a shard that was encoded.

    Attributes:
        number: of the shard.
        n_rows: that were read, those left out among them.
        n_interactions: that were kept.
        unit: of their times.
        largest_time: of these, whatever its sign.
        first_row: where its rows begin among those of all shards.
        has_integers: of each column, by its name, whether the file holds integers, not floats or texts of them.
    """

    number: int
    n_rows: int
    source: Source
    n_interactions: int = 0
    unit: TimeUnit = "none"
    largest_time: int = 0
    first_row: int = 0
    has_integers: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Range:
    """The users ``start`` to ``end``."""

    number: int
    start: int
    end: int

    @property
    def piece(self) -> Piece[_Range]:
        return Piece(f"users {self.start:,} to {self.end - 1:,}", self)


def prepare(
    files: LogFile,
    out: str | Path,
    strategy: str = "leave-one-out",
    *,
    params: Mapping[str, Any] | None = None,
    engine: Engine | None = None,
    shard_rows: int = 5_000_000,
    range_rows: int = 5_000_000,
) -> PreparedSplit:
    """Read, encode and split a log, and write the split.

    It is the split that :meth:`recgraph.data.interactions.Interactions.split` makes: the same ids in the same order,
    the same labels and the same hash.

    Args:
        files: CSV, TSV, JSON lines or Parquet; a shard is a file, or of Parquet so many rows.
        out: the folder of the split, which appears whole at the end; a split that is there is replaced, a folder with
            anything else in it is refused.
        strategy, params: of the split. The label of an interaction must depend on its user's interactions alone:
            ``"leave-one-out"``, ``"ratio"`` with ``order="time"``, ``"time"`` with ``valid_from`` and ``test_from``, or
            ``"all"``. None of these draws, so there is no seed.
        engine: runs the pieces (:mod:`recgraph.parallel`), on machines that share the files and ``out``; None:
            this process, one after another.
        shard_rows: rows of a shard of a Parquet file.
        range_rows: about so many interactions are put in order at a time.

    Raises:
        FileNotFoundError: there are no files.
        ValueError: a format or a strategy that cannot be done in shards, a parameter that it does not have, or ``out``
            holds something else than a split.
        DataError: what is wrong with a file; or files hold ids or times of different kinds.
        MemoryLimitError: a shard or a range of users does not fit into this process; nothing was written.
    """
    for name, value in (("shard_rows", shard_rows), ("range_rows", range_rows)):
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")
    if files.format not in FORMATS:
        raise ValueError(f"format {files.format!r} is read as a whole; in shards can be read {', '.join(FORMATS)}")
    if files.reading.has_parts:
        raise ValueError("valid and test are files of their own: such parts are read as a whole, not in shards")
    chosen = strategy_of(strategy, params or {})
    if not chosen.is_by_user:
        raise ValueError(
            f"split {strategy!r} with these parameters labels by all interactions, not by those of each user; in "
            "shards can be split: leave-one-out, ratio with order=time, time with valid_from and test_from but without "
            "n_folds, and all"
        )
    check_replaceable(Path(out))
    # workers have folders of their own
    paths, form = [path.absolute() for path in files.files], files.format
    first = paths[0]
    reading = LogFile(str(first), files.reading).completed()
    read = LogFile(str(first), reading)
    _, columns = read.scan_rows()
    chosen.check_columns([name for name, column in columns if column is not None])
    shards = [*_shards(paths, form, shard_rows)]
    if engine is None:
        check_preparation([_n_rows_about(shard, form, reading) for shard in shards], range_rows)
    with replacing_folder(Path(out).absolute()) as folder:
        work = folder / "work"
        work.mkdir()
        made = _Preparation(engine, folder, work)
        log, encoded = made.encoded(shards, Path(files.path), reading, columns)
        total = sum(each.n_interactions for each in encoded)
        log = log.with_feature_files(read.features(columns), read.feature_files())
        log.write_all_but_log(folder)
        ranges = _ranges(log.n_users, -(-total // range_rows))
        lengths = made.by_range(shards, encoded, log.time_unit, ranges)
        chosen = chosen.resolved(torch.from_numpy(lengths))
        made.label(log, chosen, ranges, [each.number for each in encoded])
        head = {"name": strategy, "params": chosen.identity(), "seed": None}
        digest = split_hash(head, log.users, log.items, _columns(work, ranges, lengths))
        shutil.rmtree(work)
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            sweep(place)  # what workers that died have left
        save_head(folder, {**head, "hash": digest})
    return PreparedSplit(Path(out), log.n_users, log.n_items, total, len(shards), len(ranges), digest)


@dataclass(frozen=True)
class _Preparation:
    """The passes over a log.

    Attributes:
        folder: of the split; ``work`` in it: of what is between two passes.
    """

    engine: Engine | None
    folder: Path
    work: Path

    def encoded(
        self, shards: Sequence[_Shard], path: Path, reading: Reading, columns: Columns
    ) -> tuple[InteractionLog, list[_Encoded]]:
        """Encode all shards -> the log without its rows, and the shards that hold interactions."""
        pieces = (Piece(shard.name, shard) for shard in shards)
        encoded = [*parallel.map(_encode, pieces, (self.work, reading), self.engine)]
        source = source_of_all(path, [*{each.source.path: each.source for each in encoded}.values()])
        starts = itertools.accumulate((each.n_rows for each in encoded), initial=0)
        held = [replace(each, first_row=start) for each, start in zip(encoded, starts, strict=False)]
        held = [each for each in held if each.n_interactions]
        if not held:
            raise source.error(EmptyLogError, "there is no interaction")
        users = _together(self.work, held, "users", columns.user)
        items = _together(self.work, held, "items", columns.item)
        more = _unit(held, source), source.kept()
        return InteractionLog(pl.DataFrame(), users, items, columns, *more, time_format=reading.time_format), held

    def by_range(
        self, shards: Sequence[_Shard], encoded: Sequence[_Encoded], unit: TimeUnit, ranges: Sequence[_Range]
    ) -> npt.NDArray[np.int64]:
        """Divide the rows of the shards among ranges of users -> [n_users] how many interactions each user has."""
        pieces = (Piece(shards[each.number].name, each) for each in encoded)
        for _ in parallel.map(_scatter, pieces, (self.work, unit, ranges), self.engine):
            pass
        shared = (self.work, [each.number for each in encoded])
        return np.concatenate([*parallel.map(_lengths, (part.piece for part in ranges), shared, self.engine)])

    def label(self, log: InteractionLog, strategy: Strategy, ranges: Sequence[_Range], shards: Sequence[int]) -> None:
        """Label and write the rows of all ranges; ``shards`` are those that hold rows."""
        shared = (self.folder, self.work, shards, log, strategy)
        labelled = parallel.map(_label, (part.piece for part in ranges), shared, self.engine)
        counts = sum(labelled, np.zeros(len(Label), np.int64))
        strategy.check_counts({label: int(counts[label]) for label in Label})


def _path(work: Path, name: str, *numbers: int) -> Path:
    return work / f"{name}-{'-'.join(f'{number:05}' for number in numbers)}.parquet"


def _shards(files: Sequence[Path], form: FileFormat, rows: int) -> Iterator[_Shard]:
    number = 0
    for file in files:
        n = Source("parquet", file).count() if form == "parquet" else 0
        if n <= rows:
            yield _Shard(number, str(file))
            number += 1
            continue
        for start in range(0, n, rows):
            yield _Shard(number, str(file), start, min(rows, n - start))
            number += 1


def _n_rows_about(shard: _Shard, form: FileFormat, reading: Reading) -> int:
    if shard.count is not None:
        return shard.count
    file = Path(shard.file)
    return Source("parquet", file).count() if form == "parquet" else n_rows_of_text(file, reading)


def _encode(shared: tuple[Path, Reading], shard: _Shard) -> _Encoded:
    """Encode a shard as a log of its own."""
    work, reading = shared
    raw, columns = LogFile(shard.file, reading).scan_rows()
    source = raw.source.kept()
    if shard.count is not None:
        rows = raw.lazy.slice(shard.start, shard.count)
        raw = replace(raw, lazy=rows, source=replace(raw.source, first_row=shard.start))
    n_rows = int(collect(raw.lazy.select(pl.len()), raw.source).item())
    try:
        log, users, items, unit = encode(raw, columns, reading.time_format, reading.missing_ids)
    except EmptyLogError:
        return _Encoded(shard.number, n_rows, source)
    replace_parquet(log, _path(work, "log", shard.number))
    users.write(_path(work, "users", shard.number))
    items.write(_path(work, "items", shard.number))
    has_integers = {name: dtype.is_integer() for name, dtype in raw.lazy.collect_schema().items()}
    ends = () if unit == "none" else (log["time"].min(), log["time"].max())
    largest = max((abs(int(end)) for end in ends), default=0)  # type: ignore[arg-type]
    return _Encoded(shard.number, n_rows, source, len(log), unit, largest, has_integers=has_integers)


def _together(work: Path, encoded: Sequence[_Encoded], role: str, column: str) -> IdMap:
    """The ids of all shards in the order of their first appearance; writes the index there of each shard's own ids."""
    own = [IdMap.read(_path(work, role, each.number)).values.alias("id") for each in encoded]
    kinds = [family(values.dtype) for values in own]
    for each, kind in zip(encoded, kinds, strict=True):
        if kind != kinds[0] and {kind, kinds[0]} != {"integers", "floats"}:
            message = f"column {column!r} holds {kind}, in the files before it {kinds[0]}; write one type"
            raise each.source.error(MixedIdError, f"{message}, or prepare the log as a whole, where all become texts")
    if any(each.has_integers[column] for each in encoded):  # as the whole log is read: floats alone may be fractions
        raws = [
            Raw(values.alias(column).to_frame().lazy(), each.source) for each, values in zip(encoded, own, strict=True)
        ]
        own = [raw.lazy.collect()[column].alias("id") for raw in ids_of_one_kind(raws, column)]
    ids = IdMap(
        pl.concat([values.to_frame() for values in own], how="vertical_relaxed")["id"].unique(maintain_order=True)
    )
    for each, values in zip(encoded, own, strict=True):
        codes = ids.index(values.cast(ids.values.dtype)).astype(np.int32)
        replace_parquet(pl.DataFrame({"code": codes}), _path(work, f"{role}-codes", each.number))
    return ids


def _unit(encoded: Sequence[_Encoded], source: Source) -> TimeUnit:
    """The unit of the times of all shards: beside seconds with fractions, whole numbers are seconds, too."""
    units = {each.unit for each in encoded}
    if len(units) == 1:
        return next(iter(units))
    if units == {"own", "seconds"}:
        for each in encoded:
            if each.unit == "own" and each.largest_time * 10**6 >= 2**63:
                message = f"time {each.largest_time} is no number of seconds, which others have with fractions"
                raise each.source.error(TimestampError, f"{message}; write one unit in all files")
        return "seconds"
    raise source.error(TimestampError, f"files hold times as {' and as '.join(sorted(units))}; write one kind")


def _ranges(n_users: int, n: int) -> list[_Range]:
    edges = [n_users * number // n for number in range(n + 1)]
    found = [(start, end) for start, end in itertools.pairwise(edges) if end > start]
    return [_Range(number, start, end) for number, (start, end) in enumerate(found)]


def _scatter(shared: tuple[Path, TimeUnit, list[_Range]], each: _Encoded) -> None:
    """Give the rows of a shard the ids of the whole log, and divide them among the ranges of users."""
    work, unit, ranges = shared
    log = load_frame(_path(work, "log", each.number))
    codes = {role: load_frame(_path(work, f"{role}s-codes", each.number))["code"] for role in ("user", "item")}
    log = log.with_columns(
        (pl.col("row").cast(pl.UInt64) + each.first_row).cast(log["row"].dtype),
        *(codes[role].gather(log[role]).alias(role) for role in codes),
    )
    if each.unit == "own" and unit == "seconds":
        log = log.with_columns((pl.col("time").cast(pl.Float64) * 1e6).round().cast(pl.Int64))
    for part in ranges:
        rows = log.filter(pl.col("user").is_between(part.start, part.end - 1))
        replace_parquet(rows, _path(work, "rows", part.number, each.number))


def _rows_of(work: Path, shards: Sequence[int], part: _Range) -> pl.LazyFrame:
    return pl.scan_parquet([_path(work, "rows", part.number, shard) for shard in shards], glob=False)


def _lengths(shared: tuple[Path, list[int]], part: _Range) -> npt.NDArray[np.int64]:
    """[users of the range] their interactions."""
    users = _rows_of(*shared, part).select("user").collect()["user"].to_numpy()
    return np.bincount(users - part.start, minlength=part.end - part.start)


def _label(shared: tuple[Path, Path, Sequence[int], InteractionLog, Strategy], part: _Range) -> npt.NDArray[np.int64]:
    """Put the rows of a range in order, label and write them -> how many rows have each label."""
    folder, work, shards, whole, strategy = shared
    rows = _rows_of(work, shards, part).collect()
    users = whole.users.take(np.arange(part.start, part.end))
    own = replace(whole, log=rows.with_columns(pl.col("user") - part.start).sort("row"), users=users)
    labels = strategy.labels_of_users(own, seed=0)
    rows = order(rows).with_columns(pl.Series("label", labels.numpy()))
    opened, test = open_and_test(rows)
    replace_parquet(opened, _path(parts_folder(folder / OPEN_FILE), "users", part.number))
    replace_parquet(test, _path(parts_folder(folder / TEST_FILE), "users", part.number))
    replace_parquet(rows.drop("row", "user"), _path(work, "ordered", part.number))
    return np.bincount(labels.numpy(), minlength=len(Label))


def _columns(work: Path, ranges: Sequence[_Range], lengths: npt.NDArray[np.int64]) -> Iterator[Column]:
    """The columns of the ordered log as :func:`recgraph.data.split_files.split_hash` reads them, a range at a time."""
    total = int(lengths.sum())
    yield "offsets", len(lengths) + 1, [np.concatenate([[0], np.cumsum(lengths)])]
    ordered = [_path(work, "ordered", part.number) for part in ranges]
    there = read_schema(ordered[0])
    for name in ("items", "labels", "times", "weights", "ratings"):
        column = name.removesuffix("s")
        if column in there:
            frames = (pl.read_parquet(path, columns=[column], glob=False) for path in ordered)
            yield name, total, (frame[column].to_numpy() for frame in frames)
