"""A log in files of one's own: find the files, their format and their columns, and scan them as one log."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data import atomic, readers
from recgraph.data.columns import Columns, check_time_format
from recgraph.data.diagnose import check_file, collect, explained, usual_separator
from recgraph.data.feature_files import read_feature_file
from recgraph.data.file_names import SUFFIXES, FileFormat, fitting, format_of, format_of_features, in_folder, suffix_of
from recgraph.data.packing import check_encoding
from recgraph.data.reading import FEATURES, PARTS, ROLES, Reading
from recgraph.data.roles import NO_COLUMN
from recgraph.data.sequence_files import scan_sequences
from recgraph.data.source import Raw, Source

__all__ = ["FileFormat", "LogFile", "Scanned", "is_data_path"]

_PATTERN = "*?["


@dataclass(frozen=True)
class Scanned:
    """A log before encoding, with its columns and side information."""

    raw: Raw
    columns: Columns
    user_features: pl.DataFrame | None = None
    item_features: pl.DataFrame | None = None


@dataclass(frozen=True)
class LogFile:
    """A log in files.

    Attributes:
        path: a file, a folder of files, or a pattern such as ``"logs/2026-*.csv.gz"``.
        reading: how they are read.
    """

    path: str
    reading: Reading = field(default_factory=Reading)

    @property
    def files(self) -> list[Path]:
        """The files, in the order of their names.

        Raises:
            FileNotFoundError: there are none.
            ValueError: a folder with files of several formats.
        """
        path = Path(self.path)
        if path.is_dir():
            return in_folder(path, self.reading.format)
        if path.is_file() or not set(_PATTERN) & set(self.path):
            if not path.is_file():
                raise FileNotFoundError(f"{self.path!r} is not there; give a file, a folder of files or a pattern")
            return [path]
        found = fitting(self.path)
        if not found:
            raise FileNotFoundError(f"no file fits the pattern {self.path!r}")
        return found

    @property
    def is_there(self) -> bool:
        """Whether there are any."""
        try:
            return bool(self.files)
        except FileNotFoundError:
            return False

    @property
    def format(self) -> FileFormat:
        """The format that is given, or that the files' names say.

        Raises:
            FileNotFoundError: there are no files.
            ValueError: the names do not say it.
        """
        return self.reading.format or format_of(self.files[0])

    def scan(self) -> Scanned:
        """Scan the files as one log, with all columns known.

        Raises:
            FileNotFoundError: there are none.
            ValueError: the format cannot be told.
            DataError: what is wrong with the first file, a column that cannot be told among them.
        """
        raw, columns = self.scan_rows()
        return Scanned(raw, columns, **self.features(columns))

    def scan_rows(self) -> tuple[Raw, Columns]:
        """The log of :meth:`scan` with its columns, without side information."""
        reading, files, form = self.reading, self.files, self.format
        if reading.has_parts:
            return self._scan_parts()
        if form == "sequences":
            columns = Columns(user=reading.user or "user_id", item=reading.item or "item_id")
            raws = [_scan_sequences(file, columns, reading) for file in files]
        elif form == "recbole":
            scans = [atomic.scan_atomic(file, reading.encoding, reading.quotes) for file in files]
            raws = [raw for raw, _ in scans]
            columns = reading.columns_of(list(scans[0][1]), raws[0].source, self.path)
        else:
            columns = self._columns(form, files[0])
            raws = [_scan(file, form, columns, reading) for file in files]
        return raws[0] if len(raws) == 1 else readers.together(Path(self.path), raws, columns), columns

    def completed(self) -> Reading:
        """The reading with the columns that were guessed, and ``"none"`` for those that the log does not have.

        Raises:
            ValueError: a setting that says nothing of this log.
        """
        self.reading.check_of_format(self.format)
        columns = self.scan().columns
        check_time_format(self.reading.time_format, columns)
        return self.found(columns).reading

    def found(self, columns: Columns) -> LogFile:
        """The files by their absolute path, with the columns that a scan has found."""
        names = columns.model_dump()
        roles = {role: names[role] or NO_COLUMN for role in ROLES if role != "weight"}
        reading = self.reading.model_copy(update=roles).from_folder(Path())
        return LogFile(str(Path(self.path).absolute()), reading)

    def fingerprint(self) -> dict[str, Any]:
        """What tells whether the files are the same: their number, size, latest change and the hash of their content.

        The hash of one file is its sha256; that of several is of the list of theirs. Files of given parts are among
        them.
        """
        return {**self.stamp(), "sha256": _sha256(self._all_files())}

    def stamp(self) -> dict[str, Any]:
        """The part of the fingerprint that is found without reading the files."""
        states = [file.stat() for file in self._all_files()]
        return {
            "path": str(Path(self.path).absolute()),
            "files": len(states),
            "size": sum(state.st_size for state in states),
            "mtime_ns": max(state.st_mtime_ns for state in states),
        }

    def touched_ns(self) -> int:
        """When one of the files was last put in place or touched, which its own time need not tell (``cp -p``)."""
        return max(file.stat().st_ctime_ns for file in self._all_files())

    def fingerprints_of_features(self) -> dict[str, dict[str, Any]]:
        """The fingerprint of each file of features, by its name in the settings; that of the log does not cover them.

        Raises:
            FileNotFoundError: one is not there. Where the log itself lies elsewhere, those beside it are not known.
        """
        files = self.feature_files() if self.is_there else self._given_features()
        return {name: LogFile(str(path)).fingerprint() for name, path in files.items()}

    @property
    def of_train(self) -> LogFile:
        """The files of the log itself, without those of other parts that are given."""
        return LogFile(self.path, self.reading.model_copy(update=dict.fromkeys(PARTS)))

    def _part(self, name: str, columns: Columns) -> LogFile | None:
        """The files of another part that is given, with the columns of the training part."""
        path = getattr(self.reading, name)
        if path is None:
            return None
        reading = self.of_train.found(columns).reading
        return LogFile(path, reading)

    def _all_files(self) -> list[Path]:
        paths = (getattr(self.reading, name) for name in PARTS)
        others = (LogFile(path, self.of_train.reading).files for path in paths if path is not None)
        return [*self.files, *(file for files in others for file in files)]

    def _scan_parts(self) -> tuple[Raw, Columns]:
        """The files of all parts as one log that knows where each ends."""
        train, columns = self.of_train.scan_rows()
        parts = [self._part(name, columns) for name in PARTS]
        others = [None if part is None else part.scan_rows()[0] for part in parts]
        return readers.given_apart(Path(self.path), [train, *others], columns), columns

    def _columns(self, form: FileFormat, first: Path) -> Columns:
        """All columns, by the first file."""
        reading = self.reading
        if form == "parquet":
            source = Source("parquet", first)
            names = collect(readers.scan_parquet(first).lazy.head(0), source).columns
        elif form == "jsonl":
            source = Source("jsonl", first)
            names = readers.keys_of(first, reading.encoding)
        else:
            separator = _separator(form, first, reading)
            encoding = check_encoding(reading.encoding)
            source = Source("delimited", check_file(first), separator, encoding=encoding, quotes=reading.quotes)
            names = list(reading.names) or readers.header_of(source)
            readers.check_header(source, names)
        return reading.columns_of(names, source, self.path)

    def feature_files(self) -> dict[str, Path]:
        """The files of features: those that are given, and those beside a file of RecBole's."""
        found = {}
        if self.path and self.format == "recbole":
            found = {f"{side}_features": file for side, file in atomic.side_files(self.files[0]).items()}
        return found | self._given_features()

    def _given_features(self) -> dict[str, Path]:
        given = {name: getattr(self.reading, name) for name in FEATURES}
        return {name: Path(path) for name, path in given.items() if path is not None}

    def features(self, columns: Columns) -> dict[str, pl.DataFrame]:
        """The features in :meth:`feature_files`."""
        reading, found = self.reading, {}
        for name, path in self.feature_files().items():
            form, role = format_of_features(check_file(path)), name.removesuffix("_features")
            key = getattr(columns, role)
            found[name] = read_feature_file(str(path), form, key, role, reading.encoding, reading.quotes)
        return reading.split_lists(found)


def is_data_path(name: str) -> bool:
    """Whether a name is the path of a log rather than the name of a data card."""
    path = Path(name)
    is_path = bool({"/", os.sep, *_PATTERN} & set(name)) or os.path.exists(path)  # False where a name is too long
    return bool(name) and not name.endswith(".toml") and (is_path or suffix_of(path) in SUFFIXES)


def _separator(form: FileFormat, path: Path, reading: Reading) -> str:
    if reading.separator is not None:
        return reading.separator
    if form == "tsv":
        return "\t"
    source = Source("delimited", check_file(path), encoding=check_encoding(reading.encoding))
    with explained(source), source.open() as text:
        line = next((line for line in text if line.strip()), "")
    return usual_separator(line, n_fields=len(reading.names) or None) or ","


def _scan(path: Path, form: FileFormat, columns: Columns, reading: Reading) -> Raw:
    if form == "parquet":
        return readers.scan_parquet(path)
    if form == "jsonl":
        return readers.scan_jsonl(path, columns, reading.encoding)
    return readers.scan_delimited(
        path,
        separator=_separator(form, path, reading),
        columns=reading.names or None,
        needed=columns.named(),
        encoding=reading.encoding,
        quotes=reading.quotes,
    )


def _scan_sequences(path: Path, columns: Columns, reading: Reading) -> Raw:
    return scan_sequences(
        path, user=columns.user, item=columns.item, encoding=reading.encoding, missing_ids=reading.missing_ids
    )


def _sha256(files: Sequence[Path]) -> str:
    hashes = list(_hashes(files))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _hashes(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest()
