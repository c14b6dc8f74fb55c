"""``spmm(adj, x)``: sparse times dense, with gradients to both, by the backend that is fastest here."""

from __future__ import annotations

import importlib
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum

Backend = Literal["auto", "torch", "pyg", "dgl"]
#: what :func:`spmm` accepts: a matrix, or a product or sum of matrices that is never made
Operator = Csr | Chain | Sum

BACKENDS: tuple[Backend, ...] = ("torch", "pyg", "dgl")
# name -> file; "torch_" because a file torch.py would hide the package's name inside this folder
_FILES = {"torch": "torch_", "pyg": "pyg", "dgl": "dgl"}


class _BackendModule(Protocol):
    def product(self, adj: Csr, x: Tensor) -> Tensor: ...


def load_backend(name: Backend) -> _BackendModule:
    """The module of a backend, imported when it is first asked for.

    ``"auto"`` is ``"torch"``, the fastest of the three on CPU: with weights DGL needs ten times as long, without them
    both others up to twice.

    Raises:
        ImportError: its package is not installed or does not run here; says how to get it.
    """
    name = "torch" if name == "auto" else name
    return cast(_BackendModule, importlib.import_module(f"recgraph.sparse.backends.{_FILES[name]}"))


def spmm(adj: Operator, x: Tensor, backend: Backend = "auto") -> Tensor:
    """``A X``. Several entries at one place count each; a row without entries gives zeros.

    Gradients go to ``x``, and to ``adj.weights`` where they ask for one. On CPU the result is the same bit for bit
    whenever it is computed again.

    Args:
        adj: [R, C]; its weights are taken in the type of ``x``.
        x: [C, D] floating point, on the device of ``adj``.
        backend: ``"auto"``, ``"torch"``, ``"pyg"`` or ``"dgl"``; all agree to rounding.

    Returns:
        [R, D] of the type of ``x``.

    Raises:
        ValueError: shapes do not fit.
        ImportError: the backend's package is not installed.
    """
    if x.dim() != 2 or x.shape[0] != adj.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}; a matrix of shape {adj.shape} needs [{adj.shape[1]}, D]")
    if isinstance(adj, Csr):
        return load_backend(backend).product(adj, x)
    if isinstance(adj, Sum):
        parts = [c * spmm(term, x, backend) for c, term in zip(adj.coefficients, adj.terms, strict=True)]
        return sum(parts[1:], parts[0])
    x = x if adj.right is None else x * adj.right.to(x.dtype)[:, None]
    for factor in reversed(adj.factors):
        x = spmm(factor, x, backend)
    return x if adj.left is None else x * adj.left.to(x.dtype)[:, None]


def random_matrix(n_rows: int, n_cols: int, n_entries: int, generator: torch.Generator, weighted: bool = False) -> Csr:
    """Entries at uniform places, with weights uniform on [0, 1) or without."""
    where = generator.device
    rows = torch.randint(n_rows, (n_entries,), generator=generator, device=where)
    cols = torch.randint(n_cols, (n_entries,), generator=generator, device=where)
    weights = torch.rand(n_entries, generator=generator, device=where) if weighted else None
    return Csr.from_coo(rows, cols, weights, shape=(n_rows, n_cols))
