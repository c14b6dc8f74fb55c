"""The file of a model's parameters and buffers in a bundle: read without a copy, written without one.

The format is safetensors (:mod:`recgraph.bounded.tensors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recgraph.bounded.tensors import Tensors

__all__ = ["apart", "read_into", "write_state"]

#: types of safetensors that are read without a copy
_TYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}


def write_state(model: nn.Module, path: Path) -> None:
    """Write all parameters and buffers."""
    save_file(apart(model.state_dict()), path)


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the host that share no memory, as those of tied weights do, which safetensors refuses.

    A tensor that shares none is not copied: it may take half of the machine's memory.
    """
    apart: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        given = value.detach().to("cpu").contiguous()
        place = given.untyped_storage().data_ptr()
        # a part of a larger tensor, which another one may overlap, is copied too
        whole = given.untyped_storage().nbytes() == given.nbytes
        apart[name] = given if whole and place not in taken else given.clone()
        taken.add(place)
    return apart


def read_into(model: nn.Module, there: Tensors, path: Path) -> bool:
    """Read the tensors of a file into those of a model, with no copy in between.

    Args:
        there: the head of the file.

    Returns:
        False where nothing was read: the file has other tensors, or a part of the model has its own way to load them.
    """
    if any(type(part)._load_from_state_dict is not nn.Module._load_from_state_dict for part in model.modules()):
        return False
    state = model.state_dict()
    if set(there.heads) != set(state):
        return False
    for name, tensor in state.items():
        head = there.heads[name]
        same = (_TYPES.get(head.dtype), head.shape) == (tensor.dtype, tuple(tensor.shape))
        if not same or not tensor.is_cpu or not tensor.is_contiguous():
            return False
    with path.open("rb") as file:
        for name, tensor in state.items():
            file.seek(there.heads[name].first)
            if tensor.nbytes and file.readinto(tensor.detach().view(-1).view(torch.uint8).numpy()) != tensor.nbytes:
                raise ValueError(f"it ends within {name!r}")
    return True
