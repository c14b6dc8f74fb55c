"""Symile: the similarity of three views at once.

``recgraph train symile_cl4srec --import experiments/ideas/symile.py``
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

import recgraph as rg
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import SequenceBatch
from recgraph.models.sequence.contrastive import CL4SRec
from recgraph.sparse.blocks import unit_length


def symile(views: Sequence[Tensor], temperature: float, generator: torch.Generator) -> Tensor:
    """``mean_m mean_i -log(e^{s_i} / (e^{s_i} + sum_{j != i} e^{s^m_ij}))`` over M views of the
    same N rows.

    ``s_i = sum_d prod_m z^m_id / temperature``, the multilinear inner product of directions; with
    view m as the anchor, ``s^m_ij = sum_d z^m_id y^m_jd / temperature``, where ``y^m_j`` is the
    product of the other views, each in an order of its own, drawn anew: N - 1 negatives for each
    anchor, never N^M. Of two views it is InfoNCE in both directions, and nothing is drawn.

    Source: Saporta et al., Contrasting with Symile: Simple Model-Agnostic Representation Learning
    for Unlimited Modalities (NeurIPS 2024), with the negatives that cost O(N). Departure: the
    temperature is a setting, not learned; products of M directions of width D are about D^((1 - M)
    / 2) long, so that it must be smaller than for two views.

    Args:
        views: M of [N, D].
    """
    sides = [unit_length(view) for view in views]
    own = torch.arange(len(sides[0]), device=sides[0].device)

    def product(of: Sequence[Tensor]) -> Tensor:
        return reduce(torch.mul, of)

    def shuffled(x: Tensor) -> Tensor:
        if len(sides) == 2:
            return x
        order = torch.randperm(len(x), generator=generator, device=generator.device)
        return x.index_select(0, order.to(x.device))

    positive, losses = product(sides).sum(1) / temperature, []
    for m, anchors in enumerate(sides):
        others = product([shuffled(x) for k, x in enumerate(sides) if k != m])
        s = anchors @ others.t() / temperature
        losses.append(F.cross_entropy(s.diagonal_scatter(positive), own))
    return torch.stack(losses).mean()


@rg.register("model", "symile_cl4srec")
class SymileCL4SRec(CL4SRec):
    """CL4SRec that contrasts both views of a sequence and the sequence itself by :func:`symile`."""

    def contrast_by(
        self, term: ContrastiveTerm, batch: SequenceBatch, a: Tensor, b: Tensor
    ) -> Tensor:
        ((original, _),) = self.encode_together([batch.contrast], batch)
        return symile(
            [a, b, original], self.config.contrast.temperature, batch.generators["contrast"]
        )
