"""The gap between two sides against loops and on sides whose gap is known, and what closes it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_non_contrastive import two
from torch import Tensor

from recgraph.contrast.gap import CrossUniformity, MeanGap, gap
from recgraph.contrast.term import ContrastiveTerm


def cones(distance: float, n: int = 200, d: int = 8) -> tuple[Tensor, Tensor]:
    """Two clouds whose centres lie that far apart."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, n, d, generator=draw, dtype=torch.float64).unbind(0)
    b[:, 0] += distance
    return a, b


def test_cross_uniformity_is_a_loop_over_pairs() -> None:
    a, b = two()
    x, y = (F.normalize(side, dim=1) for side in (a, b))
    pairs = [math.exp(-3 * float((x[i] - y[j]).square().sum())) for i in range(len(x)) for j in range(len(y)) if i != j]
    expected = math.log(sum(pairs) / len(pairs))
    assert float(CrossUniformity(t=3.0)(a, b)) == pytest.approx(expected, rel=1e-12)


def test_distance_and_cosines_are_loops_over_rows() -> None:
    a, b = two()
    x, y = (F.normalize(side, dim=1).tolist() for side in (a, b))
    centres = [[sum(column) / len(side) for column in zip(*side, strict=True)] for side in (x, y)]
    squared = sum((p - q) ** 2 for p, q in zip(*centres, strict=True))
    assert float(MeanGap()(a, b)) == pytest.approx(squared, rel=1e-12)
    found = gap(a, b)
    assert found.distance == pytest.approx(math.sqrt(squared), rel=1e-12)
    within = [
        sum(sum(p * q for p, q in zip(u, v, strict=True)) for u in s for v in t) / 49
        for s, t in ((x, x), (y, y), (x, y))
    ]
    assert found.cosines == pytest.approx(within, rel=1e-12)


def test_separability_tells_sides_that_lie_alike_from_sides_apart() -> None:
    alike, near, apart = (gap(*cones(distance)) for distance in (0.0, 1.0, 12.0))
    assert alike.separability == pytest.approx(0.5, abs=0.08)
    assert alike.separability < near.separability < 1
    assert apart.separability > 0.9
    assert alike.distance < near.distance < apart.distance
    a, b = cones(24.0)
    a[:, 0] -= 12
    b[:, 0] -= 12
    assert gap(a, b).separability == 1
    # the same side twice cannot be told apart
    assert gap(a, a).separability == pytest.approx(0.5, abs=0.02)
    assert gap(a, b).separability == gap(b, a).separability


@pytest.mark.parametrize("closing", [{"regularisers": {"mean_gap": 5.0}}, {"transform": "centre"}])
def test_it_can_be_closed(closing: dict[str, Any]) -> None:
    """Two clouds apart are moved by the contrast alone, and with what closes the gap."""
    found = []
    for settings in ({}, closing):
        sides = [x.detach().clone().requires_grad_() for x in cones(4.0, n=24)]
        term = ContrastiveTerm(objective="info_nce", similarity="cosine", temperature=0.2, **settings)
        optimiser = torch.optim.SGD(sides, lr=5.0)
        for _ in range(30):
            optimiser.zero_grad()
            term(*sides).backward()
            optimiser.step()
        # what is contrasted is what the transform makes of the sides
        fixed = [x.detach() - ("transform" in settings) * x.detach().mean(0) for x in sides]
        found.append(gap(*fixed).distance)
    assert found[1] < found[0]


def test_what_cannot_be_measured_is_refused() -> None:
    a, b = two()
    with pytest.raises(ValueError, match="four rows or more"):
        gap(a, b[:3])
    with pytest.raises(ValueError, match="four rows or more"):
        gap(a, b[:, :2])
