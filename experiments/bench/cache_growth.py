"""What a read at random costs on this machine, by the size of the table that is read.

The other stages do some work for each row or item, and much of it looks something up in a table that grows with the
log. How much slower a look-up becomes once the table has left a cache says how much of their growth is the machine's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.bench.growth import Stage

#: from what a first cache holds to what none does
BYTES = (2**15, 2**18, 2**21, 2**23, 2**25, 2**27, 2**29)
READS = 2**22


def stages() -> list[Stage]:
    return [Stage("random-reads", BYTES, "bytes", _read, _table)]


def _table(size: int) -> Any:
    """A table of int32, the places that are read, and where what was read goes."""
    rng = np.random.default_rng(0)
    table = np.arange(size // 4, dtype=np.int32)
    return table, rng.integers(0, len(table), READS), np.empty(READS, np.int32)


def _read(prepared: Any) -> None:
    """Four million reads, none of which waits for another, as in a pass over rows."""
    table, places, read = prepared
    np.take(table, places, out=read, mode="clip")
