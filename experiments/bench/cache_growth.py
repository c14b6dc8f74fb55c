"""What reads cost on this machine, by the size of the table that is read.

The other stages do some work for each row or item, and much of it looks something up in a table
that grows with the log. How much slower a look-up becomes once the table has left a cache says how
much of their growth is the machine's. Products of sparse matrices read rows of vectors: at random,
as neighbours lie, and in order, which is the best that an order of the nodes can give them where
each row is read anew.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from experiments.bench.growth import Stage
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import spmm

#: from what a first cache holds to what none does
BYTES = (2**15, 2**18, 2**21, 2**23, 2**25, 2**27, 2**29)
READS = 2**22
#: float32 vectors of this width, and how many are summed for a row of a product
WIDTH, ENTRIES = 32, 32
#: of the tables of LightGCN at 1, 10 and 50 million interactions: 6, 64 and 320 MB
OF_ROWS = (2**20, 2**22, 6_400_000, 64_000_000, 320_000_000)


def stages() -> list[Stage]:
    return [
        Stage("random-reads", BYTES, "bytes", _read, _table),
        Stage("rows-at-random", OF_ROWS, "bytes", _sum_rows, partial(_rows, in_order=False)),
        Stage("rows-in-order", OF_ROWS, "bytes", _sum_rows, partial(_rows, in_order=True)),
    ]


def _table(size: int) -> Any:
    """A table of int32, the places that are read, and where what was read goes."""
    rng = np.random.default_rng(0)
    table = np.arange(size // 4, dtype=np.int32)
    return table, rng.integers(0, len(table), READS), np.empty(READS, np.int32)


def _read(prepared: Any) -> None:
    """Four million reads, none of which waits for another, as in a pass over rows."""
    table, places, read = prepared
    np.take(table, places, out=read, mode="clip")


def _rows(size: int, in_order: bool) -> Any:
    """A matrix with four million entries, and the vectors that it is multiplied with."""
    n = size // (4 * WIDTH)
    generator = torch.Generator().manual_seed(0)
    columns = (
        torch.arange(READS) % n if in_order else torch.randint(n, (READS,), generator=generator)
    )
    adj = Csr(
        torch.arange(0, READS + 1, ENTRIES), columns, torch.ones(READS), (READS // ENTRIES, n)
    )
    return adj, torch.ones(n, WIDTH)


def _sum_rows(prepared: Any) -> None:
    spmm(*prepared)
