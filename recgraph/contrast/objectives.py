"""How alike an anchor and a candidate are: ``s_ij = x_i . y_j`` after the similarity has shaped both sides.

What an objective is: which rows are anchors, which are candidates, and what becomes of the positive.

InfoNCE: rows of one view against all rows of the other.

NT-Xent: both views stacked, every row against all the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Config, Search, configure
from recgraph.contrast.blockwise import Candidacy, NoCandidateError, Weighing, contrast
from recgraph.contrast.weights import Weight

__all__ = ["NoCandidateError", "Objective", "ObjectiveConfig", "Outcome", "Similarity", "Views"]


class Similarity(Config):
    """Dot product or cosine over a temperature. It shapes rows, never pairs, so that no N x M tensor is made."""

    similarity: Annotated[
        Literal["dot", "cosine"], Field(description="inner product of the embeddings, or of their directions")
    ] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="what similarities are divided by"), Search(low=0.05, high=5, log=True)
    ] = 1.0

    def shape(self, anchors: Tensor, candidates: Tensor, temperatures: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two sides whose inner products are the similarities.

        Args:
            anchors: [N, D].
            candidates: [M, D].
            temperatures: [M], a temperature for each candidate in place of the common one (the concentrations
                of MEOW's prototypes).

        Returns:
            [N, D] and [M, D].
        """
        if self.similarity == "cosine":
            same = anchors is candidates
            anchors = F.normalize(anchors, dim=1)
            candidates = anchors if same else F.normalize(candidates, dim=1)
        if temperatures is not None:
            return anchors, candidates / temperatures[:, None]
        return (anchors if self.temperature == 1 else anchors * (1 / self.temperature)), candidates


class ObjectiveConfig(Config):
    count_positive: Annotated[bool, Field(description="whether the positive is one of the candidates")] = True
    weigh_positive: Annotated[
        bool, Field(description="whether a counted positive carries its weight, or counts fully")
    ] = False
    block_rows: Annotated[
        int | None, Field(ge=1, description="anchors in memory at once; None picks by the size of the cache")
    ] = None


@dataclass(frozen=True)
class Views:
    """The two sides of a contrastive term.

    Attributes:
        a, b: [N, D] and [M, D].
        ids_a, ids_b: [N] and [M] int64, who the rows are; weights alone look at them.
        positives: [N] int64, the row of ``b`` that belongs to each row of ``a``; None: the one of the same number.
        temperatures: [M], one for each row of ``b``; None: the similarity's.
    """

    a: Tensor
    b: Tensor
    ids_a: Tensor
    ids_b: Tensor
    positives: Tensor | None = None
    temperatures: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """A scalar loss, the number of anchors, and how many of them had no candidate (int64 scalar)."""

    loss: Tensor
    n_anchors: int
    left_out: Tensor


class Objective(nn.Module):
    """Base of all objectives: ``loss_i = logsumexp_{j in C_i}(s_ij + log_w_ij) - s_i,pos(i)``, mean over i.

    A subclass sets ``Config`` and fills :meth:`forward`, in which it calls :meth:`one` for each direction.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[ObjectiveConfig]] = ObjectiveConfig

    def __init__(self, config: ObjectiveConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        """The mean loss.

        Raises:
            ValueError: the views do not fit the objective, or no anchor has a candidate (:class:`NoCandidateError`).
        """
        raise TypeError(f"{type(self).__name__} must define forward(views, similarity, weight)")

    def one(
        self, views: Views, similarity: Similarity, weight: Weight | None, excluded: Tensor | None = None
    ) -> Outcome:
        """Rows of ``views.a`` against rows of ``views.b``.

        Args:
            excluded: [N] int64, a row of ``b`` that is no candidate of that row of ``a``.
        """
        n = views.a.shape[0]
        positives = views.positives
        if positives is None:
            positives = torch.arange(n, device=views.a.device)
        x, y = similarity.shape(views.a, views.b, views.temperatures)
        weighing = None
        if weight is not None:
            weighing = Weighing(weight, views.ids_a, views.ids_b, views.a, views.b)
        config = self.config
        candidacy = Candidacy(positives, excluded, config.count_positive, config.weigh_positive)
        loss, left_out = contrast(x, y, candidacy, weighing, config.block_rows)
        return Outcome(loss, n, left_out)


class InfoNCEConfig(ObjectiveConfig):
    both_directions: Annotated[
        bool, Field(description="also rows of b against all of a, and the mean of the two losses")
    ] = False


class InfoNCE(Objective):
    """Anchors ``a``, candidates ``b``: C_i is all of ``b``, with or without the positive.

    Source: van den Oord et al., 2018, equation 4. MEOW's loss (SDM 2023) has ``count_positive=False``, AdaMEOW's
    ``weigh_positive=True``; with ``positives`` and ``temperatures`` the candidates may be prototypes.
    """

    Config = InfoNCEConfig

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        paired = views.positives is None
        if paired and views.a.shape[0] != views.b.shape[0]:
            raise ValueError(
                f"a has {views.a.shape[0]} rows and b {views.b.shape[0]}; give positives, the row of b for each of a"
            )
        there = self.one(views, similarity, weight)
        if not self.config.both_directions:
            return there
        if not paired or views.temperatures is not None:
            raise ValueError("both_directions = True needs rows in pairs; leave positives and temperatures out")
        turned = replace(views, a=views.b, b=views.a, ids_a=views.ids_b, ids_b=views.ids_a)
        back = self.one(turned, similarity, weight)
        loss = (there.loss + back.loss) / 2
        return Outcome(loss, there.n_anchors + back.n_anchors, there.left_out + back.left_out)


class NTXent(Objective):
    """``a`` and ``b`` stacked to 2B rows; C_i is all rows but i itself, the positive its partner in the other view.

    Source: Chen et al., ICML 2020 (SimCLR), equation 1; the mean is over the 2B rows. With inner products this is
    the loss of CL4SRec, DuoRec and MCLRec.
    """

    Config = ObjectiveConfig

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        n = views.a.shape[0]
        if views.a.shape != views.b.shape or views.positives is not None or views.temperatures is not None:
            raise ValueError(
                f"a {list(views.a.shape)} and b {list(views.b.shape)} must be of one shape, row i of the one the "
                "partner of row i of the other, without positives and temperatures of their own"
            )
        z, ids = torch.cat([views.a, views.b]), torch.cat([views.ids_a, views.ids_b])
        own = torch.arange(2 * n, device=z.device)
        stacked = Views(z, z, ids, ids, positives=own.roll(n))
        return self.one(stacked, similarity, weight, excluded=own)
