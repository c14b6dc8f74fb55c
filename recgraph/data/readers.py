"""Scan the files of logs, each format into a lazy frame (:class:`~recgraph.data.diagnose.Raw`).

- Delimited text (CSV, TSV): every column is read as text, which the encoding parses.
- JSON lines: one object a line.
- Parquet: a file, or all files of a folder.
- RecBole's atomic files: tab separated, with a header of ``name:type``. Types are ``token``, ``token_seq``, ``float``
  and ``float_seq``. A ``*_seq`` field stays a text, as titles are of that type as well as lists of genres; where a list
  is meant, ``Interactions.item_relation`` splits it.
- Sequences: ``user item item ...`` a line, oldest first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.diagnose import Raw, Source, check_file, check_separator, collect, json_record
from recgraph.data.errors import CorruptFileError, DelimiterError, MissingColumnError, MissingIdError, MixedIdError

__all__ = [
    "atomic_files",
    "read_features",
    "scan_atomic",
    "scan_delimited",
    "scan_jsonl",
    "scan_parquet",
    "scan_sequences",
]


def scan_delimited(
    path: str | Path,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    needed: Sequence[str] = (),
) -> Raw:
    """Scan a delimited text file, plain or gzip.

    Args:
        path: the file.
        separator: one character, or several (``"::"``; then without quoting).
        columns: the names of the columns where the file has no header line.
        needed: the names of columns that must be there; where one is missing, another separator is looked for.

    Raises:
        DataError: empty, separated by another character, not UTF-8, damaged; with the line where there is one.
    """
    if not separator:
        raise ValueError("separator = '' must hold at least one character")
    source = Source("delimited", check_file(path), separator, has_header=columns is None)
    lazy = _scan_lines(source, columns) if len(separator) > 1 else _scan_delimited_text(source, columns)
    names = _names(lazy, source)
    if any(name not in names for name in needed):
        check_separator(source)
    # a blank line is no row
    return Raw(lazy.filter(~pl.all_horizontal(pl.all().is_null())), source, as_text=True)


def _names(lazy: pl.LazyFrame, source: Source) -> list[str]:
    # the schema is read from the file, so that a damaged one shows here first
    try:
        return lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        collect(lazy.head(1), source)
        raise


def _scan_delimited_text(source: Source, columns: Sequence[str] | None) -> pl.LazyFrame:
    assert source.path is not None
    return pl.scan_csv(
        source.path,
        separator=source.separator,
        has_header=columns is None,
        new_columns=list(columns) if columns is not None else None,
        infer_schema=False,
    )


def _scan_lines(source: Source, columns: Sequence[str] | None) -> pl.LazyFrame:
    lines = source.scan_lines()
    first = collect(lines.head(1), source)
    check_separator(source)
    if columns is None:
        header = first["line"].item()
        columns = [name.strip() for name in header.split(source.separator)]
        lines = lines.slice(1)
    _check_fields(lines, len(columns), source)
    parts = pl.col("line").str.strip_chars_end("\r").str.split_exact(source.separator, len(columns) - 1)
    fields = lines.select(parts.struct.rename_fields(list(columns)).alias("line")).unnest("line")
    return fields.with_columns(pl.all().replace("", None))


def _check_fields(lines: pl.LazyFrame, width: int, source: Source) -> None:
    """Raise for the first line of another width: polars drops surplus fields silently."""
    count = pl.col("line").str.count_matches(source.separator, literal=True) + 1
    wrong = lines.filter((count != width) & (pl.col("line").str.strip_chars() != "")).select("number", count)
    for number, n in collect(wrong.head(1), source).iter_rows():
        message = f"{n} fields separated by {source.separator!r}, but there are {width} names of columns"
        raise source.error(DelimiterError, message, line=number)


_SAMPLE = 1000
_TYPES = {int: pl.Int64, str: pl.String, float: pl.Float64, bool: pl.Boolean}


def scan_jsonl(path: str | Path, columns: Columns) -> Raw:
    """Scan a JSON-lines file, plain or gzip; ids keep their JSON type.

    Args:
        path: the file.
        columns: the names of the columns to read.

    Raises:
        DataError: empty, damaged, not JSON, ids of several types; with the line.
    """
    source = Source("jsonl", check_file(path))
    types, names = _types(source, columns)
    missing = [name for name in columns.named() if name not in types]
    if names and missing:
        message = f"there is no column {missing[0]!r}; the first lines have {', '.join(map(repr, names))}"
        raise source.error(MissingColumnError, message, line=1)
    lazy = _scan_json(source, types)
    for name in (columns.user, columns.item):
        if types.get(name) == pl.String:
            _check_texts(source, name)
    return Raw(lazy, source)


def _scan_json(source: Source, types: dict[str, Any]) -> pl.LazyFrame:
    assert source.path is not None
    if not source.has_byte_order_mark():
        return pl.scan_ndjson(source.path, schema=types)
    # polars takes a byte order mark for a part of the first object
    records = pl.col("line").str.json_decode(pl.Struct(types))
    lines = source.scan_lines().filter(pl.col("line").str.strip_chars() != "")
    return lines.select(records).unnest("line")


def _types(source: Source, columns: Columns) -> tuple[dict[str, Any], list[str]]:
    """The types of the named columns and the names of all columns, from the first lines.

    Ids have their JSON type. Other columns are read as text and parsed later, so that errors name the line.
    """
    names: dict[str, None] = {}
    first: dict[str, tuple[type, int]] = {}
    try:
        with source.open() as text:
            for number, line in itertools.islice(enumerate(text, start=1), _SAMPLE):
                for name, value in json_record(source, line, number).items():
                    names.setdefault(name)
                    if name in (columns.user, columns.item) and value is not None:
                        _note(source, first, name, value, number)
    except (OSError, EOFError):  # a damaged gzip file: collect says so
        collect(source.scan_lines(), source)
        raise
    ids = {name: _TYPES[kind] for name, (kind, _) in first.items()}
    return {name: ids.get(name, pl.String) for name in columns.named() if name in names}, list(names)


def _note(source: Source, first: dict[str, tuple[type, int]], name: str, value: Any, number: int) -> None:
    kind, where = first.setdefault(name, (type(value), number))
    if type(value) not in _TYPES:
        message = f"the id {value!r} (column {name!r}) is a {type(value).__name__}; ids are texts or numbers"
        raise source.error(MixedIdError, message, line=number)
    if type(value) is not kind:
        message = (
            f"the id {value!r} (column {name!r}) is a {type(value).__name__}, but line {where} holds a "
            f"{kind.__name__}; write all ids of the column in one type"
        )
        raise source.error(MixedIdError, message, line=number)


def _check_texts(source: Source, name: str) -> None:
    """Raise for an id without quotes: where texts are expected, polars would read a number as a text."""
    quoted = rf'"{re.escape(name)}"\s*:\s*(?:"|null)'
    suspects = source.scan_lines().filter(
        ~pl.col("line").str.contains(quoted) & (pl.col("line").str.strip_chars() != "")
    )
    for number, line in collect(suspects, source).iter_rows():
        value = json_record(source, line, number).get(name)
        if value is not None and not isinstance(value, str):
            message = (
                f"the id {value!r} (column {name!r}) is a {type(value).__name__}, but the lines before hold "
                "texts; write all ids of the column in one type"
            )
            raise source.error(MixedIdError, message, line=number)


def scan_parquet(path: str | Path) -> Raw:
    """Scan a Parquet file, or all ``*.parquet`` of a folder in the order of their names.

    Raises:
        FileNotFoundError: nothing is there.
        DataError: empty or damaged.
    """
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [check_file(path)]
    if not files:
        raise FileNotFoundError(f"folder {str(path)!r} holds no *.parquet file")
    source = Source("parquet", path)
    lazy = pl.scan_parquet(files)
    collect(lazy.head(0), source)
    return Raw(lazy, source)


_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


def atomic_files(path: str | Path) -> dict[str, Path]:
    """The files of a data set by suffix (``inter``, and ``user``, ``item`` where they exist).

    Args:
        path: the folder that holds one ``*.inter`` file, or that file.

    Raises:
        FileNotFoundError: there is no ``.inter`` file.
        ValueError: there are several.
    """
    path = Path(path)
    found = [path] if path.suffix == ".inter" and path.is_file() else sorted(path.glob("*.inter"))
    if not found:
        raise FileNotFoundError(f"{str(path)!r} is no .inter file and no folder that holds one")
    if len(found) > 1:
        raise ValueError(f"{str(path)!r} holds {len(found)} .inter files; name one: {', '.join(f.name for f in found)}")
    sides = {suffix: found[0].with_suffix(f".{suffix}") for suffix in ("user", "item")}
    return {"inter": found[0], **{suffix: file for suffix, file in sides.items() if file.is_file()}}


def scan_atomic(path: Path) -> tuple[Raw, dict[str, str]]:
    """Scan one atomic file.

    Returns:
        The rows, with the columns named without their types, and name -> type.

    Raises:
        CorruptFileError: a header field is not ``name:type``.
    """
    raw = scan_delimited(path, separator="\t", needed=())
    header = raw.lazy.collect_schema().names()
    types: dict[str, str] = {}
    for field in header:
        name, _, kind = field.rpartition(":")
        if not name or kind not in _RECBOLE_TYPES:
            message = (
                f"header field {field!r} is not name:type with a type of {', '.join(_RECBOLE_TYPES)}, tab separated"
            )
            raise raw.source.error(CorruptFileError, message, line=1)
        types[name] = kind
    lazy = raw.lazy.rename(dict(zip(header, types, strict=True)))
    return Raw(lazy, raw.source, as_text=True), types


def read_features(path: Path, key: str) -> pl.DataFrame:
    """A ``.user`` or ``.item`` file: ``float`` columns as numbers, all others as text, with the key column.

    Raises:
        MissingColumnError: the key column is not there.
    """
    raw, types = scan_atomic(path)
    if key not in types:
        raise raw.source.error(
            MissingColumnError,
            f"there is no column {key!r}; the columns are {', '.join(map(repr, types))}",
            line=1,
        )
    frame = collect(raw.lazy, raw.source)
    numbers = [name for name, kind in types.items() if kind == "float" and name != key]
    return frame.with_columns(pl.col(name).cast(pl.Float64, strict=False) for name in numbers)


def scan_sequences(path: str | Path, *, user: str = "user_id", item: str = "item_id") -> Raw:
    """Scan a file of one user a line, separated by white space; blank lines are skipped.

    Args:
        path: the file, plain or gzip.
        user, item: the names that the two columns get.

    Raises:
        DataError: empty, damaged, not UTF-8, or a line with a user and no item; with the line.
    """
    source = Source("sequences", check_file(path))
    fields = source.scan_lines().select("number", pl.col("line").str.extract_all(r"\S+").alias("fields"))
    fields = fields.filter(pl.col("fields").list.len() > 0)
    short = collect(fields.filter(pl.col("fields").list.len() == 1).head(1), source)
    if len(short):
        _refuse(source, int(short["number"][0]), short["fields"][0][0])
    rows = fields.select(pl.col("fields").list.first().alias(user), pl.col("fields").list.slice(1).alias(item)).explode(
        item
    )
    return Raw(rows, source, as_text=True)


def _refuse(source: Source, line: int, text: str) -> None:
    mark = next((mark for mark in ",;|" if mark in text), None)
    if mark is not None:
        message = f"{text[:60]!r} is not separated by spaces but by {mark!r}; is it a table (from_csv)?"
        raise source.error(DelimiterError, message, line=line)
    raise source.error(MissingIdError, f"user {text!r} has no item", line=line)
