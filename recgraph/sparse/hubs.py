"""Products over hubs: a middle node that very many share is divided into random groups."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr


def groups_of_hubs(right: Csr, cap: int) -> Tensor:
    """[K] int64: the number of groups into which :func:`split_hubs` divides each middle node; 1 if it is no hub."""
    return torch.where(right.degrees > cap, -(-right.degrees // cap), 1)


def split_hubs(left: Csr, right: Csr, cap: int, generator: torch.Generator) -> tuple[Csr, Csr]:
    """``L`` and ``R``, of whose product the pairs through a hub are a random part, so that it costs few.

    A hub is a middle node with more than ``cap`` entries in R. It becomes as many middle nodes as it takes for each to
    have ``cap`` entries at most; the hub's entries are dealt out to these at random, evenly. A row i of L keeps its
    entry, at the one of them that has the hub's entry for column i, or at a random one where there is none. So

    - a row meets through a hub of d entries each other column with a chance of about ``cap / d``, and its own always:
      the diagonal of a square product is what it was;
    - where R is the transpose of L it stays so, and the product symmetric;
    - the product costs at most ``cap`` pairs for each entry of L.

    Args:
        left: [N, K], one entry a place.
        right: [K, N], one entry a place.
        cap: at least 1.
        generator: on any device.

    Returns:
        [N, K'] and [K', N]; the matrices themselves where there is no hub.
    """
    n_groups = groups_of_hubs(right, cap)
    if int(n_groups.max() if len(n_groups) else 1) == 1:
        return left, right
    first = torch.cumsum(n_groups, 0) - n_groups
    n_middle = int(n_groups.sum())
    keys = torch.rand(right.nnz, generator=generator, device=generator.device, dtype=torch.float64).to(right.device)
    order = torch.argsort(keys)
    order = order[torch.argsort(right.rows[order], stable=True)]
    place = torch.arange(right.nnz, device=right.device) - right.indptr[:-1][right.rows]
    group = torch.empty_like(place)
    group[order] = place % n_groups[right.rows]
    entries = right.entries_at(left.indices, left.rows)
    own, is_missing = group[entries], entries < 0
    if bool(is_missing.any()):
        draw = torch.rand(left.nnz, generator=generator, device=generator.device, dtype=torch.float64).to(left.device)
        wanted = n_groups[left.indices]
        own = torch.where(is_missing, torch.minimum((draw * wanted).to(torch.int64), wanted - 1), own)
    split = Csr.from_coo(left.rows, first[left.indices] + own, left.weights, shape=(left.shape[0], n_middle))
    if right is left.t():
        return split, split.t()
    rows = first[right.rows] + group
    return split, Csr.from_coo(rows, right.indices, right.weights, shape=(n_middle, right.shape[1]))
