"""Which items may stand in the place of another: those most like it."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.rerank import SimilarBy
from recgraph.explain.attribution.subject import Subject
from recgraph.explain.nodes import nearest
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.products import compose, distinct

__all__ = ["SimilarBy", "similar_items"]


def similar_items(subject: Subject, n: int, by: SimilarBy) -> Tensor:
    """[H, n] int64: the items most like each event's, best first; -1 where there are fewer.

    ``vectors``: by the cosine of the model's item vectors. ``co_occurrence``: by ``n_ij / sqrt(n_i n_j)``, n_ij the
    users who had both; items that nobody had together are not alike. Items of the history and the targets are left out.

    Raises:
        ValueError: the model has no item vectors, or the subject no histories.
    """
    allowed_mask = torch.ones(subject.n_items, dtype=torch.bool)
    allowed_mask[subject.items] = False
    allowed_mask[subject.targets.to("cpu")] = False
    found = torch.full((subject.n_events, n), -1)
    if by == "vectors":
        if subject.item_vectors is None:
            raise ValueError(
                f"similar = 'vectors': {type(subject.model).__name__} has no item vectors; use 'co_occurrence'"
            )
        among = allowed_mask.nonzero()[:, 0]
        for place, row in enumerate(nearest(subject.item_vectors.to("cpu"), subject.items, n, among)):
            found[place, : len(row)] = torch.tensor([item for item, _ in row], dtype=torch.int64)
        return found
    if subject.histories is None:
        raise ValueError("similar = 'co_occurrence' needs the histories of the users: Subject(..., histories=...)")
    rows = distinct(subject.histories.to("cpu"), subject.n_items)
    had = Csr(rows.offsets, rows.values, None, (rows.n_rows, subject.n_items))
    norms = power(torch.bincount(rows.values, minlength=subject.n_items).to(torch.float64), -0.5)
    together = compose(had.t().take_rows(subject.items), had, dtype=torch.float64)
    # all events have the same norm of their own in a row: it does not change the order
    likeness = (together.values(torch.float64) * norms[together.indices]).masked_fill(
        ~allowed_mask[together.indices], 0
    )
    for place in range(subject.n_events):
        entries = slice(int(together.indptr[place]), int(together.indptr[place + 1]))
        order = torch.argsort(likeness[entries], descending=True, stable=True)[:n]
        order = order[likeness[entries][order] > 0]
        found[place, : len(order)] = together.indices[entries][order]
    return found
