"""The matrix rate of a device in one type of numbers: products of square matrices, as torch makes them by default."""

from __future__ import annotations

from typing import Any

import torch


def prepare(options: dict[str, Any]) -> Any:
    n, dtype = options["n"], getattr(torch, options["dtype"])
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, n, generator=draw).to(options["device"], dtype) for _ in range(2))
    out = torch.empty_like(x)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.mm(x, y, out=out)
        return {"GFLOP": steps * 2 * n**3 / 1e9}

    return run
