"""Is an attribution faithful: how the value changes without the events that it puts first, and with these alone.

The values are those of the model with events left out, so they judge all methods by leaving out. An attribution by
another notion of absence (a baseline vector, a similar item) is judged by a question that it did not ask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.explain.attribution.subject import Subject

__all__ = ["BINS", "N_POINTS", "Faithfulness", "faithfulness", "random_orders"]

#: steps of a curve, whose points are the shares 0, 1/10, ... 1 of the events
N_POINTS = 10
#: shares of the events, as in ERASER
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Faithfulness:
    """How the value of a recommended item follows an order of the events; all in units of the value.

    Attributes:
        deletion: the area under f(S without the first q H events) over q from 0 to 1, the mean value on the way: the
            lower, the sooner the order finds what the value rests on.
        insertion: the same of f(the first q H events alone): the higher, the sooner they suffice.
        comprehensiveness: the mean over shares r of 1, 5, 10, 20 and 50 % of ``f(S) - f(S without the first r H)``:
            higher is better.
        sufficiency: the mean over the same shares of ``f(S) - f(the first r H alone)``: lower is better.

    Source: deletion and insertion of Petsiuk, Das and Saenko, RISE (BMVC 2018); comprehensiveness and sufficiency of
    DeYoung et al., ERASER (ACL 2020), their areas over perturbation. Departures: f is the subject's quantity (both: a
    probability); curves have eleven points, trapezoids between; of ``r H`` events the ceiling is taken, so that
    at least one goes.
    """

    deletion: float
    insertion: float
    comprehensiveness: float
    sufficiency: float

    @classmethod
    def mean(cls, several: Sequence[Faithfulness]) -> Faithfulness:
        """The mean of each number."""
        return cls(*(sum(getattr(one, name) for one in several) / len(several) for name in cls.__annotations__))


def faithfulness(subject: Subject, target: int, orders: Tensor) -> list[Faithfulness]:
    """How faithful some orders of the events are for one target.

    Args:
        subject: gives the values.
        target: its place among the subject's targets.
        orders: [R, H] int64, each the places of all events, what matters most first.
    """
    n_events = subject.n_events
    by_share = [round(point * n_events / N_POINTS) for point in range(N_POINTS + 1)]
    by_bin = [min(math.ceil(share * n_events), n_events) for share in BINS]
    numbers = sorted({*by_share, *by_bin})
    place = {number: row for row, number in enumerate(numbers)}
    position = torch.argsort(orders, 1)
    gone_mask = position[:, None] < torch.tensor(numbers)[None, :, None]
    masks = torch.stack([~gone_mask, gone_mask])
    values = subject.values(masks.flatten(0, 2))[:, target].to(torch.float64)
    without, alone = values.view(2, len(orders), len(numbers))
    points, bins = [place[number] for number in by_share], [place[number] for number in by_bin]
    full = float(subject.full[target])
    return [
        Faithfulness(
            deletion=_area(without[row, points]),
            insertion=_area(alone[row, points]),
            comprehensiveness=full - float(without[row, bins].mean()),
            sufficiency=full - float(alone[row, bins].mean()),
        )
        for row in range(len(orders))
    ]


def _area(curve: Tensor) -> float:
    return float(torch.trapezoid(curve, dx=1 / N_POINTS))


def random_orders(n_events: int, n: int, generator: torch.Generator) -> Tensor:
    """[n, H] int64: orders of the events, drawn at random, with which an attribution is compared."""
    return torch.rand(n, n_events, generator=generator).argsort(1)
