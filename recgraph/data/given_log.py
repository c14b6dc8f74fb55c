"""Read parts that are given, files or frames, as one log whose rows know their part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recgraph.data.columns import check_time_format
from recgraph.data.dataframe import FrameKind, frame_kind, names_of, scan_frame
from recgraph.data.ingest import encode
from recgraph.data.log import InteractionLog
from recgraph.data.log_file import LogFile, Scanned
from recgraph.data.readers import given_apart
from recgraph.data.reading import FEATURES, Reading
from recgraph.data.source import Source

__all__ = ["read_parts"]

_NAMES = ("train", "valid", "test")


def read_parts(parts: Sequence[Any], features: Sequence[Any] = (None, None), **options: Any) -> InteractionLog:
    """One log of the parts train, valid and test, with the column ``part``.

    Args:
        parts: of each part its files (path, folder or pattern) or its frame, all of one kind; None: it is not given.
        features: of users and of items: a file, a frame or None.
        options: of :class:`recgraph.data.reading.Reading`; what is None is found out.

    Raises:
        ValueError: train is missing, or nothing beside it is given; files beside frames; an option that is for files.
        DataError: what is wrong with a file or a frame.
    """
    given = {name: part for name, part in zip(_NAMES, parts, strict=True) if part is not None}
    if "train" not in given or len(given) == 1:
        raise ValueError(f"{' and '.join(given) or 'nothing'} is given; give train=, and valid= or test= or both")
    are_files = {isinstance(part, str | Path) for part in given.values()}
    if len(are_files) > 1:
        raise ValueError(f"{', '.join(given)} are files and frames; give all as files, or all as frames")
    paths = {name: str(file) for name, file in zip(FEATURES, features, strict=True) if isinstance(file, str | Path)}
    reading = Reading.of({name: value for name, value in options.items() if value is not None}, **paths)
    kind: FrameKind = "polars"
    at: tuple[LogFile | None, dict[str, Path]]
    if are_files == {True}:
        beside = {name: str(path) for name, path in given.items() if name != "train"}
        files = LogFile(str(given["train"]), reading.model_copy(update=beside))
        files.reading.check_of_format(files.format)
        found = files.scan()
        at = (files.found(found.columns), files.feature_files())
    else:
        kind = {name: frame_kind(frame, name) for name, frame in given.items()}["train"]
        found, at = _of_frames(given, reading), (None, {})
    check_time_format(reading.time_format, found.columns)
    log, users, items, unit = encode(found.raw, found.columns, reading.time_format, reading.missing_ids)
    source, form = found.raw.source.kept(), reading.time_format
    data = InteractionLog(log, users, items, found.columns, unit, source, kind, time_format=form)
    data = data.with_feature_files({name: getattr(found, name) for name in FEATURES}, at[1])
    frames = [None if isinstance(each, str | Path) else each for each in features]
    return replace(data, files=at[0]).with_features(*frames)


def _of_frames(given: dict[str, Any], reading: Reading) -> Scanned:
    """The frames as one log, with their columns."""
    reading.check_of_frames()
    columns = reading.columns_of(names_of(given["train"]), Source("frame"), "train")
    ids = (columns.user, columns.item)
    raws = [scan_frame(given[name], columns.named(), ids) if name in given else None for name in _NAMES]
    return Scanned(given_apart(None, raws, columns), columns)
