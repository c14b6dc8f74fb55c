"""Tolerance against a loop over pairs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recgraph.contrast.tolerance import tolerance


def test_tolerance() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(12, 4, generator=draw)
    classes = torch.tensor([0, 1, 1, 5, -1, 0, 1, 5, -1, 2, 0, 1])
    cosines = [
        float(F.cosine_similarity(x[i].double(), x[j].double(), dim=0))
        for i in range(12)
        for j in range(12)
        if i != j and classes[i] == classes[j] >= 0
    ]
    assert tolerance(x, classes) == pytest.approx(sum(cosines) / len(cosines))
    assert math.isnan(tolerance(x, torch.arange(12)))
    with pytest.raises(ValueError, match=r"classes \[3\] must be \[12\]"):
        tolerance(x, classes[:3])
