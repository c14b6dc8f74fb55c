"""The file of a model's parameters and buffers in a bundle: read without a copy, written without one.

The format is safetensors (:mod:`recgraph.bounded.tensors`). Rows of sharded tables come from the ranks that hold them
and are written block by block, so that no rank ever holds a whole one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recgraph.bounded.tensors import Tensors
from recgraph.shards import rows_on_first, sharded_tables

__all__ = ["apart", "read_into", "send_tables", "write_state"]

#: types of safetensors that are read without a copy, or written from shards
_TYPES = {
    "F32": torch.float32,
    "F64": torch.float64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def write_state(model: nn.Module, path: Path) -> None:
    """Write all parameters and buffers. Of a model with sharded tables the other ranks call :func:`send_tables`."""
    tables = sharded_tables(model)
    state = apart({name: value for name, value in model.state_dict().items() if name not in tables})
    if not tables:
        save_file(state, path)
        return
    # wide numbers first, so that every tensor begins at a multiple of their size
    every = sorted({**state, **tables}.items(), key=_place)
    header, end = {}, 0
    for name, value in every:
        first, end = end, end + value.element_size() * math.prod(value.shape)
        header[name] = {"dtype": _NAMES[value.dtype], "shape": [*value.shape], "data_offsets": [first, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in every:
            for rows in rows_on_first(value) if name in tables else (value,):
                file.write(_bytes_of(rows))


def send_tables(model: nn.Module) -> None:
    """Send this rank's rows of sharded tables to the first rank, which is in :func:`write_state`."""
    # in the order in which they are written
    for _, table in sorted(sharded_tables(model).items(), key=_place):
        for _ in rows_on_first(table):
            pass


def _place(entry: tuple[str, Tensor]) -> tuple[int, str]:
    return -entry[1].element_size(), entry[0]


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


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
