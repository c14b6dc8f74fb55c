"""ConR: rows are pulled to those of near labels, and pushed from those of far labels that they resemble."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.blocks import total_of
from recgraph.config import Search
from recgraph.contrast.blockwise import BlockwiseLoss, one_pass
from recgraph.contrast.non_contrastive import in_pairs
from recgraph.contrast.objectives import BlockRows, Objective, ObjectiveBaseConfig, Outcome
from recgraph.contrast.ratings import deviation, labelled
from recgraph.contrast.views import Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.unit_length import unit_length

__all__ = ["ConR", "ConRConfig"]


class ConRConfig(ObjectiveBaseConfig):
    window: Annotated[
        float,
        Field(ge=0, description="omega, greatest distance of a positive's label, in deviations"),
        Search(0.0, 1.0),
    ] = 0.5
    near: Annotated[
        float,
        Field(ge=-1, le=1, description="cosine from which on a row of a far label is a negative"),
    ] = 0.0
    push: Annotated[
        float,
        Field(ge=0, description="e, how much more a negative counts the further its label"),
        Search(0.01, 2.0, log=True),
    ] = 0.2
    rarity: Annotated[
        float,
        Field(ge=0, description="power of the inverse frequency of an anchor's label; 0: all count the same"),
    ] = 0.5
    block_rows: BlockRows = None


class ConR(Objective):
    """``mean_i eta_i mean_{p in P_i} -log(e^{s_ip} / (sum_{q in P_i} e^{s_iq} + sum_{n in N_i} w_in e^{s_in}))``.

    Anchors and candidates are the rows of both views with a label y. Positives P_i have labels within ``window``
    deviations of y_i; negatives N_i have labels further off although their cosine with i is at least ``near``, and
    ``w_in = eta_i e^{push |y_i - y_n|}``. ``eta_i`` is the inverse frequency of labels near y_i among the rows, to the
    power ``rarity``, with mean 1. An anchor without a positive or without a negative has loss 0; a row without a label
    (NaN) is neither anchor nor candidate. Both are left out in the outcome.

    Source: Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression (ICLR 2024), as in the
    authors' code. Departures: the paper takes as negatives rows whose *predicted* labels are near; a recommender
    predicts none, so that the cosine says what the model takes for near; frequencies are counted in the batch;
    distances are in deviations of the labels. Evaluated over blocks of rows, in the order of their labels.
    """

    Config = ConRConfig
    reads_labels = True
    needs_pairs = True
    of_both_sides = True
    pairwise = False

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        labels = labelled(self, views.labels_a, views.labels_b)
        rows = torch.cat(in_pairs(views))
        y = torch.cat(labels).to(rows.dtype)
        # labels that are not known come last, beyond all bounds
        y, order = (y / deviation(y)).nan_to_num(nan=torch.inf).sort(stable=True)
        if not is_accelerated(rows):
            y = y[: int(y.isfinite().sum())]
        rows = rows.index_select(0, order[: len(y)])
        counted = torch.zeros((), dtype=torch.int64, device=rows.device)
        settings = {"config": self.config, "labels": y, "counted": counted}
        with full_precision(rows):
            loss, _ = one_pass(_NearAndFar, settings, self.config.block_rows, similarity.shape(rows, rows))
        return Outcome(loss, len(order), len(order) - counted)


# stands for the similarity of a pair that is none: below all others, and a number, see ``blockwise.exponentials``
_OUT = -1e30
# shorter rows count as of this length, or else their pairs that are none could not be told from others
_SHORTEST = 1e-6
_LEAST = 0.1 * _OUT * _SHORTEST**2


# columns; 1 or -1 where all have lower or all have higher labels than the positives of each anchor of a block, else 0;
# then [n, k] bool, which of them are positives, or None where all are
Stretch = tuple[slice, int, Tensor | None]


class _NearAndFar(BlockwiseLoss):
    """ConR of shaped rows x [n, D] and y [n, D], in the order of their labels.

    The positives of an anchor are then one stretch of columns, and the columns of a block are stretches in which all
    pairs are positives, or none is: a test of each pair would cost more than its product.

    Args:
        labels: [n], ascending, infinite where there is none.
        counted: int64 scalar, set to the number of anchors that have a positive and a negative.
    """

    name = "an objective of ordered labels"

    def __init__(
        self, inputs: Sequence[Tensor], needs: Sequence[bool], config: ConRConfig, labels: Tensor, counted: Tensor
    ) -> None:
        super().__init__(inputs, needs)
        self.config, self.counted = config, counted
        self.units = [unit_length(side) for side in (self.x, self.y)]
        self.lengths = [side.norm(dim=1).clamp_(min=_SHORTEST) for side in (self.x, self.y)]
        y = labels.to(self.x.dtype)
        self.known = y.isfinite()
        n_known = self.known.sum()
        self.low, high = (torch.searchsorted(y, y + sign * config.window, right=sign > 0) for sign in (-1, 1))
        self.high = torch.minimum(high, n_known)
        self.n_known = n_known.clamp(min=1)
        self.places = torch.arange(len(y), device=y.device)
        # an accelerator is not asked where the stretches are: it tests each pair
        self.bounds = None if is_accelerated(y) else (self.low.tolist(), self.high.tolist())
        self.labels = torch.where(self.known, y, 0)
        self.count = torch.where(self.known, self.high - self.low - 1, 0)
        eta = torch.where(self.known, (self.count + 1).to(y.dtype) ** -config.rarity, 0)
        self.eta = eta / (eta.sum() / self.n_known)
        # of an anchor that is none, the logarithm is not asked for
        self.log_eta = torch.where(self.known, self.eta, 1).log()
        # the least cosine of a negative is one
        self.below = float(torch.nextafter(torch.tensor(config.near, dtype=y.dtype), torch.tensor(-2.0, dtype=y.dtype)))

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        sums = []
        for rows, t in self.blocks(len(self.y), block_rows):
            losses, has_both = self._block(rows, t)
            sums.append(losses.sum())
            self.counted += has_both.sum()
        return (total_of(sums, self.x) / self.n_known).to(self.x.dtype), self.n_known.to(self.x.dtype)

    def _block(self, rows: slice, t: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of the rows (0 where there is no positive or no negative) and which of them have both."""
        own, stretches = self.places[rows, None], list(self._stretches(rows))
        similar, has_negative = self._similarities(rows, t, stretches, own)
        has_both = has_negative & (self.count[rows] > 0)
        peak = t.amax(1, keepdim=True)
        # what is no candidate adds e^-limit to a sum of 1 or more
        total = t.sub_(peak).clamp_(min=-self.limit).exp_().sum(1)
        eta, count = torch.where(has_both, self.eta[rows], 0), self.count[rows].clamp(min=1)
        losses = eta * (total.log() + peak[:, 0] - similar / count)
        if any(gradient is not None for gradient in self.gradients):
            t.mul_((eta / total)[:, None])
            pull = (eta / count)[:, None]
            for columns, side, is_positive in stretches:
                if not side:
                    t[:, columns].sub_(pull if is_positive is None else pull * is_positive)
            self.add_gradients(rows, t.scatter_(1, own, 0))
        return losses, has_both

    def _similarities(self, rows: slice, t: Tensor, stretches: Sequence[Stretch], own: Tensor) -> tuple[Tensor, Tensor]:
        """Fill t [n, M] with similarities plus log-weights; the sum over positives and whether there is a negative."""
        torch.mm(self.units[0][rows], self.units[1].t(), out=t)
        for columns, side, is_positive in stretches:
            part = t[:, columns]
            if side:
                torch.threshold_(part, self.below, _OUT)
            elif is_positive is not None:
                is_near = (part >= self.config.near) & self.known[columns]
                part.masked_fill_(~(is_positive | is_near), _OUT)
        t.mul_(self.lengths[0][rows, None]).mul_(self.lengths[1])
        similar = -t.gather(1, own)[:, 0]
        nearest = t.new_full((len(t),), _OUT)
        for columns, side, is_positive in stretches:
            part = t[:, columns]
            if not side:
                similar += (part if is_positive is None else part.masked_fill(~is_positive, 0)).sum(1)
            far = self._push(rows, columns, part, side, is_positive)
            if far is not None:
                nearest = torch.maximum(nearest, far.amax(1))
        t.scatter_(1, own, _OUT)
        return similar, nearest > _LEAST

    def _push(self, rows: slice, columns: slice, part: Tensor, side: int, is_positive: Tensor | None) -> Tensor | None:
        """Add log-weights to similarities in place; those of negatives, None where there are none."""
        y, push = self.labels, self.config.push
        ours, theirs, log_eta = y[rows, None] * push, y[columns] * push, self.log_eta[rows, None]
        if side:
            return part.add_(side * ours + log_eta).sub_(side * theirs)
        if is_positive is None:
            return None
        part += ((ours - theirs).abs() + log_eta).masked_fill(is_positive, 0)
        return part.masked_fill(is_positive, _OUT)

    def _stretches(self, rows: slice) -> Iterator[Stretch]:
        """The columns of a block, but for empty stretches."""
        n = len(self.places)
        ends, kinds = [0, n], [(0, True)]
        if self.bounds is not None:
            low, high = (bound[rows] for bound in self.bounds)
            if low[-1] < high[0]:
                ends = [0, low[0], low[-1], high[0], high[-1], n]
                kinds = [(1, False), (0, True), (0, False), (0, True), (-1, False)]
            else:  # no column is a positive of all anchors
                ends, kinds = [0, low[0], high[-1], n], [(1, False), (0, True), (-1, False)]
        for start, stop, (side, is_mixed) in zip(ends, ends[1:], kinds, strict=False):
            if start < stop:
                places, columns = self.places[start:stop], slice(start, stop)
                among = (places >= self.low[rows, None]) & (places < self.high[rows, None]) if is_mixed else None
                yield columns, side, among
