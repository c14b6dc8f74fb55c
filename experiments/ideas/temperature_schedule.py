"""A contrast whose temperature changes as training goes on."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.contrast.objectives import NTXent, ObjectiveConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight


class ScheduledNTXentConfig(ObjectiveConfig):
    schedule: Annotated[
        Literal["linear", "cosine"], Field(description="there, or there and back, again and again")
    ] = "cosine"
    temperature_end: Annotated[
        float, Field(gt=0, description="t1, the temperature that it goes to")
    ] = 0.1
    n_steps: Annotated[int, Field(ge=1, description="T, the steps of the schedule")] = 1000


@rg.register("objective", "scheduled_nt_xent")
class ScheduledNTXent(NTXent):
    """NT-Xent whose temperature depends on the step e, from ``temperature`` t0 to
    ``temperature_end`` t1.

    - ``linear``: ``t0 + (t1 - t0) min(e / T, 1)``;
    - ``cosine``: ``t1 + (t0 - t1) (1 + cos(2 pi e / T)) / 2``, from t0 to t1 and back in T steps,
      again and again.

    The loss is aware of hardness: a low temperature spreads rows over the sphere and pushes the
    hardest candidates alone, a high one leaves groups of alike rows together (Wang and Liu, CVPR
    2021). Source of the cosine: Kukleva et al., "Temperature Schedules for Self-Supervised
    Contrastive Methods on Long-Tail Data" (ICLR 2023), with t0 = 1, t1 = 0.1 and 200 to 400 epochs.
    """

    Config = ScheduledNTXentConfig
    step: Tensor

    def __init__(self, config: ScheduledNTXentConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        now = self.temperature(similarity.temperature, int(self.step))
        if self.training and torch.is_grad_enabled():
            self.step += 1
        return super().forward(
            views, Similarity(similarity=similarity.similarity, temperature=now), weight
        )

    def temperature(self, start: float, step: int) -> float:
        """That of a step, from 0."""
        end, share = self.config.temperature_end, step / self.config.n_steps
        if self.config.schedule == "linear":
            return float(start + (end - start) * min(share, 1))
        return float(end + (start - end) * (1 + math.cos(2 * math.pi * share)) / 2)
