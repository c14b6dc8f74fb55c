"""``Interactions``: a log read from a frame or a file, ready to be filtered and split."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_args

from recgraph.arguments import checked
from recgraph.data import atomic, readers
from recgraph.data.columns import Columns, check_time_format
from recgraph.data.dataframe import FrameKind, frame_kind, scan_frame
from recgraph.data.errors import without_drop
from recgraph.data.ingest import MissingIds, encode
from recgraph.data.log import InteractionLog
from recgraph.data.log_file import LogFile
from recgraph.data.reading import FEATURES, FileFormat, Reading
from recgraph.data.roles import NO_COLUMN
from recgraph.data.sequence_files import scan_sequences
from recgraph.data.source import Raw
from recgraph.data.split import Split

__all__ = ["FileFormat", "Interactions"]


class Interactions(InteractionLog):
    """A log of interactions: read it with ``from_...``, filter it, split it.

    See :class:`recgraph.data.log.InteractionLog` for the attributes and filters.
    """

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
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
    ) -> Self:
        """From a pandas, polars (also lazy) or pyarrow frame, one row an interaction.

        Args:
            frame: the log. Of a lazy frame the columns that are named here are collected, once.
            user, item: the columns of ids: integers, texts, dates, UUIDs, ...; one type a column.
            timestamp: numbers (whole ones are kept as they are; with fractions they are seconds, kept to the
                microsecond), dates, datetimes or ISO 8601 texts (without a zone: UTC).
            rating: numbers, for :meth:`min_rating`.
            weight: numbers of at least 0: how much an interaction counts in training.
            user_features, item_features: frames with the column ``user`` or ``item`` and one row an id.
            time_format: of timestamps that are texts, e.g. ``"%d/%m/%Y %H:%M"``; histories are read by it, too.
            missing_ids: ``"drop"`` leaves out rows without a user or an item; they are an error by default.

        Ids that are whole floats, as pandas makes of integers beside a NaN, become integers; texts stay as written.

        Raises:
            DataError: one of its subclasses for what is wrong, with the row.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        data = cls.from_columns(frame, columns, time_format, missing_ids)
        return data.with_features(user_features, item_features)

    @classmethod
    def from_columns(
        cls,
        frame: Any,
        columns: Columns,
        time_format: str | None = None,
        missing_ids: MissingIds | None = None,
        texts: Collection[str] = (),
    ) -> Self:
        """:meth:`from_frame` with its columns as one value, and ``texts`` of :meth:`from_files`.

        ``missing_ids``: None: an error for readers that have no such setting.
        """
        with without_drop() if missing_ids is None else nullcontext():
            raw = scan_frame(frame, columns.named(), ids=(columns.user, columns.item))
            return cls._encoded(raw, columns, frame_kind(frame), time_format, missing_ids or "error", texts)

    @classmethod
    @checked
    def from_csv(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        separator: str = ",",
        names: list[str] | None = None,
        encoding: str = "utf-8",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
        quotes: bool = True,
    ) -> Self:
        """From a delimited text file, plain or packed, scanned and never loaded whole.

        Args:
            path: the file.
            user, item, timestamp, rating, weight: see :meth:`from_frame`. Ids become integers where each is written as
                a plain integer (so that nothing is lost), else texts.
            separator: one or several characters (``"::"``).
            names: the columns, where the file has no header line.
            encoding: of the text, e.g. ``"latin-1"``.
            time_format, missing_ids: see :meth:`from_frame`.
            quotes: whether ``"`` begins and ends a quoted field; else it is a part of its field.

        Raises:
            DataError: one of its subclasses for what is wrong, with file and line.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        needed = columns.named()
        raw = readers.scan_delimited(
            path, separator=separator, columns=names, needed=needed, encoding=encoding, quotes=quotes
        )
        return cls._encoded(raw, columns, time_format=time_format, missing_ids=missing_ids)

    @classmethod
    @checked
    def from_tsv(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        names: list[str] | None = None,
        encoding: str = "utf-8",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
        quotes: bool = True,
    ) -> Self:
        """:meth:`from_csv` with tabs."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        raw = readers.scan_delimited(
            path, separator="\t", columns=names, needed=columns.named(), encoding=encoding, quotes=quotes
        )
        return cls._encoded(raw, columns, time_format=time_format, missing_ids=missing_ids)

    @classmethod
    @checked
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        encoding: str = "utf-8",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
    ) -> Self:
        """From JSON lines, one object an interaction; see :meth:`from_frame` for the columns."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        raw = readers.scan_jsonl(path, columns, encoding)
        return cls._encoded(raw, columns, time_format=time_format, missing_ids=missing_ids)

    @classmethod
    @checked
    def from_parquet(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
    ) -> Self:
        """From a Parquet file, or all in a folder and its folders, scanned; see :meth:`from_frame` for the columns."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        if Path(path).is_dir():
            given = {role: name or NO_COLUMN for role, name in columns.model_dump(exclude={"weight"}).items()}
            raw = LogFile(str(path), Reading.of(given, weight=weight, format="parquet")).scan_rows()[0]
        else:
            raw = readers.scan_parquet(path)
        return cls._encoded(raw, columns, time_format=time_format, missing_ids=missing_ids)

    @classmethod
    @checked
    def from_recbole(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = "timestamp",
        rating: str | None = "rating",
        weight: str | None = None,
        encoding: str = "utf-8",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
    ) -> Self:
        """From RecBole atomic files: the folder, or its ``.inter`` file; ``.user`` and ``.item`` become features.

        ``timestamp`` and ``rating`` are left out where the file does not have the column of their default name.
        """
        files = atomic.atomic_files(path)
        raw, types = atomic.scan_atomic(files["inter"], encoding)
        columns = Columns(
            user=user,
            item=item,
            timestamp=None if timestamp == "timestamp" and "timestamp" not in types else timestamp,
            rating=None if rating == "rating" and "rating" not in types else rating,
            weight=weight,
        )
        user_features = atomic.read_features(files["user"], user, encoding) if "user" in files else None
        item_features = atomic.read_features(files["item"], item, encoding) if "item" in files else None
        data = cls._encoded(raw, columns, time_format=time_format, missing_ids=missing_ids)
        return data.with_features(user_features, item_features)

    @classmethod
    @checked
    def from_sequences(cls, path: str | Path, *, user: str = "user_id", item: str = "item_id") -> Self:
        """From lines of ``user item item ...``, oldest first; ``user`` and ``item`` name the columns of outputs."""
        return cls._encoded(scan_sequences(path, user=user, item=item), Columns(user=user, item=item))

    @classmethod
    @checked
    def read(
        cls,
        path: str | Path,
        format: FileFormat | None = None,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        encoding: str = "utf-8",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
    ) -> Self:
        """From a file, a folder or a pattern of files of any of the formats; :func:`load_data` also guesses columns.

        Args:
            path: the file, the folder or the pattern.
            format: ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"parquet"``, ``"recbole"``, ``"sequences"``; by default chosen
                by the suffix (that of a packed file aside), or by what a folder holds.
            user, item, timestamp, rating, weight: see :meth:`from_frame`. RecBole files have their own default names of
                timestamp and rating, and ``"none"`` leaves these out; sequence files have neither, nor weights.
            encoding: of text files.
            time_format, missing_ids: see :meth:`from_frame`.

        Raises:
            ValueError: the format cannot be told from the name, or is none of these.
        """
        if format is not None and format not in get_args(FileFormat):
            raise ValueError(f"format = {format!r} must be one of {', '.join(get_args(FileFormat))}")
        if (format or LogFile(str(path)).format) == "recbole":
            return cls.from_recbole(
                path,
                user=user,
                item=item,
                timestamp=None if timestamp == NO_COLUMN else timestamp or "timestamp",
                rating=None if rating == NO_COLUMN else rating or "rating",
                weight=weight,
                encoding=encoding,
                time_format=time_format,
                missing_ids=missing_ids,
            )
        of_text = {"encoding": encoding, "time_format": time_format, "missing_ids": missing_ids}
        columns = {"user": user, "item": item, "timestamp": timestamp or NO_COLUMN, "rating": rating or NO_COLUMN}
        return cls.from_files(LogFile(str(path), Reading.of(columns, weight=weight, format=format, **of_text)))

    @classmethod
    def from_files(cls, files: LogFile, texts: Collection[str] = ()) -> Self:
        """From the files of a :class:`recgraph.data.log_file.LogFile`.

        Args:
            files: the log.
            texts: which of ``user`` and ``item`` keep ids that are texts as written (``1000.0`` is then no 1000).

        Raises:
            ValueError: a setting that files of this format do not use.
            DataError: what is wrong with a file.
        """
        reading = files.reading
        reading.check_of_format(files.format)
        found = files.scan()
        # the form of a log that is read again, or of a later one, may be that of times which this one has not
        form = reading.time_format if found.columns.timestamp is not None else None
        data = cls._encoded(found.raw, found.columns, time_format=form, missing_ids=reading.missing_ids, texts=texts)
        frames = {name: getattr(found, name) for name in FEATURES}
        data = data.with_feature_files(frames, files.feature_files())
        return replace(data, files=files.found(found.columns))

    @classmethod
    def _encoded(
        cls,
        raw: Raw,
        columns: Columns,
        kind: FrameKind = "polars",
        time_format: str | None = None,
        missing_ids: MissingIds = "error",
        texts: Collection[str] = (),
    ) -> Self:
        check_time_format(time_format, columns)
        raw = replace(raw, texts=frozenset(getattr(columns, role) for role in texts))
        log, users, items, time_unit = encode(raw, columns, time_format, missing_ids)
        return cls(log, users, items, columns, time_unit, raw.source.kept(), kind, time_format=time_format)

    @checked
    def split(self, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any) -> Split:
        """Split into train, valid and test.

        Args:
            strategy: ``"leave-one-out"``, ``"time"``, ``"ratio"``, ``"users"``, or ``"all"``, which holds nothing out.
            seed: of the strategies that draw; the others ignore it.
            **params: of the strategy, see :mod:`recgraph.data.strategies`; an unknown one is an error.
        """
        return Split.of(self, strategy, seed=seed, **params)
