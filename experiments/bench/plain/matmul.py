"""The matrix rate of a device: the three products of an N x N contrast, and nothing else."""

from __future__ import annotations

from typing import Any

import torch


def prepare(options: dict[str, Any]) -> Any:
    n, width = options["n_rows"], options["width"]
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, width, generator=draw).to(options["device"]) for _ in range(2))
    s = torch.empty(n, n, device=options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.mm(x, y.t(), out=s)
            torch.mm(s, y)
            torch.mm(s.t(), x)
        return {"GFLOP": steps * 3 * 2 * n * n * width / 1e9}

    return run
