"""Files of features of users or items: one row an id, columns of numbers, texts or lists."""

from __future__ import annotations

import codecs
import io
from dataclasses import replace
from pathlib import Path

import polars as pl

from recgraph.bounded.tables import read_frame
from recgraph.data import atomic
from recgraph.data.diagnose import check_file, collect, explained, usual_separator
from recgraph.data.errors import MissingColumnError
from recgraph.data.packing import check_encoding, open_bytes
from recgraph.data.readers import check_header, header_of, scan_delimited
from recgraph.data.roles import candidates_of
from recgraph.data.source import Format, Source
from recgraph.texts import listed

__all__ = ["read_feature_file"]


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
    frame = read_frame(Path(path), memory_map=False) if is_parquet else _text(source, suffix, key, role)
    own = key if key in frame.columns else _other_name(frame.columns, role, source, key)
    return frame.rename({own: key})


def _text(source: Source, suffix: str, key: str, role: str) -> pl.DataFrame:
    """A text file; the ids of a delimited one are read as texts, so that none is changed."""
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
    text_of: Path | io.BytesIO = plain.text
    quote = '"' if source.quotes else None
    if len(separator) > 1:  # polars separates by one character: the fields are written anew, for their types to be told
        assert source.path is not None
        raw = scan_delimited(source.path, separator=separator, encoding=source.encoding)
        text_of, separator, quote = io.BytesIO(collect(raw.lazy, raw.source).write_csv().encode()), ",", '"'
    types = {own: pl.String}
    lazy = pl.scan_csv(
        text_of,
        separator=separator,
        quote_char=quote,
        schema_overrides=types,
        infer_schema_length=None,
        glob=False,
    )
    frame = collect(lazy, delimited)
    del held
    return frame


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
