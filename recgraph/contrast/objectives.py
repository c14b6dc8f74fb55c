"""Contrastive objectives: which rows are anchors, which are their candidates, and what becomes of
the positive.

Each is ``loss_i = logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)``, the mean over anchors i;
the similarity s and the weights w are parts of their own. Barlow Twins, the baseline without
candidates, reads neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search
from recgraph.contrast.blockwise import (
    Candidates,
    contrast,
    contrast_drawn,
    log_sums,
    mean_loss,
    of_positives,
)
from recgraph.contrast.parts import Component, Outcome, Pairs, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import work_type
from recgraph.sparse.device import compiled, full_precision, is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import pair_products

__all__ = ["InfoNCE", "NTXent", "Objective", "ObjectiveConfig", "Outcome", "Similarity", "Views"]


class ObjectiveBaseConfig(Config):
    """Settings of an objective."""


class ObjectiveConfig(ObjectiveBaseConfig):
    count_positive: Annotated[
        bool, Field(description="whether the positive is one of the candidates")
    ] = True
    weigh_positive: Annotated[
        bool, Field(description="whether a counted positive carries its weight, or counts fully")
    ] = False
    n_candidates: Annotated[
        int | None,
        Field(
            ge=1,
            description="candidates drawn at each step, the same for all anchors; None takes all",
        ),
    ] = None
    if_none: Annotated[
        Literal["error", "zero"],
        Field(
            exclude=True,
            description="where no anchor has a candidate: an error, or the loss 0 of a step without a contrast",
        ),
    ] = "error"
    block_rows: Annotated[
        int | None,
        Field(ge=1, description="anchors in memory at once; None picks by the size of the cache"),
    ] = None


class Objective(Component):
    """Base of all objectives. A subclass fills :meth:`forward`, which calls :meth:`softmax` for
    each direction.
    """

    Config: ClassVar[type[ObjectiveBaseConfig]] = ObjectiveConfig
    #: whether :meth:`forward` can compute a share of the anchors; it is given none otherwise
    splits: ClassVar[bool] = False
    #: whether the rows of both views are anchors alike, so that the loss of the views in turn is
    #: the same
    of_both_sides: bool = False
    #: whether it draws whatever its settings are, so that it is given a generator
    draws: ClassVar[bool] = False
    _compiled: Callable[..., Tensor] | None = None

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile the loss without weights whose positive counts, as one graph, which holds all N x
        M similarities; it is used on accelerators alone."""
        self._compiled = compiled(_cross_entropy, backend)

    def takes_share(self, is_weighted: bool) -> bool:
        """Whether :meth:`forward` can compute a share of the anchors: it knows no others, so that
        none may be left out of the mean, as where an anchor's other candidates have weight 0, or
        are not drawn."""
        if not self.splits:
            return False
        if self.config.count_positive and not self.config.weigh_positive:
            return True
        if is_weighted:
            return False
        return self.config.count_positive or self.config.n_candidates is None

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        """The mean loss."""
        raise NotImplementedError

    def softmax(
        self,
        views: Views,
        similarity: Similarity,
        weight: Weight | None,
        excluded: Tensor | None = None,
        own: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> Outcome:
        """The loss of the rows of ``views.a`` as anchors, those of ``views.b`` as candidates, one
        positive each.

        With ``n_candidates`` below M the sum over candidates is estimated, see
        :func:`recgraph.contrast.blockwise.contrast_drawn`.

        Args:
            excluded: [N] int64, a row of ``b`` that is no candidate of that row of ``a``.
            own: [n] int64, with a share, the anchors of this rank; default: as the share has them.
            kept: [N] bool, written here: which anchors have a candidate and count; only without a
                share.
        """
        a, ids_a, positives = views.a, views.ids_a, views.positives
        if positives is None:
            positives = torch.arange(len(a), device=a.device)
        if isinstance(positives, Ragged):
            raise ValueError(
                f"positives: {type(self).__name__} takes one for each anchor; use 'info_nce' for several"
            )
        n_barred = 1 if excluded is None else 2
        if views.share is not None:
            if own is None:
                own = torch.arange(len(a), device=a.device)[views.share.rows]
            a, ids_a, positives = a.index_select(0, own), ids_a[own], positives[own]
            if excluded is not None:
                excluded = excluded[own]
        # a batch of one sample has nothing else to contrast it with
        required = self.config.if_none == "error" and len(views.b) > n_barred
        candidates = Candidates(
            positives,
            excluded,
            count_positive=self.config.count_positive,
            weigh_positive=self.config.weigh_positive,
            required=required,
            kept=kept,
        )
        pairs: Pairs | None = None
        if weight is not None:
            temperature = similarity.over_cosines(views.temperatures)
            pairs = Pairs(ids_a, views.ids_b, a, views.b, temperature)
        work = work_type(a, views.b)
        # products under autocast would be rounded to half precision, as directions of half
        # precision are
        with full_precision(a):
            x, y = similarity.shape(a.to(work), views.b.to(work), views.temperatures)
            loss, left_out = self.evaluate(x, y, candidates, weight, pairs, views)
        if not required:
            loss = torch.where(left_out < len(a), loss, 0)
        if views.share is not None:
            loss = loss * views.share.weight
        return Outcome(loss, len(a), left_out)

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        """The mean loss over anchors x [N, D], shaped by the similarity, and how many of them had
        no candidate.

        Both sides are at least float32, and ``x @ y.T`` are the cosines of ``pairs`` over its
        temperature, if any.
        """
        block_rows, n_candidates = self.config.block_rows, self.config.n_candidates
        if n_candidates is not None and n_candidates < len(y):
            generator = views.generator
            assert generator is not None, "n_candidates draws: give the term a generator"
            order = torch.randperm(len(y), generator=generator, device=generator.device)
            drawn = order[:n_candidates].sort().values.to(y.device)
            return contrast_drawn(x, y, drawn, candidates, weight, pairs, block_rows)
        all_count = weight is None and self.config.count_positive
        if all_count and self._compiled is not None and is_accelerated(x):
            loss = self._compiled(x, y, candidates.positives, candidates.excluded)
            return loss, torch.zeros((), dtype=torch.int64, device=x.device)
        return contrast(x, y, candidates, weight, pairs, block_rows)


def _cross_entropy(x: Tensor, y: Tensor, positives: Tensor, excluded: Tensor | None) -> Tensor:
    """The mean over anchors of ``logsumexp_j(s_ij) - s_i,pos(i)``, s = x @ y.T without the excluded
    columns.
    """
    scores = x @ y.t()
    if excluded is not None:
        scores = scores.scatter(1, excluded[:, None], -torch.inf)
    return F.cross_entropy(scores, positives)


class InfoNCE(Objective):
    """``-log(e^{s_ip} / sum_j w_ij e^{s_ij})``: anchors ``a``, candidates all rows of ``b``.

    Source: van den Oord et al., 2018, equation 4. MEOW's loss (SDM 2023) has
    ``count_positive=False``, AdaMEOW's ``weigh_positive=True``; with ``positives`` and
    ``temperatures`` the candidates may be prototypes. An anchor with several positives P_i has
    ``-log(sum_{p in P_i} e^{s_ip} / sum_j w_ij e^{s_ij})``, as HeCo's (KDD 2021, equation 10).
    """

    splits = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        if isinstance(views.positives, Ragged):
            return self._several(views, views.positives, similarity, weight)
        if views.positives is None and len(views.a) != len(views.b):
            raise ValueError(
                f"positives: a has {len(views.a)} rows, b {len(views.b)}; give the row of b for each of a"
            )
        return self.softmax(views, similarity, weight)

    def _several(
        self, views: Views, positives: Ragged, similarity: Similarity, weight: Weight | None
    ) -> Outcome:
        """The denominator is that of one positive, the row of the same number; the numerator is
        summed over all.
        """
        kept = torch.ones(len(views.a), dtype=torch.bool, device=views.a.device)
        paired = replace(views, positives=None, share=None)
        outcome = self.softmax(paired, similarity, weight, kept=kept)
        work = work_type(views.a, views.b)
        with full_precision(views.a):
            x, y = similarity.shape(views.a.to(work), views.b.to(work), views.temperatures)
            own = torch.linalg.vecdot(x, y)
            s = pair_products(x, y, positives, self.config.block_rows)
            # the greatest of each row is taken out first, so that no exponent overflows
            peak = torch.segment_reduce(s.detach(), "max", offsets=positives.offsets)
            exponentials = (s - peak[positives.rows]).exp()
            total = torch.zeros_like(own).index_add(0, positives.rows, exponentials)
            # the mean over the same anchors as that of the denominators
            change = torch.where(kept, own - peak - total.log(), 0).sum()
            change = change / kept.sum().clamp(min=1)
        return replace(outcome, loss=outcome.loss + change)


class NTXent(Objective):
    """``-log(e^{s_ip} / sum_{j != i} w_ij e^{s_ij})``: ``a`` and ``b`` stacked to 2B rows, each
    against all others.

    Source: Chen et al., ICML 2020 (SimCLR), equation 1; the mean is over the 2B rows. With inner
    products this is the loss of CL4SRec, DuoRec and MCLRec.
    """

    of_both_sides = True
    splits = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        z, ids = torch.cat([views.a, views.b]), torch.cat([views.ids_a, views.ids_b])
        places = torch.arange(len(z), device=z.device)
        partners = places.roll(len(views.a))
        # a rank's anchors are its rows of both views
        own = None
        if views.share is not None:
            own = places.view(2, -1)[:, views.share.rows].flatten()
        stacked = replace(views, a=z, b=z, ids_a=ids, ids_b=ids, positives=partners)
        return self.softmax(stacked, similarity, weight, excluded=places, own=own)


class DebiasedConfig(ObjectiveConfig):
    tau_plus: Annotated[
        float,
        Field(ge=0, lt=1, description="tau+, the share of candidates that are false negatives"),
        Search(0.01, 0.3, log=True),
    ] = 0.1


class _Debiased(Objective):
    """See :class:`DebiasedNTXent`. All candidates are taken, n beside the positive."""

    Config = DebiasedConfig

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        places, barred, block_rows = candidates.positives, candidates.barred, self.config.block_rows
        n = len(y) - barred.shape[1]
        sums = log_sums(x, y, barred, weight, pairs, block_rows)
        own = torch.linalg.vecdot(x, y.index_select(0, places))
        # log(n g_i), -inf where there is no candidate
        tau_plus, none_mask = self.config.tau_plus, sums == -math.inf
        mean = torch.where(none_mask, 0, sums) - math.log(max(n, 1))
        peak = torch.maximum(mean, own).detach()
        least = -x.norm(dim=1) * y.norm(dim=1).amax()
        left = (mean - peak).exp() - tau_plus * (own - peak).exp()
        positive_mask = left > 0
        g = peak + torch.where(positive_mask, left, 1).log() - math.log1p(-tau_plus)
        g = torch.maximum(torch.where(positive_mask, g, least), least)
        others = (g + math.log(max(n, 1))).masked_fill(none_mask, -math.inf)
        addends = [others]
        if candidates.count_positive:
            addends.append(own)
            if weight is not None and candidates.weigh_positive:
                assert pairs is not None
                ids, rows = pairs.candidate_ids[places], pairs.candidates.index_select(0, places)
                addends[1] = own + of_positives(weight, pairs, ids, rows, block_rows)
        return mean_loss(candidates, x, addends, own)


class DebiasedNTXent(_Debiased, NTXent):
    """:class:`NTXent` with ``n g_i`` in the place of the sum over negatives, ``log(e^{s_ip} + n
    g_i) - s_ip``.

    ``g_i = max((mean_j w_ij e^{s_ij} - tau+ e^{s_ip}) / (1 - tau+), e^{-1 / tau})``: a share tau+
    of the candidates are positives, and a positive adds what the known one does. With
    ``tau_plus=0`` it is NT-Xent.

    Source: Chuang et al., "Debiased Contrastive Learning" (NeurIPS 2020), with one positive. With
    ``weight="hardness"`` it is the loss of Robinson et al., "Contrastive Learning with Hard
    Negative Samples" (ICLR 2021). Departure: the least value of g is that of the norms at hand,
    which for cosines is the published one.
    """


class DebiasedInfoNCE(_Debiased, InfoNCE):
    """:class:`InfoNCE` debiased as :class:`DebiasedNTXent` is: anchors of one view, candidates of
    the other.

    Source: Chuang et al., "Debiased Contrastive Learning" (NeurIPS 2020). Of one positive for each
    anchor.
    """


class BarlowTwinsConfig(ObjectiveBaseConfig):
    redundancy: Annotated[
        float,
        Field(ge=0, description="lambda, weight of what is off the diagonal"),
        Search(1e-4, 1e-1, log=True),
    ] = 5e-3


class BarlowTwins(Objective):
    """``sum_d (1 - C_dd)^2 + lambda sum_{d != e} C_de^2``, C the correlations of the components of
    a with those of b.

    ``C = A^T B / n`` [D, D], the columns of A and B standardised over the batch. No row is compared
    with another: similarity, temperature and weights are not read.

    Source: Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction (ICML
    2021); variances have 1e-5 added, as in the authors' code. Departures: no projector (theirs has
    three layers of 8192, of images), and no gain in the normalisation.
    """

    Config = BarlowTwinsConfig
    of_both_sides = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        work = work_type(views.a, views.b)
        with full_precision(views.a):
            a, b = _standardised(views.a.to(work)), _standardised(views.b.to(work))
            c = a.t() @ b / len(a)
            diagonal = c.diagonal()
            # the sum off the diagonal as that of all less the diagonal would cancel
            off_diagonal = c - torch.diag_embed(diagonal)
            loss = (1 - diagonal).square().sum()
            loss = loss + self.config.redundancy * off_diagonal.square().sum()
        return Outcome.of_all(loss, len(a))


def _standardised(x: Tensor) -> Tensor:
    """``(x - mean) / sqrt(variance + 1e-5)`` of each component of [B, D] over the rows; 0 of a
    single row.
    """
    variance, mean = torch.var_mean(x, 0, correction=0)
    return (x - mean) * (variance + 1e-5).rsqrt()
