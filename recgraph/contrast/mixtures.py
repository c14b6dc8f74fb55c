"""Mixtures: candidates that are made from candidates, beside those that are there or in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recgraph.blocks import row_blocks, work_type
from recgraph.config import Config
from recgraph.contrast.blockwise import Candidates, refuse_no_candidate
from recgraph.contrast.log_sums import log_sums
from recgraph.contrast.part import Part
from recgraph.contrast.views import Pairs, Views
from recgraph.contrast.weights import Weight

__all__ = ["Mixed", "Mixture", "MixtureConfig", "contrast_mixed", "generator_of", "mean_loss", "of_positives"]


@dataclass(frozen=True)
class Mixed:
    """What a mixture makes of a contrast of N anchors with M candidates.

    Attributes:
        y: [M, D], what the anchors are compared with in the place of the candidates; row j keeps the weight of
            candidate j.
        positive: [N, D], what an anchor is compared with in the place of its positive; None: ``y[positives]``.
        further: [N, S, D], further candidates of each anchor; None: there are none.
        further_log_w: [N, S], their log-weights; None: 0.
        barred: [N, B] int64, columns of ``y`` that are no candidates of an anchor beside those that it has barred
            already; None: there are none.
    """

    y: Tensor
    positive: Tensor | None = None
    further: Tensor | None = None
    further_log_w: Tensor | None = None
    barred: Tensor | None = None


class MixtureConfig(Config):
    """Settings of a mixture."""


class Mixture(Part):
    """Base of all mixtures. A subclass sets ``Config`` and fills :meth:`forward`."""

    Config: ClassVar[type[MixtureConfig]] = MixtureConfig

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        """The candidates that the anchors are compared with.

        Args:
            x: [N, D], anchors, shaped by similarity and temperature: ``x @ y.T`` are the similarities.
            y: [M, D], candidates.
            candidates: which columns are positives and which are no candidates.
            views: the sides as the objective has them, for ids, epoch and :func:`generator_of`; ``labels_a`` and
                ``labels_b`` are of the rows of x and y.
        """
        raise TypeError(f"{type(self).__name__} must define forward(x, y, candidates, views)")


def generator_of(views: Views) -> torch.Generator:
    """What a mixture draws with. Of several ranks, whose shares differ in size, each has one of its own.

    Raises:
        ValueError: the term was given no generator.
    """
    generator = views.generator
    if generator is None:
        raise ValueError("a mixture draws, and the term was given no generator; call it with generator=...")
    if views.share is None:
        return generator
    # all ranks draw the seed, so that their common stream stays the same
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed) + views.share.index)


def contrast_mixed(
    x: Tensor,
    mixed: Mixed,
    candidates: Candidates,
    weight: Weight | None = None,
    pairs: Pairs | None = None,
    block_rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """As :func:`recgraph.contrast.blockwise.contrast`, of candidates that a mixture has made.

    ``loss_i = log(sum_{j in C_i} w_ij e^{x_i . y_j} + sum_s v_is e^{x_i . f_is}) - x_i . p_i``, with the further
    candidates f and their weights v, and the mixed positive p, also where it is counted.

    Returns:
        The scalar loss, differentiable once, and how many anchors had no candidate and were left out (int64 scalar).

    Raises:
        NoCandidateError: every anchor was left out; on an accelerator as
            :func:`recgraph.contrast.blockwise.contrast`.
    """
    work = work_type(x, mixed.y)
    x, y, places = x.to(work), mixed.y.to(work), candidates.positives
    positive = y.index_select(0, places) if mixed.positive is None else mixed.positive.to(work)
    own = torch.linalg.vecdot(x, positive)
    barred = candidates.barred if mixed.barred is None else torch.cat([candidates.barred, mixed.barred], 1)
    sums = [log_sums(x, y, barred, weight, pairs, block_rows)]
    if mixed.further is not None:
        further = torch.einsum("nd,nsd->ns", x, mixed.further.to(work))
        log_v = mixed.further_log_w
        t = further if log_v is None else further + log_v
        # of an anchor without any, the logarithm has no gradient
        exists = (t != -torch.inf).any(1)
        sums.append(torch.where(exists, torch.where(exists[:, None], t, 0).logsumexp(1), -torch.inf))
    if candidates.count_positive:
        weighed = weight is not None and pairs is not None and candidates.weigh_positive
        sums.append(own + of_positives(weight, pairs, places, block_rows) if weighed else own)  # type: ignore[arg-type]
    return mean_loss(candidates, x, sums, own)


def mean_loss(candidates: Candidates, x: Tensor, sums: Sequence[Tensor], own: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over anchors of ``log sum_k e^{sums_k} - own``, without those that have no candidate.

    Args:
        x: [N, D], the anchors.
        sums: [N] each, logarithms of parts of the sum over candidates; ``-inf`` where a part has none.
        own: [N], the similarities to the positives.

    Returns:
        The scalar loss, and how many anchors were left out (int64 scalar).

    Raises:
        NoCandidateError: every anchor was left out, see :func:`recgraph.contrast.blockwise.contrast`.
    """
    stacked = torch.stack(list(sums))
    keep_mask = (stacked != -torch.inf).any(0)
    # an anchor without any is left out of the mean: its logarithm has no gradient
    total = torch.where(keep_mask, stacked, 0).logsumexp(0)
    counted = keep_mask.sum()
    refuse_no_candidate(candidates, x, counted)
    return torch.where(keep_mask, total - own, 0).sum() / counted, len(x) - counted


def of_positives(weight: Weight, pairs: Pairs, places: Tensor, block_rows: int | None = None) -> Tensor:
    """[N], the log-weight of each anchor's positive, by blocks of anchors, which backward computes again."""
    work = work_type(pairs.anchors, pairs.candidates)
    anchors, candidates = pairs.anchors.to(work), pairs.candidates.to(work)

    def of_block(rows: slice, anchors: Tensor, candidates: Tensor) -> Tensor:
        chosen = places[rows]
        labels = None if pairs.candidate_labels is None else pairs.candidate_labels[chosen]
        block = replace(pairs.block(rows, anchors, candidates), labels_beside=labels)
        return weight.log_w_beside(block, pairs.candidate_ids[chosen], candidates.index_select(0, chosen))[1]

    return torch.cat(
        [
            checkpoint(of_block, rows, anchors[rows], candidates, use_reentrant=False, preserve_rng_state=False)
            for rows in row_blocks(len(anchors), len(candidates), anchors, block_rows)
        ]
    )
