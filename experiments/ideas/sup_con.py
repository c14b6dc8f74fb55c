"""Supervised contrast: all other rows of the anchor's id are its positives.

recgraph train duorec ... --import experiments/ideas/sup_con.py --set contrast.objective=sup_con
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

import recgraph as rg
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.objectives import NTXent
from recgraph.contrast.parts import Pairs, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import group_sizes


@rg.register("objective")
class SupCon(NTXent):
    """``logsumexp_{j != i}(s_ij + log_w_ij) - mean_{p in P_i} s_ip``: :class:`NTXent` whose
    positives P_i are all other rows of the anchor's id. Of a sequence that is its target item.

    The mean is the similarity to the positives' mean, one row an anchor, so that no N x M matrix is
    made of it either.

    Source: Khosla et al., Supervised Contrastive Learning (NeurIPS 2020), equation 2.
    """

    splits = False

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
        loss, left_out = super().evaluate(
            x, y, replace(candidates, kept=kept), weight, pairs, views
        )
        ids, order = views.ids_b.sort()  # torch.unique would wait for an accelerator
        numbers = F.pad((ids[1:] != ids[:-1]).cumsum(0), (1, 0))
        group = torch.empty_like(order).scatter_(0, order, numbers)
        sums = torch.zeros_like(y).index_add(0, group, y)
        n_others = group_sizes(group, len(y))[group] - 1
        positives = (sums[group] - y) / n_others[:, None]
        change = torch.linalg.vecdot(x, y.index_select(0, candidates.positives) - positives)
        return loss + torch.where(kept, change, 0).sum() / kept.sum(), left_out
