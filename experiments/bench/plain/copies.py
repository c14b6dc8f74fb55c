"""The copy bandwidth of a device: bytes read and bytes written."""

from __future__ import annotations

from typing import Any

import torch


def prepare(options: dict[str, Any]) -> Any:
    source = torch.ones(options["mb"] * 2**18, device=options["device"])
    target = torch.empty_like(source)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            target.copy_(source)
        return {"GB": steps * 2 * source.numel() * source.element_size() / 1e9}

    return run
