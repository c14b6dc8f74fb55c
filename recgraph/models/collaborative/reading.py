"""What a model of the graph of interactions reads of a user: the edges of the user's row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.data.samples import Query
from recgraph.models.reading import Baseline, Reading, distinct_last, replaced
from recgraph.sparse.operators import power

__all__ = ["EdgeReading", "Row", "row_of"]


@dataclass(frozen=True)
class Row:
    """Variants of a user's row as sets of items.

    Attributes:
        items: [U] int64, all items that stand in one of them.
        marks: [V, U], 1 where a variant has the item.
    """

    items: Tensor
    marks: Tensor


def row_of(items: Tensor, keep_mask: Tensor, instead: Tensor | None, dtype: torch.dtype) -> Row:
    """The sets of V variants of a row of items [H]; an item that stands twice in a variant counts once."""
    rows = replaced(items, keep_mask, instead)
    found, places = torch.unique(torch.cat([items, rows[keep_mask]]), return_inverse=True)
    marks = torch.zeros(len(keep_mask), len(found), dtype=dtype, device=items.device)
    marks[keep_mask.nonzero()[:, 0], places[len(items) :]] = 1
    return Row(found, marks)


class EdgeReading(Reading):
    """A user's row of the fitted graph, as LightGCN propagates it.

    **What is computed anew.** The user's row alone: a variant S is the set of its items, and with E_k the vectors of
    all nodes after layer k as they were fitted, d an item's degree and w_k the weight of layer k in the mean,

        ``x(S) = w_0 E_0[user] + sum_k w_k sum_{i in S} E_{k-1}[i] / sqrt(|S| d_i)``.

    All learned vectors, the degrees of the items and the vectors of all other nodes stay as they are. So does what
    other nodes have heard of the user: with two layers or more a part of the user's influence comes back through its
    items and stays. A graph that is built again without the edge also changes that; it costs a propagation of the whole
    graph for each variant, where this is a product of [V, H] with [H, D].

    Items are those of the training part: an item of the history that came later is no edge, and is not read. Each
    counts once, at its last occurrence.

    The inputs are what each item sends to the user's vector, ``sum_k w_k E_{k-1}[i] / sqrt(H d_i)``: the user's vector
    is a constant and their sum. Padding sends nothing.
    """

    start: Tensor
    _sent: Tensor

    def __init__(self, model: Any, query: Query) -> None:
        self.model = model
        (user,) = query.users.tolist()
        self.user = user
        edges = model.encoder.edges
        row = edges.indices[edges.indptr[user] : edges.indptr[user + 1]]
        history = query.history.values
        self.items = distinct_last(history[torch.isin(history, row)])
        self.n_unread = len(history) - int(torch.isin(history, self.items).sum())
        if len(self.items) != len(row):
            raise ValueError(
                f"{self.name}: the user's history has {len(self.items)} of the {len(row)} items that the model was "
                "fitted to; give the history that the run was made with"
            )
        layers = model.encoder.layers(self.begin())
        self.start = layers[0]
        weight = 1 / (len(layers) - model.first_layer)
        self.own_weight = weight if model.first_layer == 0 else 0.0
        # what an item would send over an edge to a user with one item
        degrees = torch.bincount(edges.indices, minlength=edges.shape[1])
        sent = weight * torch.stack(layers[:-1]).sum(0)[model.encoder.n_users :]
        self._sent = sent * power(degrees.to(sent.dtype), -0.5)[:, None]
        self.known_items = degrees.nonzero()[:, 0]

    def begin(self) -> Tensor:
        """[n_users + n_items, D]: the vectors that propagation begins with."""
        table: Tensor = self.model.embedding.weight
        return table

    def own(self, row: Row) -> Tensor:
        """[V, D] or [1, D]: what propagation begins with at the user, by its variants."""
        return self.start[self.user : self.user + 1]

    def own_inputs(self, items: Tensor) -> Tensor | None:
        """[K, D]: the addends of :meth:`own` that items send, as if each stood in the row; None: they send none."""
        return None

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        row = row_of(self.items, keep_mask, instead, self._sent.dtype)
        scale = power(row.marks.sum(1), -0.5)
        heard: Tensor = scale[:, None] * (row.marks @ self._sent[row.items])
        return self.own_weight * self.own(row) + heard

    def inputs(self) -> Tensor:
        return self._inputs(self.items)

    def _inputs(self, items: Tensor) -> Tensor:
        sent: Tensor = self._sent[items] / len(self.items) ** 0.5
        own = self.own_inputs(items)
        return sent if own is None else sent + self.own_weight * own

    def baseline(self, kind: Baseline) -> Tensor:
        shape = len(self.items), self._sent.shape[1]
        if kind == "padding":
            return self._sent.new_zeros(shape)
        return self._inputs(self.known_items).mean(0).expand(shape)

    def of_inputs(self, inputs: Tensor) -> Tensor:
        full_mask = torch.ones(1, len(self.items), dtype=torch.bool, device=self.items.device)
        return self.represent(full_mask) - self.inputs().sum(0) + inputs.sum(1)
