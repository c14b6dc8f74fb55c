"""The ways in: ``Interactions.from_...`` for frames and every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self, get_args

from recgraph.data import ingest
from recgraph.data.columns import Columns
from recgraph.data.dataframe import FrameKind
from recgraph.data.diagnose import Source
from recgraph.data.ingest import Encoded

__all__ = ["Readers"]

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "recbole", "sequences"]
_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".inter": "recbole",
}


class Readers:
    """What :class:`~recgraph.data.interactions.Interactions` can be made from."""

    @classmethod
    def of(cls, encoded: Encoded, columns: Columns, source: Source, kind: FrameKind = "polars") -> Self:
        """From an encoded log."""
        raise NotImplementedError

    def with_features(self, user_features: Any = None, item_features: Any = None) -> Self:
        """With side information."""
        raise NotImplementedError

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
        encoded, source, kind = ingest.frame(frame, columns)
        return cls.of(encoded, columns, source, kind).with_features(user_features, item_features)

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
            user, item, timestamp, rating, weight: see :meth:`from_frame`. Ids become integers where each is
                written as a plain integer (so that nothing is lost), else texts.
            separator: one or several characters (``"::"``).
            names: the columns, where the file has no header line.

        Raises:
            DataError: one of its subclasses for what is wrong, with file and line.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        return cls.of(*ingest.delimited(path, columns, separator, names))

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
        return cls.of(*ingest.delimited(path, columns, "\t", names))

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
        return cls.of(*ingest.jsonl(path, columns))

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
        return cls.of(*ingest.parquet(path, columns))

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
        """From RecBole atomic files: the folder, or its ``.inter`` file; ``.user`` and ``.item`` become
        features.

        ``timestamp`` and ``rating`` are left out where the file does not have the column of their default
        name.
        """
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        encoded, columns, source, user_features, item_features = ingest.recbole(path, columns)
        return cls.of(encoded, columns, source).with_features(user_features, item_features)

    @classmethod
    def from_sequences(cls, path: str | Path, *, user: str = "user_id", item: str = "item_id") -> Self:
        """From lines of ``user item item ...``, oldest first; the names are those of output columns."""
        return cls.of(*ingest.sequences(path, Columns(user=user, item=item)))

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
            format: ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"parquet"``, ``"recbole"``, ``"sequences"``; by
                default told by the suffix (``.gz`` aside), or by what a folder holds.
            user, item, timestamp, rating, weight: see :meth:`from_frame`. RecBole files have their own
                default names of timestamp and rating; sequence files have neither, nor weights.

        Raises:
            ValueError: the format cannot be told, or is none of these.
        """
        format = _format(Path(path)) if format is None else format
        columns = Columns(user=user, item=item, timestamp=timestamp, rating=rating, weight=weight)
        if format == "recbole":
            return cls.from_recbole(
                path,
                user=user,
                item=item,
                timestamp=timestamp or "timestamp",
                rating=rating or "rating",
                weight=weight,
            )
        if format == "sequences":
            return cls.of(*ingest.sequences(path, columns))
        if format in ("csv", "tsv"):
            return cls.of(*ingest.delimited(path, columns, "," if format == "csv" else "\t", None))
        if format == "jsonl":
            return cls.of(*ingest.jsonl(path, columns))
        if format == "parquet":
            return cls.of(*ingest.parquet(path, columns))
        raise ValueError(f"format = {format!r} must be one of {', '.join(get_args(FileFormat))}")


def _format(path: Path) -> FileFormat:
    if path.is_dir():
        for pattern, found in (("*.inter", "recbole"), ("*.parquet", "parquet")):
            if any(path.glob(pattern)):
                return found  # type: ignore[return-value]
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _SUFFIXES:
        return _SUFFIXES[suffixes[-1]]
    raise ValueError(
        f"the format of {str(path)!r} cannot be told by its name; give format= one of {', '.join(get_args(FileFormat))}"
    )
