"""A contrast in which an anchor may have several positives."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.blocks import work_type
from recgraph.contrast.term import ContrastiveTerm

__all__ = ["several_positives"]


def several_positives(term: ContrastiveTerm, a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """``mean_i -log( sum_{p in P_i} e^{s_ip} / sum_j e^{s_ij} )``, the positives all counted in the denominator.

    Over rows i of ``a`` and rows j of ``b``. The denominator is the one of the library's one objective, so that no
    N x M matrix is made; the numerator is summed over the positives alone.

    Args:
        term: with ``objective="info_nce"``; gives the similarity. A weight of it is that of the denominator.
        a, b: [N, D], in pairs.
        indptr, indices: [N + 1] and [E], the rows of ``b`` that belong to each row of ``a``; each has one at least.

    Source: HeCo (KDD 2021), equation 10.
    """
    loss: Tensor = term(a, b)
    work = work_type(a, b)
    # products under autocast would be rounded to half precision
    with torch.autocast(a.device.type, enabled=False):
        x, y = term.config.shape(a.to(work), b.to(work))
        own = torch.linalg.vecdot(x, y)
        rows = torch.repeat_interleave(torch.arange(len(a), device=a.device), indptr[1:] - indptr[:-1])
        s = torch.linalg.vecdot(x[rows], y[indices])
        # the greatest of each row is taken out first, so that no exponent overflows
        peak = torch.segment_reduce(s.detach(), "max", offsets=indptr)
        total = torch.zeros_like(own).index_add(0, rows, (s - peak[rows]).exp())
        of_positives: Tensor = (own - peak - total.log()).mean()
    return loss + of_positives
