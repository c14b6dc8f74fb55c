"""safetensors files: the head is checked against the file before any tensor is made.

The format is 8 bytes of length, as much JSON (name -> type, shape, first and last byte), and the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.bounded.files import file_size, named
from recgraph.bounded.texts import parse_json
from recgraph.data.errors import CorruptFileError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Head", "Tensors", "read_heads", "read_tensors"]

#: of the head; a model of ten thousand tensors has one of a megabyte
_MOST_BYTES = 16 << 20
#: type -> bytes of a value; those that PyTorch has
_WIDTHS = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2},
    **{"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8},
}


@dataclass(frozen=True)
class Head:
    """What a file says of a tensor.

    Attributes:
        dtype: safetensors' name of its type.
        shape: its sizes.
        first, last: where its bytes lie in the file.
    """

    dtype: str
    shape: tuple[int, ...]
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Tensors:
    """The head of a file: the tensors by name, in the order of their bytes, and texts about them."""

    heads: dict[str, Head]
    metadata: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(head.nbytes for head in self.heads.values())


def read_heads(path: Path) -> Tensors:
    """The head of a file.

    Raises:
        CorruptFileError: it is longer than the file or than 16 MiB, no JSON, or names types, shapes or offsets that do
            not fit each other: the tensors lie one after the other, and fill the file.
    """
    size = file_size(path)
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _MOST_BYTES):
            raise CorruptFileError(f"no safetensors file: a head of {length:,} bytes in {size:,}", path=path)
        found = parse_json(file.read(length), path)
    if not isinstance(found, dict):
        raise CorruptFileError("no safetensors file: its head is no JSON object", path=path)
    with named(path):
        about = found.pop("__metadata__", None) or {}
        if not (isinstance(about, dict) and all(isinstance(text, str) for text in about.values())):
            raise ValueError("__metadata__ must hold texts")
        heads = sorted(((name, _head(name, entry)) for name, entry in found.items()), key=lambda of: of[1].first)
        at = 0
        for name, head in heads:
            if head.first != at:
                raise ValueError(f"tensor {name!r} begins at byte {head.first}, the one before ends at {at}")
            at = head.last
        if at != size - 8 - length:
            raise ValueError(f"the tensors take {at:,} bytes; the file has {size - 8 - length:,}")
    # where the bytes lie counts from the end of the head
    moved = {name: Head(h.dtype, h.shape, h.first + 8 + length, h.last + 8 + length) for name, h in heads}
    return Tensors(moved, about)


def _head(name: str, entry: Any) -> Head:
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _WIDTHS:
        raise ValueError(f"tensor {name!r} has the type {dtype!r}"[:200])
    if not isinstance(shape, list) or len(shape) > 32:
        raise ValueError(f"tensor {name!r} has no shape")
    numbers = (*shape, first, last)
    if any(type(each) is not int or not 0 <= each < 2**63 for each in numbers):
        raise ValueError(f"tensor {name!r} has sizes or offsets that are no numbers of bytes")
    if math.prod(shape) * _WIDTHS[dtype] != last - first or math.prod(filter(None, shape)) >= 2**60:
        raise ValueError(f"tensor {name!r} of shape {shape} does not take {last - first:,} bytes of {dtype}")
    return Head(dtype, tuple(shape), first, last)


def read_tensors(path: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, on the host.

    Args:
        mapped: the tensors are parts of the mapped file, which must not be cut as long as they are in use; else they
            are read into memory.

    Raises:
        CorruptFileError: the head does not fit the file, see :func:`read_heads`, or a tensor cannot be made.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    read_heads(path)
    try:
        with named(path):
            return load_file(path) if mapped else load(path.read_bytes())
    except SafetensorError as error:
        raise CorruptFileError(f"the tensors cannot be read: {error}", path=path) from None
