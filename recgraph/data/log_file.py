"""A log in files of one's own: find the files, their format and their columns, and read them as one table."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import hashlib
import io
import itertools
import lzma
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeVar, cast, get_args

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.errors import (
    CorruptFileError,
    DataError,
    DuplicateColumnError,
    EmptyLogError,
    EncodingError,
    MissingColumnError,
    MissingIdError,
    MixedIdError,
    TimestampError,
    listed,
)
from recgraph.data.ids import FOR_MISSING, family, plain_series
from recgraph.data.reading import FEATURES, NO_COLUMN, PARTS, ROLES, FileFormat, Reading, candidates_of
from recgraph.files import read_frame, reading, sha256

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
    ".user": "recbole",
    ".item": "recbole",
}
#: suffix of a packed file -> its reader; polars unpacks gzip and Zstandard itself
_PACKED: dict[str, Any] = {".gz": gzip.open, ".zst": None, ".bz2": bz2.open, ".xz": lzma.open}
_PATTERN = "*?["
#: ``"::"`` first, as it separates no text of another form
_SEPARATORS = ("::", ",", "\t", ";", "|")
_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")
#: columns of which a row without a value is a blank line; polars takes seconds for expressions of hundreds
_MOST_COLUMNS = 64
_MARK = "\ufeff"
#: lines by which the columns of JSON lines are found
_SAMPLE = 1000
E = TypeVar("E", bound=DataError)


@dataclass(frozen=True)
class Source:
    """Where the rows of a log are from, for errors.

    Attributes:
        path: the file, or of several their folder or pattern; None for a frame in memory.
        parts: each file with its number of rows, where there are several.
    """

    path: Path | None = None
    parts: tuple[tuple[Path, int], ...] = ()

    def error(self, kind: type[E], message: str, *, row: int | None = None) -> E:
        """An error that names the file and the row in it."""
        if row is not None:
            for path, count in self.parts:
                if row < count:
                    return kind(message, path=path, row=row)
                row -= count
        return kind(message, path=self.path, row=row)


@dataclass(frozen=True)
class Table:
    """A log before encoding.

    Attributes:
        frame: its named columns, in the order of the rows.
        columns: their names.
        source: where it is from.
        as_text: the ids came as texts (text files); those that are all plain integers then become integers.
        ends: where the parts train, valid and test were given apart: the rows of each and those before it.
        uuids: the columns whose texts were UUID objects.
        features: of users and items, by the names of :data:`recgraph.data.reading.FEATURES`.
    """

    frame: pl.DataFrame
    columns: Columns
    source: Source
    as_text: bool = False
    ends: tuple[int, ...] = ()
    uuids: frozenset[str] = frozenset()
    features: dict[str, pl.DataFrame] = field(default_factory=dict)


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
        """The files, in the order of their names."""
        path = Path(self.path)
        if path.is_dir():
            return _in_folder(path, self.reading.format)
        if path.is_file():
            return [path]
        found = fitting(self.path) if set(_PATTERN) & set(self.path) else []
        if not found:
            raise FileNotFoundError(f"{self.path!r} is not there; give a file, a folder of files or a pattern")
        return found

    @property
    def format(self) -> FileFormat:
        """The format that is given, or that the files' names say."""
        return self.reading.format or format_of(self.files[0])

    def read(self) -> Table:
        """The log, with all columns known, and its features."""
        table = self._read_parts() if self.reading.has_parts else self._read_rows()
        return replace(table, features=self.features(table.columns))

    def _read_rows(self) -> Table:
        form, files, given = self.format, self.files, self.reading
        columns = self._columns(form, files[0])
        frames = [_read(file, form, columns, given) for file in files]
        as_text = form not in ("jsonl", "parquet")
        return together(frames, columns, files, Path(self.path), as_text)

    def _read_parts(self) -> Table:
        """The files of all parts as one log that knows where each ends."""
        train = self.of_train._read_rows()
        likewise = self.of_train.found(train.columns).reading
        paths = [getattr(self.reading, name) for name in PARTS]
        others = [None if path is None else LogFile(path, likewise)._read_rows() for path in paths]
        return given_apart([train, *others])

    def found(self, columns: Columns) -> LogFile:
        """The files by their absolute path, with the columns that were found."""
        names = columns.model_dump()
        roles = {role: names[role] or NO_COLUMN for role in ROLES if role != "weight"}
        return LogFile(str(Path(self.path).absolute()), self.reading.model_copy(update=roles).from_folder(Path()))

    def completed(self) -> Reading:
        """The reading with the columns that are guessed, and ``"none"`` for those that the log does not have."""
        return self.found(self._columns(self.format, self.files[0])).reading

    @property
    def of_train(self) -> LogFile:
        """The files of the log itself, without those of other parts that are given."""
        return LogFile(self.path, self.reading.model_copy(update=dict.fromkeys(PARTS)))

    def fingerprint(self) -> dict[str, Any]:
        """What tells whether the files are the same: their number, size, latest change and the hash of their content.

        The hash of one file is its sha256; that of several is of the list of theirs. Files of given parts are among
        them.
        """
        files = self._all_files()
        states, hashes = [file.stat() for file in files], [sha256(file) for file in files]
        return {
            "path": str(Path(self.path).absolute()),
            "files": len(files),
            "size": sum(state.st_size for state in states),
            "mtime_ns": max(state.st_mtime_ns for state in states),
            "sha256": hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        }

    def fingerprints_of_features(self) -> dict[str, dict[str, Any]]:
        """The fingerprint of each file of features, by its name in the settings."""
        try:
            files = self.feature_files()
        except FileNotFoundError:  # the log itself lies elsewhere
            files = self._given_features()
        return {name: LogFile(str(path)).fingerprint() for name, path in files.items()}

    def _all_files(self) -> list[Path]:
        paths = [getattr(self.reading, name) for name in PARTS]
        others = [LogFile(path, self.of_train.reading).files for path in paths if path is not None]
        return [*self.files, *itertools.chain(*others)]

    def _columns(self, form: FileFormat, first: Path) -> Columns:
        """All columns, by the first file."""
        given = self.reading
        _check_there(first)
        if form == "sequences":
            return Columns(user=given.user or "user_id", item=given.item or "item_id")
        with _explained(first):
            if form == "parquet":
                names = pl.scan_parquet(first, glob=False).collect_schema().names()
            elif form == "jsonl":
                names = _scan_json(first, given.encoding, _SAMPLE).collect_schema().names()
            else:
                names = list(given.names) or _header(first, form, given)
        return given.columns_of(names, self.path, first)

    def feature_files(self) -> dict[str, Path]:
        """The files of features: those that are given, and those beside a file of RecBole's."""
        found = {}
        if self.path and self.format == "recbole":
            found = {f"{side}_features": file for side, file in _side_files(self.files[0]).items()}
        return found | self._given_features()

    def _given_features(self) -> dict[str, Path]:
        given = {name: getattr(self.reading, name) for name in FEATURES}
        return {name: Path(path) for name, path in given.items() if path is not None}

    def features(self, columns: Columns) -> dict[str, pl.DataFrame]:
        """The features in :meth:`feature_files`, keyed by the log's columns of ids."""
        found = {}
        for name, path in self.feature_files().items():
            role = name.removesuffix("_features")
            found[name] = _read_features(path, getattr(columns, role), role, self.reading)
        return self.reading.split_lists(found)


# -- names of files


def is_data_path(name: str) -> bool:
    """Whether a name is the path of a log rather than the name of a data card."""
    is_path = bool({"/", os.sep, *_PATTERN} & set(name)) or os.path.exists(name)
    return bool(name) and not name.endswith(".toml") and (is_path or suffix_of(Path(name)) in SUFFIXES)


def suffix_of(path: Path) -> str:
    """The suffix that says the format, without that of a packed file."""
    return Path(path.stem if path.suffix.lower() in _PACKED else path.name).suffix.lower()


def format_of(path: Path) -> FileFormat:
    """The format that the name of a file says."""
    if (form := SUFFIXES.get(suffix_of(path))) is not None:
        return form
    raise ValueError(
        f"the format of {str(path)!r} cannot be told by its name; give format= (--data-format) one of "
        f"{', '.join(get_args(FileFormat))}"
    )


def fitting(pattern: str) -> list[Path]:
    """The files that fit a pattern; its folders that are there are no part of it, whatever their names."""
    place, *parts = Path("."), *Path(pattern).parts
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    names = glob.glob(os.path.join(*parts), root_dir=place, recursive=True) if parts else []
    return sorted(path for name in names if (path := place / name).is_file())


def _in_folder(folder: Path, form: FileFormat | None) -> list[Path]:
    """The files of a folder and of those within it; names that begin with ``.`` or ``_`` are no part of a log."""
    every = sorted(
        Path(place, name)
        for place, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not any(part[0] in "._" for part in Path(place, name).relative_to(folder).parts)
    )
    logs = [path for path in every if suffix_of(path) == ".inter"]
    known = {path: SUFFIXES[suffix_of(path)] for path in every if suffix_of(path) in SUFFIXES}
    if form == "recbole" or (form is None and logs):
        found = logs
    elif form == "sequences":
        found = every
    else:
        found = [path for path, kind in known.items() if form in (None, kind)]
    if len({known[path] for path in found if path in known}) > 1 or (found == logs and len(logs) > 1):
        raise ValueError(
            f"{str(folder)!r} holds several logs: {listed(path.name for path in found)}; name one, or format="
        )
    if not found:
        raise FileNotFoundError(f"folder {str(folder)!r} holds no file of a log ({', '.join(SUFFIXES)})")
    return found


def _side_files(inter: Path) -> dict[str, Path]:
    """RecBole's files ``user`` and ``item`` beside an ``.inter`` file, plain or packed; of ``ml.train`` ``ml.item``."""
    name = inter.name.partition(".inter")[0]
    stems = dict.fromkeys((name, name.removesuffix(".train").removesuffix(".valid").removesuffix(".test")))
    places = {
        side: [inter.with_name(f"{stem}.{side}{end}") for stem in stems for end in ("", *_PACKED)]
        for side in ("user", "item")
    }
    return {side: there[0] for side, each in places.items() if (there := [path for path in each if path.is_file()])}


# -- reading one file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What a library says of a file inside the block is an error that names the file."""
    try:
        with reading(path):
            yield
    except CorruptFileError as error:
        if isinstance(error.__cause__, UnicodeError) or "utf-8" in str(error).lower():
            raise EncodingError(f"{error.__cause__}; give its encoding=, such as 'latin-1'", path=path) from None
        raise


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} is not a file")
    if not path.stat().st_size:
        raise EmptyLogError("the file is empty", path=path)


def _open(path: Path, encoding: str) -> IO[str]:
    """The text of a file, unpacked, without a byte order mark."""
    name = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    if path.suffix.lower() == ".zst":
        lines = pl.scan_lines(path, glob=False).collect()["line"]
        return io.StringIO("\n".join(lines).removeprefix(_MARK))
    opened = _PACKED.get(path.suffix.lower(), open)(path, "rb")
    return io.TextIOWrapper(opened, encoding=name, newline="")


def _plain(path: Path, encoding: str) -> Path | bytes:
    """What polars reads: the file itself, or its text in memory where it is packed otherwise or not in UTF-8."""
    is_utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    if is_utf8 and path.suffix.lower() not in (".bz2", ".xz") and not _has_mark(path):
        return path
    return _text(path, encoding).encode()


def _text(path: Path, encoding: str) -> str:
    with _open(path, encoding) as text:
        return text.read().removeprefix(_MARK)


def _has_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(3) == _MARK.encode()


def _first_line(path: Path, encoding: str) -> str:
    with _open(path, encoding) as text:
        return next((line for line in text if line.strip()), "").rstrip("\r\n").removeprefix(_MARK)


def _separator(path: Path, form: FileFormat, given: Reading) -> str:
    if form in ("tsv", "recbole"):
        return "\t"
    if given.separator is not None:
        return given.separator
    line = _first_line(path, given.encoding)
    held = [mark for mark in _SEPARATORS if mark in line]
    fits = [mark for mark in held if line.count(mark) + 1 == len(given.names)]
    return next(iter([*fits, *held]), ",")


def _header(path: Path, form: FileFormat, given: Reading) -> list[str]:
    """The names in the first line; of a RecBole file without their types."""
    separator, line = _separator(path, form, given), _first_line(path, given.encoding)
    if len(separator) > 1 or not given.quotes:
        names = [name.strip() if len(separator) > 1 else name for name in line.split(separator)]
    else:
        names = next(csv.reader([line], delimiter=separator), [])
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DuplicateColumnError(
            f"the header names {twice!r} {names.count(twice)} times; rename all but one", path=path
        )
    return list(_types(names, path)) if form == "recbole" else names


def _types(header: Sequence[str], path: Path) -> dict[str, str]:
    """Name -> type, of the header of a RecBole file."""
    types = {}
    for each in header:
        name, _, kind = each.rpartition(":")
        if not name or kind not in _RECBOLE_TYPES:
            raise CorruptFileError(
                f"header field {each!r} is not name:type with a type of {', '.join(_RECBOLE_TYPES)}, tab separated",
                path=path,
            )
        types[name] = kind
    return types


def _read(path: Path, form: FileFormat, columns: Columns, given: Reading) -> pl.DataFrame:
    """The named columns of one file: of a text file as texts."""
    _check_there(path)
    with _explained(path):
        if form == "sequences":
            return read_sequences(path, columns.user, columns.item, given.encoding, given.missing_ids)
        if form == "parquet":
            lazy = pl.scan_parquet(path, glob=False)
        elif form == "jsonl":
            lazy = _scan_json(path, given.encoding)
        else:
            lazy = _scan_delimited(path, form, given, columns.named())
        names = lazy.collect_schema().names()
        for name in columns.named():
            if name not in names:
                raise MissingColumnError(f"there is no column {name!r}; the columns are {listed(names)}", path=path)
        return lazy.select(columns.named()).collect(engine="streaming")


def _scan_json(path: Path, encoding: str, n_rows: int | None = None) -> pl.LazyFrame:
    """A file of JSON lines; polars takes a path for a pattern."""
    plain = _plain(path, encoding)
    source = glob.escape(str(plain)) if isinstance(plain, Path) else plain
    return pl.scan_ndjson(source, infer_schema_length=n_rows, n_rows=n_rows)


def _scan_delimited(path: Path, form: FileFormat, given: Reading, needed: Sequence[str] = ()) -> pl.LazyFrame:
    separator, names = _separator(path, form, given), list(given.names)
    if form == "recbole" or not names:
        names = _header(path, form, given)
    has_header = form == "recbole" or not given.names
    if len(separator) > 1:
        lazy = _split_lines(path, separator, names, has_header, given.encoding)
    else:
        plain = _plain(path, given.encoding)
        lazy = pl.scan_csv(
            plain if isinstance(plain, Path) else io.BytesIO(plain),
            separator=separator,
            quote_char='"' if given.quotes else None,
            has_header=has_header,
            infer_schema=False,
            glob=False,
        )
        there = lazy.collect_schema().names()
        if len(there) != len(names):
            raise DataError(f"{len(there)} fields separated by {separator!r}, and {len(names)} names", path=path)
        lazy = lazy.rename(dict(zip(there, names, strict=True)))
    looked_at = names if len(names) <= _MOST_COLUMNS else needed or names
    return lazy.filter(~pl.all_horizontal(pl.col(name).is_null() for name in looked_at))  # a blank line is no row


def _split_lines(path: Path, separator: str, names: list[str], has_header: bool, encoding: str) -> pl.LazyFrame:
    """The fields of lines that are separated by several characters; nothing is quoted."""
    lines = pl.DataFrame({"line": _text(path, encoding).split("\n")}, schema={"line": pl.String})
    lines = lines.select(pl.col("line").str.strip_chars_end("\r")).filter(pl.col("line").str.strip_chars() != "")
    lines = lines.slice(int(has_header))
    fields = lines["line"].str.count_matches(separator, literal=True) + 1
    if (fields != len(names)).any():
        row = int((fields != len(names)).arg_max() or 0)
        raise DataError(f"{fields[row]} fields separated by {separator!r}, and {len(names)} names", path=path, row=row)
    parts = pl.col("line").str.split_exact(separator, len(names) - 1).struct.rename_fields(names)
    return lines.lazy().select(parts).unnest("line").with_columns(pl.all().replace("", None))


def read_sequences(
    path: Path, user: str = "user_id", item: str = "item_id", encoding: str = "utf-8", missing_ids: str = "error"
) -> pl.DataFrame:
    """A file of one user a line, ``user item item ...`` between white space, as pairs; blank lines are skipped."""
    plain = _plain(path, encoding)
    lines = pl.scan_lines(plain if isinstance(plain, Path) else io.BytesIO(plain), glob=False).collect()
    fields = lines.select(pl.col("line").str.extract_all(r"\S+").alias("fields")).with_row_index("row")
    fields = fields.filter(pl.col("fields").list.len() > 0)
    short = fields.filter(pl.col("fields").list.len() == 1)
    if len(short):
        if missing_ids == "error":
            message = (
                f"the line {short['fields'][0][0][:60]!r} has no item (column {item!r}); it is not `user item ...`"
            )
            raise MissingIdError(message, path=path, row=int(short["row"][0]))
        fields = fields.filter(pl.col("fields").list.len() > 1)
    pairs = fields.select(pl.col("fields").list.first().alias(user), pl.col("fields").list.slice(1).alias(item))
    return pairs.explode(item)


def read_delimited(path: Path, given: Reading) -> pl.DataFrame:
    """All columns of a csv file, as texts."""
    _check_there(path)
    with _explained(path):
        return _scan_delimited(path, "csv", given).collect(engine="streaming")


# -- several files


def together(
    frames: Sequence[pl.DataFrame], columns: Columns, files: Sequence[Path | None], path: Path | None, as_text: bool
) -> Table:
    """The rows of several files or frames, one after another."""
    if len(frames) == 1:
        return Table(frames[0], columns, Source(files[0]), as_text)
    frames = [_plain_columns(frame, columns) for frame in frames]
    for frame, file in zip(frames, files, strict=True):
        for name in (columns.user, columns.item):
            kinds = {family(frames[0].schema[name]), family(frame.schema[name])}
            if len(kinds) > 1 and kinds != {"integers", "floats"}:
                raise MixedIdError(f"column {name!r} holds {' and '.join(sorted(kinds))}; write one type", path=file)
        if columns.timestamp is not None:
            are_dates = {each.schema[columns.timestamp].is_temporal() for each in (frames[0], frame)}
            if len(are_dates) > 1:
                raise TimestampError(f"column {columns.timestamp!r} holds dates and others; write one type", path=file)
    source = Source(path, tuple((file, len(each)) for file, each in zip(files, frames, strict=True) if file))
    try:
        whole = pl.concat(frames, how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"the columns of the files are of different types: {error}", path=path) from None
    return Table(whole, columns, source, as_text)


def _plain_columns(frame: pl.DataFrame, columns: Columns) -> pl.DataFrame:
    """Categories, which are of a frame's own, as texts, and times of different zones in UTC, without a zone."""
    kinds = frame.schema.items()
    frame = frame.cast({name: pl.String for name, dtype in kinds if isinstance(dtype, pl.Categorical | pl.Enum)})
    frame = frame.with_columns(plain_series(frame[name]) for name in (columns.user, columns.item))
    time = columns.timestamp
    if time is None or getattr(frame.schema[time], "time_zone", None) is None:
        return frame
    return frame.with_columns(pl.col(time).dt.convert_time_zone("UTC").dt.replace_time_zone(None))


def given_apart(parts: Sequence[Table | None]) -> Table:
    """The rows of train, valid and test as one log that knows where each ends; None has no rows."""
    there = [part for part in parts if part is not None]
    for name, part in zip(("valid", "test"), parts[1:], strict=True):
        if part is not None and not len(part.frame):
            raise part.source.error(EmptyLogError, f"{name} holds no interaction; leave it out")
    first = there[0]
    whole = together(
        [part.frame for part in there],
        first.columns,
        [part.source.path for part in there],
        first.source.path,
        first.as_text,
    )
    files = [part.source.parts or ((part.source.path, len(part.frame)),) for part in there]
    named = tuple((path, count) for path, count in itertools.chain(*files) if path is not None)
    ends = tuple(itertools.accumulate(0 if part is None else len(part.frame) for part in parts))
    uuids = frozenset().union(*(part.uuids for part in there))
    return Table(whole.frame, first.columns, Source(first.source.path, named), first.as_text, ends, uuids)


# -- features


def _read_features(path: Path, key: str, role: str, given: Reading) -> pl.DataFrame:
    """A frame of features with the key column of the log: one row an id."""
    _check_there(path)
    form = format_of(path)
    with _explained(path):
        if form == "parquet":
            frame = read_frame(path)
        elif form == "jsonl":
            frame = _scan_json(path, given.encoding).collect()
        elif form == "recbole":
            types = _types(_first_line(path, given.encoding).split("\t"), path)
            texts = _scan_delimited(path, form, given).collect()
            return texts.with_columns(
                _as_floats(texts[name], path) for name, kind in types.items() if kind == "float" and name != key
            )
        else:
            frame = _scan_delimited(path, form, Reading(encoding=given.encoding, quotes=given.quotes)).collect()
    own = [key] if key in frame.columns else candidates_of(role, frame.columns)
    if len(own) != 1:
        message = (
            f"the {role} features need the column {key!r} of the log's ids; the columns are {listed(frame.columns)}"
        )
        raise MissingColumnError(message, path=path)
    if form in ("csv", "tsv"):
        frame = frame.with_columns(_typed(frame[name]) for name in frame.columns if name != own[0])
    return frame.rename({own[0]: key})


def _typed(texts: pl.Series) -> pl.Series:
    """A column of texts as numbers where nothing of the texts is lost: ``007`` is a code, no number."""
    integers = texts.cast(pl.Int64, strict=False)
    n_missing = texts.null_count()
    if n_missing == len(texts):
        return texts
    if integers.null_count() == n_missing:
        is_plain = bool((integers.cast(pl.String) == texts).all())
        return integers if is_plain else texts
    floats = texts.cast(pl.Float64, strict=False)
    if floats.null_count() == n_missing:
        is_code = bool(texts.str.contains(r"^(\+|-?0\d)").any())
        is_large = bool((texts.str.contains(r"^-?\d+$") & (floats.abs() >= 2**53)).any())
        return texts if is_code or is_large else floats
    if texts.is_in(["true", "false"]).all():
        return texts == "true"
    return texts


def _as_floats(texts: pl.Series, path: Path) -> pl.Series:
    """A ``float`` column of RecBole's as numbers; empty fields, and words for a missing value, are none."""
    texts = texts.str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    lost = numbers.is_null() & texts.is_not_null() & ~texts.is_in(FOR_MISSING)
    if lost.any():
        row = int(cast(int, lost.arg_max()))
        raise DataError(f"{texts[row]!r} (column '{texts.name}:float') is no number", path=path, row=row)
    return numbers
