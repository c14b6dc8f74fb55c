"""The contrast with drawn candidates: a sum over all of them, estimated from a few that all anchors share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.blocks import row_blocks, total_of, work_type
from recgraph.contrast.blockwise import BlockwiseLoss, Candidates, one_pass, refuse_no_candidate
from recgraph.contrast.views import Pairs
from recgraph.contrast.weights import Weight

__all__ = ["contrast_drawn"]


def contrast_drawn(
    x: Tensor,
    y: Tensor,
    drawn: Tensor,
    candidates: Candidates,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`recgraph.contrast.blockwise.contrast`, with the sum over all M candidates estimated from K of them.

    ``loss_i = log([w_ip] e^{s_ip} + M / K sum_k w_ik e^{s_ik}) - s_ip``, where ``k`` runs over the drawn candidates
    that are not the positive; the first addend is there where the objective counts the positive, weighted where it
    weighs it. Where the drawn are a uniform choice without replacement, the sum in the logarithm is an unbiased
    estimate of that over all candidates: every one but the positive is in it with expected weight 1, and the positive
    with certainty, or not at all. With ``drawn`` all of the columns it is that sum. The logarithm of an estimate is low
    on average, by half of its relative variance. Costs N K pairs, in blocks.

    Args:
        x, y, candidates, weight, pairs, block_rows: see :func:`recgraph.contrast.blockwise.contrast`.
        drawn: [K] int64, different columns.

    Returns:
        The scalar loss, differentiable once, and how many anchors had no candidate and were left out (int64 scalar).

    Raises:
        NoCandidateError: every anchor was left out; on an accelerator as :func:`recgraph.contrast.blockwise.contrast`.
    """
    work = work_type(x, y)
    # products under autocast would be rounded to half precision
    with full_precision(x):
        x, y = x.to(work), y.to(work)
        s_pos = torch.linalg.vecdot(x, y.index_select(0, candidates.positives))
    inputs = [x, y.index_select(0, drawn), s_pos]
    ids, labels, temperature = None, None, None
    if weight is not None and pairs is not None:
        ids = (pairs.anchor_ids, pairs.candidate_ids[drawn], pairs.candidate_ids[candidates.positives])
        others = [pairs.candidates.index_select(0, chosen) for chosen in (drawn, candidates.positives)]
        inputs += [pairs.anchors, *others, *weight.trained()]
        of_drawn, of_positives = (
            None if pairs.candidate_labels is None else pairs.candidate_labels[chosen]
            for chosen in (drawn, candidates.positives)
        )
        labels, temperature = (pairs.anchor_labels, of_drawn, of_positives), pairs.temperature
    settings = {
        "drawn": drawn,
        "candidates": candidates,
        "shift": math.log(len(y) / len(drawn)),
        "weight": weight,
        "ids": ids,
        "labels": labels,
        "temperature": temperature,
    }
    loss, counted = one_pass(_Drawn, settings, block_rows, inputs)
    return loss, len(x) - counted


# of the inputs those that have a row for each anchor: x, s_pos, the embeddings of anchors and of positives
_OF_ANCHORS = (0, 2, 3, 5)


class _Drawn(BlockwiseLoss):
    """Each block is differentiated as it is made.

    Args:
        inputs: x [N, D], drawn rows of y [K, D], s_pos [N]; with a weight also the embeddings of anchors [N, D], of
            drawn candidates [K, D] and of positives [N, D], and the parameters of the weight that are trained.
        ids: of anchors, drawn candidates and positives.
        labels: of anchors, drawn candidates and positives, each None where there are none.
        temperature: of :class:`recgraph.contrast.views.Pairs`.
    """

    name = "a contrastive term"

    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        drawn: Tensor,
        candidates: Candidates,
        shift: float,
        weight: Weight | None,
        ids: tuple[Tensor, Tensor, Tensor] | None,
        labels: tuple[Tensor | None, Tensor | None, Tensor | None] | None,
        temperature: float | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.may_be_empty = not candidates.required
        self.inputs = [self.x, self.y, *inputs[2:]]
        if weight is not None:
            self.inputs[3:6] = [rows.to(self.x.dtype) for rows in inputs[3:6]]
        self.needs, self.drawn, self.candidates, self.shift = needs, drawn, candidates, shift
        self.weight, self.ids, self.labels = weight, ids, labels or (None, None, None)
        self.temperature = temperature
        self.gradients = [
            torch.zeros_like(one) if needed else None for one, needed in zip(self.inputs, needs, strict=True)
        ]
        # one tensor for all blocks: a weight may keep what it makes of it. A parameter is read where it is
        self.leaves = {
            k: one if k >= 6 else one.detach().requires_grad_(needs[k])
            for k, one in enumerate(self.inputs)
            if k not in _OF_ANCHORS
        }

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        sums = []
        counted = torch.zeros((), dtype=torch.int64, device=self.x.device)
        for rows in row_blocks(len(self.x), len(self.drawn), self.x, block_rows):
            losses, keep_mask = self._block(rows)
            sums.append(losses.sum())
            counted += keep_mask.sum()
            if self.candidates.kept is not None:
                self.candidates.kept[rows] = keep_mask
        refuse_no_candidate(
            self.candidates,
            self.x,
            counted,
            f"all {len(self.x)} anchors have only candidates of weight 0 among the {len(self.drawn)} drawn; draw more "
            "(n_candidates) or take another weight",
        )
        return (total_of(sums, self.x) / counted).to(self.x.dtype), counted

    def _block(self, rows: slice) -> tuple[Tensor, Tensor]:
        """The losses of the rows (0 where there is no candidate) and which of them count."""
        leaves = dict(self.leaves)
        for k in _OF_ANCHORS:
            if k < len(self.inputs):
                leaves[k] = self.inputs[k][rows].detach().requires_grad_(self.needs[k])
        with torch.set_grad_enabled(any(self.needs)):
            t = self._logits(rows, leaves)
            keep_mask = (t.detach() > -math.inf).any(1)
            totals = t.masked_fill(~keep_mask[:, None], 0).logsumexp(1)
            losses = torch.where(keep_mask, totals - leaves[2], 0)
            total = losses.sum()
        asked = [k for k in leaves if self.needs[k]]
        if asked:
            found = torch.autograd.grad(total, [leaves[k] for k in asked], allow_unused=True)
            for k, gradient in zip(asked, found, strict=True):
                whole = self.gradients[k]
                if gradient is not None and whole is not None:
                    (whole[rows] if k in _OF_ANCHORS else whole).add_(gradient)
        return losses.detach(), keep_mask

    def _logits(self, rows: slice, leaves: dict[int, Tensor]) -> Tensor:
        """[n, K], or [n, K + 1] where the positive is counted: ``-inf`` where a column is no candidate."""
        candidates, positives = self.candidates, self.candidates.positives[rows, None]
        s = leaves[0] @ leaves[1].t()
        t = s + self.shift
        own = leaves[2]
        if self.weight is not None and self.ids is not None:
            anchor_ids, drawn_ids, positive_ids = self.ids
            ours, beside = (None if one is None else one[rows] for one in (self.labels[0], self.labels[2]))
            shown = anchor_ids[rows], drawn_ids, leaves[3], leaves[4], ours, self.labels[1]
            pairs = Pairs(*shown, self.temperature, s, beside)
            if candidates.count_positive and candidates.weigh_positive:
                log_w, log_w_own = self.weight.log_w_beside(pairs, positive_ids[rows], leaves[5])
                own = own + log_w_own
            else:
                log_w = self.weight.log_w(pairs)
            t = t + log_w
        t = t.masked_fill(self.drawn == positives, -math.inf)
        if candidates.excluded is not None:
            t = t.masked_fill(self.drawn == candidates.excluded[rows, None], -math.inf)
        return torch.cat([t, own[:, None]], 1) if candidates.count_positive else t
