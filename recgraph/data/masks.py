"""What a mask keeps of the columns of a log, block by block.

The temporaries of a block stay in the caches. Those of a whole column of a large log are fresh memory each time, and
its pages cost more than the work in them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

__all__ = ["kept", "kept_rows"]

#: entries that a pass takes at a time
_BLOCK = 2**18


def kept(values: Tensor, keep_mask: Tensor) -> Tensor:
    """The entries of ``values`` [T] where ``keep_mask`` [T] is True, in their order; both on the host."""
    given, mask = values.numpy(), keep_mask.numpy()
    made = np.empty(np.count_nonzero(mask), given.dtype)
    end = 0
    for start in range(0, len(mask), _BLOCK):
        own = given[start : start + _BLOCK][mask[start : start + _BLOCK]]
        made[end : end + len(own)] = own
        end += len(own)
    return torch.from_numpy(made)


def kept_rows(rows: Ragged, keep_mask: Tensor) -> Ragged:
    """Rows with those of their entries where ``keep_mask`` [T] is True; rows may come out empty."""
    return Ragged(kept(rows.values, keep_mask), torch.from_numpy(_offsets(rows.offsets.numpy(), keep_mask.numpy())))


def _offsets(offsets: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The offsets of rows [R + 1] after a mask of their entries: how many are kept before each."""
    made = np.zeros_like(offsets)
    begin, before = np.searchsorted(offsets, 0, side="right"), 0
    for start in range(0, len(mask), _BLOCK):
        counts = np.cumsum(mask[start : start + _BLOCK], dtype=np.int64)
        end = np.searchsorted(offsets, start + len(counts), side="right")
        made[begin:end] = before + counts[offsets[begin:end] - start - 1]
        begin, before = end, before + int(counts[-1])
    return made
