"""Random choices inside ragged rows, and different operations on different rows, without a loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

_KEY_BITS = 31


def uniform_up_to(most: Tensor, generator: torch.Generator) -> Tensor:
    """One integer for each entry, uniform on ``0 ... most[i]``.

    Args:
        most: [B] int64, not negative.

    Returns:
        [B] int64.
    """
    draw = torch.rand(most.shape, generator=generator, device=most.device, dtype=torch.float64)
    return torch.minimum((draw * (most + 1)).to(torch.int64), most)


def shuffle_within(rows: Tensor, generator: torch.Generator) -> Tensor:
    """A permutation of places that is uniform inside each row and keeps the rows apart.

    Args:
        rows: [T] int64, the row of each place, ascending.

    Returns:
        [T] int64: the place that comes to each place. The two are always in one row.
    """
    # integer keys: the row in the high bits, so that no rounding can carry a place into the next row
    keys = torch.randint(1 << _KEY_BITS, rows.shape, generator=generator, device=rows.device)
    return torch.argsort(keys + (rows << _KEY_BITS))


def choose_within(sequences: Ragged, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Choose ``counts[r]`` places of each row, uniformly and without replacement.

    Args:
        counts: [B] int64, at most the rows' lengths.

    Returns:
        [T] bool: True where a place is chosen.
    """
    order = shuffle_within(sequences.rows, generator)
    chosen = torch.zeros_like(order, dtype=torch.bool)
    chosen[order[sequences.positions < counts[sequences.rows]]] = True
    return chosen


def assign(sequences: Ragged, choice: Tensor, operations: Sequence[Callable[[Ragged], Ragged]]) -> Ragged:
    """Apply to each row the operation chosen for it; rows keep their order.

    Args:
        choice: [B] int64, an index into ``operations``, or -1 for a row that stays as it is.
    """
    rows = [torch.nonzero(choice == index - 1).squeeze(1) for index in range(len(operations) + 1)]
    parts = [sequences.take(rows[0])]
    for operation, chosen in zip(operations, rows[1:], strict=True):
        part = sequences.take(chosen)
        parts.append(operation(part) if chosen.numel() else part)
    return Ragged.cat(parts).take(torch.argsort(torch.cat(rows)))
