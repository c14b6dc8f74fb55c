"""A log of interactions from a frame or files, with indices for ids, and its filters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
import torch

from recgraph import registry
from recgraph.config import checked
from recgraph.data.columns import SAMPLE, Columns, TimeFormat, TimeUnit, proposed_formats, times_of
from recgraph.data.dataframe import FrameKind, attach, columns_of, frame_kind, head_of, to_native
from recgraph.data.ids import IdMap, integers_of, listed, numbered, plain_series, renumbered
from recgraph.data.part import OrderedLog
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
        columns = {"user": user, "item": item, "weight": weight}
        columns |= {"timestamp": timestamp or NO_COLUMN, "rating": rating or NO_COLUMN}
        how: dict[str, Any] = {
            "time_format": time_format,
            "missing_ids": missing_ids,
            "bad_times": bad_times,
        }
        return cls.of_parts({"train": frame}, user_features, item_features, **columns, **how)

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
        given = {name: _of_matrix(part) for name, part in parts.items() if part is not None}
        are_files = {isinstance(part, str | Path) for part in given.values()}
        if len(are_files) > 1:
            raise ValueError(
                f"{', '.join(given)} are files and frames; give all as files, or all as frames"
            )
        features = {"user_features": user_features, "item_features": item_features}
        paths = {name: str(file) for name, file in features.items() if isinstance(file, str | Path)}
        frames = {name: each for name, each in features.items() if name not in paths}
        how = Reading.of(
            {name: value for name, value in options.items() if value is not None}, **paths
        )
        train = given["train"]
        if are_files == {True}:
            beside = {name: str(path) for name, path in given.items() if name != "train"}
            return cls.from_files(LogFile(str(train), how.model_copy(update=beside))).with_features(
                **frames
            )
        kind = frame_kind(train, "the log")
        columns = how.columns_of(head_of(train, SAMPLE), f"{kind} frame")
        own = {
            name: Table(
                columns_of(part, columns.named(), (columns.user, columns.item)), columns, Source()
            )
            for name, part in given.items()
        }
        data = cls._encoded(given_apart([own.get(name) for name in parts]), kind, how)
        return data.with_features(**LogFile("", how).features(columns)).with_features(**frames)

    @classmethod
    def _encoded(cls, table: Table, kind: FrameKind, how: Reading) -> Self:
        log, users, items, unit = encode(table, how)
        form = how.time_format if table.columns.timestamp is not None else None
        return cls(log, users, items, table.columns, unit, kind, time_format=form)

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
        return f"{type(self).__name__}({sizes}{', in the order of the rows' if self.time_unit == 'none' else ''})"

    def _repr_html_(self) -> str:
        """What is known without looking at the rows."""
        features = {"users": self.user_features, "items": self.item_features}
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": len(self),
            "columns": self.columns.model_dump(exclude_none=True),
            "times": "none: in the order of the rows"
            if self.time_unit == "none"
            else self.time_unit,
            "features": {
                name: frame.width - 1 for name, frame in features.items() if frame is not None
            }
            or None,
            "relations": None if self.graph is None else repr(self.graph),
        }
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
        return replace(
            self,
            users=self.users if users is None else self.users.extended(users),
            items=self.items if items is None else self.items.extended(items),
            files=None,
        )

    @checked
    def k_core(self, users: int = 5, items: int = 5) -> Self:
        """Keep users and items with at least so many interactions, iterated to the fixed point."""
        keep_mask = k_core(self.log["user"].to_numpy(), self.log["item"].to_numpy(), users, items)
        kept = self.log if keep_mask.all() else self.log.filter(pl.Series(keep_mask))
        return self._filtered(kept, f"k_core(users={users}, items={items})")

    @checked
    def min_rating(self, threshold: float) -> Self:
        """Keep interactions rated at least so, and not below 0, which often stands for "not
        rated".
        """
        if "rating" not in self.log.columns:
            raise DataError("min_rating needs a rating: name its column when reading (rating=...)")
        return self._filtered(
            self.log.filter(pl.col("rating") >= max(float(threshold), 0.0)),
            f"min_rating({threshold:g})",
        )

    @checked
    def deduplicate(self, policy: Duplicates = "last") -> Self:
        """Of repeated pairs of user and item keep all, the first or the last (by time, then by
        row).
        """
        if policy == "all":
            return self
        ordered = (
            self.log.sort("time", maintain_order=True) if "time" in self.log.columns else self.log
        )
        kept = ordered.unique(["user", "item"], keep=policy, maintain_order=True).sort("row")
        return self._filtered(kept, f"deduplicate({policy!r})")

    def _filtered(self, log: pl.DataFrame, what: str) -> Self:
        """The kept rows; users and items are numbered anew."""
        if len(log) == len(self.log):
            return self
        if not len(log):
            raise DataError(f"{what} leaves none of {len(self.log):,} interactions")
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
        keeps = np.ones(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
        keeps[self.ordered.rows.numpy()[~keep_mask]] = False
        kept = replace(self, log=self.log.filter(pl.Series(keeps[rows])), files=None)
        kept.__dict__["ordered"] = self.ordered.filter(torch.from_numpy(keep_mask))
        return kept

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
        names = {
            "time": self.columns.timestamp,
            "rating": self.columns.rating,
            "weight": self.columns.weight,
        }
        columns = [
            self.users.ids(log["user"].to_numpy()).alias(self.columns.user),
            self.items.ids(log["item"].to_numpy()).alias(self.columns.item),
            *(
                log[role].alias(name)
                for role, name in names.items()
                if name and role in log.columns
            ),
        ]
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
            if (table := getattr(self, name)) is not None:
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
        files = {name: folder / f"{name}.parquet" for name in FEATURES}
        features: dict[str, Any] = {
            name: read_frame(file) for name, file in files.items() if file.is_file()
        }
        has_graph = (folder / "graph").is_dir()
        return cls(
            log=log,
            users=IdMap.read(folder / "users.parquet"),
            items=IdMap.read(folder / "items.parquet"),
            columns=Columns(**saved["columns"]),
            time_unit=saved["time_unit"],
            time_format=saved["time_format"],
            kind=saved["kind"],
            graph=registry.load("graph", "HeteroGraph").load(folder / "graph")
            if has_graph
            else None,
            **features,
        )


def k_core(
    user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], users: int, items: int
) -> npt.NDArray[np.bool_]:
    """[T] True for the largest set of rows in which every user and every item has so many
    interactions; ``user`` and ``item`` are [T] indices. Dropping items shortens users and the other
    way round, so it is repeated."""
    keep_mask = np.ones(len(user), dtype=bool)
    rows: npt.NDArray[np.integer] | slice = slice(None)
    of_users, of_items = np.bincount(user), np.bincount(item)
    while len(user):
        keep = (of_users >= users)[user] & (of_items >= items)[item]
        gone = np.flatnonzero(~keep)
        if not len(gone):
            break
        of_users -= np.bincount(user[gone], minlength=len(of_users))
        of_items -= np.bincount(item[gone], minlength=len(of_items))
        keep_mask[gone if isinstance(rows, slice) else rows[gone]] = False
        rows = np.flatnonzero(keep) if isinstance(rows, slice) else rows[keep]
        user, item = user[keep], item[keep]
    return keep_mask


# -- encoding


def _of_matrix(part: Any) -> Any:
    """The entries of a scipy sparse matrix, or of the ``.npz`` file of one, as a frame; all else as
    it is.
    """
    if isinstance(part, str | Path) and Path(part).suffix == ".npz":
        with reading(Path(part)):
            part = sp.load_npz(part)
    if not sp.issparse(part):
        return part
    entries: Any = sp.coo_array(part)  # type: ignore[call-overload]
    held = entries.data != 0
    frame = pl.DataFrame(
        {"user_id": entries.row[held], "item_id": entries.col[held], "weight": entries.data[held]}
    )
    return frame.with_columns(pl.col("user_id", "item_id").cast(pl.Int64))


class _Bad(NamedTuple):
    """Rows that cannot be used: a mask [T], the column that is wrong, why, and what may be done
    about it.
    """

    mask: pl.Series
    given: pl.Series
    why: str
    fix: str = ""
    drops: bool = False

    def told(self, source: Source) -> str:
        """How many rows, three of them, of different values where there are, and the fix."""
        rows = self.mask.arg_true()
        table = pl.DataFrame({"row": rows, "value": self.given.gather(rows)})
        first = pl.concat([table.unique("value", maintain_order=True)[:3], table])
        first = first.unique("row", maintain_order=True)[:3].with_columns(
            pl.col("row").cast(pl.Int64)
        )
        texts = [(row, "nothing" if value is None else repr(value)) for row, value in first.rows()]
        shown = ", ".join(f"{text} in row {source.place(row)[1]}" for row, text in texts)
        told = f"column {self.given.name!r} has {self.why} in {len(rows):,} of {len(self.mask):,} rows ({shown})"
        return f"{told}; {self.fix}" if self.fix else told


def encode(table: Table, how: Reading) -> tuple[pl.DataFrame, IdMap, IdMap, TimeUnit]:
    """Encode a log: -> its columns as of :class:`Log`, the ids of users and of items, the unit of
    times.
    """
    columns, source, frame = table.columns, table.source, table.frame
    if columns.user == columns.item:
        raise DataError(f"user = {columns.user!r} and item = {columns.item!r} must be two columns")
    ids = [_plain_ids(frame[name], table) for name in (columns.user, columns.item)]
    drops = how.missing_ids == "drop"
    missing = [_missing(each, table.as_text, drops) for each in ids]
    fix = (
        ""
        if drops
        else "fill it in, or leave such rows out: missing_ids='drop' (--drop-missing-ids)"
    )
    bad = [_Bad(mask, each, "no id", fix, drops) for each, mask in zip(ids, missing, strict=True)]
    kept = ~(missing[0] | missing[1])
    unit: TimeUnit = "none"
    log = pl.DataFrame({"row": pl.arange(len(frame), dtype=pl.UInt32, eager=True)})
    for role, name in (("rating", columns.rating), ("weight", columns.weight)):
        if name is not None:
            texts = plain_series(frame[name]) if not frame[name].dtype.is_decimal() else frame[name]
            texts = texts.str.strip_chars() if texts.dtype == pl.String else texts
            values = texts.cast(pl.Float64, strict=False)
            wrong = ~values.is_finite().fill_null(False) | (
                values < (0 if role == "weight" else -np.inf)
            )
            fix = "fill it in" + (
                ", or read none: rating='none' (--rating none)" if role == "rating" else ""
            )
            bad.append(_Bad(wrong.fill_null(True) & kept, frame[name], f"no {role}", fix))
            log = log.with_columns(values.alias(role))
    if columns.timestamp is not None:
        given = frame[columns.timestamp]
        given = given if given.dtype.is_decimal() else plain_series(given)
        times, unit = times_of(given, how.time_format)
        unread = _Bad(
            times.is_null() & kept, given, "no time that can be read", drops=how.bad_times == "drop"
        )
        bad.append(unread._replace(fix=_fix_of_times(unread)))
        log = log.with_columns(times.alias("time"))
    bad = [each for each in bad if each.mask.any()]
    if refused := [each for each in bad if not each.drops]:
        message = "; ".join(each.told(source) for each in refused)
        raise source.error(message, row=min(int(each.mask.arg_max() or 0) for each in refused))
    for each in bad:
        kept &= ~each.mask
    if bad:
        left, why = (
            f"{int((~kept).sum()):,} of {len(frame):,} rows",
            "; ".join(each.told(source) for each in bad),
        )
        _log.warning("%s: %s are left out: %s", source.path or "frame", left, why)
        log, ids = log.filter(kept), [each.filter(kept) for each in ids]
    if not len(log):
        raise source.error("there is no interaction")
    (user, users), (item, items) = (numbered(_integers(each, table, log["row"])) for each in ids)
    log.insert_column(1, pl.Series("user", user)).insert_column(2, pl.Series("item", item))
    for values in (each for each in (users, items) if each.dtype == pl.String):
        _warn_of_odd(values)
    return (with_parts(log, table.ends) if table.ends else log), IdMap(users), IdMap(items), unit


def _fix_of_times(unread: _Bad) -> str:
    """What may be done about times that cannot be read: formats that read many of them, or leave
    them out.
    """
    formats = (
        proposed_formats(unread.given.filter(unread.mask))
        if unread.given.dtype == pl.String
        else []
    )
    how = (
        [f"say how they are written: time_format= (--time-format) {', '.join(formats)}"]
        if formats
        else []
    )
    drop = f"leave {'what no format reads' if formats else 'such rows'} out: bad_times='drop' (--drop-bad-times)"
    return ", and ".join(how if unread.drops else [*how, drop])


def _warn_of_odd(ids: pl.Series) -> None:
    """Say which texts among the ids may be none, or another one written with blanks."""
    plain = ids.str.strip_chars()
    odd = ids.filter(plain.is_in(FOR_MISSING) | ((plain != ids) & plain.is_in(ids.implode())))
    if len(odd):
        message = "column %r: %s are ids like all others, and may stand for none or for another id"
        _log.warning(message, ids.name, listed(odd, most=3))


def with_parts(log: pl.DataFrame, ends: tuple[int, ...] | list[int]) -> pl.DataFrame:
    """The log with the column ``part``: how many of the parts (train, valid, test) end before a
    row.
    """
    parts = np.searchsorted(ends, log["row"].to_numpy(), side="right")
    return log.with_columns(pl.Series(PART, parts.astype(np.uint8)))


def _refuse(
    mask: pl.Series, given: pl.Series, source: Source, why: str, rows: pl.Series | None = None
) -> None:
    """An error that names the first value of a mask [T] with its column, row and file, where there
    is one.
    """
    if mask.any():
        place = int(mask.arg_max() or 0)
        row = place if rows is None else int(rows[place])
        raise source.error(f"column {given.name!r} holds {given[place]!r}, {why}", row=row)


def _plain_ids(ids: pl.Series, table: Table) -> pl.Series:
    """The ids of a column; in a text file without the blanks around them."""
    plain, source = plain_series(ids), table.source
    if plain.dtype.is_nested() or plain.dtype in (
        pl.Object,
        pl.Int128,
        pl.UInt128,
        pl.Duration,
        pl.Unknown,
    ):
        raise source.error(f"the ids in column {ids.name!r} are of type {ids.dtype}")
    _refuse(plain.is_null() & ids.is_not_null(), ids, source, "no integer id")
    return plain.str.strip_chars() if table.as_text and plain.dtype == pl.String else plain


def _missing(ids: pl.Series, as_text: bool, drops: bool) -> pl.Series:
    """[T] bool: whether a row has no id; in a text file an empty field is none, in quotes or not.
    Where such rows are left out, words for a missing one and blanks are none either."""
    if ids.dtype == pl.String and (as_text or drops):
        texts, words = (ids.str.strip_chars(), FOR_MISSING) if drops else (ids, [""])
        return ids.is_null() | texts.is_in(words).fill_null(False)
    return ids.is_null() | ids.is_nan().fill_null(False) if ids.dtype.is_float() else ids.is_null()


def _integers(ids: pl.Series, table: Table, rows: pl.Series) -> pl.Series:
    """Whole floats, and plain integers of a text file, as integers; other ids as they are."""
    if not (ids.dtype.is_float() or (ids.dtype == pl.String and table.as_text)):
        return ids
    if (integers := integers_of(ids)) is not None:
        return integers
    if ids.dtype.is_float() and bool(((ids.round() == ids) & ids.is_finite()).all()):
        why = "a float that may stand for several integers; read it as integers or texts"
        _refuse(ids.abs() == ids.abs().max(), ids, table.source, why, rows)
    return ids


# -- a typed graph beside a log


def check_graph(graph: Any, log: Log) -> None:
    """Refuse a graph that does not speak of a log's users and items, by their ids, or holds
    interactions of the log, which may be of its test part; of ``("user", "interacts", "item")`` a
    model gets the training part instead."""
    ids = {
        name: known
        for name, known in (("user", log.users), ("item", log.items))
        if name in graph.node_types
    }
    if not ids:
        raise DataError(
            f"graph has node types {graph.node_types}; name its users 'user' and its items 'item'"
        )
    places = {
        name: known.index(ids_of(graph.nodes[name]), f"graph: {name}s")
        for name, known in ids.items()
    }
    for name in (name for name, own in places.items() if (own < 0).all()):
        _log.warning(
            "graph: none of its nodes %r is of the log, whose ids are such as %r",
            name,
            ids[name].values[0],
        )
    n_items = len(log.items)
    pairs = np.unique(
        log.log["user"].to_numpy().astype(np.int64) * n_items + log.log["item"].to_numpy()
    )
    for edge_type, held in graph.edges.items():
        start, _, end = edge_type
        if edge_type == INTERACTS or {start, end} != {"user", "item"}:
            continue
        found = {
            start: places[start][held.adj.rows.cpu()],
            end: places[end][held.adj.indices.cpu()],
        }
        known = (found["user"] >= 0) & (found["item"] >= 0)
        if n_known := int(
            np.isin(np.unique((found["user"] * n_items + found["item"])[known]), pairs).sum()
        ):
            raise DataError(
                f"graph: relation {edge_type} holds {n_known:,} of the log's interactions, which may be test data; "
                f"leave them out: paths follow the log as {INTERACTS}"
            )


def ids_of(nodes: Any) -> Any:
    """The ids of a graph's nodes of one type, in their order; their numbers where they have
    none.
    """
    return np.arange(nodes.count) if nodes.ids is None else nodes.ids.values
