"""MEOW's InfoNCE with cluster weights over all rows, blockwise, with gradients; counted as its matrix products."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster


def prepare(options: dict[str, Any]) -> Any:
    n, width, device = options["n_rows"], options["width"], options["device"]
    draw = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(n, width, generator=draw)).to(device).requires_grad_() for _ in range(2))
    weight = Cluster()
    weight.prepare(lambda: torch.stack([torch.randint(k, (n,), generator=draw) for k in (100, 300)]).to(device))
    term = ContrastiveTerm(
        temperature=0.4, objective="info_nce", objective_settings={"count_positive": False}, weight=weight
    )

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.autograd.grad(term(a, b), (a, b))
        return {"GFLOP": steps * 3 * 2 * n * n * width / 1e9}

    return run
