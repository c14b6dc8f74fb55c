"""Sparse times dense, forward or with its backward, by one of the backends."""

from __future__ import annotations

from typing import Any

import torch

from experiments.bench.work import product_bytes
from recgraph.sparse.csr import Csr, random_matrix
from recgraph.sparse.spmm import spmm


def matrix(options: dict[str, Any]) -> Csr:
    """The matrix that both sides multiply with, with weights."""
    shape = (options["n_rows"], options["n_cols"], options["n_entries"])
    adj = random_matrix(*shape, torch.Generator().manual_seed(0), weighted=True)
    return adj.to(options["device"])


def gigabytes(options: dict[str, Any]) -> float:
    """Of one product, and of its backward, which is one with the transposed matrix."""
    n_rows = [options["n_rows"], *([options["n_cols"]] if options["backward"] else [])]
    return sum(product_bytes(count, options["n_entries"], options["width"]) for count in n_rows) / 1e9


def prepare(options: dict[str, Any]) -> Any:
    adj = matrix(options)
    x = torch.ones(options["n_cols"], options["width"], device=options["device"], requires_grad=options["backward"])
    grad = torch.ones(options["n_rows"], options["width"], device=options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            y = spmm(adj, x, options["backend"])
            if options["backward"]:
                y.backward(grad)
                x.grad = None
        return {"products": float(steps), "GB": steps * gigabytes(options)}

    return run
