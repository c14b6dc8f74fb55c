"""``Interactions``: a log read from a frame or files, ready to be filtered and split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from recgraph.config import checked
from recgraph.data.columns import Columns
from recgraph.data.dataframe import FrameKind, frame_kind, names_of, table_of
from recgraph.data.log import InteractionLog, encode
from recgraph.data.log_file import LogFile, Table
from recgraph.data.reading import FEATURES, MissingIds, Reading
from recgraph.data.split import Split

Log = TypeVar("Log", bound=InteractionLog)


class Interactions(InteractionLog):
    """A log of interactions: :meth:`read` or :meth:`from_frame` it, filter it, split it.

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
        data = cls._encoded(table_of(frame, columns), frame_kind(frame), time_format, missing_ids)
        return data.with_features(user_features, item_features)

    @classmethod
    def read(cls, path: str | Path, **options: Any) -> Self:
        """From a file, a folder of files, or a pattern such as ``"logs/2026-*.csv"``.

        What is not given is found out, and the columns that were guessed are logged (logger ``recgraph.data.reading``).
        Ids of text files become integers where each is written as one (``1000.0`` is ``1000``), else texts.

        Args:
            path: CSV, TSV, JSON lines, Parquet, RecBole's atomic files (``.user`` and ``.item`` beside the ``.inter``
                file become features), lines of ``user item item ...`` (``format="sequences"``); text files also packed
                by gzip, Zstandard, bzip2 or xz.
            options: of :class:`recgraph.data.reading.Reading`: the columns ``user``, ``item``, ``timestamp``,
                ``rating`` and ``weight``, how the files are written (``format``, ``separator``, ``names``,
                ``encoding``, ``quotes``, ``time_format``), ``missing_ids``, and the files ``user_features`` and
                ``item_features`` with their ``lists``.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the format cannot be told, or an option has a value that is not allowed.
            DataError: one of its subclasses for what is wrong, with file and row; a column that cannot be told.
        """
        given = {name: str(each) if isinstance(each, Path) else each for name, each in options.items()}
        return cls.from_files(LogFile(str(path), Reading.of(given)))

    @classmethod
    def from_files(cls, files: LogFile) -> Self:
        """From the files of a :class:`recgraph.data.log_file.LogFile`."""
        table, reading = files.read(), files.reading
        data = cls._encoded(table, "polars", reading.time_format, reading.missing_ids)
        data = data.with_feature_files(table.features, files.feature_files())
        return replace(data, files=files.found(table.columns))

    @classmethod
    def _encoded(
        cls,
        table: Table,
        kind: FrameKind,
        time_format: str | None,
        missing_ids: MissingIds,
    ) -> Self:
        log, users, items, unit = encode(table, time_format, missing_ids)
        form = time_format if table.columns.timestamp is not None else None
        return cls(log, users, items, table.columns, unit, table.source, kind, time_format=form)

    @checked
    def split(self, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any) -> Split:
        """Split into train, valid and test.

        Args:
            strategy: ``"leave-one-out"``, ``"time"``, ``"ratio"``, ``"users"``, or ``"all"``, which holds nothing out.
            seed: of the strategies that draw; the others ignore it.
            **params: of the strategy, see :mod:`recgraph.data.strategies`; an unknown one is an error.
        """
        return Split.of(self, strategy, seed=seed, **params)


@checked
def load_data(path: Any, *, user_features: Any = None, item_features: Any = None, **given: Any) -> Interactions:
    """The interactions in files of one's own, as ``recgraph train --data`` reads them, or in a frame.

    Args:
        path: files, as :meth:`Interactions.read` reads them with all its options; or a frame, as
            :meth:`Interactions.from_frame` reads it, whose columns are guessed where they are not named.
        user_features, item_features: side information: files or frames.
        given: further options of these.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an option has a value that is not allowed.
        DataError: one of its subclasses for what is wrong.
    """
    features = {"user_features": user_features, "item_features": item_features}
    files: dict[str, Any] = {name: str(each) for name, each in features.items() if isinstance(each, str | Path)}
    frames = {name: each for name, each in features.items() if name not in files}
    if isinstance(path, str | Path):
        return Interactions.read(path, **given, **files).with_features(**frames)
    kind = frame_kind(path, "path")
    reading = Reading.of({**given, **files})
    columns = reading.columns_of(names_of(path), f"{kind} frame")
    named = columns.model_dump()
    data = Interactions.from_frame(path, **named, time_format=reading.time_format, missing_ids=reading.missing_ids)
    return with_features_of(data, reading).with_features(**frames)


def with_features_of(data: Log, reading: Reading) -> Log:
    """A log with the features in the files that a reading names."""
    files = {name: Path(path) for name in FEATURES if (path := getattr(reading, name)) is not None}
    return data.with_feature_files(LogFile("", reading).features(data.columns), files) if files else data


def folds(
    data: Interactions, n_folds: int, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any
) -> list[Split]:
    """Split a log several times, each time with another test part; no interaction is in two of them.

    Split ``i`` is ``data.split(strategy, n_folds=n_folds, fold=i, ...)``, and ``--set 'split_options={n_folds=3,
    fold=0}'`` of a command. Each has a hash of its own.

    Args:
        data: the log.
        n_folds: how many, at least 2.
        strategy: ``"time"``: windows of time up to the end of the log, the newest first, and nothing of later ones is
            in a split; ``"leave-one-out"``: each user's last interaction, then the one before it and so on, without
            those after it; ``"ratio"`` and ``"users"``: all interactions, or all users, in ``n_folds`` parts at random.
        seed: of the strategies that draw; one for all folds.
        **params: of the strategy, see :mod:`recgraph.data.strategies`.
    """
    return [data.split(strategy, seed=seed, n_folds=n_folds, fold=fold, **params) for fold in range(n_folds)]
