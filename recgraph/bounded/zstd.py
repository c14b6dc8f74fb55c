"""What a Zstandard file can unpack to, of the heads of its blocks alone (RFC 8878); nothing is unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from recgraph.bounded.files import check_declared, file_size
from recgraph.data.errors import CorruptFileError

__all__ = ["check_zstd"]

_FRAME = 0xFD2FB528
_SKIPPED = 0x184D2A50
#: bytes that a compressed block can unpack to
_OF_BLOCK = 1 << 17
_RAW, _REPEATED, _COMPRESSED = range(3)


def check_zstd(path: Path) -> None:
    """Refuse a file whose blocks can unpack to more than a file of its size may.

    The size that a frame declares for its content is not read: it need not be true.

    Raises:
        CorruptFileError: they can (:func:`recgraph.bounded.files.check_declared`); or it is cut or no Zstandard file.
    """
    size = file_size(path)
    with path.open("rb") as file:
        total = 0
        while magic := file.read(4):
            number = int.from_bytes(magic, "little")
            if number & ~0xF == _SKIPPED:
                file.seek(_number(file, 4, path), 1)
            elif number == _FRAME and len(magic) == 4:
                total += _frame(file, path)
            else:
                raise CorruptFileError("the zstd file is damaged: no frame begins where one should", path=path)
            if file.tell() > size:
                raise CorruptFileError("the zstd file is damaged: it is cut off", path=path)
    check_declared(total, path, size)


def _frame(file: BinaryIO, path: Path) -> int:
    """The bytes that the blocks of a frame can unpack to."""
    flags = _number(file, 1, path)
    is_single = bool(flags & 0x20)
    # a window, the number of a dictionary, the size of the content
    file.seek((not is_single) + (0, 1, 2, 4)[flags & 3] + (int(is_single), 2, 4, 8)[flags >> 6], 1)
    total, is_last = 0, False
    while not is_last:
        head = _number(file, 3, path)
        is_last, kind, width = bool(head & 1), head >> 1 & 3, head >> 3
        if kind > _COMPRESSED:
            raise CorruptFileError("the zstd file is damaged: a block is of no known kind", path=path)
        total += _OF_BLOCK if kind == _COMPRESSED else width
        file.seek(1 if kind == _REPEATED else width, 1)
    file.seek(4 if flags & 4 else 0, 1)  # a checksum
    return total


def _number(file: BinaryIO, width: int, path: Path) -> int:
    data = file.read(width)
    if len(data) < width:
        raise CorruptFileError("the zstd file is damaged: it is cut off", path=path)
    return int.from_bytes(data, "little")
