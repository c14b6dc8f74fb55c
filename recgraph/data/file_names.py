"""What the names of files say: their format, and which files of a folder are a log."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from recgraph.data import atomic
from recgraph.data.packing import PACKED_SUFFIXES, unpacked_name

__all__ = ["SUFFIXES", "FileFormat", "fitting", "format_of", "format_of_features", "in_folder", "suffix_of"]

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "recbole", "sequences"]
SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".dat": "csv",
    ".data": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "recbole",
}
_SPREADSHEETS = (".xlsx", ".xls", ".ods")
#: of files that are packed in ways that are not read
_UNREAD = (".zip", ".7z", ".rar", ".tar", ".tgz", ".lz4", ".lzo", ".sz", ".snappy", ".br", ".z")


def suffix_of(path: Path) -> str:
    """The suffix that says the format, without that of a packed file."""
    return unpacked_name(path).suffix.lower()


def format_of(path: Path) -> FileFormat:
    """The format that the name of a file says.

    Raises:
        ValueError: it says none.
    """
    if suffix_of(path) in SUFFIXES:
        return SUFFIXES[suffix_of(path)]
    if suffix_of(path) in _UNREAD:
        raise _unread(path)
    if suffix_of(path) in _SPREADSHEETS:
        raise ValueError(f"{str(path)!r} is a spreadsheet, which is not read; save it as csv and give that file")
    raise ValueError(
        f"the format of {str(path)!r} cannot be told by its name; give format= (--data-format) one of "
        f"{', '.join(get_args(FileFormat))}"
    )


def format_of_features(path: Path) -> FileFormat:
    """The format that the name of a file of features says.

    Raises:
        ValueError: it says none.
    """
    suffix = suffix_of(path)
    if suffix in (".user", ".item"):
        return "recbole"
    if suffix in (*_UNREAD, *_SPREADSHEETS) or SUFFIXES.get(suffix, "recbole") != "recbole":
        return format_of(path)
    raise ValueError(
        f"the format of the features in {str(path)!r} cannot be told by its name; rename it to .csv, .tsv, .jsonl, "
        ".parquet, or .user and .item where its header is RecBole's name:type"
    )


def _unread(path: Path) -> ValueError:
    return ValueError(
        f"{str(path)!r} is packed in a way that is not read ({suffix_of(path)}): unpack it, or pack its file as "
        f"{', '.join(PACKED_SUFFIXES)}"
    )


def fitting(pattern: str) -> list[Path]:
    """The files that fit a pattern; its folders that are there are no part of it, whatever their names."""
    place, *parts = Path("."), *Path(pattern).parts
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    names = glob.glob(os.path.join(*parts), root_dir=place, recursive=True) if parts else []
    return sorted(path for name in names if (path := place / name).is_file())


def in_folder(folder: Path, form: FileFormat | None) -> list[Path]:
    """The files of a folder and of those within it; names that begin with ``.`` or ``_`` are no part of a log.

    Raises:
        FileNotFoundError: there are none.
        ValueError: there are several formats, or a file of a log is packed in a way that is not read.
    """
    found = sorted(_visible(folder))
    if form == "recbole" or (form is None and any(suffix_of(path) == ".inter" for path in found)):
        return [atomic.atomic_files(folder)["inter"]]
    if form == "sequences":
        return found or _no_file(folder)
    known = {path: SUFFIXES[suffix_of(path)] for path in found if suffix_of(path) in SUFFIXES}
    formats = sorted(set(known.values()))
    if len(formats) > 1 and form is None:
        raise ValueError(
            f"folder {str(folder)!r} holds files of several formats, {', '.join(formats)}; give format= (--data-format)"
        )
    for path in found:  # left out, as others are whose names say no format, a part of the log would be missing
        if suffix_of(path) in _UNREAD and suffix_of(path.with_suffix("")) in SUFFIXES:
            raise _unread(path)
    return [path for path, kind in known.items() if form in (None, kind)] or _no_file(folder)


def _visible(folder: Path) -> Iterator[Path]:
    """All files, those of linked folders too, each folder once."""
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] not in "._")
        yield from (path for name in names if name[0] not in "._" and (path := Path(place, name)).is_file())


def _no_file(folder: Path) -> list[Path]:
    raise FileNotFoundError(f"folder {str(folder)!r} holds no file of a log; their names end in {', '.join(SUFFIXES)}")
