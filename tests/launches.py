"""What a computation asks of an accelerator, counted without one: kernels that it launches, reads
that it waits for.

Tensors on torch's device ``meta`` have shapes and no values: a computation there takes the
accelerator's path, is over in no time, and cannot read a value. :data:`READS`, tensors of the host
among those of the device and copies that block are counted as well. An operator of torch is one
launch, unless it is a view or an allocation (:data:`FREE`); so is a copy to the device: a measure
of the work of launching, not the number of kernels that a profiler would show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.optim.optimizer as of_torch
from accelerate import Accelerator
from accelerate.state import PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recgraph.sparse import spmm as sparse_products
from recgraph.train.config import make_accelerator

#: operators that launch nothing: allocations, and what only changes how memory is seen (most are
#: known by their schema)
FREE = {
    "_reshape_alias",
    "_unsafe_view",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
}
#: operators that read the device
READS = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}


@dataclass
class Count:
    """Operator -> launches (copies to the device are ``upload``), and times that the host would
    wait.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    reads: Counter[str] = field(default_factory=Counter)

    @property
    def n_kernels(self) -> int:
        return self.kernels.total()

    @property
    def n_reads(self) -> int:
        return self.reads.total()


class _Operators(TorchDispatchMode):
    """Counts the operators that have a tensor on a device."""

    def __init__(self, device: str, found: Count) -> None:
        super().__init__()
        self.device, self.found = device, found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == self.device for tensor in (*given, *made)):
            self._count(func, given, made, kwargs)
        return out

    def _count(
        self, func: Any, given: list[Tensor], made: list[Tensor], kwargs: dict[str, Any]
    ) -> None:
        name = func.overloadpacket.__name__
        if name in READS or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.found.reads[name] += 1
        # numbers aside, which are arguments of a kernel, a tensor of the host is copied, and the
        # host waits for that
        elsewhere = [
            tensor for tensor in given if tensor.device.type != self.device and tensor.ndim
        ]
        if name in ("_to_copy", "copy_") and elsewhere:
            self.found.kernels["upload"] += 1
            if not (kwargs.get("non_blocking") or name == "copy_"):
                self.found.reads["blocking upload"] += 1
            return
        if elsewhere:
            self.found.reads[f"{name} with a tensor of the host"] += 1
        if name in ("index", "index_put", "index_put_") and any(
            tensor.dtype == torch.bool for tensor in given[1:]
        ):
            self.found.reads[f"{name} by a mask"] += 1
        if not (func.is_view or name in FREE):
            self.found.kernels[name] += 1


class _Calls(TorchFunctionMode):
    """Counts what reads memory without an operator, and calls the fused attention of
    accelerators.
    """

    def __init__(self, device: str, found: Count) -> None:
        super().__init__()
        self.device, self.found = device, found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _fused(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "bincount" and args[0].is_meta:  # it has no form there
            self.found.reads[name] += 1
            return args[0].new_empty(kwargs["minlength"])
        if name in ("tolist", "numpy") and args[0].device.type == self.device:
            self.found.reads[name] += 1
        return func(*args, **kwargs)


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Attention as a card computes it: without one, torch would write it out."""
    if bias is not None:
        bias = bias.expand(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    out: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, dropout_p, is_causal
    )[0]
    return out


@contextmanager
def counting(device: str = "meta") -> Iterator[Count]:
    """Count within the block what is asked of a device."""
    found = Count()
    with _Calls(device, found), _Operators(device, found):
        yield found


def count(work: Callable[[], Any], device: str = "meta") -> Count:
    """What a function asks of a device."""
    with counting(device) as found:
        work()
    return found


@contextmanager
def on_meta(model: torch.nn.Module) -> Iterator[Accelerator]:
    """Within the block a model is on ``meta``; yields what a trainer needs to train it there."""
    accelerator = make_accelerator("cpu")
    model.to("meta")
    accelerator.state.device = PartialState().device = torch.device("meta")
    known = of_torch._get_fused_kernels_supported_devices
    with pytest.MonkeyPatch.context() as patch:
        # the fused steps have shapes there, too
        patch.setattr(of_torch, known.__name__, lambda: [*known(), "meta"])
        # products with a sparse matrix, which have none: one operator
        patch.setattr(
            sparse_products, "multiply", lambda adj, x, _: x.new_zeros(adj.shape[0], x.shape[1])
        )
        yield accelerator
