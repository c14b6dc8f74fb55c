"""What an objective is: which rows are anchors, which are candidates, and what becomes of the positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Config, configure
from recgraph.contrast._one_pass import Candidacy, NoCandidateError, Weighing, contrast
from recgraph.contrast.similarity import Similarity
from recgraph.contrast.weights.base import Weight

__all__ = ["NoCandidateError", "Objective", "ObjectiveConfig", "Outcome", "Views"]


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
