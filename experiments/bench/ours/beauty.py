"""Amazon Beauty through the library: the leave-one-out split of the sequence file."""

from __future__ import annotations

from recgraph import Interactions, Split


def split(path: str) -> Split:
    return Interactions.read(path, format="sequences").split("leave-one-out")
