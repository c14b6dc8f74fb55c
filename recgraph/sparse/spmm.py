"""``spmm(adj, x)``: sparse times dense, with gradients to both, by the backend that is fastest here."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from recgraph.ranks import WHOLE, Share
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum

__all__ = [
    "BACKENDS",
    "Backend",
    "Layered",
    "Operator",
    "Timing",
    "load_backend",
    "random_matrix",
    "spmm",
    "time_backends",
]


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
    both others up to twice (:mod:`recgraph.sparse.spmm` measures on your machine).

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


@dataclass(frozen=True, eq=False)
class Layered:
    """What sampled neighbourhoods need: the last layer has rows for the batch alone, the one before for what those see.

    Attributes:
        layers: in the order in which they are applied; the rows of each are the columns of the next.
        share: which of the rows of a batch these are, where several ranks divide it: an encoder gathers those of all
            ranks behind its last layer.
    """

    layers: tuple[Operator, ...]
    share: Share = WHOLE

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that come out, rows that go in."""
        return self.layers[-1].shape[0], self.layers[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Layered:
        """On a device, with weights of a type."""
        return Layered(tuple(layer.to(device, dtype) for layer in self.layers), self.share)


@dataclass(frozen=True)
class Timing:
    """What one backend needs for ``spmm``.

    Attributes:
        forward_ms, backward_ms: the shortest of the repeats, in milliseconds; the backward is the gradient to ``x``. On
            CPU with one thread it is CPU time, which other processes disturb little, else wall time. None where the
            backend does not run.
        problem: why it does not run, or ``""``.
    """

    backend: str
    forward_ms: float | None
    backward_ms: float | None
    problem: str = ""

    @property
    def total_ms(self) -> float | None:
        """Forward and backward."""
        if self.forward_ms is None or self.backward_ms is None:
            return None
        return self.forward_ms + self.backward_ms


def random_matrix(n_rows: int, n_cols: int, n_entries: int, generator: torch.Generator, weighted: bool = False) -> Csr:
    """Entries at uniform places, with weights uniform on [0, 1) or without."""
    where = generator.device
    rows = torch.randint(n_rows, (n_entries,), generator=generator, device=where)
    cols = torch.randint(n_cols, (n_entries,), generator=generator, device=where)
    weights = torch.rand(n_entries, generator=generator, device=where) if weighted else None
    return Csr.from_coo(rows, cols, weights, shape=(n_rows, n_cols))


def time_backends(adj: Csr, width: int = 64, backends: Sequence[Backend] = BACKENDS, repeats: int = 5) -> list[Timing]:
    """The time of one product and its backward for each backend, after one that warms it up.

    Args:
        adj: the matrix, where the products are to run.
        width: columns of ``x``.
    """
    x = torch.ones(adj.shape[1], width, device=adj.device, requires_grad=True)
    return [_time(name, adj, x, repeats) for name in backends]


def _time(name: Backend, adj: Csr, x: torch.Tensor, repeats: int) -> Timing:
    try:
        spmm(adj, x, name).sum().backward()  # type: ignore[no-untyped-call]
    except (ImportError, RuntimeError) as error:
        return Timing(name, None, None, str(error))
    forward, backward = [], []
    for _ in range(repeats):
        forward.append(_elapsed(lambda: spmm(adj, x.detach(), name), x))
        y = spmm(adj, x, name)
        backward.append(_elapsed(lambda y=y: y.backward(torch.ones_like(y)), x))  # type: ignore[misc]
    return Timing(name, min(forward), min(backward))


def _elapsed(run: Callable[[], object], x: torch.Tensor) -> float:
    clock = time.process_time if x.is_cpu and torch.get_num_threads() == 1 else time.perf_counter
    _wait(x)
    start = clock()
    run()
    _wait(x)
    return (clock() - start) * 1e3


def _wait(x: torch.Tensor) -> None:
    if not x.is_cpu:
        torch.accelerator.synchronize(x.device)
