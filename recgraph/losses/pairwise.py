"""Pairwise losses: each target against negatives of its own, or against those of the whole step, by
BPR, BCE or CCL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.blockwise import BlockwiseLoss, one_pass
from recgraph.losses.base import LossConfig, NextItemLoss, Sampler
from recgraph.losses.scores import own_scores, unit_rows
from recgraph.rng import dropout
from recgraph.sparse.blocks import even_bounds, of_groups, score_blocks, total_of, unit_length
from recgraph.sparse.rows import touched


class PairWeights(NamedTuple):
    """What the pairs of T targets count. Attributes: ``positive`` [T]; ``negative`` [T, K], or [T,
    1] for all K.
    """

    positive: Tensor
    negative: Tensor


def _weighed(
    of_targets: Tensor, of_drawn: Tensor, weights: PairWeights | None
) -> tuple[Tensor, Tensor]:
    """What targets [T] and their drawn [T, K] cost, by what the pairs count; None: all count 1."""
    if weights is None:
        return of_targets, of_drawn
    return of_targets * weights.positive, of_drawn * weights.negative


class OwnNegativesConfig(LossConfig):
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives for each target"), Search(low=1, high=256, log=True)
    ] = 1
    popularity_power: Annotated[
        float, Field(ge=0, le=2, description="negatives ~ popularity ** power; 0 is uniform")
    ] = 0.0
    shared: Annotated[
        bool, Field(description="whether all targets of a step have the same negatives")
    ] = False
    n_groups: Annotated[
        int, Field(ge=1, description="groups of targets that share negatives, each with K of them")
    ] = 1


class OwnNegatives(NextItemLoss):
    """Base of the losses that draw negatives for each target; a subclass fills :meth:`of_scores`.

    With ``shared`` all targets of a step have the same K negatives. The expected loss is the same,
    and one matrix product computes the scores. Fewer distinct negatives make the gradient noisier:
    draw hundreds. With ``n_groups`` (G) the targets of a step are G groups of as equal size as can
    be, each with K negatives of its own: as many scores, and up to G times as many distinct
    negatives.

    User-item models, whose negatives come with the batch, score them with
    :func:`recgraph.losses.scores.pair_scores` and call :meth:`of_scores` themselves, or
    :meth:`against_shared`.
    """

    Config = OwnNegativesConfig
    draws = True
    #: whether :meth:`of_scores` reads a weight of each pair; one that does not is a mean over the
    #: negatives that are kept, times the target's weight
    weighs_pairs: ClassVar[bool] = False

    def __init__(self, config: OwnNegativesConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.sampler = Sampler(self.config.popularity_power)

    def setup(self, item_counts: Tensor) -> None:
        self.sampler.setup(item_counts)

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        table: Tensor,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        negatives = self.draw(targets.numel(), table.shape[0] - 1, generator, table.device)
        return self.against(negatives, hidden, targets, table, generator=generator, weights=weights)

    def draw(
        self, n_targets: int, n_items: int, generator: torch.Generator | None, device: torch.device
    ) -> Tensor:
        """[n_targets, K]: tokens to rank below each target; shared ones are [n_groups, K]."""
        n_rows = self.config.n_groups if self.config.shared else n_targets
        return self.sampler.draw((n_rows, self.config.n_negatives), n_items, generator, device)

    def against(
        self,
        negatives: Tensor,
        hidden: Tensor,
        targets: Tensor,
        table: Tensor,
        bounds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The mean loss with given negatives [T, K], or [n_groups, K] that are shared; ``bounds``
        as in :meth:`against_shared`, None: :func:`recgraph.sparse.blocks.even_bounds`; else the
        arguments of a call."""
        n_items = table.shape[0] - 1
        of_pairs = None
        if weights is not None:
            of_pairs = PairWeights(weights, weights[:, None])
        if self.config.shared:
            if bounds is None:
                bounds = even_bounds(len(targets), len(negatives))
            return self.against_shared(
                negatives,
                bounds,
                of_groups(negatives, bounds) != targets[:, None],
                hidden,
                targets,
                table,
                n_items,
                weights=of_pairs,
                generator=generator,
            )
        keep_mask = negatives != targets[:, None]
        places = torch.cat([targets[:, None], negatives], 1)
        hidden, part, columns = self._sides(hidden, table, places, generator)
        scores = own_scores(hidden, part, columns)
        return self.of_scores(scores[:, 0], scores[:, 1:], keep_mask, n_items, of_pairs)

    def _sides(
        self, hidden: Tensor, table: Tensor, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The hidden states and the rows of the index, as the scores are products of them, and the
        index into these.
        """
        rows, places = touched(table, index)
        if not self.cosine:
            return hidden, rows, places
        hidden = self.dropped(unit_length(hidden), generator)
        rows, places = unit_rows(rows, places)
        return hidden, rows, places

    def against_shared(
        self,
        drawn: Tensor,
        bounds: Sequence[int],
        keep_mask: Tensor,
        hidden: Tensor,
        targets: Tensor,
        table: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The mean loss with the same negatives for all targets of a group; it can be
        differentiated once.

        Args:
            drawn: [G, K] rows of the table, those of each group.
            bounds: G + 1 ascending numbers from 0 to T: group g has the targets from ``bounds[g]``
                to ``bounds[g + 1]``.
            keep_mask: [T, K], False where a negative counts 0 for a target.
            hidden, table, targets: [T, D], [N, D], and [T] rows of the table.
            n_items, weights: see :meth:`of_scores`; generator: see :meth:`dropped`.
        """
        index = torch.cat([targets, drawn.flatten()])
        hidden, rows, places = self._sides(hidden, table, index, generator)
        targets, columns = torch.split(places, [len(targets), drawn.numel()])
        settings = {
            "targets": targets,
            "drawn": columns.view_as(drawn),
            "bounds": bounds,
            "of_scores": self.of_scores,
            "keep_mask": keep_mask,
            "n_items": n_items,
            "weights": weights,
        }
        return one_pass(SharedNegatives, settings, None, (hidden, rows))[0]

    @property
    def drops(self) -> bool:
        """Whether :meth:`dropped` drops anything now."""
        return False

    def dropped(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        """Vectors of length 1 [T, D] as a loss of cosines multiplies them with items'; the
        generator draws its dropout, None: there is none."""
        return vectors

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        """The mean loss, a mean over targets.

        Args:
            positive: [T], the target's score; of a loss of cosines, that.
            negative: [T, K], the scores of the drawn.
            keep_mask: [T, K], False where a negative counts 0: where the target itself was drawn
                and, of negatives that all share, an item of the target's user.
            n_items: how many items there are.
            weights: see :attr:`weighs_pairs`; None: all count 1.
        """
        raise TypeError(f"{type(self).__name__} must define of_scores")


class SharedNegatives(BlockwiseLoss):
    """A pairwise loss of T rows against K rows of the table that all of a group have, a mean over
    the former; see :meth:`OwnNegatives.against_shared`."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        of_scores: Callable[..., Tensor],
        targets: Tensor,
        drawn: Tensor,
        bounds: Sequence[int],
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.of_scores, self.targets, self.drawn, self.n_items = of_scores, targets, drawn, n_items
        self.bounds, self.keep_mask, self.weights = bounds, keep_mask, weights
        self.rows, self.w_pos = self.y[drawn], self.y[targets]
        self.by_drawn = torch.zeros_like(self.rows)

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        positive = (self.x * self.w_pos).sum(1)
        pull, sums = torch.empty_like(positive), []
        for group, (start, stop) in enumerate(pairwise(self.bounds)):
            vectors = self.rows[group]
            for block, scores in score_blocks(stop - start, len(vectors), self.x, block_rows):
                rows = slice(start + block.start, start + block.stop)
                torch.mm(self.x[rows], vectors.t(), out=scores)
                sums.append(self._block(group, rows, positive[rows], scores, pull[rows]))
        by_hidden, by_table = self.gradients
        if by_hidden is not None:
            by_hidden.addcmul_(self.w_pos, pull[:, None])
        if by_table is not None:
            by_table.index_add_(0, self.drawn.flatten(), self.by_drawn.flatten(0, 1))
            by_table.index_add_(0, self.targets, self.x * pull[:, None])
        return total_of(sums, self.x).to(self.x.dtype), self.x.new_ones(())

    def _block(
        self, group: int, rows: slice, positive: Tensor, negative: Tensor, pull: Tensor
    ) -> Tensor:
        """The share of a group's block in the mean; ``pull`` becomes the derivative by the targets'
        scores.
        """
        is_trained = self.is_differentiated
        weights = self.weights
        if weights is not None:
            weights = PairWeights(weights.positive[rows], weights.negative[rows])
        positive = positive.detach().requires_grad_(is_trained)
        negative = negative.detach().requires_grad_(is_trained)
        with torch.set_grad_enabled(is_trained):
            mean = self.of_scores(positive, negative, self.keep_mask[rows], self.n_items, weights)
            share = mean * (len(positive) / len(self.x))
        if is_trained:
            by_positive, by_negative = torch.autograd.grad(share, (positive, negative))
            pull.copy_(by_positive)
            by_hidden, by_table = self.gradients
            if by_hidden is not None:
                torch.mm(by_negative, self.rows[group], out=by_hidden[rows])
            if by_table is not None:
                self.by_drawn[group].addmm_(by_negative.t(), self.x[rows])
        return share.detach()


class BCEConfig(OwnNegativesConfig):
    calibration: Annotated[
        float,
        Field(
            ge=0, le=1, description="t of gBCE: 0 is plain BCE, 1 removes all of the overconfidence"
        ),
        Search(low=0.0, high=1.0),
    ] = 0.0
    negative_weight: Annotated[
        float | None,
        Field(
            ge=0,
            description="what the mean over a target's negatives counts beside the target; none: each counts as much "
            "as the target, and the sum is divided by 1 + n_negatives",
        ),
        Search(low=1.0, high=1000.0, log=True),
    ] = None


class BCE(OwnNegatives):
    """``mean_i (b softplus(-s_i,pos) + sum_k softplus(s_ik)) / (1 + K)``, k over the row's K
    negatives.

    ``b = a (t (1 - 1/a) + 1/a)`` with the sampling rate ``a = K / (n_items - 1)`` and calibration
    ``t``: ``b = 1`` with ``K = 1`` is the binary cross-entropy of SASRec (Kang and McAuley, ICDM
    2018), with a mean where it has a sum; a smaller ``b`` is gBCE. With ``negative_weight`` (w) it
    is ``mean_i (b softplus(-s_i,pos) + w mean_k softplus(s_ik))``, as in UltraGCN (Mao et al., CIKM
    2021). Weights of pairs multiply their softplus. Sequence models draw their own ``n_negatives``,
    512 by default: give ``loss="bce", n_negatives=1``.

    Source: Petrov and Macdonald, "gSASRec", RecSys 2023. Departure: a drawn item that is the
    target counts 0.
    """

    Config = BCEConfig
    weighs_pairs = True

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        rate = min(self.config.n_negatives / max(n_items - 1, 1), 1.0)
        power = self.config.calibration * (rate - 1) + 1
        of_targets = power * F.softplus(-positive)
        of_drawn = F.softplus(negative) * keep_mask
        of_targets, of_drawn = _weighed(of_targets, of_drawn, weights)
        if self.config.negative_weight is None:
            losses: Tensor = (of_targets + of_drawn.sum(1)) / (1 + negative.shape[1])
            return losses.mean()
        mean: Tensor = of_targets.mean() + self.config.negative_weight * of_drawn.mean()
        return mean


class BPR(OwnNegatives):
    """``mean_i mean_k softplus(s_ik - s_i,pos)``, k over the row's negatives.

    Source: Rendle et al., UAI 2009 (BPR-Opt, without its regulariser). Departure: a drawn item that
    is the target counts 0; other items of the same user may be drawn. Sequence models draw their
    own ``n_negatives``, 512 by default: give ``loss="bpr", n_negatives=1`` for one a target.
    """

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        losses = F.softplus(negative - positive[:, None]) * keep_mask
        of_targets = losses.sum(1) / keep_mask.sum(1).clamp(min=1)
        if weights is not None:
            of_targets = of_targets * weights.positive
        mean: Tensor = of_targets.mean()
        return mean


class CCLConfig(OwnNegativesConfig):
    margin: Annotated[
        float,
        Field(ge=-1, lt=1, description="m, the cosine up to which a negative costs nothing"),
        Search(0.0, 0.95),
    ] = 0.8
    negative_weight: Annotated[
        float,
        Field(
            gt=0, description="w, what the mean over a target's negatives counts beside the target"
        ),
        Search(low=1.0, high=1000.0, log=True),
    ] = 100.0
    dropout: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="of the hidden states or user vectors, brought to length 1 before, in training",
        ),
    ] = 0.0


class CCL(OwnNegatives):
    """Cosine contrastive loss: ``mean_i (max(0, 1 - c_i,pos) + w mean_k max(0, c_ik - m))`` of
    cosines c, k over the row's K negatives.

    Only negatives that are nearer than the margin m cost anything, so that many can be drawn. A
    model that is trained by it ranks by cosines. Weights of pairs multiply their addends. With
    ``dropout`` a state loses dimensions after it was brought to length 1, so that c is noisy, and
    may exceed 1: negatives a little below the margin count then, too.

    Source: Mao et al., SimpleX: A Simple and Strong Baseline for Collaborative Filtering (CIKM
    2021), equation 1, and the published code for the dropout (.1 there). Departure: a drawn item
    that is the target counts 0, and still counts among the K. Draw hundreds of negatives: a single
    one a target, the default, is mostly below the margin.
    """

    Config = CCLConfig
    cosine = True
    weighs_pairs = True

    @property
    def drops(self) -> bool:
        return bool(self.training and self.config.dropout > 0)

    def dropped(self, vectors: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(vectors, self.config.dropout, generator) if self.drops else vectors

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        of_targets = F.relu(1 - positive)
        of_drawn = F.relu(negative - self.config.margin) * keep_mask
        of_targets, of_drawn = _weighed(of_targets, of_drawn, weights)
        mean: Tensor = of_targets.mean() + self.config.negative_weight * of_drawn.mean()
        return mean
