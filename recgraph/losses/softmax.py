"""Softmax losses: the target competes with all items, or with a sample of them that the whole batch
shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.blockwise import BlockwiseLoss, one_pass
from recgraph.contrast.parts import Similarity
from recgraph.losses.base import LossConfig, NextItemLoss, Sampler
from recgraph.ranks import gathered
from recgraph.sparse.blocks import score_blocks, work_type
from recgraph.sparse.device import compiled, full_precision, is_accelerated
from recgraph.sparse.rows import read_once, touched


class SoftmaxConfig(Similarity, LossConfig):
    temperature: Annotated[float, Field(gt=0, description="what similarities are divided by")] = 1.0
    block_rows: Annotated[
        int | None,
        Field(
            ge=1,
            description="rows of scores in memory at once; None picks by the size of the cache",
        ),
    ] = None


class Candidates(NamedTuple):
    """What targets [T] compete with: rows [N, D] of the table, the places of the targets among
    them, and what is drawn of them and its shift, as of :class:`_Softmax`."""

    rows: Tensor
    targets: Tensor
    drawn: Tensor | None = None
    shift: Tensor | None = None


class SoftmaxLoss(NextItemLoss):
    """Base of the softmax losses of scores s, ``h . w_j / temperature`` or the cosine over it; a
    subclass fills :meth:`candidates`."""

    _compiled: Callable[..., Tensor] | None = None

    @property
    def cosine(self) -> bool:
        return bool(self.config.similarity == "cosine")

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile the loss as one graph, which holds all T x n_candidates scores; it is used on
        accelerators alone.
        """
        self._compiled = compiled(_cross_entropy, backend)

    def candidates(
        self, targets: Tensor, table: Tensor, generator: torch.Generator | None
    ) -> Candidates:
        """What the targets [T] compete with, of the table of tokens [n_items + 1, D]; the generator
        draws it.
        """
        raise NotImplementedError

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        table: Tensor,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        rows, targets, drawn, shift = self.candidates(targets, table, generator)
        work = work_type(hidden, rows)
        if shift is not None:
            shift = shift.to(work)
        with full_precision(rows):  # lengths in half precision would lose digits
            hidden, rows = self.config.shape(hidden.to(work), rows.to(work))
            if self._compiled is not None and is_accelerated(rows) and weights is None:
                return self._compiled(hidden, rows, targets, drawn, shift)
        settings = {"targets": targets, "drawn": drawn, "shift": shift, "weights": weights}
        return one_pass(_Softmax, settings, self.config.block_rows, (hidden, rows))[0]


def _cross_entropy(
    hidden: Tensor, rows: Tensor, targets: Tensor, drawn: Tensor | None, shift: Tensor | None
) -> Tensor:
    if drawn is None:
        return F.cross_entropy(hidden @ rows.t(), targets)
    positive = (hidden * rows.index_select(0, targets)).sum(1, keepdim=True)
    scores = hidden @ rows.index_select(0, drawn).t()
    if shift is not None:
        scores = scores + shift
    scores = scores.masked_fill(targets[:, None] == drawn, -math.inf)
    return (torch.cat([positive, scores], 1).logsumexp(1) - positive[:, 0]).mean()


class FullSoftmaxConfig(SoftmaxConfig):
    pad_candidate: Annotated[
        bool, Field(description="whether the padding token competes too, as in RecBole and MCLRec")
    ] = True


class FullSoftmax(SoftmaxLoss):
    """Cross-entropy over all items: ``mean_i logsumexp_j(s_ij) - s_i,target(i)``.

    With inner products it is ``F.cross_entropy(hidden @ table.T, targets)`` in a third of its time
    on CPU and without a T x n_items tensor; computed in float32 or wider also under autocast.
    Differentiable once.
    """

    Config = FullSoftmaxConfig

    def candidates(
        self, targets: Tensor, table: Tensor, generator: torch.Generator | None
    ) -> Candidates:
        if self.config.pad_candidate:
            return Candidates(table, targets)
        return Candidates(table[1:], targets - 1)


class SampledSoftmaxConfig(SoftmaxConfig):
    n_negatives: Annotated[
        int,
        Field(ge=0, description="negatives, shared by the batch"),
        Search(low=64, high=4096, log=True),
    ] = 512
    log_q: Annotated[
        bool, Field(description="correct the scores for how often a negative is drawn")
    ] = True
    popularity_power: Annotated[
        float, Field(ge=0, le=2, description="negatives ~ popularity ** power; 0 is uniform")
    ] = 0.0
    in_batch: Annotated[
        bool,
        Field(
            description="whether the targets of the batch are negatives of one another, beside the drawn ones"
        ),
    ] = False


class SampledSoftmax(SoftmaxLoss):
    """Cross-entropy of the target against ``n_negatives`` drawn items, the same for all rows.

    ``loss_i = log(e^{s_i,pos} + sum_k e^{s_ik - log E_k}) - s_i,pos``, where ``k`` runs over the K
    drawn items that are not the target, and ``E_k = K q_k`` is how often the item is expected among
    them. The sum in the logarithm is an unbiased estimate of the full softmax's (without the
    padding): the target is in it with certainty, and every other item with expected weight 1.
    Without ``log_q`` the scores are taken as they are.

    With ``in_batch`` the T targets of the batch, of all ranks, are among the k, too, and ``E_k = K
    q_k + T p_k``, p the items' share in the training part: mixed negatives, or with
    ``n_negatives=0`` those of the batch alone.

    Source: Bengio and Senecal, IEEE TNN 2008; Jean et al., ACL 2015; of the batch's targets Yi et
    al., RecSys 2019, mixed with drawn items Yang et al., WWW 2020. Departure: the correction is not
    applied to the target, which is there with certainty (Khrylchenko et al., RecSys 2025, on why it
    must not be).
    """

    Config = SampledSoftmaxConfig
    draws = True

    def __init__(self, config: SampledSoftmaxConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self.sampler, self.popularity = Sampler(self.config.popularity_power), Sampler(1.0)

    def setup(self, item_counts: Tensor) -> None:
        self.sampler.setup(item_counts)
        self.popularity.setup(item_counts)

    def candidates(
        self, targets: Tensor, table: Tensor, generator: torch.Generator | None
    ) -> Candidates:
        n_items, count = table.shape[0] - 1, self.config.n_negatives
        drawn = self.sampler.draw((count,), n_items, generator, table.device)
        n_of_batch = 0
        if self.config.in_batch:
            of_batch = gathered(targets)
            n_of_batch = len(of_batch)
            drawn = torch.cat([drawn, of_batch])
        shift = None
        if self.config.log_q:
            expected = []
            if count:
                expected.append(self.sampler.log_q(drawn, n_items) + math.log(count))
            if n_of_batch:
                expected.append(self.popularity.log_q(drawn, n_items) + math.log(n_of_batch))
            shift = -torch.stack(expected).logsumexp(0)
        if self.cosine:  # of the rows that are read
            rows, (drawn, targets) = read_once(table, drawn, targets)
        else:
            rows, places = touched(table, torch.cat([drawn, targets]))
            drawn, targets = torch.split(places, [len(drawn), len(targets)])
        return Candidates(rows, targets, drawn, shift)


class _Softmax(BlockwiseLoss):
    """Mean of ``log(sum_j exp(h . w_j + shift_j)) - h . w_target`` over T rows, each times its
    weight.

    Args:
        inputs: hidden [T, D] and table [N, D].
        targets: [T] int64, rows of the table.
        drawn: [M] rows that are the candidates; the one that is a row's target is left out for that
            row, and the target is added. None: all rows are.
        shift: [M], added to the scores of the drawn.
        weights: [T], or None.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        needs: Sequence[bool],
        targets: Tensor,
        drawn: Tensor | None,
        shift: Tensor | None,
        weights: Tensor | None,
    ) -> None:
        super().__init__(inputs, needs)
        self.targets, self.drawn, self.shift, self.weights = targets, drawn, shift, weights
        self.rows, self.grad_rows = self.y, self.gradients[1]
        if drawn is not None:
            self.rows = self.y[drawn]
            if self.grad_rows is not None:
                self.grad_rows = torch.zeros_like(self.rows)
        self.w_pos = self.y[targets]
        self.s_pos = (self.x * self.w_pos).sum(1)
        self.scale = torch.full_like(self.s_pos, 1 / len(self.x))
        if weights is not None:
            self.scale *= weights

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        bounded = False
        if not is_accelerated(self.x):  # which would have to be read
            # no score can leave the range of exp, so that no maximum need be taken out first
            longest = torch.maximum(self.rows.norm(dim=1).amax(), self.w_pos.norm(dim=1).amax())
            bound = self.x.norm(dim=1).amax() * longest
            if self.shift is not None:
                bound = bound + self.shift.abs().amax()
            bounded = bool(bound <= self.limit)
        losses = torch.empty_like(self.s_pos)
        # the derivative by the target's own score, without its part among the candidates
        pull = -self.scale
        for rows, buffer in score_blocks(len(self.x), len(self.rows), self.x, block_rows):
            self._block(rows, buffer, bounded, losses[rows], pull[rows])
        grad_hidden, grad_table = self.gradients
        if grad_hidden is not None:
            grad_hidden.addcmul_(self.w_pos, pull[:, None])
        if grad_table is not None:
            if self.drawn is not None:
                assert self.grad_rows is not None
                grad_table.index_add_(0, self.drawn, self.grad_rows)
            grad_table.index_add_(0, self.targets, self.x * pull[:, None])
        if self.weights is not None:
            losses = losses * self.weights
        return losses.mean(), losses.new_ones(())

    def _block(self, rows: slice, p: Tensor, bounded: bool, losses: Tensor, pull: Tensor) -> None:
        x, s_pos = self.x[rows], self.s_pos[rows]
        if self.shift is None:
            torch.mm(x, self.rows.t(), out=p)
        else:
            torch.addmm(self.shift, x, self.rows.t(), out=p)
        if not bounded:
            peak = torch.maximum(p.amax(1), s_pos)
            # below the limit it makes no difference to the sum, and exp would give slow subnormal
            # numbers
            p.sub_(peak[:, None]).clamp_(min=-self.limit)
            s_pos = s_pos - peak
        p.exp_()
        if self.drawn is None:
            total = p.sum(1)
            factor = total.reciprocal() * self.scale[rows]
        else:
            p.masked_fill_(torch.eq(self.targets[rows, None], self.drawn), 0)
            own = s_pos.exp()
            total = p.sum(1) + own
            factor = total.reciprocal() * self.scale[rows]
            pull.addcmul_(own, factor)
        torch.sub(total.log(), s_pos, out=losses)
        grad_hidden = self.gradients[0]
        if grad_hidden is not None:
            torch.mm(p, self.rows, out=grad_hidden[rows]).mul_(factor[:, None])
        if self.grad_rows is not None:
            self.grad_rows.addmm_(p.t(), x * factor[:, None])
