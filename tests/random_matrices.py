"""Random sparse matrices that tests share."""

from __future__ import annotations

import torch

from recgraph.sparse.csr import Csr


def random_matrix(
    n_rows: int, n_cols: int, n_entries: int, generator: torch.Generator, weighted: bool = False
) -> Csr:
    """Entries at uniform places, with weights uniform on [0, 1) or without."""
    rows, cols = (torch.randint(n, (n_entries,), generator=generator) for n in (n_rows, n_cols))
    weights = torch.rand(n_entries, generator=generator) if weighted else None
    return Csr.from_coo(rows, cols, weights, shape=(n_rows, n_cols))
