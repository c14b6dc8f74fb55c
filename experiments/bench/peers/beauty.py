"""Amazon Beauty as the peers are given it: the training part of leave-one-out, and the test cases."""

from __future__ import annotations

from pathlib import Path

MAX_LEN = 50


def sequences(path: str) -> list[list[int]]:
    """The items of each user, oldest first; ids from 1. The file holds ``user item item ...`` a line."""
    rows = [[int(field) for field in line.split()] for line in Path(path).read_text().splitlines() if line.strip()]
    return [row[1:] for row in rows]


def training(path: str) -> list[list[int]]:
    """All but the last two items of each user: at most ``MAX_LEN`` targets and the item before the first."""
    return [items[:-2][-(MAX_LEN + 1) :] for items in sequences(path)]


def n_items(path: str) -> int:
    return max(max(items) for items in sequences(path))
