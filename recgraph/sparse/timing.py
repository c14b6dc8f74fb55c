"""Which backend multiplies fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import BACKENDS, Backend, spmm

__all__ = ["Timing", "random_matrix", "time_backends"]


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
