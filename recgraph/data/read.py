"""A log in files of one's own: which files, format and columns they are, read as one table.

Columns that are not named are guessed by usual names, and logged.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import itertools
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import polars as pl
from pydantic import Field

from recgraph.config import Config
from recgraph.data.columns import SAMPLE, Columns, TimeFormat, is_dated
from recgraph.data.dataframe import BAR, are_lists, without_categories
from recgraph.data.ids import family, integers_of, listed
from recgraph.files import CorruptFileError, DataError, reading, sha256

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "recbole", "sequences"]
BadRows = Literal["error", "drop"]
#: the fields of :class:`Reading` that are paths: of files of features, and of given parts
FEATURES = ("user_features", "item_features")
PARTS = ("valid", "test")
PATHS = (*FEATURES, *PARTS)
ROLES = ("user", "item", "timestamp", "rating", "weight")
_GUESSED_ROLES = ROLES[:-1]
_ID_ROLES = ("user", "item")
#: in place of a column's name: the log has no such column, and none is guessed
NO_COLUMN = "none"
SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".dat": "csv",
    ".data": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".inter": "recbole",
    ".user": "recbole",
    ".item": "recbole",
}
#: of files of features alone
_SIDE_SUFFIXES = (".user", ".item")
#: of packed text files, which polars unpacks
_PACKED = (".gz", ".zst")
_PATTERN = "*?["
#: a file, or a folder, whose name begins with ``.`` or ``_``
_HIDDEN = re.compile(r"(^|/)[._]")
#: ``"::"`` first, as it separates no text of another form
_SEPARATORS = ("::", ",", "\t", ";", "|")
#: in the place of a separator of several characters
_UNIT = "\x1f"
#: columns by which a line without any value, of separators at most, is told
_LOOKED_AT = 64
#: what other programs write in the place of a missing value
FOR_MISSING = ("", "nan", "NaN", "NULL", "null", "None", "NA", "N/A", "<NA>", "\\N")
_log = logging.getLogger(__name__)

# Role -> usual names without case, spaces and underscores. The first is the library's own and wins
# over all others.
_NAMES: dict[str, str] = {
    "user": "userid user uid usr visitorid visitor customerid customer custid clientid client memberid member "
    "accountid account buyerid buyer shopperid shopper reviewerid reviewer personid profileid playerid listenerid "
    "readerid",
    "item": "itemid item iid movieid movie filmid film productid product prodid asin parentasin sku skuid stockcode "
    "articleid article trackid track songid song bookid book isbn businessid business venueid venue poiid locationid "
    "videoid video contentid content newsid gameid game appid showid artistid artist recipeid restaurantid listingid "
    "offerid goodsid goods anime animeid adid",
    "timestamp": "timestamp time ts datetime date eventtime eventdate eventtimestamp createdat created unixtime "
    "unixreviewtime reviewtime unixtimestamp orderdate ordertime purchasedate purchasetime invoicedate tdat at when "
    "t day interactiontime visittime",
    "rating": "rating ratings stars star score overall userrating reviewscore ratingvalue starrating",
    "weight": "",
}


class Reading(Config):
    """How files of a log are read. What is not given is found out and logged."""

    user: str | None = Field(
        None, description="the column of users; none: guessed from usual names"
    )
    item: str | None = Field(None, description="the column of items; none: guessed")
    timestamp: str | None = Field(
        None, description='the column of times; none: guessed; "none": the log has none'
    )
    rating: str | None = Field(
        None, description='the column of ratings; none: guessed; "none": the log has none'
    )
    weight: str | None = Field(None, description="the column of weights; never guessed")
    format: FileFormat | None = Field(None, description="none: by the names of the files")
    separator: str | None = Field(
        None, description="between fields of a csv file; none: by its first line"
    )
    names: tuple[str, ...] = Field(
        (), description="of the columns, where a csv file has no header line"
    )
    encoding: str = Field("utf-8", description="of text files, e.g. latin-1")
    time_format: TimeFormat = Field(
        None,
        description="of times that are texts, e.g. %d/%m/%Y %H:%M, or several; none: numbers, or ISO 8601",
    )
    missing_ids: BadRows = Field(
        "error", description='rows without a user or an item; "drop" leaves them out'
    )
    user_features: str | None = Field(None, description="a file of features, one row a user")
    item_features: str | None = Field(
        None, description="a file of features, one row an item: titles, genres, ..."
    )

    # what came after the first data sets were split is no part of their hashes where it is not used
    bad_times: BadRows = Field(
        "error",
        exclude_if=lambda value: value == "error",
        description='rows without a time, or with one that cannot be read; "drop" leaves them out',
    )
    valid: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="a file of the validation part, read alike; the log itself is the training part then",
    )
    test: str | None = Field(
        None,
        exclude_if=lambda value: value is None,
        description="a file of the test part; likewise",
    )
    lists: dict[str, str] = Field(
        {},
        exclude_if=lambda value: not value,
        description='column of texts in files of features -> the separator of the list that each is; "": one value; '
        "not given: a bar, where values that it separates come again",
    )
    quotes: bool = Field(
        True,
        exclude_if=bool,
        description='of csv and tsv: whether " begins and ends a quoted field',
    )

    def columns_of(self, sample: pl.DataFrame, label: str, path: Path | None = None) -> Columns:
        """The columns of a log, by its first rows: those that are given, and guesses, which are
        logged.
        """
        names = sample.columns
        columns: dict[str, str | None] = {}
        unnamed = []
        for role in ROLES:
            name = getattr(self, role)
            if name is None:
                unnamed.append(role)
            elif name in names:
                columns[role] = name
            elif name == NO_COLUMN and role not in _ID_ROLES:
                columns[role] = None
            else:
                raise DataError(
                    f"there is no column {name!r}; the columns are {listed(names)}", path=path
                )
        for role in unnamed:
            free = sample.drop(filter(None, columns.values()))
            columns[role] = _guessed(role, free, path)
        guesses = {role: columns[role] for role in unnamed}
        _log_guesses(label, Columns.of(columns), guesses, names)
        return Columns.of(columns)

    def paths(self, names: Collection[str] = PATHS) -> dict[str, str]:
        """Those of the other files that are given."""
        return self.model_dump(include={*names}, exclude_none=True)

    def from_folder(self, folder: Path) -> Self:
        """The reading with the paths of its other files from a folder on."""
        paths = {name: str((folder / path).absolute()) for name, path in self.paths().items()}
        return self.model_copy(update=paths)


def _log_guesses(
    label: str, columns: Columns, guesses: Mapping[str, str | None], names: list[str]
) -> None:
    if any(guesses.values()):
        roles = columns.model_dump(exclude_none=True).items()
        text = ", ".join(f"{role} = {name!r}" for role, name in roles)
        if guesses.get("rating", "") is None:
            text += "; no rating"
        _log.info("%s: %s", label, text)
    if guesses.get("timestamp", "") is None:
        _log.warning(
            "%s: none of %s looks like times: the order of each user's interactions is that of the rows. Name the "
            'column: timestamp=... (--time NAME); "none" says that there is none',
            label,
            listed(names),
        )


def _guessed(role: str, sample: pl.DataFrame, path: Path | None) -> str | None:
    """The one column that looks like a role, by its name or as a column of dates; None: there is
    none."""
    names = candidates_of(role, sample.columns)
    if role == "timestamp" and not names:
        names = [column.name for column in sample if is_dated(column)]
    if len(names) == 1:
        return names[0]
    if not names and role not in _ID_ROLES:
        return None
    problem = f"none of {listed(sample.columns)} looks like"
    if names:
        problem = f"{listed(names)} may each be"
    option = {"timestamp": "time"}.get(role, role)
    fix = f"say which: {role}=... (--{option} NAME), or give separator=, or names= without a header line"
    raise DataError(f"{problem} the {role}; {fix}", path=path)


def candidates_of(role: str, names: Iterable[str]) -> list[str]:
    """The names that are usual for a role; the library's own alone, where it is among them."""
    usual = _NAMES[role].split()
    plain_names = {}
    for name in names:
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if plain in usual:
            plain_names[name] = plain
    own = [name for name, plain in plain_names.items() if plain == usual[0]]
    if own:
        return own
    # "product_id" stands beside "product", which is then the name of it
    ids = plain_names.values()
    return [name for name, plain in plain_names.items() if f"{plain}id" not in ids]


@dataclass(frozen=True)
class Source:
    """Where the rows of a log are from, for errors: a file, or of several their folder or pattern
    (None: a frame in memory), and each of several files with its number of rows."""

    path: Path | None = None
    parts: tuple[tuple[Path, int], ...] = ()

    def place(self, row: int) -> tuple[Path | None, int]:
        """The file of a row, and its number in it."""
        for path, count in self.parts:
            if row < count:
                return path, row
            row -= count
        return self.path, row

    def error(self, message: str, *, row: int | None = None) -> DataError:
        """An error that names the file and the row in it."""
        path = self.path
        if row is not None:
            path, row = self.place(row)
        return DataError(message, path=path, row=row)


@dataclass(frozen=True)
class Table:
    """A log before encoding. ``as_text``: ids came as texts, and become integers where all are
    such; ``ends``: where train, valid and test were given apart, the rows of each and those before
    it."""

    frame: pl.DataFrame
    columns: Columns
    source: Source
    as_text: bool = False
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class LogFile:
    """A log in files, and how they are read; ``path`` is a file, a folder of files, or
    ``"logs/2026-*.csv.gz"``.
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
        files = sorted(filter(Path.is_file, map(Path, glob.glob(self.path, recursive=True))))
        if not files:
            raise FileNotFoundError(
                f"{self.path!r} is not there; give a file, a folder of files or a pattern"
            )
        return files

    @property
    def format(self) -> FileFormat:
        """The format that is given, or that the files' names say."""
        return self.reading.format or format_of(self.files[0])

    def read(self) -> Table:
        """The log, with all columns known."""
        parts = {"train": self._read_rows()}
        likewise = self.found(parts["train"].columns).reading
        likewise = likewise.model_copy(update=dict.fromkeys(PARTS))
        for name, path in self.reading.paths(PARTS).items():
            parts[name] = LogFile(path, likewise)._read_rows()
        return given_apart(parts)

    def _read_rows(self) -> Table:
        form, files = self.format, self.files
        columns = self._columns(form, files[0])
        frames = [read_rows(file, form, self.reading, columns) for file in files]
        source = Source(files[0])
        if len(files) > 1:
            counts = map(len, frames)
            source = Source(Path(self.path), tuple(zip(files, counts, strict=True)))
        rows = _together(frames, columns, source)
        return Table(rows, columns, source, as_text=form not in ("jsonl", "parquet"))

    def found(self, columns: Columns) -> LogFile:
        """The files by their absolute path, with the columns that were found."""
        names = columns.model_dump()
        roles = {role: names[role] or NO_COLUMN for role in _GUESSED_ROLES}
        reading = self.reading.model_copy(update=roles).from_folder(Path())
        return LogFile(str(Path(self.path).absolute()), reading)

    def completed(self) -> Reading:
        """The reading with the columns that are guessed, and ``"none"`` for those that the log does
        not have.
        """
        return self.found(self._columns(self.format, self.files[0])).reading

    def fingerprint(self) -> dict[str, Any]:
        """The files' path and the hash of their content (of several, or with given parts: of the
        list of theirs).
        """
        files = [*self.files]
        for path in self.reading.paths(PARTS).values():
            files += LogFile(path, self.reading).files
        hashes = list(map(sha256, files))
        digest = hashes[0]
        if len(hashes) > 1:
            digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        return {"path": str(Path(self.path).absolute()), "sha256": digest}

    def fingerprints_of_features(self) -> dict[str, dict[str, Any]]:
        """The fingerprint of each file of features, by its name in the settings."""
        files = self.feature_files().items()
        return {name: LogFile(str(path)).fingerprint() for name, path in files}

    def feature_files(self) -> dict[str, Path]:
        """The files of features: those that are given, and those beside a file of RecBole's."""
        files: dict[str, Path] = {}
        with suppress(FileNotFoundError):  # the log itself lies elsewhere
            if self.path and self.format == "recbole":
                files = _side_files(self.files[0])
        for name, path in self.reading.paths(FEATURES).items():
            files[name] = Path(path)
        return files

    def features(self, columns: Columns) -> dict[str, pl.DataFrame]:
        """The features in :meth:`feature_files`, keyed by the log's columns of ids; texts of lists
        are split.
        """
        frames = {}
        lists = dict(self.reading.lists)
        there: set[str] = set()
        for name, path in self.feature_files().items():
            role = name.removesuffix("_features")
            key = getattr(columns, role)
            frame = _read_features(path, key, role, self.reading)
            for texts in frame.drop(key, *lists, strict=False).select(pl.col(pl.String)):
                if are_lists(texts, BAR):
                    _log.info("%s: %s holds lists, between bars", path, texts.name)
                    lists[texts.name] = BAR
            frames[name] = frame
            there.update(frame.columns)
        unknown = {*self.reading.lists} - there
        if frames and unknown:
            raise DataError(
                f"lists: the features have no column {listed(unknown)}; they have {listed(there)}"
            )
        return {name: with_lists(frame, lists) for name, frame in frames.items()}

    def _columns(self, form: FileFormat, first: Path) -> Columns:
        """All columns, by the first file."""
        given = self.reading
        if form == "sequences":
            return _sequence_columns(given)
        with _explained(first):
            sample = _scan(first, form, given, is_sample=True).head(SAMPLE).collect()
        return given.columns_of(sample, self.path, first)


def with_lists(frame: pl.DataFrame, lists: Mapping[str, str]) -> pl.DataFrame:
    """Features with columns of texts as lists: ``lists`` is column -> separator, ``""`` where a
    text is one value.
    """
    columns = []
    for column, separator in lists.items():
        if column in frame.columns:
            texts = pl.col(column).cast(pl.String)
            values = texts.str.split(separator) if separator else pl.concat_list(texts)
            values = values.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
            columns.append(pl.when(texts.is_not_null()).then(values).alias(column))
    return frame.with_columns(columns)


# -- names of files


def is_data_path(name: str) -> bool:
    """Whether a name is the path of a log rather than the name of a data card."""
    if name.endswith(".toml"):
        return False
    is_path = bool({"/", os.sep, *_PATTERN} & set(name)) or os.path.exists(name)
    return is_path or _suffix(Path(name)) in SUFFIXES


def _suffix(path: Path) -> str:
    """The suffix that says the format, without that of a packed file."""
    if path.suffix.lower() in _PACKED:
        path = path.with_suffix("")
    return path.suffix.lower()


def format_of(path: Path) -> FileFormat:
    """The format that the name of a file says."""
    suffix = _suffix(path)
    if suffix not in SUFFIXES:
        raise ValueError(
            f"the format of {str(path)!r} cannot be told by its name; give format= (--reading format=) one of "
            f"{', '.join(get_args(FileFormat))}"
        )
    return SUFFIXES[suffix]


def _in_folder(folder: Path, form: FileFormat | None) -> list[Path]:
    """The files of a folder and of those within it; names that begin with ``.`` or ``_`` are no
    part of a log.
    """
    logs: dict[FileFormat, list[Path]] = {}
    for path in sorted(filter(Path.is_file, folder.rglob("*"))):
        suffix = _suffix(path)
        if _HIDDEN.search(path.relative_to(folder).as_posix()) or suffix in _SIDE_SUFFIXES:
            continue
        if form == "sequences":  # whatever their names
            logs.setdefault(form, []).append(path)
        elif suffix in SUFFIXES:
            logs.setdefault(SUFFIXES[suffix], []).append(path)
    if form is None and "recbole" in logs:  # beside files made of it
        form = "recbole"
    if form is not None:
        logs = {form: logs.get(form, [])}
    files = [*itertools.chain(*logs.values())]
    if not files:
        raise FileNotFoundError(
            f"folder {str(folder)!r} holds no file of a log ({', '.join(SUFFIXES)})"
        )
    if len(logs) > 1 or (form == "recbole" and len(files) > 1):
        names = listed(path.name for path in files)
        raise ValueError(f"{str(folder)!r} holds several logs: {names}; name one, or format=")
    return files


def _side_files(inter: Path) -> dict[str, Path]:
    """RecBole's files ``user`` and ``item`` beside an ``.inter`` file, plain or packed; of
    ``ml.train`` ``ml.item``.
    """
    name = inter.name.partition(".inter")[0]
    stems = (name, re.sub(r"\.(train|valid|test)$", "", name))
    files: dict[str, Path] = {}
    for side, stem, end in itertools.product(_ID_ROLES, stems, ("", *_PACKED)):
        path = inter.with_name(f"{stem}.{side}{end}")
        if path.is_file():
            files.setdefault(f"{side}_features", path)
    return files


# -- reading one file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What a library says of a file inside the block is an error that names the file."""
    if not path.stat().st_size:
        raise DataError("the file is empty", path=path)
    try:
        with reading(path):
            yield
    except CorruptFileError as error:
        if re.search("utf-?8", str(error), re.IGNORECASE):
            raise CorruptFileError(
                f"{error.__cause__}; give its encoding=, as 'latin-1'", path=path
            ) from None
        raise


def _plain(path: Path, encoding: str) -> Path | io.BytesIO:
    """What polars reads: the file itself, or its text in memory where it is in another encoding
    than UTF-8.
    """
    if codecs.lookup(encoding).name == "utf-8":
        return path
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    return io.BytesIO(content.decode(encoding).removeprefix("\ufeff").encode())


def _lines(path: Path, encoding: str) -> pl.LazyFrame:
    """The column ``line``: the lines of a text file, without a byte order mark."""
    return pl.scan_lines(_plain(path, encoding), glob=False).with_columns(
        pl.col("line").str.strip_prefix("\ufeff")
    )


def _first_line(lines: pl.LazyFrame) -> str:
    """The first line; empty where there is none."""
    return "".join(lines.head(1).collect(engine="streaming")["line"])


def _in_memory(lines: pl.LazyFrame) -> io.BytesIO:
    """The text of lines."""
    return io.BytesIO("\n".join(lines.collect()["line"]).encode())


def _separator(path: Path, form: FileFormat, given: Reading) -> str:
    """The separator of a text file: of those in its first line the one that gives as many fields
    as there are names, where one does."""
    if form in ("tsv", "recbole"):
        return "\t"
    if given.separator is not None:
        return given.separator
    lines = _lines(path, given.encoding).filter(pl.col("line").str.strip_chars() != "")
    line = _first_line(lines)
    marks = [mark for mark in _SEPARATORS if mark in line]
    return max(marks, key=lambda mark: line.count(mark) + 1 == len(given.names), default=",")


def _scan(path: Path, form: FileFormat, given: Reading, is_sample: bool = False) -> pl.LazyFrame:
    """The rows of a file; fields of text files are texts, and a blank line is a row of nulls."""
    if form == "parquet":
        return pl.scan_parquet(path, glob=False)
    if form == "jsonl":
        return _scan_json(path, given.encoding, SAMPLE if is_sample else None)
    return _scan_text(path, form, given)


def _scan_json(path: Path, encoding: str, n_inferred: int | None) -> pl.LazyFrame:
    """JSON lines, or one array of rows; types are inferred from the first rows, or from all."""
    lines = _lines(path, encoding)
    if _first_line(lines).lstrip().startswith("["):
        return pl.read_json(_in_memory(lines), infer_schema_length=None).lazy()
    plain = _plain(path, encoding)
    if plain is path:  # polars takes it for a pattern
        plain = Path(glob.escape(str(path)))
    return pl.scan_ndjson(plain, infer_schema_length=n_inferred)


def _scan_text(path: Path, form: FileFormat, given: Reading) -> pl.LazyFrame:
    """Fields between separators, as texts."""
    separator = _separator(path, form, given)
    source = _plain(path, given.encoding)
    quote = '"' if given.quotes else None
    if len(separator) > 1:  # polars separates by one character
        fields = pl.col("line").str.replace_all(separator, _UNIT, literal=True)
        source = _in_memory(_lines(path, given.encoding).select(fields))
        separator, quote = _UNIT, None
    lazy = pl.scan_csv(
        source,
        separator=separator,
        quote_char=quote,
        has_header=not given.names,
        infer_schema=False,
        glob=False,
    )
    there = lazy.collect_schema().names()
    names = given.names or there
    if form == "recbole":  # name:type
        names = [re.sub(":[^:]*$", "", name) for name in names]
    return lazy.rename(dict(zip(there, names, strict=True)))


def read_rows(
    path: Path, form: FileFormat, given: Reading, columns: Columns | None = None
) -> pl.DataFrame:
    """The named columns of one file, or all: of a text file as texts."""
    with _explained(path):
        if form == "sequences":
            return _read_sequences(path, given)
        lazy = _scan(path, form, given)
        names = lazy.collect_schema().names()
        wanted = names if columns is None else columns.named()
        if form in ("parquet", "jsonl"):
            return lazy.select(wanted).collect(engine="streaming")
        is_blank = pl.all_horizontal(pl.col(names[:_LOOKED_AT]).is_null())
        return lazy.filter(~is_blank).select(wanted).collect(engine="streaming")


def _sequence_columns(given: Reading) -> Columns:
    """The names for the columns of a file of sequences, which has none."""
    return Columns(user=given.user or "user_id", item=given.item or "item_id")


def _read_sequences(path: Path, given: Reading) -> pl.DataFrame:
    """A file of one user a line, ``user item item ...`` between white space, as pairs; blank lines
    are skipped.
    """
    fields = _lines(path, given.encoding).select(pl.col("line").str.extract_all(r"\S+"))
    rows = fields.collect().with_row_index("row")
    columns = _sequence_columns(given)
    n_fields = pl.col("line").list.len()
    short = rows.filter(n_fields == 1)
    if len(short) and given.missing_ids == "error":
        message = f"the line {short['line'][0][0][:60]!r} has no item (column {columns.item!r})"
        raise DataError(message, path=path, row=int(short["row"][0]))
    user = pl.col("line").list.first().alias(columns.user)
    items = pl.col("line").list.slice(1).alias(columns.item)
    return rows.filter(n_fields > 1).select(user, items).explode(columns.item)


def _read_features(path: Path, key: str, role: str, given: Reading) -> pl.DataFrame:
    """A frame of features with the key column of the log: one row an id."""
    form = format_of(path)
    # names and the separator are of the log
    frame = read_rows(path, form, Reading(encoding=given.encoding, quotes=given.quotes))
    keys = candidates_of(role, frame.columns)
    if key in frame.columns:
        keys = [key]
    if len(keys) != 1:
        raise DataError(
            f"{role} features need the column {key!r}; there are {listed(frame.columns)}", path=path
        )
    if form == "recbole":
        with _explained(path):
            header = _first_line(_lines(path, given.encoding)).split("\t")
            frame = _of_recbole(frame, header, {*keys, *given.lists})
    if form in ("csv", "tsv"):
        frame = frame.with_columns(map(_typed, frame.drop(keys)))
    return frame.rename({keys[0]: key})


def _of_recbole(frame: pl.DataFrame, header: list[str], as_texts: set[str]) -> pl.DataFrame:
    """The columns of the types that a RecBole header says, but for some that stay texts:
    ``:float`` as numbers, ``:token_seq`` as lists where their values come again."""
    for field_name in header:
        name, _, kind = field_name.rpartition(":")
        if name in as_texts:
            continue
        texts = pl.col(name).str
        if kind == "float":
            numbers = texts.strip_chars().replace(FOR_MISSING, None).cast(pl.Float64)
            frame = frame.with_columns(numbers)
        elif kind == "token_seq" and are_lists(frame[name], " "):
            frame = frame.with_columns(texts.split(" "))
    return frame


def _typed(texts: pl.Series) -> pl.Series:
    """A column of texts as numbers where nothing of the texts is lost: ``007`` is a code, no
    number.
    """
    there = texts.drop_nulls()
    if not len(there):
        return texts
    integers = integers_of(texts)
    if integers is not None:
        return integers
    floats = texts.cast(pl.Float64, strict=False)
    are_codes = there.str.contains(r"^(\+|-?0\d)|^-?\d{16,}$").any()
    if floats.null_count() == texts.null_count() and not are_codes:
        return floats
    return texts == "true" if there.is_in(["true", "false"]).all() else texts


# -- several files


def _together(frames: Sequence[pl.DataFrame], columns: Columns, source: Source) -> pl.DataFrame:
    """The rows of several files or frames, one after another; ``source`` is that of all."""
    if len(frames) == 1:
        return frames[0]
    frames = list(map(without_categories, frames))  # which are of a frame's own
    for name in filter(None, (columns.user, columns.item, columns.timestamp)):
        kinds = {family(frame.schema[name]) for frame in frames}
        if len(kinds) > 1 and kinds != {"integers", "floats"}:
            raise source.error(
                f"column {name!r} holds {' and '.join(sorted(kinds))}; write one type"
            )
    with reading(source.path or Path("frame")):
        return pl.concat(frames, how="vertical_relaxed")


def given_apart(parts: Mapping[str, Table]) -> Table:
    """The rows of train, and of valid and test where they are given, as one log that knows where
    each part ends. Or of train alone."""
    train = parts["train"]
    if len(parts) == 1:
        return train
    frames = []
    files: list[tuple[Path, int]] = []
    ends = []
    for name in ("train", *PARTS):
        if name in parts:
            frame, source = parts[name].frame, parts[name].source
            if not len(frame):
                raise source.error(
                    "a part (train, valid or test) holds no interaction; leave it out"
                )
            frames.append(frame)
            if source.parts:
                files += source.parts
            elif source.path is not None:
                files.append((source.path, len(frame)))
        ends.append(sum(map(len, frames)))
    rows = _together(frames, train.columns, train.source)
    source = Source(train.source.path, tuple(files))
    return Table(rows, train.columns, source, train.as_text, tuple(ends))
