"""Sparse times dense as torch does it: a CSR tensor (cuSPARSE on CUDA, MKL on the host) and torch's autograd."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "ours"))


def prepare(options: dict[str, Any]) -> Any:
    import spmm

    adj = spmm.matrix(options)
    a = torch.sparse_csr_tensor(adj.indptr, adj.indices, adj.values(), adj.shape, check_invariants=False)
    x = torch.ones(options["n_cols"], options["width"], device=options["device"], requires_grad=options["backward"])
    grad = torch.ones(options["n_rows"], options["width"], device=options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            y = torch.sparse.mm(a, x)
            if options["backward"]:
                y.backward(grad)
                x.grad = None
        return {"products": float(steps)}

    return run
