"""A split without its test part, in memory and on disk: all that a tuner's workers are given."""

from __future__ import annotations

from pathlib import Path

from recgraph.data.sealing import SealedTestError
from recgraph.data.split import SealedSplit, Split
from recgraph.data.split_files import load_sealed, save_open

__all__ = ["closed", "load_closed", "save_closed"]


def _refuse() -> Split:
    raise SealedTestError("this copy of the split holds no test part; unseal the split that it was made from")


def closed(split: Split | SealedSplit) -> SealedSplit:
    """A copy that cannot be unsealed."""
    sealed = split.sealed()
    return SealedSplit(
        sealed.interactions, sealed.labels, sealed.strategy, sealed.name, sealed.seed, sealed.hash, _refuse
    )


def save_closed(split: Split | SealedSplit, folder: Path) -> None:
    """Write what is open of a split; no file of the folder holds a test row. :func:`load_closed` reads it."""
    save_open(split.sealed(), folder)


def load_closed(folder: Path) -> SealedSplit:
    """Read a split that cannot be unsealed.

    Raises:
        FileNotFoundError: the folder holds no split.
        CorruptFileError: a file is damaged.
    """
    return closed(load_sealed(folder))
