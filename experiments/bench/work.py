"""What a workload must compute and move at least, from its sizes.

Counted are the flops of matrix products, 2 n k m for [n, k] @ [k, m], and the bytes of sparse
products and of Adam. A product that is trained through is three: itself, and the gradients of its
two factors. Not counted are padding, recomputation, what works element by element (norms, dropout,
tanh) or on the host (draws), k-means and small networks (augmenters, the projections of MEOW):
these are lower bounds, and a share of a device's rates that is made of them is one, too. A row that
a sparse product gathers counts each time, also where a cache holds it: on vectors that fit into a
cache the share of the bandwidth may be above 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from recgraph.encoders.transformer import Transformer
from recgraph.models.base import TrainableModel
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.heterogeneous.meow import MEOW, MetaPathModel
from recgraph.models.sequence.base import SequenceModel
from recgraph.models.sequence.contrastive import ContrastiveSequenceModel
from recgraph.sparse.ragged import Ragged

__all__ = ["Work", "encoding", "mean_step", "product_bytes", "scores", "step"]

#: bytes of a number, and of an index
_NUMBER, _INDEX = 4, 8
#: a product that is trained through
_TRAINED = 3
#: Adam reads and writes parameter, first and second moment; the gradient is written by backward and
#: read
_ADAM = 8


@dataclass(frozen=True)
class Work:
    """Flops of matrix products, and bytes moved."""

    flops: float = 0.0
    n_bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.n_bytes + other.n_bytes)

    def times(self, factor: float) -> Work:
        return Work(self.flops * factor, self.n_bytes * factor)

    def counts(self) -> dict[str, float]:
        """As a workload counts it; what is 0 is left out."""
        found = {"GFLOP": self.flops / 1e9, "GB": self.n_bytes / 1e9}
        return {unit: count for unit, count in found.items() if count}


def scores(n_users: int, n_items: int, width: int) -> Work:
    """The inner products of users and items."""
    return Work(2 * n_users * n_items * width)


def product_bytes(n_rows: int, n_entries: int, width: int, weighted: bool = True) -> float:
    """Of a sparse product: a row of vectors, a column and a weight for each entry, and the rows of
    the result.
    """
    numbers = (n_entries + n_rows) * width + (n_entries if weighted else 0)
    return float(_NUMBER * numbers + _INDEX * (n_entries + n_rows))


def encoding(config: Any, rows: Ragged, last_only: bool) -> Work:
    """A transformer over rows of tokens, forward. A layer of width D and inner width F computes for
    each token

    - query, key, value and the attention's output, ``8 D D``, and the feed-forward part, ``4 D F``;
    - with each of the places up to its own a product of query and key and one with the value, ``4
      D``.

    Where the last places alone are read, masked items (token 0) are left out, and the last layer
    computes key and value of each token, all else of the last places.
    """
    kept_mask = rows.values != 0 if last_only else torch.ones_like(rows.values, dtype=torch.bool)
    lengths = (
        torch.zeros(rows.n_rows, dtype=torch.int64)
        .index_add_(0, rows.rows, kept_mask.long())
        .double()
    )
    tokens, pairs = float(lengths.sum()), float((lengths * (lengths + 1) / 2).sum())
    d, inner, n_rows = config.hidden_dim, config.encoder.inner_dim, float((lengths > 0).sum())
    n_whole = config.encoder.n_layers - last_only
    flops = n_whole * (tokens * (8 * d * d + 4 * d * inner) + pairs * 4 * d)
    if last_only:
        flops += tokens * (4 * d * d + 4 * d) + n_rows * (4 * d * d + 4 * d * inner)
    return Work(flops)


def step(model: TrainableModel, batch: Any) -> Work:
    """One batch of a training: the terms of its phases, forward and backward, and Adam over what
    steps.

    Raises:
        TypeError: no formula is written for the model.
    """
    groups = model.parameter_groups()
    stepped = [groups[name] for phase in model.phases for name in phase.groups]
    adam = Work(
        n_bytes=_ADAM
        * _NUMBER
        * float(sum(parameter.numel() for group in stepped for parameter in group))
    )
    if isinstance(model, SequenceModel) and isinstance(model.encoder, Transformer):
        return adam + _sequences(model, batch)
    if isinstance(model, LightGCN):
        return adam + _propagation(model)
    if isinstance(model, MetaPathModel):
        return adam + _node_contrast(model)
    raise TypeError(f"no formula for a step of {type(model).__name__}")


def mean_step(model: TrainableModel, batches: Iterable[Any]) -> Work:
    """The mean of :func:`step` over some batches."""
    found = [step(model, batch) for batch in batches]
    return sum(found, Work()).times(1 / len(found))


def _sequences(model: SequenceModel, batch: Any) -> Work:
    """Sequences and views encoded, the softmax over all items or the drawn ones, each contrast of a
    pair of views.
    """
    config, trained = model.config, {id(parameter) for parameter in model.encoder.parameters()}
    groups, total = model.parameter_groups(), Work()
    views = model.draw_views(batch) if isinstance(model, ContrastiveSequenceModel) else []
    of_views = sum((encoding(config, view, last_only=True) for view in views), Work())
    n_candidates = (
        config.loss.n_negatives
        if config.loss.part_name == "sampled_softmax"
        else model.space.n_items
    )
    rec = encoding(config, batch.sequences, last_only=not batch.causal)
    rec += scores(batch.targets.numel(), n_candidates, config.hidden_dim)
    # both views stacked, each row with each
    contrast = scores(2 * batch.contrast.n_rows, 2 * batch.contrast.n_rows, config.hidden_dim)
    for phase in model.phases:
        steps_encoder = any(
            id(parameter) in trained for name in phase.groups for parameter in groups[name]
        )
        factor = _TRAINED if steps_encoder else 1
        if "rec" in phase.terms:
            total += rec.times(factor)
        if set(phase.terms) & {"cl1", "cl2"}:
            total += of_views.times(factor)
        total += contrast.times(
            _TRAINED * sum({"cl1": 1, "cl2": 3}.get(term, 0) for term in phase.terms)
        )
    return total


def _propagation(model: LightGCN) -> Work:
    """Each layer multiplies with the symmetric adjacency of users and items, forward and
    backward.
    """
    n_nodes, width = model.embedding.weight.shape
    one = product_bytes(n_nodes, 2 * model.encoder.items.numel(), width)
    return Work(n_bytes=2 * model.config.n_layers * one)


def _node_contrast(model: MetaPathModel) -> Work:
    """The contrast of all pairs of nodes; MEOW's also of nodes and prototypes."""
    n, width = model.space.n_items, model.projection_dim
    flops = scores(n, n, width)
    if isinstance(model, MEOW):
        flops += sum((scores(n, k, width) for k in model.config.prototypes.n_clusters), Work())
    return flops.times(_TRAINED)
