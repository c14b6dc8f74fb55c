"""What a sheet shows beside its entries: tables, failures, what is missing, points of plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """The protocol of one table, and its columns. A sheet has several, and their numbers must not be compared.

    Attributes:
        title: ``seen excluded``, ``20 labels a class``, ...
        metrics: shown and compared; the first one orders the rows.
        protocol: field -> value as text; empty where no record is there.
        protocol_hash: 16 digits.
        n_users: that were ranked; None of a node task.
        n_unreachable_users: those with a relevant item that the protocol takes out; they count as misses.
    """

    title: str
    metrics: tuple[str, ...]
    protocol: Mapping[str, str]
    protocol_hash: str
    n_users: int | None
    n_unreachable_users: int


@dataclass(frozen=True)
class Failure:
    """A training or test that ended in an error when it was last tried."""

    entry: str
    seed: int
    error: str
    message: str
    traceback: str
    at: str
    command: str


@dataclass(frozen=True)
class Missing:
    """What the board asks for and no record answers, with the reason."""

    entry: str
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Point:
    """An entry in a plot of quality against cost; on the front where none dominates it."""

    entry: str
    cost: float
    quality: float
    on_front: bool
