"""The two paths of a computation: that of the host, and that of an accelerator.

On the host small pieces of work stay in a core's cache, and reading a number costs nothing. An
accelerator wants few and large kernels, and every number that the host reads makes it wait.
:func:`is_accelerated` alone decides the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType
from typing import cast

import torch
from torch import Tensor

_forced = False
#: graphs of one function at most: training, evaluation, a batch of one row, masked items or none
#: need one each
_GRAPHS = 64


def is_accelerated(where: Tensor | torch.device) -> bool:
    """Whether computations there take the accelerator's path: any device but the host, ``meta``
    among them.
    """
    device = where.device if isinstance(where, Tensor) else where
    return _forced or device.type != "cpu"


@contextmanager
def accelerator_path() -> Iterator[None]:
    """Within the block tensors of the host take the accelerator's path, too: how it is tested
    without a device.
    """
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A copy on the device that the host does not wait for, from pinned memory; the tensor itself
    if it is there.
    """
    device = torch.device(device)
    if tensor.is_cpu and device.type == "cuda":
        tensor = tensor.pin_memory()  # itself, where it is pinned
    return tensor.to(device, non_blocking=device.type != "cpu")


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the host, once an accelerator has finished all that was launched before; itself if
    it is there.
    """
    return tensor.to("cpu")


def compiled(function: Callable[..., Tensor], backend: str) -> Callable[..., Tensor]:
    """Compile a function, no bound method, without graph breaks, with a cache of graphs of its own.

    torch counts graphs by code object, those of all models of a process together, and fails beyond
    a limit.
    """
    original = cast("FunctionType", function)
    copy = FunctionType(
        original.__code__.replace(),
        original.__globals__,
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    # torch's own annotations lack the limit
    graph: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
        copy, fullgraph=True, backend=backend, recompile_limit=_GRAPHS
    )
    return graph


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Within the block autocast rounds nothing to half precision on the device of a tensor."""
    kind = like.device.type
    if torch.amp.is_autocast_available(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()
