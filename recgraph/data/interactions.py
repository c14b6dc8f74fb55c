"""``Interactions``: a log read from a frame or a file, ready to be filtered and split."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from recgraph.data import readers
from recgraph.data.columns import Columns
from recgraph.data.dataframe import FrameKind, frame_kind, scan_frame
from recgraph.data.diagnose import Raw
from recgraph.data.ingest import encode
from recgraph.data.log import InteractionLog
from recgraph.data.split import Split

__all__ = ["FileFormat", "Interactions"]

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "recbole", "sequences"]
_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".inter": "recbole",
}


class Interactions(InteractionLog):
    """A log of interactions: read it with ``from_...``, filter it, split it.

    See :class:`recgraph.data.log.InteractionLog` for the attributes and filters.
    """

    @classmethod
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
    ) -> Self:
        """From a pandas, polars (also lazy) or pyarrow frame, one row an interaction.

        Args:
            frame: the log.
            user, item: the columns of ids: integers, texts, dates, UUIDs, ...; one type a column.
            timestamp: numbers (whole ones are kept as they are; with fractions they are seconds, kept to the
                microsecond), dates, datetimes or ISO 8601 texts (without a zone: UTC).
            rating: numbers, for :meth:`min_rating`.
            weight: numbers of at least 0: how much an interaction counts in training.
            user_features, item_features: frames with the column ``user`` or ``item`` and one row an id.

        Raises:
            DataError: one of its subclasses for what is wrong, with the row.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        raw = scan_frame(frame, columns.named(), ids=(user, item))
        return cls._encoded(raw, columns, frame_kind(frame)).with_features(user_features, item_features)

    @classmethod
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
    ) -> Self:
        """From a delimited text file, plain or gzip, scanned and never loaded whole.

        Args:
            path: the file; UTF-8.
            user, item, timestamp, rating, weight: see :meth:`from_frame`. Ids become integers where each is written as
                a plain integer (so that nothing is lost), else texts.
            separator: one or several characters (``"::"``).
            names: the columns, where the file has no header line.

        Raises:
            DataError: one of its subclasses for what is wrong, with file and line.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        raw = readers.scan_delimited(path, separator=separator, columns=names, needed=columns.named())
        return cls._encoded(raw, columns)

    @classmethod
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
    ) -> Self:
        """:meth:`from_csv` with tabs."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        raw = readers.scan_delimited(path, separator="\t", columns=names, needed=columns.named())
        return cls._encoded(raw, columns)

    @classmethod
    def from_jsonl(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
    ) -> Self:
        """From JSON lines, one object an interaction; see :meth:`from_frame` for the columns."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        return cls._encoded(readers.scan_jsonl(path, columns), columns)

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
    ) -> Self:
        """From a Parquet file or a folder of them, scanned; see :meth:`from_frame` for the columns."""
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        return cls._encoded(readers.scan_parquet(path), columns)

    @classmethod
    def from_recbole(
        cls,
        path: str | Path,
        *,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str | None = "timestamp",
        rating: str | None = "rating",
        weight: str | None = None,
    ) -> Self:
        """From RecBole atomic files: the folder, or its ``.inter`` file; ``.user`` and ``.item`` become features.

        ``timestamp`` and ``rating`` are left out where the file does not have the column of their default name.
        """
        files = readers.atomic_files(path)
        raw, types = readers.scan_atomic(files["inter"])
        columns = Columns(
            user=user,
            item=item,
            timestamp=None if timestamp == "timestamp" and "timestamp" not in types else timestamp,
            rating=None if rating == "rating" and "rating" not in types else rating,
            weight=weight,
        )
        user_features = readers.read_features(files["user"], user) if "user" in files else None
        item_features = readers.read_features(files["item"], item) if "item" in files else None
        return cls._encoded(raw, columns).with_features(user_features, item_features)

    @classmethod
    def from_sequences(cls, path: str | Path, *, user: str = "user_id", item: str = "item_id") -> Self:
        """From lines of ``user item item ...``, oldest first; ``user`` and ``item`` name the columns of outputs."""
        return cls._encoded(readers.scan_sequences(path, user=user, item=item), Columns(user=user, item=item))

    @classmethod
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
    ) -> Self:
        """From a file or folder of any of the formats.

        Args:
            path: the file or folder.
            format: ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"parquet"``, ``"recbole"``, ``"sequences"``; by default chosen
                by the suffix (``.gz`` aside), or by what a folder holds.
            user, item, timestamp, rating, weight: see :meth:`from_frame`. RecBole files have their own default names of
                timestamp and rating; sequence files have neither, nor weights.

        Raises:
            ValueError: the format cannot be told from the name, or is none of these.
        """
        format = _format(Path(path)) if format is None else format
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        if format == "recbole":
            timestamp, rating = timestamp or "timestamp", rating or "rating"
            return cls.from_recbole(path, user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        if format == "sequences":
            return cls._encoded(readers.scan_sequences(path, user=user, item=item), columns)
        if format in ("csv", "tsv"):
            separator = "," if format == "csv" else "\t"
            raw = readers.scan_delimited(path, separator=separator, needed=columns.named())
            return cls._encoded(raw, columns)
        if format == "jsonl":
            return cls._encoded(readers.scan_jsonl(path, columns), columns)
        if format == "parquet":
            return cls._encoded(readers.scan_parquet(path), columns)
        raise ValueError(f"format = {format!r} must be one of {', '.join(get_args(FileFormat))}")

    @classmethod
    def _encoded(cls, raw: Raw, columns: Columns, kind: FrameKind = "polars") -> Self:
        log, users, items, time_unit = encode(raw, columns)
        return cls(log, users, items, columns, time_unit, raw.source, kind)

    def split(self, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any) -> Split:
        """Split into train, valid and test.

        Args:
            strategy: ``"leave-one-out"``, ``"time"``, ``"ratio"``, ``"users"``, or ``"all"``, which holds nothing out.
            seed: of the strategies that draw; the others ignore it.
            **params: of the strategy, see :mod:`recgraph.data.strategies`; an unknown one is an error.
        """
        return Split.of(self, strategy, seed=seed, **params)


def _format(path: Path) -> FileFormat:
    if path.is_dir():
        if any(path.glob("*.inter")):
            return "recbole"
        if any(path.glob("*.parquet")):
            return "parquet"
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"the format of {str(path)!r} cannot be told by its name; give format= one of {', '.join(get_args(FileFormat))}"
    )
