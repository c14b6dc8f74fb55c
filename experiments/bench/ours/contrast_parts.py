"""A contrast of N rows with N by a term of any parts, with gradients; counted in pairs of the N rows.

Rows of a queue are candidates besides: they are not counted.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from recgraph.contrast.term import ContrastiveTerm

TAU = 0.2


def prepare(options: dict[str, Any]) -> Any:
    n, width, device = options["n_rows"], options["width"], options["device"]
    draw = torch.Generator().manual_seed(0)
    a, b = (F.normalize(torch.randn(n, width, generator=draw)).to(device).requires_grad_() for _ in range(2))
    if options["term"] is None:  # all pairs at once
        same = torch.arange(n, device=device)

        def loss() -> torch.Tensor:
            return F.cross_entropy(F.normalize(a, dim=1) @ F.normalize(b, dim=1).t() / TAU, same)
    else:
        settings = {"similarity": "cosine", "temperature": TAU, "objective": "info_nce", **options["term"]}
        term = ContrastiveTerm(dim=width, **settings).to(device)
        clusters = torch.stack([torch.randint(k, (n,), generator=draw) for k in (10, 30)]).to(device)
        term.prepare(lambda: clusters)
        ids, is_queued = torch.arange(n, device=device), "queue_size" in options["term"]

        def loss() -> torch.Tensor:
            if is_queued:  # other rows than those of the step before
                ids.add_(n)
            value: torch.Tensor = term(a, b, ids, generator=draw)
            return value

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.autograd.grad(loss(), (a, b))
        return {"pairs": float(steps * n * n)}

    return run
