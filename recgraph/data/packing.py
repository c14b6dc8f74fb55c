"""Packed files and texts of another encoding: how a file is packed, its text, and a plain copy where polars needs one.

Polars unpacks gzip and Zstandard files of UTF-8 while it scans them. For all others a plain copy of UTF-8 is written to
the folder for temporary files; it lives as long as the object that holds it.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import IO, Literal

import polars as pl

from recgraph.data.errors import DataError, EncodingError

__all__ = ["PACKED_SUFFIXES", "Packing", "check_encoding", "open_bytes", "open_text", "packing_of", "plain_copy"]

Packing = Literal["none", "gzip", "zstd", "bzip2", "xz"]
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
_BEGINNINGS: dict[bytes, Packing] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
#: unpacked by polars while it scans
_SCANNED = ("none", "gzip", "zstd")


def packing_of(path: Path) -> Packing:
    """How a file is packed, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((packing for start, packing in _BEGINNINGS.items() if head.startswith(start)), "none")


def check_encoding(encoding: str) -> str:
    """The name of an encoding as Python writes it.

    Raises:
        ValueError: there is no such encoding.
    """
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise ValueError(
            f"encoding = {encoding!r} is not known; give one such as 'utf-8', 'latin-1', 'cp1252' or 'utf-16'"
        ) from None


def open_bytes(path: Path) -> IO[bytes]:
    """The unpacked bytes of a file, one after another; those of a Zstandard file are held in memory."""
    packing = packing_of(path)
    if packing == "gzip":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if packing == "bzip2":
        return bz2.open(path, "rb")
    if packing == "xz":
        return lzma.open(path, "rb")
    if packing == "zstd":  # the standard library reads it from Python 3.14 on; polars does now, if it is UTF-8
        lines = pl.scan_lines(path).collect(engine="streaming").to_series()
        return io.BytesIO("".join(f"{line}\n" for line in lines).encode())
    return path.open("rb")


def open_text(path: Path, encoding: str = "utf-8") -> IO[str]:
    """The text of a file, unpacked, without a byte order mark; bytes that the encoding has not are replaced."""
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    return io.TextIOWrapper(open_bytes(path), encoding=name, errors="replace", newline="")


def plain_copy(path: Path, encoding: str = "utf-8") -> tuple[Path, object | None]:
    """A file that polars can scan: the file itself, or a copy of it that is unpacked and UTF-8.

    Returns:
        its path, and what keeps the copy on the disk while it is referred to (None: there is no copy).

    Raises:
        EncodingError: the text is not in the encoding; names the line.
        DataError: a Zstandard file of another encoding than UTF-8.
    """
    packing = packing_of(path)
    if encoding == "utf-8" and packing in _SCANNED:
        return path, None
    if packing == "zstd":
        raise DataError(f"a Zstandard file is read as UTF-8 alone, not as {encoding}; unpack it first", path=path)
    copy = _Copy()
    with open_bytes(path) as packed, copy.path.open("wb") as out:
        if encoding == "utf-8":
            shutil.copyfileobj(packed, out, 1 << 20)
        else:
            _transcode(packed, out, path, encoding)
    return copy.path, copy


class _Copy:
    """A temporary file that is removed with this object."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="recgraph-")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)


def _transcode(packed: IO[bytes], out: IO[bytes], path: Path, encoding: str) -> None:
    number = 0
    text = io.TextIOWrapper(packed, encoding=encoding, newline="")
    try:
        for number, line in enumerate(text, start=1):  # noqa: B007
            out.write(line.encode())
    except UnicodeError as error:
        message = f"the text after line {number} is not {encoding}: {error}"
        raise EncodingError(message, path=path, line=number + 1) from None
    finally:
        text.detach()
