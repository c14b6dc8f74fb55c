"""From a card to interactions: try its sources in order, read, prepare, and check what comes out."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recgraph.data.card import Card, Generated, Local, Source, Url, Wheel
from recgraph.data.errors import DataError
from recgraph.data.interactions import Interactions
from recgraph.data.sources import HashMismatchError, SourceError, fetch, sha256_of, unpack
from recgraph.data.synthetic import Synthetic, generate
from recgraph.data.tables import read_table

__all__ = ["CountError", "UnavailableError", "prepare"]

Tables = Mapping[str, pl.DataFrame]
_ROLES = ("timestamp", "rating", "weight")
_log = logging.getLogger(__name__)


class UnavailableError(OSError):
    """None of a card's sources gives the data: not a mistake of the user, so no ``ValueError``."""


class CountError(ValueError):
    """What was prepared is not what the card expects."""


def prepare(card: Card, given: Path | None = None, kind: str | None = None) -> tuple[Interactions, str]:
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


def _of_kind(card: Card, kind: str | None) -> list[Source]:
    chosen = [source for source in card.sources if kind in (None, source.kind)]
    if not chosen:
        kinds = ", ".join(dict.fromkeys(source.kind for source in card.sources))
        raise ValueError(f"source = {kind!r}: the card {card.name!r} has sources of kind {kinds}")
    return chosen


def _source_of(card: Card, given: Path, kind: str | None) -> Url | Wheel | Local:
    """The source that a user's file belongs to: that whose hash it has, or else a local one without a hash."""
    if not given.is_file():
        raise ValueError(f"--from {str(given)!r} is not a file")
    candidates = [source for source in _of_kind(card, kind) if not isinstance(source, Generated)]
    if not candidates:
        raise ValueError(f"dataset {card.name!r} is generated; it takes no file")
    got = sha256_of(given)
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


def _tables(card: Card, source: Source, given: Path | None) -> Tables:
    if isinstance(source, Generated):
        return generate(Synthetic.of(source.parameters))
    with tempfile.TemporaryDirectory(prefix="recgraph-") as folder:
        archive = fetch(source, Path(folder), given)
        tables: dict[str, pl.DataFrame] = {}
        for name, file in source.files.items():
            if (path := unpack(archive, file, Path(folder))) is not None:
                tables[name] = read_table(path, file, card.layout.get(name))
            elif name == "interactions":
                raise SourceError(f"{file.member!r} is not beside {archive}")
        return tables


def _checked(card: Card, tables: Tables) -> Interactions:
    log = tables["interactions"]
    if card.expected.sha256 is not None and (got := content_hash(log)) != card.expected.sha256:
        raise CountError(
            f"dataset {card.name!r}: the interactions are not the published ones: "
            f"expected content sha256 {card.expected.sha256}, got {got}"
        )
    data = _prepared(card, tables)
    expected = card.expected
    wrong = [
        f"{name}: expected {want:,}, got {have:,}"
        for name, want, have in (
            ("users", expected.users, data.n_users),
            ("items", expected.items, data.n_items),
            ("interactions", expected.interactions, data.n_interactions),
        )
        if want != have
    ]
    if wrong:
        raise CountError(f"dataset {card.name!r} is not what its card expects: {'; '.join(wrong)}")
    return data


def content_hash(log: pl.DataFrame) -> str:
    """sha256 of a table as tab-separated text without header, in the order of its columns and rows."""
    text = log.write_csv(separator="\t", include_header=False, quote_style="never", line_terminator="\n")
    return hashlib.sha256(text.encode()).hexdigest()


def _prepared(card: Card, tables: Tables) -> Interactions:
    log = tables["interactions"]
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
    steps = card.prepare
    if steps.min_rating is not None:
        data = data.min_rating(steps.min_rating)
    if steps.duplicates != "all":
        data = data.deduplicate(steps.duplicates)
    if steps.k_core > 1:
        data = data.k_core(steps.k_core, steps.k_core)
    return data
