"""MovieLens 100k through the library: the random 80 / 10 / 10 split of the ``.inter`` file, as RecBole's default."""

from __future__ import annotations

from recgraph import Interactions, Split


def split(path: str) -> Split:
    return Interactions.read(path).split("ratio")
