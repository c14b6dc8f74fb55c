"""A log in files of one's own: which files, format and columns they are, read as one table.

Columns that are not named are guessed by usual names, and logged.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
#: in place of a column's name: the log has no such column, and none is guessed
NO_COLUMN = "none"
SUFFIXES: dict[str, FileFormat] = {
    **{".csv": "csv", ".dat": "csv", ".data": "csv", ".tsv": "tsv", ".tab": "tsv"},
    **{
        ".jsonl": "jsonl",
        ".ndjson": "jsonl",
        ".json": "jsonl",
        ".parquet": "parquet",
        ".pq": "parquet",
    },
    **{".inter": "recbole", ".user": "recbole", ".item": "recbole"},
}
#: of packed text files, which polars unpacks
_PACKED = (".gz", ".zst")
_PATTERN = "*?["
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
        chosen: dict[str, str | None] = {}
        for role in ROLES:
            name = getattr(self, role)
            if name is None:
                continue
            if name not in names and (name != NO_COLUMN or role in ("user", "item")):
                raise DataError(
                    f"there is no column {name!r}; the columns are {listed(names)}", path=path
                )
            chosen[role] = name if name in names else None
        guessed: dict[str, str | None] = {}
        for role in (role for role in ROLES if role not in chosen):
            free = [
                name
                for name in names
                if name not in chosen.values() and name not in guessed.values()
            ]
            candidates = candidates_of(role, free)
            if role == "timestamp" and not candidates:
                candidates = [name for name in free if is_dated(sample[name])]
            if len(candidates) > 1 or (not candidates and role in ("user", "item")):
                option = "time" if role == "timestamp" else role
                found = (
                    f"{listed(candidates)} may each be"
                    if candidates
                    else f"none of {listed(free)} looks like"
                )
                fix = f"say which: {role}=... (--{option} NAME), or give separator=, or names= without a header line"
                raise DataError(f"{found} the {role}; {fix}", path=path)
            guessed[role] = candidates[0] if candidates else None
        columns = Columns(**chosen, **guessed)
        if any(guessed.values()):
            found = ", ".join(
                f"{role} = {name!r}" for role, name in columns.model_dump().items() if name
            )
            _log.info(
                "%s: %s%s",
                label,
                found,
                "" if columns.rating or "rating" in chosen else "; no rating",
            )
        if "timestamp" in guessed and columns.timestamp is None:
            _log.warning(
                "%s: none of %s looks like times: the order of each user's interactions is that of the rows. Name the "
                'column: timestamp=... (--time NAME); "none" says that there is none',
                label,
                listed(names),
            )
        return columns

    def from_folder(self, folder: Path) -> Self:
        """The reading with the paths of its other files from a folder on."""
        paths = {name: getattr(self, name) for name in PATHS if getattr(self, name) is not None}
        return self.model_copy(
            update={name: str((folder / path).absolute()) for name, path in paths.items()}
        )


def candidates_of(role: str, names: Iterable[str]) -> list[str]:
    """The names that are usual for a role; the library's own alone, where it is among them."""
    usual = _NAMES[role].split()
    found = {
        name: plain for name in names if (plain := re.sub(r"[^a-z0-9]", "", name.lower())) in usual
    }
    # "product_id" stands beside "product", which is then the name of it
    found = {name: plain for name, plain in found.items() if f"{plain}id" not in found.values()}
    return [name for name, plain in found.items() if plain == usual[0]] or list(found)


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
        path, row = (self.path, None) if row is None else self.place(row)
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
        found = sorted(
            each for name in glob.glob(self.path, recursive=True) if (each := Path(name)).is_file()
        )
        if not found:
            raise FileNotFoundError(
                f"{self.path!r} is not there; give a file, a folder of files or a pattern"
            )
        return found

    @property
    def format(self) -> FileFormat:
        """The format that is given, or that the files' names say."""
        return self.reading.format or format_of(self.files[0])

    def read(self) -> Table:
        """The log, with all columns known."""
        train, paths = self._read_rows(), [getattr(self.reading, name) for name in PARTS]
        likewise = self.found(train.columns).reading.model_copy(update=dict.fromkeys(PARTS))
        return given_apart(
            [train, *(path and LogFile(path, likewise)._read_rows() for path in paths)]
        )

    def _read_rows(self) -> Table:
        form, files = self.format, self.files
        columns = self._columns(form, files[0])
        frames = [read_rows(file, form, self.reading, columns) for file in files]
        return _together(frames, columns, files, Path(self.path), form not in ("jsonl", "parquet"))

    def found(self, columns: Columns) -> LogFile:
        """The files by their absolute path, with the columns that were found."""
        names = columns.model_dump()
        roles = {role: names[role] or NO_COLUMN for role in ROLES if role != "weight"}
        return LogFile(
            str(Path(self.path).absolute()),
            self.reading.model_copy(update=roles).from_folder(Path()),
        )

    def completed(self) -> Reading:
        """The reading with the columns that are guessed, and ``"none"`` for those that the log does
        not have.
        """
        return self.found(self._columns(self.format, self.files[0])).reading

    def fingerprint(self) -> dict[str, Any]:
        """The files' path and the hash of their content (of several, or with given parts: of the
        list of theirs).
        """
        parts = [path for name in PARTS if (path := getattr(self.reading, name)) is not None]
        files = [
            *self.files,
            *itertools.chain(*(LogFile(path, self.reading).files for path in parts)),
        ]
        hashes = [sha256(file) for file in files]
        whole = (
            hashes[0]
            if len(hashes) == 1
            else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        )
        return {"path": str(Path(self.path).absolute()), "sha256": whole}

    def fingerprints_of_features(self) -> dict[str, dict[str, Any]]:
        """The fingerprint of each file of features, by its name in the settings."""
        return {
            name: LogFile(str(path)).fingerprint() for name, path in self.feature_files().items()
        }

    def feature_files(self) -> dict[str, Path]:
        """The files of features: those that are given, and those beside a file of RecBole's."""
        found: dict[str, Path] = {}
        with suppress(FileNotFoundError):  # the log itself lies elsewhere
            found |= _side_files(self.files[0]) if self.path and self.format == "recbole" else {}
        return found | {
            name: Path(path)
            for name in FEATURES
            if (path := getattr(self.reading, name)) is not None
        }

    def features(self, columns: Columns) -> dict[str, pl.DataFrame]:
        """The features in :meth:`feature_files`, keyed by the log's columns of ids; texts of lists
        are split.
        """
        found, lists = {}, dict(self.reading.lists)
        for name, path in self.feature_files().items():
            role = name.removesuffix("_features")
            found[name] = _read_features(path, getattr(columns, role), role, self.reading)
            for column, dtype in found[name].schema.items():
                is_free = column not in (*lists, getattr(columns, role)) and dtype == pl.String
                if is_free and are_lists(found[name][column], BAR):
                    _log.info("%s: %s holds lists, between bars", path, column)
                    lists[column] = BAR
        there = {column for frame in found.values() for column in frame.columns}
        if found and (unknown := {*self.reading.lists} - there):
            raise DataError(
                f"lists: the features have no column {listed(unknown)}; they have {listed(there)}"
            )
        return {name: with_lists(frame, lists) for name, frame in found.items()}

    def _columns(self, form: FileFormat, first: Path) -> Columns:
        """All columns, by the first file."""
        given = self.reading
        if form == "sequences":
            return Columns(user=given.user or "user_id", item=given.item or "item_id")
        with _explained(first):
            sample = _scan(first, form, given, is_sample=True).head(SAMPLE).collect()
        return given.columns_of(sample, self.path, first)


def with_lists(frame: pl.DataFrame, lists: Mapping[str, str]) -> pl.DataFrame:
    """Features with columns of texts as lists: ``lists`` is column -> separator, ``""`` where a
    text is one value.
    """
    made = []
    for column, separator in lists.items():
        if column in frame.columns:
            texts = pl.col(column).cast(pl.String)
            values = texts.str.split(separator) if separator else pl.concat_list(texts)
            values = values.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
            made.append(pl.when(texts.is_not_null()).then(values).alias(column))
    return frame.with_columns(made)


# -- names of files


def is_data_path(name: str) -> bool:
    """Whether a name is the path of a log rather than the name of a data card."""
    is_path = bool({"/", os.sep, *_PATTERN} & set(name)) or os.path.exists(name)
    return (
        bool(name) and not name.endswith(".toml") and (is_path or _suffix(Path(name)) in SUFFIXES)
    )


def _suffix(path: Path) -> str:
    """The suffix that says the format, without that of a packed file."""
    return Path(path.stem if path.suffix.lower() in _PACKED else path.name).suffix.lower()


def format_of(path: Path) -> FileFormat:
    """The format that the name of a file says."""
    if (form := SUFFIXES.get(_suffix(path))) is not None:
        return form
    raise ValueError(
        f"the format of {str(path)!r} cannot be told by its name; give format= (--reading format=) one of "
        f"{', '.join(get_args(FileFormat))}"
    )


def _in_folder(folder: Path, form: FileFormat | None) -> list[Path]:
    """The files of a folder and of those within it; names that begin with ``.`` or ``_`` are no
    part of a log.
    """
    every = sorted(path for path in folder.rglob("*") if path.is_file())
    every = [
        path
        for path in every
        if not any(part[0] in "._" for part in path.relative_to(folder).parts)
    ]
    if form == "sequences":
        return every
    kinds = {path: SUFFIXES[_suffix(path)] for path in every if _suffix(path) in SUFFIXES}
    logs = [path for path in kinds if _suffix(path) == ".inter"]
    is_recbole = form == "recbole" or (form is None and bool(logs))
    found = logs if is_recbole else [path for path, kind in kinds.items() if form in (None, kind)]
    if not found:
        raise FileNotFoundError(
            f"folder {str(folder)!r} holds no file of a log ({', '.join(SUFFIXES)})"
        )
    if len({kinds[path] for path in found}) > 1 or (found == logs and len(logs) > 1):
        names = listed(path.name for path in found)
        raise ValueError(f"{str(folder)!r} holds several logs: {names}; name one, or format=")
    return found


def _side_files(inter: Path) -> dict[str, Path]:
    """RecBole's files ``user`` and ``item`` beside an ``.inter`` file, plain or packed; of
    ``ml.train`` ``ml.item``.
    """
    name = inter.name.partition(".inter")[0]
    stems = (name, name.removesuffix(".train").removesuffix(".valid").removesuffix(".test"))
    found = {}
    for side in ("user", "item"):
        places = [
            inter.with_name(f"{stem}.{side}{end}") for stem in stems for end in ("", *_PACKED)
        ]
        if there := [path for path in places if path.is_file()]:
            found[f"{side}_features"] = there[0]
    return found


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
        if "utf-8" in str(error).lower() or "utf8" in str(error).lower():
            raise CorruptFileError(
                f"{error.__cause__}; give its encoding=, as 'latin-1'", path=path
            ) from None
        raise


def _plain(path: Path, encoding: str) -> Path | io.BytesIO:
    """What polars reads: the file itself, or its text in memory where it is in another encoding
    than UTF-8.
    """
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        return path
    content = (
        gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    )
    return io.BytesIO(content.decode(encoding).removeprefix("\ufeff").encode())


def _lines(path: Path, encoding: str) -> pl.LazyFrame:
    """The column ``line``: the lines of a text file, without a byte order mark."""
    return pl.scan_lines(_plain(path, encoding), glob=False).with_columns(
        pl.col("line").str.strip_prefix("\ufeff")
    )


def _separator(path: Path, form: FileFormat, given: Reading) -> str:
    if form in ("tsv", "recbole"):
        return "\t"
    if given.separator is not None:
        return given.separator
    lines = _lines(path, given.encoding).filter(pl.col("line").str.strip_chars() != "")
    line = "".join(lines.head(1).collect(engine="streaming")["line"])
    held = [mark for mark in _SEPARATORS if mark in line]
    fits = [mark for mark in held if line.count(mark) + 1 == len(given.names)]
    return next(iter([*fits, *held]), ",")


def _scan(path: Path, form: FileFormat, given: Reading, is_sample: bool = False) -> pl.LazyFrame:
    """The rows of a file; fields of text files are texts, and a blank line is a row of nulls."""
    if form == "parquet":
        return pl.scan_parquet(path, glob=False)
    if form == "jsonl":
        lines = _lines(path, given.encoding)
        if (
            "".join(lines.head(1).collect(engine="streaming")["line"]).lstrip().startswith("[")
        ):  # one array of rows
            text = io.BytesIO("\n".join(lines.collect()["line"]).encode())
            return pl.read_json(text, infer_schema_length=None).lazy()
        plain = _plain(path, given.encoding)  # polars takes a path for a pattern
        plain = Path(glob.escape(str(plain))) if isinstance(plain, Path) else plain
        return pl.scan_ndjson(plain, infer_schema_length=SAMPLE if is_sample else None)
    separator, source = _separator(path, form, given), _plain(path, given.encoding)
    if is_wide := len(separator) > 1:  # polars separates by one character
        fields = _lines(path, given.encoding).select(
            pl.col("line").str.replace_all(separator, _UNIT, literal=True)
        )
        source = io.BytesIO("\n".join(fields.collect()["line"]).encode())
    lazy = pl.scan_csv(
        source,
        separator=_UNIT if is_wide else separator,
        quote_char='"' if given.quotes and not is_wide else None,
        has_header=not given.names,
        infer_schema=False,
        glob=False,
    )
    there = lazy.collect_schema().names()
    names = given.names or there
    if form == "recbole":
        names = [name.rpartition(":")[0] or name for name in names]
    return lazy.rename(dict(zip(there, names, strict=True)))


def read_rows(
    path: Path, form: FileFormat, given: Reading, columns: Columns | None = None
) -> pl.DataFrame:
    """The named columns of one file, or all: of a text file as texts."""
    with _explained(path):
        if form == "sequences":
            return _read_sequences(path, given, columns or Columns(user="user_id", item="item_id"))
        lazy = _scan(path, form, given)
        names = lazy.collect_schema().names()
        wanted = names if columns is None else columns.named()
        if form in ("parquet", "jsonl"):
            return lazy.select(wanted).collect(engine="streaming")
        is_blank = pl.all_horizontal(pl.col(name).is_null() for name in names[:_LOOKED_AT])
        return lazy.filter(~is_blank).select(wanted).collect(engine="streaming")


def _read_sequences(path: Path, given: Reading, columns: Columns) -> pl.DataFrame:
    """A file of one user a line, ``user item item ...`` between white space, as pairs; blank lines
    are skipped.
    """
    fields = (
        _lines(path, given.encoding)
        .select(pl.col("line").str.extract_all(r"\S+"))
        .collect()
        .with_row_index("row")
    )
    fields = fields.filter(pl.col("line").list.len() > 0)
    short = fields.filter(pl.col("line").list.len() == 1)
    if len(short) and given.missing_ids == "error":
        message = f"the line {short['line'][0][0][:60]!r} has no item (column {columns.item!r})"
        raise DataError(message, path=path, row=int(short["row"][0]))
    user, item = (
        pl.col("line").list.first().alias(columns.user),
        pl.col("line").list.slice(1).alias(columns.item),
    )
    return fields.filter(pl.col("line").list.len() > 1).select(user, item).explode(columns.item)


def _read_features(path: Path, key: str, role: str, given: Reading) -> pl.DataFrame:
    """A frame of features with the key column of the log: one row an id."""
    form = format_of(path)
    how = given if form == "recbole" else Reading(encoding=given.encoding, quotes=given.quotes)
    frame = read_rows(path, form, how)
    if form == "recbole":
        with _explained(path):
            header = _lines(path, given.encoding).head(1).collect()["line"][0].split("\t")
            floats = [name.removesuffix(":float") for name in header if name.endswith(":float")]
            texts = pl.col(name for name in floats if name != key).str.strip_chars()
            frame = frame.with_columns(texts.replace(FOR_MISSING, None).cast(pl.Float64))
            sequences = [
                name.removesuffix(":token_seq") for name in header if name.endswith(":token_seq")
            ]
            of_lists = [
                name
                for name in sequences
                if name not in given.lists and are_lists(frame[name], " ")
            ]
            frame = frame.with_columns(pl.col(name).str.split(" ") for name in of_lists)
    own = [key] if key in frame.columns else candidates_of(role, frame.columns)
    if len(own) != 1:
        raise DataError(
            f"{role} features need the column {key!r}; there are {listed(frame.columns)}", path=path
        )
    if form in ("csv", "tsv"):
        frame = frame.with_columns(_typed(frame[name]) for name in frame.columns if name != own[0])
    return frame.rename({own[0]: key})


def _typed(texts: pl.Series) -> pl.Series:
    """A column of texts as numbers where nothing of the texts is lost: ``007`` is a code, no
    number.
    """
    there = texts.drop_nulls()
    if not len(there):
        return texts
    if (integers := integers_of(texts)) is not None:
        return integers
    floats = texts.cast(pl.Float64, strict=False)
    if (
        floats.null_count() == texts.null_count()
        and not there.str.contains(r"^(\+|-?0\d)|^-?\d{16,}$").any()
    ):
        return floats
    return texts == "true" if there.is_in(["true", "false"]).all() else texts


# -- several files


def _together(
    frames: Sequence[pl.DataFrame],
    columns: Columns,
    files: Sequence[Path | None],
    path: Path | None,
    as_text: bool,
) -> Table:
    """The rows of several files or frames, one after another."""
    if len(frames) == 1:
        return Table(frames[0], columns, Source(files[0]), as_text)
    frames = [without_categories(frame) for frame in frames]  # which are of a frame's own
    for name in (columns.user, columns.item, columns.timestamp):
        kinds = {family(frame.schema[name]) for frame in frames if name is not None}
        if len(kinds) > 1 and kinds != {"integers", "floats"}:
            raise DataError(
                f"column {name!r} holds {' and '.join(sorted(kinds))}; write one type", path=path
            )
    with reading(path or Path("frame")):
        whole = pl.concat(frames, how="vertical_relaxed")
    source = Source(
        path, tuple((file, len(each)) for file, each in zip(files, frames, strict=True) if file)
    )
    return Table(whole, columns, source, as_text)


def given_apart(parts: Sequence[Table | None]) -> Table:
    """The rows of train, valid and test as one log that knows where each ends; None has no rows. Or
    of train alone.
    """
    there = [part for part in parts if part is not None]
    if len(there) == 1:
        return there[0]
    if empty := [part for part in there if not len(part.frame)]:
        raise empty[0].source.error(
            "a part (train, valid or test) holds no interaction; leave it out"
        )
    first = there[0]
    paths = [part.source.path for part in there]
    whole = _together(
        [part.frame for part in there], first.columns, paths, first.source.path, first.as_text
    )
    files = itertools.chain(
        *(part.source.parts or ((part.source.path, len(part.frame)),) for part in there)
    )
    source = Source(
        first.source.path, tuple((path, count) for path, count in files if path is not None)
    )
    ends = tuple(itertools.accumulate(0 if part is None else len(part.frame) for part in parts))
    return Table(whole.frame, first.columns, source, first.as_text, ends)
