"""Files of features of users or items: one row an id, columns of numbers, texts or lists."""

from __future__ import annotations

import codecs
import io
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from recgraph.data import atomic
from recgraph.data.diagnose import check_file, collect, explained, usual_separator
from recgraph.data.errors import MissingColumnError
from recgraph.data.packing import check_encoding, open_bytes
from recgraph.data.readers import check_header, header_of, scan_delimited
from recgraph.data.roles import candidates_of
from recgraph.data.source import Format, Source
from recgraph.files import read_frame
from recgraph.texts import listed

__all__ = ["read_feature_file"]

_log = logging.getLogger(__name__)
_ROW = "__row"


def read_feature_file(
    path: str, suffix: str, key: str, role: str, encoding: str = "utf-8", quotes: bool = True
) -> pl.DataFrame:
    """A frame of features with the key column of the log.

    Args:
        path: a CSV, TSV, JSON-lines or Parquet file, or one of RecBole's, text files also packed.
        suffix: its format: ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"parquet"`` or ``"recbole"``.
        key: the log's column of ids; the file's may have another usual name of the role.
        role: ``"user"`` or ``"item"``.
        encoding: of a text file.
        quotes: whether ``"`` begins and ends a quoted field of a delimited one.

    Raises:
        FileNotFoundError: it does not exist.
        DataError: it cannot be read, or has no column of ids.
    """
    if suffix == "recbole":
        return atomic.read_features(check_file(path), key, encoding, quotes)
    is_parquet = suffix == "parquet"
    format: Format = "frame" if is_parquet else "jsonl" if suffix == "jsonl" else "delimited"
    source = Source(format, check_file(path), encoding=check_encoding(encoding), quotes=quotes)
    frame = read_frame(Path(path)) if is_parquet else _text(source, suffix, key, role)
    own = key if key in frame.columns else _other_name(frame.columns, role, source, key)
    return frame.rename({own: key})


def _text(source: Source, suffix: str, key: str, role: str) -> pl.DataFrame:
    """A text file; the ids of a delimited one, and columns of codes, are read as texts, so that none is changed."""
    plain, held = source.made_plain()
    if suffix == "jsonl":
        return collect(pl.scan_ndjson(_of_records(plain), infer_schema_length=None), source)
    with explained(source), source.open() as text:
        line = next((line for line in text if line.strip()), "")
    separator = "\t" if suffix == "tsv" else usual_separator(line) or ","
    delimited = replace(source, separator=separator, plain=plain.plain)
    names = header_of(delimited)
    check_header(delimited, names)
    own = key if key in names else _other_name(names, role, delimited, key)
    text_of: Path | bytes = plain.text
    quote = '"' if source.quotes else None
    if len(separator) > 1:  # polars separates by one character: the fields are written anew, for their types to be told
        assert source.path is not None
        raw = scan_delimited(source.path, separator=separator, encoding=source.encoding)
        text_of, separator, quote = collect(raw.lazy, raw.source).write_csv().encode(), ",", '"'
    scan = partial(pl.scan_csv, text_of, separator=separator, quote_char=quote, infer_schema_length=None, glob=False)
    typed = scan(schema_overrides={own: pl.String})
    codes = _codes(typed, scan(infer_schema=False), delimited)
    frame = collect(scan(schema_overrides=dict.fromkeys([own, *codes], pl.String)) if codes else typed, delimited)
    del held
    return frame


def _codes(typed: pl.LazyFrame, texts: pl.LazyFrame, source: Source) -> list[str]:
    """The columns of numbers that would lose something of their texts: ``007`` is another code than ``7``.

    Args:
        typed: the columns as the reader tells their types.
        texts: the same as texts.
        source: for messages.
    """
    changed = {name: _is_changed(name, dtype) for name, dtype in _schema(typed, source).items() if dtype.is_numeric()}
    if not changed:
        return []
    found = collect(texts.select(expression.any() for expression in changed.values()), source)
    codes = [name for name in changed if found[name].item()]
    for name in codes:
        row, text = collect(texts.with_row_index(_ROW).filter(changed[name]).select(_ROW, name).head(1), source).row(0)
        _log.warning(
            "%s: %r (column %r of the features) is no plain number; all values of the column stay texts",
            *(source.place(row), text, name),
        )
    return codes


def _schema(lazy: pl.LazyFrame, source: Source) -> pl.Schema:
    try:
        return lazy.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):  # a damaged file: collect says so
        collect(lazy, source)
        raise


def _is_changed(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether the text of a number is another than the number's own; of fractions "1.50" is only written otherwise."""
    text = pl.col(name)
    if dtype.is_integer():
        return text.cast(dtype, strict=False).cast(pl.String) != text
    is_large = text.str.contains(r"^-?\d+$") & (text.cast(dtype, strict=False).abs() >= 2**53)
    return text.str.contains(r"^(\+|-?0\d)") | is_large


def _of_records(source: Source) -> str | io.BytesIO:
    """A text of JSON lines without a byte order mark, which polars takes for a part of the first record."""
    if not source.has_byte_order_mark():
        return source.no_pattern
    with open_bytes(source.text) as file:
        return io.BytesIO(file.read().removeprefix(codecs.BOM_UTF8))


def _other_name(names: list[str], role: str, source: Source, key: str) -> str:
    found = candidates_of(role, names)
    if len(found) != 1:
        what = f"several may be it, {listed(found)}" if found else "none has a usual name"
        raise source.error(
            MissingColumnError,
            f"the {role} features need the column {key!r} of the log's {role} ids: {what}; the columns are "
            f"{listed(names)}",
        )
    return found[0]
