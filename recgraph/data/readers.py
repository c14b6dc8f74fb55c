"""Scan the files of logs, each format into a lazy frame (:class:`~recgraph.data.source.Raw`).

- Delimited text (CSV, TSV): every column is read as text, which the encoding parses.
- JSON lines: one object a line.
- Parquet: a file.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.diagnose import check_file, check_separator, collect, explained, json_record
from recgraph.data.errors import (
    NO_TEXT,
    DelimiterError,
    DuplicateColumnError,
    EmptyLogError,
    EncodingError,
    MissingColumnError,
    MixedIdError,
)
from recgraph.data.ids import family
from recgraph.data.kinds import check_ids, check_numbers, ids_of_one_kind, plain_columns, times_of_one_kind
from recgraph.data.lines import long_fields
from recgraph.data.packing import check_encoding
from recgraph.data.source import Raw, Source
from recgraph.texts import listed

__all__ = [
    "check_columns",
    "check_header",
    "header_of",
    "keys_of",
    "scan_delimited",
    "scan_jsonl",
    "scan_parquet",
    "together",
]


def scan_delimited(
    path: str | Path,
    *,
    separator: str = ",",
    columns: Sequence[str] | None = None,
    needed: Sequence[str] = (),
    encoding: str = "utf-8",
    quotes: bool = True,
) -> Raw:
    """Scan a delimited text file, plain or packed.

    Args:
        path: the file.
        separator: one character, or several (``"::"``; then without quoting).
        columns: the names of the columns where the file has no header line.
        needed: the names of columns that must be there; where one is missing, another separator is looked for.
        encoding: of the text.
        quotes: whether ``"`` begins and ends a quoted field.

    Raises:
        DataError: empty, separated by another character, in another encoding, damaged, two columns of one name; with
            the line where there is one.
    """
    if not separator:
        raise ValueError("separator = '' must hold at least one character")
    given = Source("delimited", check_file(path), separator, columns is None, check_encoding(encoding), quotes=quotes)
    source, held = given.made_plain()
    if columns is None:
        check_header(source, header_of(source))
    lazy = _scan_lines(source, columns) if len(separator) > 1 else _scan_delimited_text(source, columns)
    names = _names(lazy, source)
    if any(name not in names for name in needed):
        check_separator(source)
    return Raw(_without_blank(lazy, names, needed, source), source, as_text=True, held=(held,))


#: polars takes seconds for an expression of hundreds of columns
_TOGETHER = 64


def _without_blank(lazy: pl.LazyFrame, names: Sequence[str], needed: Sequence[str], source: Source) -> pl.LazyFrame:
    """The rows with a value in a column: a blank line is no row.

    Of many columns the needed ones are looked at first, and then others as long as there are rows without a value.
    """
    if len(names) <= _TOGETHER:
        return lazy.filter(~pl.all_horizontal(pl.all().is_null()))
    order = [*(name for name in names if name in needed), *(name for name in names if name not in needed)]
    number, blank = "__number", pl.Series(dtype=pl.List(pl.UInt32))
    for first in range(0, len(order), _TOGETHER):
        rows = lazy.select(order[first : first + _TOGETHER])
        empty = rows.select(pl.all_horizontal(pl.all().is_null()).alias("empty")).with_row_index(number)
        empty = empty.filter("empty") if first == 0 else empty.filter(pl.col(number).is_in(blank) & pl.col("empty"))
        blank = collect(empty.select(pl.col(number).implode()), source)[number]
        if not len(blank[0]):
            return lazy
    return lazy.with_row_index(number).filter(~pl.col(number).is_in(blank)).drop(number)


def header_of(source: Source) -> list[str]:
    """The names of the columns in the first line that is not blank; empty where there is none.

    Raises:
        DataError: the file is damaged.
    """
    with explained(source), source.open() as text, long_fields():
        if len(source.separator) > 1:
            line = next((line for line in text if line.strip()), "")
            return [name.strip() for name in line.split(source.separator)] if line else []
        return next((row for row in source.reader(text) if any(row)), [])


def check_header(source: Source, names: Sequence[str]) -> None:
    """Refuse a name that stands twice: which of the columns is meant would be chance.

    Raises:
        DuplicateColumnError: one does; names it and its places.
    """
    seen: set[str] = set()
    name = next((name for name in names if name and (name in seen or seen.add(name))), None)  # type: ignore[func-returns-value]
    if name is not None:
        places = [f"{place}" for place, other in enumerate(names, start=1) if other == name]
        message = f"the header names {name!r} {len(places)} times, as columns {', '.join(places)}; rename all but one"
        raise source.error(DuplicateColumnError, message, line=None if source.path is None else 1)


def _names(lazy: pl.LazyFrame, source: Source) -> list[str]:
    # the schema is read from the file, so that a damaged one shows here first
    try:
        return lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
        collect(lazy.head(1), source)
        raise


def _scan_delimited_text(source: Source, columns: Sequence[str] | None) -> pl.LazyFrame:
    return pl.scan_csv(
        source.text,
        separator=source.separator,
        quote_char='"' if source.quotes else None,
        has_header=columns is None,
        new_columns=list(columns) if columns is not None else None,
        infer_schema=False,
        glob=False,  # else log[1].csv is read as log1.csv
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
#: of JSON: an escaped half of a pair of surrogates, and a whole pair
_HALF = r"\\u[dD][89a-fA-F]"
_PAIR = r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_SURROGATE = re.compile("[\ud800-\udfff]")
_TYPES = {int: pl.Int64, str: pl.String, float: pl.Float64, bool: pl.Boolean}


def scan_jsonl(path: str | Path, columns: Columns, encoding: str = "utf-8") -> Raw:
    """Scan a JSON-lines file, plain or packed; ids keep their JSON type.

    Args:
        path: the file.
        columns: the names of the columns to read.
        encoding: of the text.

    Raises:
        DataError: empty, damaged, not JSON, ids of several types; with the line.
    """
    given = Source("jsonl", check_file(path), encoding=check_encoding(encoding), ids=(columns.user, columns.item))
    source, held = given.made_plain()
    types, names = _types(source, columns)
    missing = [name for name in columns.named() if name not in types]
    if names and missing:
        message = f"there is no column {missing[0]!r}; the first lines have {listed(names)}"
        raise source.error(MissingColumnError, message, line=1)
    lazy = _scan_json(source, types)
    texts = [name for name in (columns.user, columns.item) if types.get(name) == pl.String]
    for name in texts:
        _check_texts(source, name)
    if texts:
        _check_surrogates(source, texts)
    return Raw(lazy, source, held=(held,))


def keys_of(path: Path, encoding: str = "utf-8") -> list[str]:
    """The keys of the first lines of a JSON-lines file, in the order of their appearance."""
    names: dict[str, None] = {}
    source = Source("jsonl", check_file(path), encoding=check_encoding(encoding))
    with explained(source), source.open() as text:
        for number, line in itertools.islice(enumerate(text, start=1), _SAMPLE):
            names |= dict.fromkeys(json_record(source, line, number))
    return list(names)


def _scan_json(source: Source, types: dict[str, Any]) -> pl.LazyFrame:
    if not source.has_byte_order_mark():
        return pl.scan_ndjson(source.no_pattern, schema=types)
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
    except (OSError, EOFError, zlib.error, pl.exceptions.PolarsError):  # a damaged file: collect says so
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


def _check_surrogates(source: Source, names: Sequence[str]) -> None:
    """Raise for an id with a half of a pair of surrogates: polars would read all such as one id."""
    line = pl.col("line")
    escapes = line.str.replace_all(r"\\\\", "").str.replace_all(_PAIR, "")  # without backslashes that are a text's own
    suspects = source.scan_lines().filter(line.str.contains(_HALF)).filter(escapes.str.contains(_HALF))
    for number, text in collect(suspects, source).iter_rows():
        record = json_record(source, text, number)
        for name in names:
            if isinstance(value := record.get(name), str) and _SURROGATE.search(value):
                raise source.error(EncodingError, f"column {name!r} holds {value!r}, {NO_TEXT}", line=number)


def scan_parquet(path: str | Path) -> Raw:
    """Scan a Parquet file.

    Raises:
        FileNotFoundError: nothing is there.
        DataError: empty or damaged.
    """
    file = check_file(path)
    source = Source("parquet", file)
    lazy = pl.scan_parquet(file, glob=False)
    collect(lazy.head(0), source)
    return Raw(lazy, source)


def together(path: Path | None, raws: Sequence[Raw], columns: Columns) -> Raw:
    """The rows of several files or frames, one after another.

    Args:
        path: the folder or pattern of files, for messages about all of them; None: of frames.
        raws: of the files.
        columns: the names of the columns to read.

    Raises:
        MissingColumnError: a file does not have one of the columns.
        MixedIdError: ids are of another type in one file than in those before it, or integers in one and fractions in
            another.
        TimestampError, RatingError: dates beside numbers, or in their place.
    """
    for raw in raws:
        check_columns(raw, columns)
        check_numbers(raw.lazy, {"rating": columns.rating, "weight": columns.weight}, raw.source)
    raws = [replace(raw, lazy=plain_columns(raw.lazy, columns)) for raw in raws]
    first, kinds = raws[0], dict[str, str]()
    for raw in raws:
        schema = raw.lazy.collect_schema()
        for name in (columns.user, columns.item):
            kind = family(schema[name])
            if kinds.setdefault(name, kind) != kind and {kind, kinds[name]} != {"integers", "floats"}:
                message = f"column {name!r} holds {kind}, in what is before it {kinds[name]}; write one type"
                raise raw.source.error(MixedIdError, message)
    for name in (columns.user, columns.item):
        raws = ids_of_one_kind(raws, name)
    if columns.timestamp is not None:
        raws = times_of_one_kind(raws, columns.timestamp)
    lazy = pl.concat([raw.lazy.select(columns.named()) for raw in raws], how="vertical_relaxed")
    source = first.source if path is None else source_of_all(path, [raw.source for raw in raws])
    uuids = frozenset().union(*(raw.uuids for raw in raws))
    return Raw(lazy, source, all(raw.as_text for raw in raws), uuids, tuple(held for raw in raws for held in raw.held))


def given_apart(path: Path | None, raws: Sequence[Raw | None], columns: Columns) -> Raw:
    """The rows of train, valid and test as one log that knows where each ends; None has no rows.

    Args:
        path: of train; None where they are frames.

    Raises:
        EmptyLogError: valid or test is given and has no rows.
        MissingColumnError, MixedIdError: as :func:`together`.
    """
    there = [raw for raw in raws if raw is not None]
    counts = [0 if raw is None else collect(raw.lazy.select(pl.len()), raw.source).item() for raw in raws]
    for name, raw, count in zip(("valid", "test"), raws[1:], counts[1:], strict=True):
        if raw is not None and not count:
            raise raw.source.error(EmptyLogError, f"{name} holds no interaction; leave it out")
    return replace(together(path, there, columns), ends=tuple(itertools.accumulate(counts)))


def source_of_all(path: Path, sources: Sequence[Source]) -> Source:
    """The source of several files: their folder or pattern, and one after another; a given part may be several."""
    if len(sources) == 1:
        return sources[0]
    files = tuple(file for source in sources for file in (source.parts or (source,)))
    return replace(sources[0], path=path, plain=None, parts=files)


def check_columns(raw: Raw, columns: Columns) -> None:
    """Refuse a column that does not exist, listing those that do, and ids as :func:`check_ids`.

    Raises:
        MissingColumnError: it does not exist.
        MixedIdError: as :func:`check_ids`.
    """
    there = raw.lazy.collect_schema().names()
    missing = [name for name in columns.named() if name not in there]
    if missing:
        message = f"there is no column {missing[0]!r}; the columns are {listed(there)}"
        raise raw.source.error(MissingColumnError, message)
    check_ids(raw, columns)
