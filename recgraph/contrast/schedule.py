"""Temperatures that change as training goes on."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recgraph.contrast.views import Similarity

__all__ = ["ScheduledSimilarity", "TemperatureSchedule", "check_schedule"]

TemperatureSchedule = Literal["constant", "linear", "cosine"]


class ScheduledSimilarity(Similarity):
    """A similarity whose temperature tau depends on the epoch e, from ``temperature`` t0 and ``temperature_end`` t1.

    - ``linear``: ``t0 + (t1 - t0) min(e / T, 1)``, T ``temperature_epochs``;
    - ``cosine``: ``t1 + (t0 - t1) (1 + cos(2 pi e / T)) / 2``, from t0 to t1 and back in T epochs, again and again.

    The loss is aware of hardness: a low temperature spreads rows over the sphere and pushes the hardest candidates
    alone, a high one leaves groups of alike rows together (Wang and Liu, CVPR 2021). Source of the cosine: Kukleva et
    al., "Temperature Schedules for Self-Supervised Contrastive Methods on Long-Tail Data" (ICLR 2023), with t0 = 1,
    t1 = 0.1, T = 200 to 400. Departure: tau changes once an epoch.
    """

    temperature_schedule: TemperatureSchedule = "constant"
    temperature_end: Annotated[float | None, Field(gt=0)] = None
    temperature_epochs: Annotated[int, Field(ge=1)] = 100

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        check_schedule(self.temperature_schedule, self.temperature_end)
        return self

    def at(self, epoch: int | None) -> Similarity:
        """The similarity of an epoch, counted from 0.

        Raises:
            ValueError: the temperature is scheduled, and the epoch is not known.
        """
        if self.temperature_schedule == "constant":
            return self
        if epoch is None:
            raise ValueError(
                f"temperature_schedule = {self.temperature_schedule!r} needs the epoch; call the term with epoch=..., "
                "or use 'constant'"
            )
        assert self.temperature_end is not None
        start, end, share = self.temperature, self.temperature_end, epoch / self.temperature_epochs
        if self.temperature_schedule == "linear":
            now = start + (end - start) * min(share, 1)
        else:
            now = end + (start - end) * (1 + math.cos(2 * math.pi * share)) / 2
        return Similarity(similarity=self.similarity, temperature=now)


def check_schedule(schedule: str, end: float | None) -> None:
    """Refuse a schedule that lacks its second temperature, and a second temperature without a schedule.

    Raises:
        ValueError: that is so.
    """
    if schedule != "constant" and end is None:
        raise ValueError(f"temperature_schedule = {schedule!r} needs temperature_end, the temperature that it goes to")
    if schedule == "constant" and end is not None:
        raise ValueError(
            f"temperature_end = {end} has no effect without a schedule; give temperature_schedule='linear' or 'cosine'"
        )
