"""``load_data``: the log in files of one's own, or in a frame, with what is not given found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from recgraph.arguments import checked
from recgraph.data.columns import check_time_format
from recgraph.data.dataframe import frame_kind, names_of
from recgraph.data.errors import DataError
from recgraph.data.ingest import MissingIds
from recgraph.data.interactions import Interactions
from recgraph.data.log import InteractionLog
from recgraph.data.log_file import LogFile
from recgraph.data.reading import FEATURES, FileFormat, Reading
from recgraph.data.source import Source

__all__ = ["load_data", "with_features_of"]

Log = TypeVar("Log", bound=InteractionLog)


@checked
def load_data(
    path: str | Path | Any,
    *,
    user: str | None = None,
    item: str | None = None,
    timestamp: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    format: FileFormat | None = None,
    separator: str | None = None,
    names: Sequence[str] = (),
    encoding: str = "utf-8",
    time_format: str | None = None,
    missing_ids: MissingIds = "error",
    user_features: str | Path | Any = None,
    item_features: str | Path | Any = None,
    lists: Mapping[str, str] | None = None,
    quotes: bool = True,
) -> Interactions:
    """The interactions in files of one's own, as ``recgraph train --data`` reads them, or in a frame.

    What is not given is found out, and the columns that were guessed are logged (logger ``recgraph.data.reading``).

    Args:
        path: a file, a folder of files, or a pattern such as ``"logs/2026-*.csv"``: CSV, TSV, JSON lines, Parquet,
            RecBole's atomic files, lines of ``user item item ...`` (``format="sequences"``); text files also packed by
            gzip, Zstandard, bzip2 or xz. Or a frame of pandas, polars or pyarrow, as :meth:`Interactions.from_frame`
            reads it; ``format``, ``separator``, ``names``, ``encoding`` and ``quotes`` are of files alone.
        user, item: the columns of ids; guessed from usual names. Ids become integers where each is written as one
            (``1000.0`` is ``1000``), else texts; those of a frame keep their type.
        timestamp, rating: their columns; guessed, and ``"none"`` says that the log has none. Of times see
            :meth:`Interactions.from_frame`.
        weight: the column of weights.
        format: ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"parquet"``, ``"recbole"`` or ``"sequences"``; by default the names
            of the files say it.
        separator: of a CSV file, one or several characters; by default its first line says it.
        names: of the columns, where a CSV file has no header line.
        encoding: of text files, e.g. ``"latin-1"``.
        time_format: of times that are texts in another form than ISO 8601, e.g. ``"%d/%m/%Y %H:%M"``.
        missing_ids: ``"drop"`` leaves out rows without a user or an item; they are an error by default.
        user_features, item_features: side information: files (CSV, TSV, JSON lines, Parquet, RecBole's ``.user`` and
            ``.item``), or frames, with the log's column of ids and one row an id.
        lists: column of texts in these files -> the separator of the list that each text is, ``{"genres": "|"}``; where
            it is ``""``, a text is one value. Models of graphs read each word of any other text as a value.
        quotes: of CSV and TSV files: whether ``"`` begins and ends a quoted field; else it is a part of its field.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the format cannot be told, or an option has a value that is not allowed.
        DataError: one of its subclasses for what is wrong, with file and line; a column that cannot be told.
    """
    reading = Reading.of(
        user=user,
        item=item,
        timestamp=timestamp,
        rating=rating,
        weight=weight,
        format=format,
        separator=separator,
        names=tuple(names),
        encoding=encoding,
        time_format=time_format,
        missing_ids=missing_ids,
        user_features=str(user_features) if isinstance(user_features, str | Path) else None,
        item_features=str(item_features) if isinstance(item_features, str | Path) else None,
        lists=dict(lists or {}),
        quotes=quotes,
    )
    if isinstance(path, str | Path):
        data = Interactions.from_files(LogFile(str(path), reading))
        check_time_format(time_format, data.columns)
    else:
        data = _of_frame(path, reading)
    frames = [None if isinstance(given, str | Path) else given for given in (user_features, item_features)]
    return data.with_features(*frames)


def _of_frame(frame: Any, reading: Reading) -> Interactions:
    """The log in a frame, with the columns that are not given by their usual names."""
    try:
        frame_kind(frame, "path")
    except DataError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}, or the path of a file, a folder or a pattern such as 'logs/*.csv'") from None
    reading.check_of_frames()
    columns = reading.columns_of(names_of(frame), Source("frame"), "frame")
    named = columns.model_dump()
    data = Interactions.from_frame(frame, **named, time_format=reading.time_format, missing_ids=reading.missing_ids)
    return with_features_of(data, reading)


def with_features_of(data: Log, reading: Reading) -> Log:
    """A log with the features in the files that a reading names.

    Raises:
        FileNotFoundError: a file does not exist.
        DataError: what is wrong with one.
    """
    files = {name: Path(path) for name in FEATURES if (path := getattr(reading, name)) is not None}
    return data.with_feature_files(LogFile("", reading).features(data.columns), files) if files else data
