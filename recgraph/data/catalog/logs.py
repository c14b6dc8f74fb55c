"""From the card of a log to interactions: try its sources in order, read their files, prepare, check what comes out."""

from __future__ import annotations

import hashlib
import itertools
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from recgraph.data.catalog.card_tables import SEQUENCES
from recgraph.data.catalog.cards import Counts, Layout, LogCard, Preparation, Source
from recgraph.data.catalog.sources import (
    PART_TABLES,
    CountError,
    File,
    Generated,
    HashMismatchError,
    Local,
    SourceError,
    UnavailableError,
    Url,
    Wheel,
    fetch,
    unpack,
)
from recgraph.data.catalog.synthetic import Synthetic, generate
from recgraph.data.errors import DataError, EncodingError, MissingColumnError
from recgraph.data.ingest import with_parts
from recgraph.data.interactions import Interactions
from recgraph.data.log import PART
from recgraph.data.log_file import read_sequences, read_table
from recgraph.files import read_frame, sha256

__all__ = ["check_counts", "local_files", "prepare_log", "prepared", "read_card_table"]


Tables = Mapping[str, pl.DataFrame]
_ROLES = ("timestamp", "rating", "weight")
_log = logging.getLogger(__name__)


def prepare_log(card: LogCard, given: Path | None = None, kind: str | None = None) -> tuple[Interactions, str]:
    """The prepared interactions of a card.

    Args:
        card: the card.
        given: a file that the user has; nothing is downloaded then.
        kind: only sources of this kind.

    Returns:
        the interactions, and where they came from in words.

    Raises:
        UnavailableError: no source gives the data; lists each with its reason, and how to give a file.
        HashMismatchError: the given file is not the published one.
        DataError: the given file cannot be read; names the file and the line.
        CountError: the counts, or the content where its hash is known, are not those of the card.
    """
    if given is not None:
        return _checked(card, _tables(card, _source_of(card, given, kind), given)), str(given)
    reasons = []
    for source in _of_kind(card, kind):
        try:
            return _checked(card, _tables(card, source, None)), source.label
        except (SourceError, DataError, CountError) as error:
            _log.info("dataset %s: %s: %s", card.name, source.label, error)
            reasons.append(f"  {source.kind}, {source.label}: {error}")
    raise UnavailableError(
        f"dataset {card.name!r} cannot be had from any source:\n"
        + "\n".join(reasons)
        + f"\nIf you have the file, run: recgraph data get {card.name} --from FILE"
    )


def local_files(card: LogCard, given: Path, kind: str | None = None) -> list[Path]:
    """The files of the user that a card's data are prepared from, where no hash says what they must be.

    Args:
        card: the card.
        given: the file that the user has.
        kind: only sources of this kind.
    """
    source = _source_of(card, given, kind)
    if source.sha256 is not None:
        return []
    beside = [given.parent / file.member for file in source.files.values() if file.member and not file.sha256]
    return [given, *(path for path in beside if path.is_file())]


def _of_kind(card: LogCard, kind: str | None) -> list[Source]:
    return [source for source in card.sources if kind in (None, source.kind)]


def _source_of(card: LogCard, given: Path, kind: str | None) -> Url | Wheel | Local:
    """The source that a user's file belongs to: that whose hash it has, or else a local one without a hash."""
    if not given.is_file():
        raise ValueError(f"--from {str(given)!r} is not a file")
    candidates = [source for source in _of_kind(card, kind) if not isinstance(source, Generated)]
    if not candidates:
        raise ValueError(f"dataset {card.name!r} is generated; it takes no file")
    got = sha256(given)
    for source in candidates:
        if source.sha256 == got:
            return source
    for source in candidates:
        if isinstance(source, Local) and source.sha256 is None:
            return source
    known = "; ".join(f"{source.sha256} ({source.label})" for source in candidates)
    raise HashMismatchError(
        f"{given} is not the published file of dataset {card.name!r}: expected sha256 {known}; got {got}"
    )


def _tables(card: LogCard, source: Source, given: Path | None) -> Tables:
    if isinstance(source, Generated):
        return generate(Synthetic.of(source.parameters))
    with tempfile.TemporaryDirectory(prefix="recgraph-") as folder:
        archive = fetch(source, Path(folder), given)
        tables: dict[str, pl.DataFrame] = {}
        for name, file in source.files.items():
            if (path := unpack(archive, file, Path(folder))) is not None:
                tables[name] = read_card_table(path, file, card.layout_of(name))
            elif name in PART_TABLES:
                raise SourceError(f"{file.member!r} is not beside {archive}")
        return tables


def _checked(card: LogCard, tables: Tables) -> Interactions:
    log = _all_parts(tables)
    expected = card.expected
    if expected is not None and expected.sha256 is not None and (got := content_hash(log)) != expected.sha256:
        raise CountError(
            f"dataset {card.name!r}: the interactions are not the published ones: "
            f"expected content sha256 {expected.sha256}, got {got}"
        )
    data = prepared(_of_tables(tables), card.prepare)
    check_counts(card.name, data, expected)
    return data


def check_counts(name: str, data: Interactions, expected: Counts | None) -> None:
    """Raise where the counts are not what a card expects; None expects nothing.

    Raises:
        CountError: names each count that is wrong.
    """
    if expected is None:
        return
    wrong = [
        f"{what}: expected {want:,}, got {have:,}"
        for what, want, have in (
            ("users", expected.users, data.n_users),
            ("items", expected.items, data.n_items),
            ("interactions", expected.interactions, data.n_interactions),
        )
        if want != have
    ]
    if wrong:
        raise CountError(f"dataset {name!r} is not what its card expects: {'; '.join(wrong)}")


def content_hash(log: pl.DataFrame) -> str:
    """sha256 of a table as tab-separated text without header, in the order of its columns and rows."""
    text = log.write_csv(separator="\t", include_header=False, quote_style="never", line_terminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


def _of_tables(tables: Tables) -> Interactions:
    log = _all_parts(tables)
    timestamp, rating, weight = (role if role in log.columns else None for role in _ROLES)
    data = Interactions.from_frame(
        log,
        user="user_id",
        item="item_id",
        timestamp=timestamp,
        rating=rating,
        weight=weight,
        user_features=tables.get("users"),
        item_features=tables.get("items"),
    )
    counts = [len(tables[name]) if name in tables else 0 for name in PART_TABLES]
    if len(data) == counts[0]:
        return data
    return replace(data, log=with_parts(data.log, list(itertools.accumulate(counts))))


def _all_parts(tables: Tables) -> pl.DataFrame:
    """The interactions, those of train before those of valid and test where these are tables of their own."""
    columns = tables[PART_TABLES[0]].columns
    for name in PART_TABLES[1:]:
        if name in tables and not len(tables[name]):
            raise DataError(f"the table {name!r} holds no interaction; leave its file out of the card's source")
    return pl.concat([tables[name].select(columns) for name in PART_TABLES if name in tables])


def prepared(data: Interactions, steps: Preparation) -> Interactions:
    """What the steps of a card leave.

    Raises:
        ValueError: a step that looks across parts that were given.
    """
    if data.has_parts and (steps.duplicates != "all" or steps.k_core > 1):
        raise ValueError("prepare: duplicates and k_core would change parts that are given; leave them out")
    if steps.min_rating is not None:
        kept = data.min_rating(steps.min_rating, steps.negative)
        if data.has_parts and kept.log[PART].n_unique() < data.log[PART].n_unique():
            raise DataError(
                f"prepare: min_rating = {steps.min_rating:g} leaves nothing of a part that is given; lower it"
            )
        data = kept
    if steps.duplicates != "all":
        data = data.deduplicate(steps.duplicates)
    if steps.k_core > 1:
        data = data.k_core(steps.k_core, steps.k_core)
    return data


_TYPES = {"int": pl.Int64, "float": pl.Float64, "text": pl.String}


def read_card_table(path: Path, file: File, layout: Layout | None) -> pl.DataFrame:
    """A table in the order of the file.

    Args:
        path: where the file lies.
        file: its format.
        layout: its columns; None for sequences, whose columns are ``user_id`` and ``item_id``.

    Raises:
        DataError: it is not in that format; names the file, the line or row, and the value.
    """
    layout = layout or SEQUENCES
    raw = _READERS[file.format](path, file, layout)
    missing = [name for name in layout.columns if name not in raw.columns]
    if missing:
        raise MissingColumnError(f"no column {missing[0]!r}; there are {', '.join(raw.columns)}", path=path)
    typed = raw.select(_typed(raw[name], kind, path) for name, kind in layout.columns.items())
    return _laid_out(typed, layout, path)


def _delimited(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    content = path.read_bytes()
    try:
        text = content.decode(file.encoding).removeprefix("\ufeff")  # a byte order mark
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n")
        raise EncodingError(f"a byte is not {file.encoding}", path=path, row=row) from None
    # not splitlines(): it also splits at characters that may stand inside a title
    lines = pl.DataFrame({"text": text.split("\n")})
    lines = lines.with_columns(pl.col("text").str.strip_chars_end("\r")).filter(pl.col("text") != "")
    fields = lines["text"].str.count_matches(file.separator, literal=True) + 1
    n = len(layout.columns)
    if (fields != n).any():
        at = int((fields != n).arg_max() or 0)
        message = f"{fields[at]} fields separated by {file.separator!r}; there must be {n}"
        raise DataError(message, path=path, row=at)
    parts = lines["text"].str.split_exact(file.separator, n - 1).struct.unnest()
    return parts.rename(dict(zip(parts.columns, layout.columns, strict=True)))


def _csv(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    return read_table(path, list(layout.columns), file.separator, file.encoding)


def _parquet(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    return read_frame(path)


def _sequences(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    return read_sequences(path, encoding=file.encoding)


_READERS = {"delimited": _delimited, "csv": _csv, "parquet": _parquet, "sequences": _sequences}


def _typed(values: pl.Series, kind: str, path: Path) -> pl.Series:
    if values.dtype == pl.String and kind != "text":
        values = values.str.strip_chars().replace("", None)
    typed = values.cast(_TYPES[kind], strict=False)
    lost = typed.is_null() & values.is_not_null()
    if kind == "int" and not values.dtype.is_integer() and values.dtype.is_numeric():  # a cast leaves fractions out
        lost |= (typed.cast(values.dtype, strict=False) != values).fill_null(False)
    if lost.any():
        row = int(lost.arg_max() or 0)
        raise DataError(f"column {values.name!r}: {values[row]!r} is not of type {kind}", path=path, row=row)
    return typed.str.strip_chars() if kind == "text" else typed


def _laid_out(table: pl.DataFrame, layout: Layout, path: Path) -> pl.DataFrame:
    table = table.rename(layout.rename)
    for name, flags in layout.flags.items():
        parts = [pl.when(pl.col(flag) == 1).then(pl.lit(flag)) for flag in flags]
        table = table.with_columns(pl.concat_list(parts).list.drop_nulls().alias(name))
    table = table.with_columns(pl.col(name).str.split(separator) for name, separator in layout.split.items())
    for name, (source, pattern) in layout.extract.items():
        found = table[source].str.extract(pattern, 1)
        made = found.cast(pl.Int64, strict=False)
        if made.null_count() > found.null_count():
            row = int((made.is_null() & found.is_not_null()).arg_max() or 0)
            message = (
                f"extract.{name}: {pattern!r} takes {found[row]!r} from {table[source][row]!r}, which is no integer"
            )
            raise DataError(message, path=path, row=row)
        table = table.with_columns(made.alias(name))
    return table.select(layout.keep) if layout.keep else table
