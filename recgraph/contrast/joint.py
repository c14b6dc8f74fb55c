"""Symile: the similarity of three or more views at once, and its softmax."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.contrast.log_sums import log_sums
from recgraph.contrast.non_contrastive import in_pairs
from recgraph.contrast.objectives import BlockRows, Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.unit_length import unit_length

__all__ = ["Symile"]


class SymileConfig(ObjectiveBaseConfig):
    block_rows: BlockRows = None


class Symile(Objective):
    """``mean_m mean_i -log(e^{s_i} / (e^{s_i} + sum_{j != i} e^{s^m_ij}))`` over M views of the same N rows.

    ``s_i = sum_d prod_m z^m_id / temperature``, the multilinear inner product; with view m as the anchor,
    ``s^m_ij = sum_d z^m_id y^m_jd / temperature``, where ``y^m_j`` is the product of the other views, each in an order
    of its own, drawn anew: N - 1 negatives for each anchor, evaluated over blocks of rows, never N^M. Of two views it
    is InfoNCE in both directions, and nothing is drawn.

    Source: Saporta et al., Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited
    Modalities (NeurIPS 2024), with the negatives that cost O(N). It bounds the total
    correlation of the views. Departure: the temperature is a setting, not learned; products of M directions of width D
    are about D^((1 - M) / 2) long, so that it must be smaller than for two views. A candidate is made of several rows:
    weights do not apply.
    """

    Config = SymileConfig
    needs_pairs = True
    of_both_sides = True
    pairwise = False
    joint = True
    draws = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        a, b = in_pairs(views)
        sides = [a, b, *(x.to(a.dtype) for x in views.further)]
        with full_precision(a):
            if similarity.similarity == "cosine":
                sides = [unit_length(x) for x in sides]
            own = torch.arange(len(a), device=a.device)[:, None]
            s = _product(sides).sum(1) / similarity.temperature
            losses = []
            for m, anchors in enumerate(sides):
                others = [self._shuffled(x, views, len(sides)) for k, x in enumerate(sides) if k != m]
                anchors = anchors / similarity.temperature
                negatives = log_sums(anchors, _product(others), own, block_rows=self.config.block_rows)
                losses.append((torch.logaddexp(negatives, s) - s).mean())
        loss = torch.stack(losses).mean()
        return Outcome.of_all(loss, len(a) * len(sides))

    def _shuffled(self, x: Tensor, views: Views, n_views: int) -> Tensor:
        """The rows of a view in an order that is drawn; of two views as they are.

        Raises:
            ValueError: there is no generator to draw with.
        """
        if n_views == 2:
            return x
        if (generator := views.generator) is None:
            raise ValueError(f"symile of {n_views} views draws their orders: give the term a generator")
        order = torch.randperm(len(x), generator=generator, device=generator.device)
        return x.index_select(0, order.to(x.device))


def _product(views: list[Tensor]) -> Tensor:
    """[N, D]: the product of views, component by component."""
    return reduce(torch.mul, views)
