"""InfoNCE: rows of one view against all rows of the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from recgraph.contrast.objectives.base import Objective, ObjectiveConfig, Outcome, Views
from recgraph.contrast.similarity import Similarity
from recgraph.contrast.weights.base import Weight


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
