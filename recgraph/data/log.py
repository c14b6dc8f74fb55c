"""A log of interactions from a frame or files, with indices for ids, and its filters."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
import torch

from recgraph import registry
from recgraph.config import checked
from recgraph.data.columns import SAMPLE, Columns, TimeFormat, TimeUnit, proposed_formats, times_of
from recgraph.data.dataframe import (
    FrameKind,
    attach,
    columns_of,
    frame_kind,
    head_of,
    to_native,
    without_categories,
)
from recgraph.data.ids import IdMap, integers_of, listed, numbered, plain_series, renumbered
from recgraph.data.part import OrderedLog, order
from recgraph.data.read import (
    FEATURES,
    FOR_MISSING,
    NO_COLUMN,
    BadRows,
    LogFile,
    Reading,
    Source,
    Table,
    given_apart,
)
from recgraph.files import (
    DataError,
    check_manifest,
    read_frame,
    read_object,
    reading,
    replacing_folder,
    write_frame,
    write_json,
)
from recgraph.pages import block

Duplicates = Literal["all", "first", "last"]
#: the column of the part (0 train, 1 valid, 2 test) that an interaction was given in
PART = "part"
#: the relation that is the log itself: a model gets its training part, whatever a graph holds under
#: this name
INTERACTS = ("user", "interacts", "item")
#: the descriptions of a saved log and of a saved split, the files that are written last
DESCRIPTION, HEAD_OF_SPLIT = "interactions.json", "split.json"
_LOG = "log.parquet"
#: the types that no id has
_NO_IDS = (pl.Object, pl.Int128, pl.UInt128, pl.Duration, pl.Unknown)
#: of the numbers
_LARGEST = sys.float_info.max
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class Log:
    """A log of interactions and its filters; :class:`recgraph.Interactions` can be split, too.

    Values are immutable: every method returns a new one. Users and items are numbered from 0 in the
    order of their first appearance in the (filtered) log.

    Attributes:
        log: columns ``row`` (in the file or frame, from 0), ``user``, ``item`` (indices) and, where
            given, ``time`` (int64, see ``time_unit``), ``rating``, ``weight``; and ``part``, where
            train, valid and test were given apart; in the order of ``row``.
        users, items, columns: index <-> the user's own id, and the user's own names of columns.
        time_unit: ``"us"`` unix microseconds (from dates and texts), ``"seconds"`` microseconds
            (from seconds with fractions), ``"own"`` whole numbers as they came in, or ``"none"``.
        kind: of the frame that came in (``"polars"`` for files), and goes out.
        user_features, item_features: side information, keyed by the user's own ids; it may hold
            others. Or None.
        graph: further relations of users and items (friends, tags) and their feature vectors: a
            typed graph (:class:`recgraph.graph.hetero.HeteroGraph`) whose nodes ``user`` and
            ``item`` carry the user's own ids (without ids, the index is the id), and maybe others.
            Or None.
        files, time_format: where all of it, and nothing else, was read from, with the columns that
            were found, and how its times and those of later logs are read; or None.
    """

    log: pl.DataFrame
    users: IdMap
    items: IdMap
    columns: Columns
    time_unit: TimeUnit
    kind: FrameKind = "polars"
    user_features: pl.DataFrame | None = None
    item_features: pl.DataFrame | None = None
    graph: Any = None
    files: LogFile | None = None
    time_format: TimeFormat = None

    @classmethod
    @checked
    def from_frame(
        cls,
        frame: Any,
        *,
        user: str,
        item: str,
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        user_features: Any = None,
        item_features: Any = None,
        time_format: TimeFormat = None,
        missing_ids: BadRows = "error",
        bad_times: BadRows = "error",
    ) -> Self:
        """From a pandas, polars (also lazy) or pyarrow frame, one row an interaction.

        Args:
            frame: the log. Of a lazy frame the columns that are named here are collected.
            user, item: the columns of ids: integers, texts, dates, ...; one type a column. UUIDs
                become texts, and whole floats, as pandas makes of integers beside a NaN, integers.
            timestamp: numbers (whole ones are kept as they are; with fractions they are seconds,
                kept to the microsecond), dates, datetimes or ISO 8601 texts (without a zone: UTC).
            rating, weight: numbers; weights, of at least 0, are what an interaction counts in
                training.
            user_features, item_features: frames with the column ``user`` or ``item`` and one row an
                id.
            time_format: of timestamps that are texts, e.g. ``"%d/%m/%Y %H:%M"``, or several, of
                which the first that reads a text does; ISO 8601 is read beside them. Histories are
                read by it, too.
            missing_ids, bad_times: ``"drop"`` leaves out rows without a user, an item or a time
                that can be read; they are a DataError by default, which says what is wrong, with
                the row.
        """
        return cls.of_parts(
            {"train": frame},
            user_features,
            item_features,
            user=user,
            item=item,
            timestamp=timestamp or NO_COLUMN,
            rating=rating or NO_COLUMN,
            weight=weight,
            time_format=time_format,
            missing_ids=missing_ids,
            bad_times=bad_times,
        )

    @classmethod
    def from_files(cls, files: LogFile) -> Self:
        """From the files of a :class:`recgraph.data.read.LogFile`."""
        table = files.read()
        data = cls._encoded(table, "polars", files.reading)
        data = data.with_features(**files.features(table.columns))
        return replace(data, files=files.found(table.columns))

    @classmethod
    def of_parts(
        cls,
        parts: Mapping[str, Any],
        user_features: Any = None,
        item_features: Any = None,
        **options: Any,
    ) -> Self:
        """One log of ``train``, ``valid`` and ``test``, or of train alone; see
        :func:`recgraph.load_data`.
        """
        given = {}
        for name, part in parts.items():
            if part is not None:
                given[name] = _matrix_entries(part)
        n_files = sum(isinstance(part, str | Path) for part in given.values())
        if n_files not in (0, len(given)):
            raise ValueError(
                f"{', '.join(given)} are files and frames; give all as files, or all as frames"
            )
        frames = {}
        for name, table in (("user_features", user_features), ("item_features", item_features)):
            if isinstance(table, str | Path):
                options[name] = str(table)
            else:
                frames[name] = table
        reading = Reading.of({name: value for name, value in options.items() if value is not None})
        if n_files:
            paths = {name: str(path) for name, path in given.items()}
            train = paths.pop("train")
            data = cls.from_files(LogFile(train, reading.model_copy(update=paths)))
        else:
            data = cls._of_frames(given, reading)
        return data.with_features(**frames)

    @classmethod
    def _of_frames(cls, parts: Mapping[str, Any], reading: Reading) -> Self:
        kind = frame_kind(parts["train"], "the log")
        columns = reading.columns_of(head_of(parts["train"], SAMPLE), f"{kind} frame")
        tables = {}
        for name, part in parts.items():
            rows = columns_of(part, columns.named(), (columns.user, columns.item))
            tables[name] = Table(rows, columns, Source())
        data = cls._encoded(given_apart(tables), kind, reading)
        return data.with_features(**LogFile("", reading).features(columns))

    @classmethod
    def _encoded(cls, table: Table, kind: FrameKind, reading: Reading) -> Self:
        log, users, items, unit = encode(table, reading)
        time_format = None if unit == "none" else reading.time_format
        return cls(log, users, items, table.columns, unit, kind, time_format=time_format)

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_interactions(self) -> int:
        return len(self.log)

    @property
    def has_parts(self) -> bool:
        """Whether train, valid and test were given apart, for the split ``"given"``."""
        return PART in self.log.columns

    def __len__(self) -> int:
        return len(self.log)

    def __repr__(self) -> str:
        sizes = f"{self.n_users:,} users, {self.n_items:,} items, {len(self):,} interactions"
        note = ", in the order of the rows" if self.time_unit == "none" else ""
        return f"{type(self).__name__}({sizes}{note})"

    def _repr_html_(self) -> str:
        """What is known without looking at the rows."""
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": len(self),
            "columns": self.columns.model_dump(exclude_none=True),
            "times": self.time_unit,
        }
        if self.time_unit == "none":
            facts["times"] = "none: in the order of the rows"
        for name in FEATURES:
            table = getattr(self, name)
            if table is not None:
                facts[name.replace("_", " ")] = table.width - 1
        if self.graph is not None:
            facts["relations"] = repr(self.graph)
        return block(type(self).__name__, facts)

    @checked
    def with_features(
        self, user_features: Any = None, item_features: Any = None, graph: Any = None
    ) -> Self:
        """Add side information (frames of any kind, a typed graph); None keeps what is there."""
        new: dict[str, Any] = {}
        if user_features is not None:
            new["user_features"] = attach(
                user_features, self.columns.user, self.users, "user_features"
            )
        if item_features is not None:
            new["item_features"] = attach(
                item_features, self.columns.item, self.items, "item_features"
            )
        if graph is not None:
            check_graph(graph, self)
            new["graph"] = graph
        return replace(self, **new, files=None) if new else self

    @checked
    def with_ids(self, users: Any = None, items: Any = None) -> Self:
        """Add users and items without interactions, by their ids: :class:`recgraph.models.MEOWRec`
        and sequence models with ``item_features`` can recommend such items. Filters drop them, so
        filter first."""
        maps: dict[str, Any] = {}
        if users is not None:
            maps["users"] = self.users.extended(users)
        if items is not None:
            maps["items"] = self.items.extended(items)
        return replace(self, **maps, files=None)

    @checked
    def k_core(self, users: int = 5, items: int = 5) -> Self:
        """Keep users and items with at least so many interactions, iterated to the fixed point."""
        keep_mask = k_core(self.log["user"].to_numpy(), self.log["item"].to_numpy(), users, items)
        log = self.log.filter(pl.Series(keep_mask))
        return self._filtered(log, f"k_core(users={users}, items={items})")

    @checked
    def min_rating(self, threshold: float) -> Self:
        """Keep interactions rated at least so, and not below 0, which often stands for "not
        rated".
        """
        if "rating" not in self.log.columns:
            raise DataError("min_rating needs a rating: name its column when reading (rating=...)")
        log = self.log.filter(pl.col("rating") >= max(float(threshold), 0.0))
        return self._filtered(log, f"min_rating({threshold:g})")

    @checked
    def deduplicate(self, policy: Duplicates = "last") -> Self:
        """Of repeated pairs of user and item keep all, the first or the last (by time, then by
        row).
        """
        if policy == "all":
            return self
        log = order(self.log).unique(["user", "item"], keep=policy, maintain_order=True)
        return self._filtered(log.sort("row"), f"deduplicate({policy!r})")

    def _filtered(self, log: pl.DataFrame, filter_name: str) -> Self:
        """The rows that a filter leaves; users and items are numbered anew."""
        if len(log) == len(self.log):
            return self
        if not len(log):
            raise DataError(f"{filter_name} leaves none of {len(self.log):,} interactions")
        maps: dict[str, Any] = {}
        for name, ids in (("user", self.users), ("item", self.items)):
            codes = log[name].to_numpy()
            new, rows = renumbered(codes, len(ids))
            maps[name + "s"] = ids.take(codes[rows])
            log = log.with_columns(pl.Series(name, new))
        return replace(self, log=log, **maps, files=None)

    def masked(self, keep_mask: npt.NDArray[np.bool_]) -> Self:
        """Keep the interactions of a mask [T] aligned with :attr:`ordered`; users and items keep
        their indices.
        """
        rows = self.log["row"].to_numpy()
        keeps = np.ones(int(rows.max(initial=0)) + 1, dtype=bool)
        keeps[self.ordered.rows.numpy()[~keep_mask]] = False
        data = replace(self, log=self.log.filter(pl.Series(keeps[rows])), files=None)
        data.__dict__["ordered"] = self.ordered.filter(torch.from_numpy(keep_mask))
        return data

    @cached_property
    def ordered(self) -> OrderedLog:
        """The interactions grouped by user, each user's by time and then by row."""
        return OrderedLog.of(self.log, self.n_users, self.n_items)

    def to_frame(self) -> Any:
        """The log with the user's own ids and column names, in the kind of frame that came in.

        Times that came in as dates or texts are datetimes in UTC, without a zone; numbers are
        numbers.
        """
        log = self.log
        if self.time_unit == "us":
            log = log.with_columns(pl.col("time").cast(pl.Datetime("us")))
        elif self.time_unit == "seconds":
            log = log.with_columns(pl.col("time") / 1e6)
        columns = [
            self.users.ids(log["user"].to_numpy()).alias(self.columns.user),
            self.items.ids(log["item"].to_numpy()).alias(self.columns.item),
        ]
        roles = {
            "time": self.columns.timestamp,
            "rating": self.columns.rating,
            "weight": self.columns.weight,
        }
        for role, name in roles.items():
            if name is not None:
                columns.append(log[role].alias(name))
        return to_native(pl.DataFrame(columns), self.kind)

    def save(self, folder: str | Path) -> None:
        """Write Parquet files and a JSON description as a folder; an earlier log there is replaced,
        nothing else.
        """
        folder = Path(folder)
        if (folder / HEAD_OF_SPLIT).exists():
            raise FileExistsError(
                f"{folder} holds a saved split, which needs its own ids; choose another folder"
            )
        with replacing_folder(folder) as new:
            write_frame(self.log, new / _LOG)
            self.write_all_but_log(new)

    def write_all_but_log(self, folder: Path) -> None:
        """Write ids, features, the graph and the description."""
        self.users.write(folder / "users.parquet")
        self.items.write(folder / "items.parquet")
        for name in FEATURES:
            table = getattr(self, name)
            if table is not None:
                write_frame(table, folder / f"{name}.parquet")
        if self.graph is not None:
            self.graph.save(folder / "graph")
        description = {
            "columns": self.columns.model_dump(),
            "time_unit": self.time_unit,
            "time_format": self.time_format,
            "kind": self.kind,
        }
        write_json(description, folder / DESCRIPTION)

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote."""
        folder = Path(folder)
        check_manifest(folder)
        return cls.load_with(read_frame(folder / _LOG), folder)

    @classmethod
    def load_with(cls, log: pl.DataFrame, folder: Path) -> Self:
        """Read what :meth:`write_all_but_log` wrote, around a given ``log``."""
        saved = read_object(folder / DESCRIPTION)
        beside: dict[str, Any] = {}
        for name in FEATURES:
            file = folder / f"{name}.parquet"
            if file.is_file():
                beside[name] = read_frame(file)
        if (folder / "graph").is_dir():
            beside["graph"] = registry.load("graph", "HeteroGraph").load(folder / "graph")
        return cls(
            log=log,
            users=IdMap.read(folder / "users.parquet"),
            items=IdMap.read(folder / "items.parquet"),
            columns=Columns(**saved["columns"]),
            time_unit=saved["time_unit"],
            time_format=saved["time_format"],
            kind=saved["kind"],
            **beside,
        )


def k_core(
    user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], users: int, items: int
) -> npt.NDArray[np.bool_]:
    """[T] True for the largest set of rows in which every user and every item has so many
    interactions; ``user`` and ``item`` are [T] indices. Dropping items shortens users and the other
    way round, so it is repeated."""
    keep_mask = np.ones(len(user), dtype=bool)
    of_users, of_items = np.bincount(user), np.bincount(item)
    while True:
        # of the rows that are left
        stays = (of_users >= users)[user] & (of_items >= items)[item]
        if stays.all():
            return keep_mask
        of_users -= np.bincount(user[~stays], minlength=len(of_users))
        of_items -= np.bincount(item[~stays], minlength=len(of_items))
        keep_mask[keep_mask] = stays
        user, item = user[stays], item[stays]


# -- encoding


def _matrix_entries(part: Any) -> Any:
    """The entries of a scipy sparse matrix, or of the ``.npz`` file of one, as a frame; all else as
    it is.
    """
    if isinstance(part, str | Path) and Path(part).suffix == ".npz":
        with reading(Path(part)):
            part = sp.load_npz(part)
    if not sp.issparse(part):
        return part
    entries: Any = sp.coo_array(part)  # type: ignore[call-overload]
    is_entry = entries.data != 0
    return pl.DataFrame(
        {
            "user_id": entries.row[is_entry].astype(np.int64),
            "item_id": entries.col[is_entry].astype(np.int64),
            "weight": entries.data[is_entry],
        }
    )


class _Faults:
    """The rows of a log that cannot be used. Each counts for the first of its columns that is
    wrong.

    Attributes:
        usable: [T] bool, the rows in which nothing was wrong so far.
        refused, dropped: what is wrong in each column, where it is an error, and where such rows
            are left out.
    """

    def __init__(self, table: Table) -> None:
        self.source = table.source
        self.usable = pl.repeat(True, len(table.frame), eager=True)
        self.refused: list[str] = []
        self.dropped: list[str] = []
        self._refused_rows: list[int] = []

    def add(
        self, column: pl.Series, wrong: pl.Series, what: str, *, fix: str, drops: bool = False
    ) -> None:
        """Take the rows of a mask out: their ``column`` has ``what`` there; ``fix`` is what may be
        done about it. With ``drops`` they are left out, else they are an error.
        """
        rows = (wrong & self.usable).arg_true()
        if not len(rows):
            return
        self.usable[rows] = False
        places = ", ".join(self._examples(column, rows))
        message = (
            f"column {column.name!r} has {what} in {len(rows):,} of {len(column):,} rows ({places})"
        )
        if drops:
            self.dropped.append(message)
        else:
            self.refused.append(f"{message}; {fix}")
            self._refused_rows.append(int(rows[0]))

    def _examples(self, column: pl.Series, rows: pl.Series) -> Iterator[str]:
        """Three of the rows, of different values where there are."""
        table = pl.DataFrame({"row": rows.cast(pl.Int64), "value": column.gather(rows)})
        first = pl.concat([table.unique("value", maintain_order=True)[:3], table])
        for row, value in first.unique("row", maintain_order=True)[:3].rows():
            text = "nothing" if value is None else repr(value)
            yield f"{text} in row {self.source.place(row)[1]}"

    def check(self) -> None:
        """Raise a DataError where a row is an error; log what is left out."""
        if self.refused:
            raise self.source.error("; ".join(self.refused), row=min(self._refused_rows))
        if self.dropped:
            n_dropped = f"{int((~self.usable).sum()):,} of {len(self.usable):,} rows"
            path = self.source.path or "frame"
            _log.warning("%s: %s are left out: %s", path, n_dropped, "; ".join(self.dropped))


def encode(table: Table, how: Reading) -> tuple[pl.DataFrame, IdMap, IdMap, TimeUnit]:
    """Encode a log: -> its columns as of :class:`Log`, the ids of users and of items, the unit of
    times.
    """
    columns, frame = table.columns, table.frame
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")
    faults = _Faults(table)
    user = _ids(frame[columns.user], table, how, faults)
    item = _ids(frame[columns.item], table, how, faults)
    values = {"row": pl.arange(len(frame), dtype=pl.UInt32, eager=True)}
    if columns.rating is not None:
        fix = "fill it in, or read none: rating='none' (--rating none)"
        values["rating"] = _numbers(frame[columns.rating], faults, "no rating", -_LARGEST, fix)
    if columns.weight is not None:
        values["weight"] = _numbers(frame[columns.weight], faults, "no weight", 0.0, "fill it in")
    unit: TimeUnit = "none"
    if columns.timestamp is not None:
        values["time"], unit = _times(frame[columns.timestamp], how, faults)
    faults.check()
    log = pl.DataFrame(values).filter(faults.usable)
    if not len(log):
        raise table.source.error("there is no interaction")
    users, of_users = _numbered(user.filter(faults.usable), table, log["row"])
    items, of_items = _numbered(item.filter(faults.usable), table, log["row"])
    log.insert_column(1, of_users.alias("user")).insert_column(2, of_items.alias("item"))
    if table.ends:
        log = with_parts(log, table.ends)
    return log, users, items, unit


def _ids(column: pl.Series, table: Table, how: Reading, faults: _Faults) -> pl.Series:
    """The ids of a column, null where there is none. In a text file they have no blanks around
    them, and an empty field is none, in quotes or not. Where rows without ids are left out, words
    for a missing one and blanks are none either."""
    ids = plain_series(column)
    if ids.dtype.is_nested() or ids.dtype in _NO_IDS:
        raise table.source.error(f"the ids in column {column.name!r} are of type {column.dtype}")
    drops = how.missing_ids == "drop"
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
    missing = ids.is_null()
    if ids.dtype == pl.String:
        texts = ids.str.strip_chars()
        if table.as_text:
            ids, missing = texts, missing | (texts == "")
        if drops:
            missing |= texts.is_in(FOR_MISSING)
    fix = "fill it in, or leave such rows out: missing_ids='drop' (--drop-missing-ids)"
    faults.add(column, missing.fill_null(True), "no id", fix=fix, drops=drops)
    return ids


def _numbers(column: pl.Series, faults: _Faults, what: str, least: float, fix: str) -> pl.Series:
    """Ratings or weights as floats, each at least ``least``."""
    plain = without_categories(column.to_frame()).to_series()
    if plain.dtype == pl.String:
        plain = plain.str.strip_chars()
    numbers = plain.cast(pl.Float64, strict=False)
    is_number = numbers.is_between(least, _LARGEST).fill_null(False)
    faults.add(column, ~is_number, what, fix=fix)
    return numbers


def _times(column: pl.Series, how: Reading, faults: _Faults) -> tuple[pl.Series, TimeUnit]:
    """Times as integers, and their unit; where many cannot be read, formats that would are said."""
    plain = without_categories(column.to_frame()).to_series()
    times, unit = times_of(plain, how.time_format)
    what = "no time that can be read"
    fix = "leave such rows out: bad_times='drop' (--drop-bad-times)"
    if plain.dtype == pl.String:
        formats = proposed_formats(plain.filter(times.is_null() & faults.usable))
        if formats:
            what += f" without its format, time_format= (--time-format) {', '.join(formats)},"
    faults.add(plain, times.is_null(), what, fix=fix, drops=how.bad_times == "drop")
    return times, unit


def _numbered(ids: pl.Series, table: Table, rows: pl.Series) -> tuple[IdMap, pl.Series]:
    """The map of ids, and the index of each. Whole floats, and plain integers of a text file,
    become integers."""
    is_float = ids.dtype.is_float()
    if is_float or (table.as_text and ids.dtype == pl.String):
        integers = integers_of(ids)
        if integers is not None:
            ids = integers
        elif is_float and (ids.round() == ids).all():
            place = int(ids.abs().arg_max() or 0)
            message = (
                f"column {ids.name!r} holds {ids[place]!r}, a float that may stand for several "
                "integers; read it as integers or texts"
            )
            raise table.source.error(message, row=int(rows[place]))
    codes, unique = numbered(ids)
    if unique.dtype == pl.String:
        _warn_of_odd(unique)
    return IdMap(unique), pl.Series(codes)


def _warn_of_odd(ids: pl.Series) -> None:
    """Say which texts among the ids may be none, or another one written with blanks."""
    plain = ids.str.strip_chars()
    odd = ids.filter(plain.is_in(FOR_MISSING) | ((plain != ids) & plain.is_in(ids.implode())))
    if len(odd):
        message = "column %r: %s are ids like all others, and may stand for none or for another id"
        _log.warning(message, ids.name, listed(odd, most=3))


def with_parts(log: pl.DataFrame, ends: Sequence[int]) -> pl.DataFrame:
    """The log with the column ``part``: how many of the parts (train, valid, test) end before a
    row.
    """
    parts = np.searchsorted(ends, log["row"].to_numpy(), side="right")
    return log.with_columns(pl.Series(PART, parts.astype(np.uint8)))


# -- a typed graph beside a log


def check_graph(graph: Any, log: Log) -> None:
    """Refuse a graph that does not speak of a log's users and items, by their ids, or holds
    interactions of the log, which may be of its test part; of ``("user", "interacts", "item")`` a
    model gets the training part instead."""
    places = {}
    for name, ids in (("user", log.users), ("item", log.items)):
        if name in graph.node_types:
            places[name] = ids.index(ids_of(graph.nodes[name]), f"graph: {name}s")
            if (places[name] < 0).all():
                message = "graph: none of its nodes %r is of the log, whose ids are such as %r"
                _log.warning(message, name, ids.values[0])
    if not places:
        raise DataError(
            f"graph has node types {graph.node_types}; name its users 'user' and its items 'item'"
        )
    n_items = len(log.items)
    pairs = log.log["user"].to_numpy().astype(np.int64) * n_items + log.log["item"].to_numpy()
    for edge_type, edges in graph.edges.items():
        start, _, end = edge_type
        if edge_type == INTERACTS or {start, end} != {"user", "item"}:
            continue
        ends = {
            start: places[start][edges.adj.rows.cpu()],
            end: places[end][edges.adj.indices.cpu()],
        }
        is_known = (ends["user"] >= 0) & (ends["item"] >= 0)
        keys = ends["user"] * n_items + ends["item"]
        n_known = len(np.intersect1d(keys[is_known], pairs))
        if n_known:
            raise DataError(
                f"graph: relation {edge_type} holds {n_known:,} of the log's interactions, which may be test data; "
                f"leave them out: paths follow the log as {INTERACTS}"
            )


def ids_of(nodes: Any) -> Any:
    """The ids of a graph's nodes of one type, in their order; their numbers where they have
    none.
    """
    return np.arange(nodes.count) if nodes.ids is None else nodes.ids.values
