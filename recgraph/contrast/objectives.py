"""Contrastive objectives: which rows are anchors, which are their candidates, and what becomes of the positive.

Each is ``loss_i = logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)``, the mean over anchors i; the similarity s and
the weights w are parts of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import compiled, full_precision, is_accelerated
from recgraph.blocks import work_type
from recgraph.config import Config
from recgraph.contrast.blockwise import Candidates, NoCandidateError, contrast
from recgraph.contrast.drawn import contrast_drawn
from recgraph.contrast.mixtures import contrast_mixed
from recgraph.contrast.part import Part
from recgraph.contrast.views import Outcome, Pairs, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.pair_products import pair_products
from recgraph.sparse.ragged import Ragged

__all__ = ["InfoNCE", "NTXent", "NoCandidateError", "Objective", "ObjectiveConfig", "Outcome", "Similarity", "Views"]


BlockRows = Annotated[
    int | None, Field(ge=1, description="anchors in memory at once; None picks by the size of the cache")
]


class ObjectiveBaseConfig(Config):
    """Settings of an objective."""


class ObjectiveConfig(ObjectiveBaseConfig):
    count_positive: Annotated[bool, Field(description="whether the positive is one of the candidates")] = True
    weigh_positive: Annotated[
        bool, Field(description="whether a counted positive carries its weight, or counts fully")
    ] = False
    n_candidates: Annotated[
        int | None,
        Field(
            ge=1,
            description="candidates that are drawn at each step, for all anchors the same, to estimate the sum over "
            "all; None takes all",
        ),
    ] = None
    if_none: Annotated[
        Literal["error", "zero"],
        Field(description="where no anchor has a candidate: an error, or the loss 0 of a step without a contrast"),
    ] = "error"
    block_rows: BlockRows = None


class Objective(Part):
    """Base of all objectives. A subclass fills :meth:`forward`, which calls :meth:`softmax` for each direction."""

    Config: ClassVar[type[ObjectiveBaseConfig]] = ObjectiveConfig
    #: whether :meth:`forward` can compute a share of the anchors; it is given none otherwise
    splits: ClassVar[bool] = False
    #: whether both views must have the same rows, so that there can be no further candidates
    needs_pairs: ClassVar[bool] = False
    #: whether the rows of both views are anchors alike, so that the loss of the views in turn is the same
    of_both_sides: bool = False
    #: whether :meth:`forward` reads ``views.further``; of others the term takes the mean over the pairs of views
    joint: ClassVar[bool] = False
    #: whether it draws whatever its settings are, so that it is given a generator
    draws: ClassVar[bool] = False
    #: what :meth:`forward` reads of the similarity
    reads: ClassVar[frozenset[str]] = frozenset({"similarity", "temperature"})
    #: whether rows are compared with candidates, which a weight can weigh
    pairwise: ClassVar[bool] = True
    #: whether it needs all candidates, as they are: neither mixtures nor some that are drawn
    as_they_are: ClassVar[bool] = False
    #: whether :meth:`forward` reads ``views.slow``; for others side b is that of the slow copy, where there is one
    reads_slow: ClassVar[bool] = False

    def __init__(self, config: ObjectiveBaseConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self._compiled: Callable[..., Tensor] | None = None

    def offer(self, prototypes: Callable[[], Sequence[Tensor]]) -> None:
        """Called before use by models that cluster what they contrast; an objective that reads prototypes takes them.

        Args:
            prototypes: makes [k, D], the centroids, of each granularity.
        """

    def project(self, x: Tensor) -> Tensor:
        """[N, D'] of a side [N, D]: what the loss compares; of most objectives the side as it is."""
        return x

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile the loss of anchors whose positive counts and whose candidates have no weights, as one graph, which
        holds all N x M similarities; it is used on accelerators alone."""
        self._compiled = compiled(_cross_entropy, backend)

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        """The mean loss.

        Raises:
            ValueError: the views do not fit the objective, or no anchor has a candidate (:class:`NoCandidateError`,
                with ``if_none="error"``).
        """
        raise TypeError(f"{type(self).__name__} must define forward(views, similarity, weight)")

    def softmax(
        self,
        views: Views,
        similarity: Similarity,
        weight: Weight | None,
        excluded: Tensor | None = None,
        own: Tensor | None = None,
        kept: Tensor | None = None,
    ) -> Outcome:
        """The loss of the rows of ``views.a`` as anchors, those of ``views.b`` as candidates, one positive each.

        With ``n_candidates`` below M the sum over candidates is estimated, see
        :func:`recgraph.contrast.drawn.contrast_drawn`.

        Args:
            excluded: [N] int64, a row of ``b`` that is no candidate of that row of ``a``.
            own: [n] int64, with a share, the anchors of this rank; default: as the share has them.
            kept: [N] bool, written here: which anchors have a candidate and count; only without a share.

        Raises:
            ValueError: candidates are to be drawn, and there is no generator; or an anchor has several positives.
        """
        a, ids_a, labels, positives = views.a, views.ids_a, views.labels_a, views.positives
        if positives is None:
            positives = torch.arange(len(a), device=a.device)
        if isinstance(positives, Ragged):
            raise ValueError(
                f"{type(self).__name__} has one positive for each anchor, and this contrast has several; use one "
                "(n_positives = 1), or an objective that takes several, such as 'info_nce'"
            )
        if views.share is not None:
            own = torch.arange(len(a), device=a.device)[views.share.rows] if own is None else own
            a, ids_a, positives = a.index_select(0, own), ids_a[own], positives[own]
            excluded = None if excluded is None else excluded[own]
            labels = None if labels is None else labels[own]
            views = replace(views, labels_a=labels)
        config = self.config
        candidates = Candidates(positives, excluded, config.count_positive, config.weigh_positive, kept=kept)
        # a batch of one sample has nothing else to contrast it with
        required = config.if_none == "error" and len(views.b) > candidates.barred.shape[1]
        candidates = replace(candidates, required=required)
        pairs: Pairs | None = None
        if weight is not None:
            over = similarity.over_cosines(views.temperatures)
            pairs = Pairs(ids_a, views.ids_b, a, views.b, labels, views.labels_b, over)
        work = work_type(a, views.b)
        # products under autocast would be rounded to half precision, as directions of half precision are
        with full_precision(a):
            x, y = similarity.shape(a.to(work), views.b.to(work), views.temperatures)
            loss, left_out = self.evaluate(x, y, candidates, weight, pairs, views)
        if not required:
            loss = torch.where(left_out < len(a), loss, 0)
        return Outcome(loss if views.share is None else loss * views.share.weight, len(a), left_out)

    def evaluate(
        self, x: Tensor, y: Tensor, candidates: Candidates, weight: Weight | None, pairs: Pairs | None, views: Views
    ) -> tuple[Tensor, Tensor]:
        """The mean loss over anchors x [N, D], shaped by the similarity, and how many of them had no candidate.

        Both sides are at least float32, and ``x @ y.T`` are the cosines of ``pairs`` over its temperature, if any.
        """
        block_rows, n_candidates = self.config.block_rows, self.config.n_candidates
        if views.mixture is not None:
            mixed = views.mixture(x, y, candidates, views)
            if pairs is not None and mixed.y is not y:
                pairs = replace(pairs, temperature=None)
            return contrast_mixed(x, mixed, candidates, weight, pairs, block_rows)
        if n_candidates is not None and n_candidates < len(y):
            return contrast_drawn(x, y, self._draw(views), candidates, weight, pairs, block_rows)
        if self._compiled is not None and is_accelerated(x) and weight is None and self.config.count_positive:
            loss = self._compiled(x, y, candidates.positives, candidates.excluded)
            return loss, torch.zeros((), dtype=torch.int64, device=x.device)
        return contrast(x, y, candidates, weight, pairs, block_rows)

    def _draw(self, views: Views) -> Tensor:
        """[K] int64: different rows of ``b``, ascending, all choices equally likely."""
        generator = views.generator
        if generator is None:
            raise ValueError(
                f"n_candidates = {self.config.n_candidates} of {len(views.b)} needs a generator to draw with; give the "
                "term generator=..., or leave n_candidates out"
            )
        order = torch.randperm(len(views.b), generator=generator, device=generator.device)
        return order[: self.config.n_candidates].sort().values.to(views.b.device)


def _cross_entropy(x: Tensor, y: Tensor, positives: Tensor, excluded: Tensor | None) -> Tensor:
    """The mean over anchors of ``logsumexp_j(s_ij) - s_i,pos(i)``, s = x @ y.T without the excluded columns."""
    scores = x @ y.t()
    if excluded is not None:
        scores = scores.scatter(1, excluded[:, None], -torch.inf)
    return F.cross_entropy(scores, positives)


def refuse_unpaired(views: Views) -> None:
    """Refuse views whose rows are not in pairs.

    Raises:
        ValueError: their shapes differ, or they have positives or temperatures of their own.
    """
    if views.a.shape != views.b.shape or views.positives is not None or views.temperatures is not None:
        raise ValueError(
            f"a {list(views.a.shape)} and b {list(views.b.shape)} must be of one shape, row i of the one the "
            "partner of row i of the other, without positives and temperatures of their own"
        )


class InfoNCEConfig(ObjectiveConfig):
    both_directions: Annotated[
        bool, Field(description="also rows of b against all of a, and the mean of the two losses")
    ] = False


class InfoNCE(Objective):
    """``-log(e^{s_ip} / sum_j w_ij e^{s_ij})``: anchors ``a``, candidates all rows of ``b``.

    Source: van den Oord et al., 2018, equation 4. MEOW's loss (SDM 2023) has ``count_positive=False``, AdaMEOW's
    ``weigh_positive=True``; with ``positives`` and ``temperatures`` the candidates may be prototypes. An anchor with
    several positives P_i has ``-log(sum_{p in P_i} e^{s_ip} / sum_j w_ij e^{s_ij})``, as HeCo's (KDD 2021, equation
    10).
    """

    Config = InfoNCEConfig
    splits = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        paired = views.positives is None
        if paired and len(views.a) != len(views.b):
            raise ValueError(
                f"a has {len(views.a)} rows and b {len(views.b)}; give positives, the row of b for each of a"
            )
        if isinstance(views.positives, Ragged):
            there = self._several(views, views.positives, similarity, weight)
        else:
            there = self.softmax(views, similarity, weight)
        if not self.config.both_directions:
            return there
        if not paired or views.temperatures is not None:
            raise ValueError("both_directions = True needs rows in pairs; leave positives and temperatures out")
        back = self.softmax(views.turned, similarity, weight)
        loss = (there.loss + back.loss) / 2
        return Outcome(loss, there.n_anchors + back.n_anchors, there.left_out + back.left_out)

    def _several(self, views: Views, positives: Ragged, similarity: Similarity, weight: Weight | None) -> Outcome:
        """The denominator is that of one positive, the row of the same number; the numerator is summed over all."""
        if len(views.a) != len(views.b):
            raise ValueError(f"a has {len(views.a)} rows and b {len(views.b)}; several positives need rows in pairs")
        if views.mixture is not None:
            raise ValueError("a mixture needs one positive for each anchor; this contrast has several")
        kept = torch.ones(len(views.a), dtype=torch.bool, device=views.a.device)
        of_one = self.softmax(replace(views, positives=None, share=None), similarity, weight, kept=kept)
        work = work_type(views.a, views.b)
        with full_precision(views.a):
            x, y = similarity.shape(views.a.to(work), views.b.to(work), views.temperatures)
            own = torch.linalg.vecdot(x, y)
            s = pair_products(x, y, positives, self.config.block_rows)
            # the greatest of each row is taken out first, so that no exponent overflows
            peak = torch.segment_reduce(s.detach(), "max", offsets=positives.offsets)
            total = torch.zeros_like(own).index_add(0, positives.rows, (s - peak[positives.rows]).exp())
            # the mean over the same anchors as that of the denominators
            numerator = torch.where(kept, own - peak - total.log(), 0).sum() / kept.sum().clamp(min=1)
        return replace(of_one, loss=of_one.loss + numerator)


class NTXent(Objective):
    """``-log(e^{s_ip} / sum_{j != i} w_ij e^{s_ij})``: ``a`` and ``b`` stacked to 2B rows, each against all others.

    Source: Chen et al., ICML 2020 (SimCLR), equation 1; the mean is over the 2B rows. With inner products this is the
    loss of CL4SRec, DuoRec and MCLRec.
    """

    needs_pairs = True
    of_both_sides = True
    splits = True

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        refuse_unpaired(views)
        z, ids = torch.cat([views.a, views.b]), torch.cat([views.ids_a, views.ids_b])
        places = torch.arange(len(z), device=z.device)
        partners = places.roll(len(views.a))
        # a rank's anchors are its rows of both views
        own = None if views.share is None else places.view(2, -1)[:, views.share.rows].flatten()
        labels = None
        if views.labels_a is not None and views.labels_b is not None:
            labels = torch.cat([views.labels_a, views.labels_b])
        twice: dict[str, Any] = {"ids_a": ids, "ids_b": ids, "labels_a": labels, "labels_b": labels}
        stacked = replace(views, a=z, b=z, positives=partners, **twice)
        return self.softmax(stacked, similarity, weight, excluded=places, own=own)
