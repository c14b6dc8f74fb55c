"""``spmm(adj, x)``: sparse times dense, the one entry of the library, with gradients to both."""

from __future__ import annotations

import importlib
from typing import Literal, Protocol, cast

from torch import Tensor

from recgraph.sparse.chain import Chain
from recgraph.sparse.csr import Csr
from recgraph.sparse.linear_sum import Sum

__all__ = ["BACKENDS", "Backend", "Operator", "load_backend", "spmm"]

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
    both others up to twice (:mod:`recgraph.sparse.timing` measures on your machine).

    Raises:
        ValueError: there is no such backend.
        ImportError: its package is not installed or does not run here; says how to get it.
    """
    name = "torch" if name == "auto" else name
    if name not in _FILES:
        raise ValueError(f"backend = {name!r} must be 'auto' or one of {', '.join(BACKENDS)}")
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
        ValueError: shapes or devices do not fit, or there is no such backend.
        ImportError: the backend's package is not installed.
    """
    if x.dim() != 2 or x.shape[0] != adj.shape[1]:
        raise ValueError(f"x has shape {tuple(x.shape)}; a matrix of shape {adj.shape} needs [{adj.shape[1]}, D]")
    if adj.device != x.device:
        raise ValueError(f"adj is on {adj.device} and x on {x.device}; move one of them with .to(...)")
    if isinstance(adj, Csr):
        return load_backend(backend).product(adj, x)
    if isinstance(adj, Sum):
        parts = [c * spmm(term, x, backend) for c, term in zip(adj.coefficients, adj.terms, strict=True)]
        return sum(parts[1:], parts[0])
    x = x if adj.right is None else x * adj.right.to(x.dtype)[:, None]
    for factor in reversed(adj.factors):
        x = spmm(factor, x, backend)
    return x if adj.left is None else x * adj.left.to(x.dtype)[:, None]
