"""Pairwise losses: each target against negatives of its own, by BPR, BCE or CCL.

The vectors of all negatives, T x K x D numbers, are never in memory: scores and gradients are made in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.blocks import refuse_second_derivative, row_blocks, work_type
from recgraph.config import Added, Search
from recgraph.losses.base import LossConfig, NextItemLoss, Sampler
from recgraph.rows import distinct_rows, is_row_sparse, lookup, row_gradient, touched

__all__ = ["PairWeights", "own_scores", "pair_scores", "unit_rows"]


# for so few vectors a row, passes one by one are several times as fast as a batched product of tiny matrices
_FEW = 4


def pair_scores(table: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``s_bk = table[rows_b] . table[columns_bk]``, in a quarter of the time of lookups under autograd on CPU.

    The gradient by the table is made in one scatter; it can be taken once.

    Args:
        table: [N, D].
        rows: [B] int64.
        columns: [B, K] int64.

    Returns:
        [B, K].
    """
    scores: Tensor = _PairScores.apply(table, rows, columns, is_row_sparse(table))  # type: ignore[no-untyped-call]
    return scores


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, columns: Tensor, row_sparse: bool) -> Tensor:
        places = torch.cat([rows[:, None], columns], 1)
        vectors = table.index_select(0, places.view(-1)).view(*places.shape, -1)
        ctx.save_for_backward(vectors, places)
        ctx.n_rows, ctx.row_sparse = table.shape[0], row_sparse
        # products under autocast would be rounded to half precision
        with full_precision(table):
            return torch.bmm(vectors[:, 1:], vectors[:, 0, :, None]).squeeze(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative("scores of pairs")
        vectors, places = ctx.saved_tensors
        grads = torch.empty_like(vectors)
        _weighted_sum(grad, vectors[:, 1:], grads[:, 0])
        torch.mul(grad[:, :, None], vectors[:, :1], out=grads[:, 1:])
        index, values = places.view(-1), grads.flatten(0, 1)
        if ctx.row_sparse:
            return row_gradient(index, values, ctx.n_rows), None, None, None
        total = vectors.new_zeros(ctx.n_rows, vectors.shape[2])
        return total.index_add_(0, index, values), None, None, None


def _weighted_sum(weights: Tensor, vectors: Tensor, out: Tensor) -> None:
    """``out_b = sum_k weights_bk vectors_bk``; [B, K], [B, K, D] and [B, D]."""
    if not 0 < weights.shape[1] <= _FEW:
        out.copy_(torch.bmm(weights[:, None], vectors).squeeze(1))
        return
    torch.mul(weights[:, :1], vectors[:, 0], out=out)
    for k in range(1, weights.shape[1]):
        out.addcmul_(weights[:, k, None], vectors[:, k])


def own_scores(hidden: Tensor, table: Tensor, columns: Tensor, block_rows: int | None = None) -> Tensor:
    """``s_tk = hidden_t . table[columns_tk]``, without the T x K x D vectors in memory.

    Blocks of rows look their vectors up, in backward once more. Computed in the wider type of the two, at least
    float32; the gradient can be taken once.

    Args:
        hidden: [T, D].
        table: [N, D].
        columns: [T, K] int64.
        block_rows: rows whose vectors are in memory at once; None picks by the size of the cache.

    Returns:
        [T, K].
    """
    scores: Tensor = _OwnScores.apply(hidden, table, columns, block_rows, is_row_sparse(table))  # type: ignore[no-untyped-call]
    return scores


class _OwnScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, columns: Tensor, block_rows: int | None, row_sparse: bool
    ) -> Tensor:
        ctx.save_for_backward(hidden, table, columns)
        ctx.block_rows, ctx.row_sparse = block_rows, row_sparse
        x = hidden.to(work_type(hidden, table))
        scores = x.new_empty(columns.shape)
        for rows, vectors in _own_vectors(x, table, columns, block_rows):
            torch.sum(vectors.mul_(x[rows, None]), 2, out=scores[rows])
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("scores of negatives")
        hidden, table, columns = ctx.saved_tensors
        x = hidden.to(work_type(hidden, table))
        by_hidden = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        by_table, rows_of_table, places = None, None, columns
        if ctx.needs_input_grad[1]:
            n_rows = len(table)
            if ctx.row_sparse:
                rows_of_table, places = distinct_rows(columns, n_rows)
            by_table = x.new_zeros(n_rows if rows_of_table is None else len(rows_of_table), x.shape[1])
        for rows, vectors in _own_vectors(x, table, columns, ctx.block_rows):
            weights = grad[rows, :, None]
            if by_hidden is not None:
                torch.sum(vectors.mul_(weights), 1, out=by_hidden[rows])
            if by_table is not None:
                torch.mul(weights, x[rows, None], out=vectors)
                by_table.index_add_(0, places[rows].flatten(), vectors.flatten(0, 1))
        if by_hidden is not None:
            by_hidden = by_hidden.to(hidden.dtype)
        if by_table is not None:
            by_table = by_table.to(table.dtype)
        if rows_of_table is not None and by_table is not None:
            by_table = row_gradient(rows_of_table, by_table, len(table))
        return by_hidden, by_table, None, None, None


def _own_vectors(x: Tensor, table: Tensor, columns: Tensor, block_rows: int | None) -> Iterator[tuple[slice, Tensor]]:
    """The rows of each block with the vectors [n, K, D] of their columns, in the type of x."""
    n_columns, width = columns.shape[1], x.shape[1]
    for rows in row_blocks(len(x), n_columns * width, x, block_rows):
        vectors = table.index_select(0, columns[rows].flatten()).to(x.dtype)
        yield rows, vectors.view(-1, n_columns, width)


def unit_rows(table: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of an index, brought to length 1, and the index into them.

    Args:
        table: [N, D].
        index: int64 of any shape.

    Returns:
        [U, D], with the gradient that the table takes, and a tensor of the index's shape. On an accelerator, which
        would have to tell how many rows are distinct, they are all rows.
    """
    if is_accelerated(table) and not is_row_sparse(table):
        return F.normalize(table, dim=1), index
    rows, places = distinct_rows(index, len(table))
    return F.normalize(lookup(table, rows), dim=1), places


class PairWeights(NamedTuple):
    """What the pairs of T targets count. Attributes: ``positive`` [T]; ``negative`` [T, K]."""

    positive: Tensor
    negative: Tensor


def _weighed(of_targets: Tensor, of_drawn: Tensor, weights: PairWeights | None) -> tuple[Tensor, Tensor]:
    """What targets [T] and their drawn [T, K] cost, by what the pairs count; None: all count 1."""
    return (of_targets, of_drawn) if weights is None else (of_targets * weights.positive, of_drawn * weights.negative)


class OwnNegativesConfig(LossConfig):
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives for each target"), Search(low=1, high=256, log=True)
    ] = 1
    popularity_power: Annotated[
        float, Field(ge=0, le=2, description="negatives ~ popularity ** power; 0 is uniform")
    ] = 0.0


class OwnNegatives(NextItemLoss):
    """Base of the losses that draw negatives for each target; a subclass fills :meth:`of_scores`.

    User-item models, whose negatives come with the batch, score them with
    :func:`recgraph.losses.pairwise.pair_scores` and call :meth:`of_scores` themselves.
    """

    Config = OwnNegativesConfig
    draws = True
    #: whether :meth:`of_scores` takes weights of pairs
    weighs_pairs: ClassVar[bool] = False

    def __init__(self, config: OwnNegativesConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.sampler = Sampler(self.config.popularity_power)

    def setup(self, item_counts: Tensor) -> None:
        self.sampler.setup(item_counts)

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        negatives = self.draw(targets.numel(), table.shape[0] - 1, generator, table.device)
        return self.against(negatives, hidden, targets, table)

    def draw(self, n_targets: int, n_items: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """[n_targets, K]: tokens to rank below each target."""
        return self.sampler.draw((n_targets, self.config.n_negatives), n_items, generator, device)

    def against(self, negatives: Tensor, hidden: Tensor, targets: Tensor, table: Tensor) -> Tensor:
        """The mean loss with given negatives [T, K]; the other arguments are those of a call."""
        keep_mask = negatives != targets[:, None]
        part, columns = touched(table, torch.cat([targets[:, None], negatives], 1))
        if self.cosine:
            hidden, (part, columns) = F.normalize(hidden, dim=1), unit_rows(part, columns)
        scores = own_scores(hidden, part, columns)
        return self.of_scores(scores[:, 0], scores[:, 1:], keep_mask, table.shape[0] - 1)

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        """The mean loss.

        Args:
            positive: [T], the target's score; of a loss of cosines, that.
            negative: [T, K], the scores of the drawn.
            keep_mask: [T, K], False where the target itself was drawn.
            n_items: how many items there are.
            weights: of the pairs, where the loss :attr:`weighs_pairs`; None: all count 1.
        """
        raise TypeError(f"{type(self).__name__} must define of_scores")


class BCEConfig(OwnNegativesConfig):
    calibration: Annotated[
        float,
        Field(ge=0, le=1, description="t of gBCE: 0 is plain BCE, 1 removes all of the overconfidence"),
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
        Added(),
    ] = None


class BCE(OwnNegatives):
    """``mean_i (b softplus(-s_i,pos) + sum_k softplus(s_ik)) / (1 + K)``, k over the row's K negatives.

    ``b = a (t (1 - 1/a) + 1/a)`` with the sampling rate ``a = K / (n_items - 1)`` and calibration ``t``:
    ``b = 1`` with ``K = 1`` is the binary cross-entropy of SASRec (Kang and McAuley, ICDM 2018), with a mean where it
    has a sum; a smaller ``b`` is gBCE. With ``negative_weight`` (w) it is ``mean_i (b softplus(-s_i,pos) +
    w mean_k softplus(s_ik))``, as in UltraGCN (Mao et al., CIKM 2021). Weights of pairs multiply their softplus.
    Sequence models draw their own ``n_negatives``, 512 by default: give
    ``loss="bce", n_negatives=1``.

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
        t = self.config.calibration
        power = t * (rate - 1) + 1
        of_targets, of_drawn = power * F.softplus(-positive), F.softplus(negative) * keep_mask
        of_targets, of_drawn = _weighed(of_targets, of_drawn, weights)
        if self.config.negative_weight is None:
            mean: Tensor = ((of_targets + of_drawn.sum(1)) / (1 + negative.shape[1])).mean()
        else:
            mean = of_targets.mean() + self.config.negative_weight * of_drawn.mean()
        return mean


class BPRConfig(OwnNegativesConfig):
    pass


class BPR(OwnNegatives):
    """``mean_i mean_k softplus(s_ik - s_i,pos)``, k over the row's negatives.

    Source: Rendle et al., UAI 2009 (BPR-Opt, without its regulariser). Departure: a drawn item that is the
    target counts 0; other items of the same user may be drawn. Sequence models draw their own ``n_negatives``, 512 by
    default: give ``loss="bpr", n_negatives=1`` for one a target.
    """

    Config = BPRConfig

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        losses = F.softplus(negative - positive[:, None]) * keep_mask
        return (losses.sum(1) / keep_mask.sum(1).clamp(min=1)).mean()


class CCLConfig(OwnNegativesConfig):
    margin: Annotated[
        float, Field(ge=-1, lt=1, description="m, the cosine up to which a negative costs nothing"), Search(0.0, 0.95)
    ] = 0.8
    negative_weight: Annotated[
        float,
        Field(gt=0, description="w, what the mean over a target's negatives counts beside the target"),
        Search(low=1.0, high=1000.0, log=True),
    ] = 100.0


class CCL(OwnNegatives):
    """Cosine contrastive loss: ``mean_i (1 - c_i,pos + w mean_k max(0, c_ik - m))`` of cosines c, k over the row's K
    negatives.

    Only negatives that are nearer than the margin m cost anything, so that many can be drawn. A model that is trained
    by it ranks by cosines. Weights of pairs multiply their addends.

    Source: Mao et al., SimpleX: A Simple and Strong Baseline for Collaborative Filtering (CIKM 2021), equation 1.
    Departure: a drawn item that is the target counts 0, and still counts among the K. Draw hundreds of negatives: a
    single one a target, the default, is mostly below the margin.
    """

    Config = CCLConfig
    cosine = True
    weighs_pairs = True

    def of_scores(
        self,
        positive: Tensor,
        negative: Tensor,
        keep_mask: Tensor,
        n_items: int,
        weights: PairWeights | None = None,
    ) -> Tensor:
        of_targets, of_drawn = 1 - positive, F.relu(negative - self.config.margin) * keep_mask
        of_targets, of_drawn = _weighed(of_targets, of_drawn, weights)
        mean: Tensor = of_targets.mean() + self.config.negative_weight * of_drawn.mean()
        return mean
