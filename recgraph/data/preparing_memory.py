"""What :func:`recgraph.data.preparing.prepare` takes of memory in one process; what does not fit is refused first."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

from recgraph.data.diagnose import explained
from recgraph.data.packing import PACKED_SUFFIXES
from recgraph.data.reading import Reading
from recgraph.data.source import Source
from recgraph.memory import Estimate, check_estimate, resident

__all__ = ["check_preparation", "n_rows_of_text"]

#: bytes of an interaction, measured: while its shard is encoded, and while its range of users is put in order
_OF_ENCODED, _OF_ORDERED = 100, 120
#: what polars' readers and writers take
_READERS = 48 * 2**20
#: lines by which the length of others is judged, and how much longer a text is than it is packed
_SAMPLE, _PACKED = 1000, 4
_log = logging.getLogger(__name__)


def check_preparation(shards: Sequence[int], range_rows: int) -> None:
    """Refuse shards or ranges of users that do not fit, one at a time, into the memory of this process.

    The ids of the whole log, of which as many are unknown, are not counted, nor are the tables of features.

    Args:
        shards: the rows of each.
        range_rows: interactions that are put in order at a time, at most.

    Raises:
        MemoryLimitError: they do not fit; says what does.
    """
    largest, rows = max(shards), min(range_rows, sum(shards))
    moments = {f"a shard of {largest:,} rows": _OF_ENCODED * largest, f"a range of {rows:,} rows": _OF_ORDERED * rows}
    estimate = Estimate({"library": resident(), "libraries at work": _READERS}, moments)
    check_estimate(estimate, "the preparation", _what_fits, _log)


def _what_fits(left: int) -> str:
    if left < _OF_ORDERED:
        return "prepare the log where there is more memory"
    return (
        f"what fits: range_rows = {left // _OF_ORDERED}, and files, or of Parquet shard_rows, of at most "
        f"{left // _OF_ENCODED} rows"
    )


def n_rows_of_text(path: Path, reading: Reading) -> int:
    """About how many rows a text file has, as its size and its first lines say; of a packed one rather more.

    Raises:
        DataError: it cannot be read.
    """
    source = Source("delimited", path, encoding=reading.encoding)
    with explained(source), source.open() as text:
        lines = [len(line) for line in itertools.islice(text, _SAMPLE)]
    size = path.stat().st_size * (_PACKED if path.suffix.lower() in PACKED_SUFFIXES else 1)
    return size * len(lines) // max(sum(lines), 1)
