"""What a device does without the library: copies, matrix products, sparse products by torch."""

from __future__ import annotations

from typing import Any

import torch


def copies(options: dict[str, Any]) -> Any:
    """The copy bandwidth of a device: bytes read and bytes written."""
    source = torch.ones(options["mb"] * 2**18, device=options["device"])
    target = torch.empty_like(source)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            target.copy_(source)
        return {"GB": steps * 2 * source.numel() * source.element_size() / 1e9}

    return run


def matmul(options: dict[str, Any]) -> Any:
    """The matrix rate of a device: the three products of an N x N contrast, and nothing else."""
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


def square(options: dict[str, Any]) -> Any:
    """The matrix rate of a device in one type of numbers: products of square matrices by torch."""
    n, dtype = options["n"], getattr(torch, options["dtype"])
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, n, generator=draw).to(options["device"], dtype) for _ in range(2))
    out = torch.empty_like(x)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.mm(x, y, out=out)
        return {"GFLOP": steps * 2 * n**3 / 1e9}

    return run


def torch_spmm(options: dict[str, Any]) -> Any:
    """Sparse times dense as torch does it: a CSR tensor (cuSPARSE on CUDA, MKL on the host) and
    torch's autograd.
    """
    from experiments.bench.ours.graphs import matrix

    adj = matrix(options)
    a = torch.sparse_csr_tensor(
        adj.indptr, adj.indices, adj.values(), adj.shape, check_invariants=False
    )
    x = torch.ones(
        options["n_cols"],
        options["width"],
        device=options["device"],
        requires_grad=options["backward"],
    )
    grad = torch.ones(options["n_rows"], options["width"], device=options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            y = torch.sparse.mm(a, x)
            if options["backward"]:
                y.backward(grad)
                x.grad = None
        return {"products": float(steps)}

    return run
