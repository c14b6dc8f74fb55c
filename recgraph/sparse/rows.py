"""Reads of rows of a table, a parameter [N, D] with a row for each item or user.

The gradient of a table may be *sparse*, as that of ``nn.Embedding(sparse=True)``: a step then costs
what it touches. The trainer says so by an attribute, :data:`SPARSE_GRADIENTS`; all other tables
have dense gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.sparse.device import is_accelerated

#: the attribute of a table that says whether reads give it sparse gradients
SPARSE_GRADIENTS = "has_sparse_gradients"
# marking the rows of an index in a mask of the whole table is the faster way where the table has
# fewer rows an entry
_ROWS_AN_ENTRY = 2


def is_sparse(table: Tensor) -> bool:
    """Whether reads give the table sparse gradients: False of all that is computed."""
    return bool(getattr(table, SPARSE_GRADIENTS, False))


def lookup(table: Tensor, index: Tensor, padding_idx: int | None = None) -> Tensor:
    """``table[index]``, [*index.shape, D]; the row ``padding_idx`` gets no gradient."""
    return F.embedding(index, table, padding_idx=padding_idx, sparse=is_sparse(table))


def distinct_rows(index: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """The distinct rows [U] of an index of any shape, ascending, and the place of each of its
    entries among them.
    """
    if index.numel() * _ROWS_AN_ENTRY < n_rows:
        rows, places = torch.unique(index, return_inverse=True)
        return rows, places
    touched_mask = torch.zeros(n_rows, dtype=torch.bool, device=index.device)
    touched_mask[index.flatten()] = True
    rows = touched_mask.nonzero().flatten()
    place_of = torch.empty(n_rows, dtype=torch.int64, device=index.device)
    place_of[rows] = torch.arange(len(rows), device=index.device)
    return rows, place_of[index]


def touched(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """A table [U, D] to read an index from, and the index into it: its distinct rows where
    gradients are sparse.
    """
    if not is_sparse(table):
        return table, index
    rows, places = distinct_rows(index, len(table))
    return lookup(table, rows), places


def read_once(table: Tensor, *indices: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A table [U, D] of the distinct rows of several indices, and these as indices into it: one
    lookup, one gradient.

    On an accelerator, which would wait for the number of rows, the table itself unless its
    gradients are sparse.
    """
    index = torch.cat([*map(torch.flatten, indices)])
    if is_accelerated(table):
        part, places = touched(table, index)
    else:
        rows, places = distinct_rows(index, len(table))
        part = lookup(table, rows)
    parts = torch.split(places, [*map(torch.numel, indices)])
    return part, [*map(Tensor.view_as, parts, indices)]
