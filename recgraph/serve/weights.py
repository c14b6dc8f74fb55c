"""A model that is built for the weights of a bundle may ask for hardly more than they hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from recgraph.bounded.files import check_memory
from recgraph.bounded.tensors import Tensors

__all__ = ["no_more_than"]

#: a model that replaces layers while it is built has had so many times the bytes, or so many more
_MORE, _SPARE = 4, 16 << 20


@contextmanager
def no_more_than(tensors: Tensors, path: Path) -> Iterator[None]:
    """The block in which modules of this thread get hardly more parameters than a file has bytes for.

    A layer registers a parameter before it fills it, so that what is refused was never in memory; what no file of this
    size may take is refused before it is allocated. A model may replace a layer that it began with. Its buffers may be
    more than is saved of them: they are bounded as what a file unpacks to.

    Raises:
        ValueError: the settings ask for more; inside the block.
        CorruptFileError: the buffers, or one tensor, are more than a file of this size may make.
    """
    thread, taken = threading.get_ident(), {"parameters": 0, "buffers": 0}
    most = max(_MORE * tensors.nbytes, tensors.nbytes + _SPARE)

    def count(kind: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        taken[kind] += tensor.nbytes
        if kind == "buffers":
            check_memory(taken[kind], path)
        elif taken[kind] > most:
            raise ValueError(f"its settings ask for more than the {tensors.nbytes:,} bytes of weights in {path.name}")

    def parameter(owner: nn.Module, name: str, tensor: nn.Parameter | None) -> None:
        count("parameters", tensor)

    def buffer(owner: nn.Module, name: str, tensor: Tensor | None) -> None:
        count("buffers", tensor)

    hooks = (
        modules.register_module_parameter_registration_hook(parameter),
        modules.register_module_buffer_registration_hook(buffer),
    )
    try:
        with _Allocations(path):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Allocations(TorchFunctionMode):
    """Checks the memory of parameters before it is taken: layers take it with ``torch.empty``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if function is torch.empty:
            check_memory(function(*args, **{**given, "device": "meta"}).nbytes, self.path)
        return function(*args, **given)
