"""A log in files of one's own: find the files, their format and their columns, and scan them as one log."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import Field

from recgraph.config import Added, Config
from recgraph.data import atomic, readers
from recgraph.data.columns import Columns
from recgraph.data.diagnose import check_file, collect, explained, usual_separator
from recgraph.data.feature_files import read_feature_file
from recgraph.data.file_names import SUFFIXES, FileFormat, fitting, format_of, in_folder, suffix_of
from recgraph.data.ingest import MissingIds
from recgraph.data.packing import check_encoding
from recgraph.data.roles import NO_COLUMN, guess_columns
from recgraph.data.source import Raw, Source

__all__ = ["FEATURES", "PARTS", "PATHS", "FileFormat", "LogFile", "Reading", "Scanned", "is_data_path"]

#: the fields of :class:`Reading` that are paths: of files of features, and of given parts
FEATURES = ("user_features", "item_features")
PARTS = ("valid", "test")
PATHS = (*FEATURES, *PARTS)
_ROLES = ("user", "item", "timestamp", "rating", "weight")
_PATTERN = "*?["
_log = logging.getLogger(__name__)


class Reading(Config):
    """How files of a log are read. What is not given is found out and logged."""

    user: str | None = Field(None, description="the column of users; none: guessed from usual names")
    item: str | None = Field(None, description="the column of items; none: guessed")
    timestamp: str | None = Field(None, description='the column of times; none: guessed; "none": the log has none')
    rating: str | None = Field(None, description='the column of ratings; none: guessed; "none": the log has none')
    weight: str | None = Field(None, description="the column of weights; never guessed")
    format: FileFormat | None = Field(None, description="none: by the names of the files")
    separator: str | None = Field(None, description="between fields of a csv file; none: by its first line")
    names: tuple[str, ...] = Field((), description="of the columns, where a csv file has no header line")
    encoding: str = Field("utf-8", description="of text files, e.g. latin-1")
    time_format: str | None = Field(
        None, description="of times that are texts, e.g. %d/%m/%Y %H:%M; none: numbers, or ISO 8601 and the like"
    )
    missing_ids: MissingIds = Field("error", description='rows without a user or an item; "drop" leaves them out')
    user_features: str | None = Field(None, description="a file of features, one row a user")
    item_features: str | None = Field(None, description="a file of features, one row an item: titles, genres, ...")

    valid: Annotated[
        str | None,
        Added(),
        Field(description="a file of the validation part, read alike; the log itself is the training part then"),
    ] = None
    test: Annotated[str | None, Added(), Field(description="a file of the test part; likewise")] = None

    @property
    def has_parts(self) -> bool:
        """Whether train, valid or test are files of their own."""
        return any(getattr(self, name) is not None for name in PARTS)

    def columns_of(self, names: Sequence[str], source: Source, label: str) -> Columns:
        """The columns of a log: those that are given, and others by their names; guesses are logged.

        Args:
            names: of all its columns.
            source: for errors.
            label: what the log is called in the message.

        Raises:
            DataError: a column that is given is not there, or one cannot be told.
        """
        given = {role: getattr(self, role) for role in _ROLES}
        given["weight"] = given["weight"] or NO_COLUMN
        columns, guessed = guess_columns(names, given, source)
        if guessed:
            told = ", ".join(f"{role} = {getattr(columns, role)!r}" for role in _ROLES if getattr(columns, role))
            without = [role for role in ("timestamp", "rating") if getattr(columns, role) is None]
            _log.info("%s: %s%s", label, told, f"; no {' and no '.join(without)}" if without else "")
        return columns

    def check_of_frames(self) -> None:
        """Refuse what says how files are read.

        Raises:
            ValueError: such a setting is given.
        """
        for name in ("format", "separator", "names", "encoding"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name} = {value!r} says how files are read, and frames are given; leave it out")

    def check_of_format(self, form: FileFormat) -> None:
        """Refuse settings that files of a format do not use and that would be ignored.

        Raises:
            ValueError: such a setting is given.
        """
        for name in self._unused(form):
            if (value := getattr(self, name)) not in (type(self).model_fields[name].default, NO_COLUMN):
                raise ValueError(f"{name} = {value!r} says nothing of files of format {form!r}; leave it out")

    def for_format(self, form: FileFormat) -> Self:
        """The reading without the settings that files of a format do not use."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in self._unused(form)})

    def _unused(self, form: FileFormat) -> tuple[str, ...]:
        unused: tuple[str, ...] = () if form in ("csv", "tsv") else ("separator", "names")
        if form == "sequences":
            unused += ("timestamp", "rating", "weight")
        has_others = any(getattr(self, name) for name in PATHS)  # which may be texts
        if form == "parquet" and not has_others and check_encoding(self.encoding) != "utf-8":
            unused += ("encoding",)
        return unused

    def from_folder(self, folder: Path) -> Self:
        """The reading with the paths of its other files from a folder on."""
        paths = {name: getattr(self, name) for name in PATHS if getattr(self, name) is not None}
        return self.model_copy(update={name: str((folder / path).absolute()) for name, path in paths.items()})


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
        reading, files, form = self.reading, self.files, self.format
        if reading.has_parts:
            return self._scan_parts()
        if form == "recbole":
            return self._scan_recbole()
        if form == "sequences":
            columns = Columns(user=reading.user or "user_id", item=reading.item or "item_id")
            raws = [_scan_sequences(file, columns, reading) for file in files]
        else:
            columns = self._columns(form, files[0])
            raws = [_scan(file, form, columns, reading) for file in files]
        raw = raws[0] if len(raws) == 1 else readers.together(Path(self.path), raws, columns)
        return Scanned(raw, columns, **self.features(columns))

    def completed(self) -> Reading:
        """The reading with the columns that were guessed, and ``"none"`` for those that the log does not have."""
        self.reading.check_of_format(self.format)
        return self.found(self.scan().columns).reading

    def found(self, columns: Columns) -> LogFile:
        """The files by their absolute path, with the columns that a scan has found."""
        names = columns.model_dump()
        roles = {role: names[role] or NO_COLUMN for role in _ROLES if role != "weight"}
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
        return LogFile(path, reading.model_copy(update=dict.fromkeys(FEATURES)))

    def _all_files(self) -> list[Path]:
        paths = (getattr(self.reading, name) for name in PARTS)
        others = (LogFile(path, self.of_train.reading).files for path in paths if path is not None)
        return [*self.files, *(file for files in others for file in files)]

    def _scan_parts(self) -> Scanned:
        """The files of all parts as one log that knows where each ends."""
        train = self.of_train.scan()
        others = [None if file is None else file.scan().raw for file in (self._part(p, train.columns) for p in PARTS)]
        return replace(train, raw=readers.given_apart(Path(self.path), [train.raw, *others], train.columns))

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
            source = Source("delimited", check_file(first), separator, encoding=check_encoding(reading.encoding))
            names = list(reading.names) or readers.header_of(source)
            readers.check_header(source, names)
        return reading.columns_of(names, source, self.path)

    def feature_files(self) -> dict[str, Path]:
        """The files of features: those that are given, and those beside a file of RecBole's."""
        found = {}
        if self.format == "recbole":
            files = atomic.atomic_files(self.path)
            found = {f"{side}_features": files[side] for side in ("user", "item") if side in files}
        return found | self._given_features()

    def _given_features(self) -> dict[str, Path]:
        given = {name: getattr(self.reading, name) for name in FEATURES}
        return {name: Path(path) for name, path in given.items() if path is not None}

    def features(self, columns: Columns) -> dict[str, pl.DataFrame]:
        """The files of features that are given."""
        found = {}
        for name, role, key in zip(FEATURES, ("user", "item"), (columns.user, columns.item), strict=True):
            path = getattr(self.reading, name)
            if path is not None:
                form = format_of(check_file(path))
                found[name] = read_feature_file(path, form, key, role, self.reading.encoding)
        return found

    def _scan_recbole(self) -> Scanned:
        files = atomic.atomic_files(self.path)
        raw, types = atomic.scan_atomic(files["inter"], self.reading.encoding)
        columns = self.reading.columns_of(list(types), raw.source, self.path)
        sides = {
            f"{side}_features": atomic.read_features(files[side], key, self.reading.encoding)
            for side, key in (("user", columns.user), ("item", columns.item))
            if side in files
        }
        return Scanned(raw, columns, **{**sides, **self.features(columns)})


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
    return usual_separator(line) or ","


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
    )


def _scan_sequences(path: Path, columns: Columns, reading: Reading) -> Raw:
    return readers.scan_sequences(path, user=columns.user, item=columns.item, encoding=reading.encoding)


def _sha256(files: Sequence[Path]) -> str:
    hashes = list(_hashes(files))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _hashes(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        with path.open("rb") as file:
            yield hashlib.file_digest(file, "sha256").hexdigest()
