"""Packed files and texts of another encoding: how a file is packed, its text, and a plain copy where polars needs one.

Polars unpacks gzip and Zstandard files of UTF-8 while it scans them. For all others a plain copy of UTF-8 is written to
the folder for temporary files; it lives as long as the object that holds it. What a packed file holds is bounded by its
size, and so is a line, so that no small file fills memory or disk.
"""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import polars as pl

from recgraph.data.errors import CorruptFileError, DataError, DelimiterError, EncodingError, first_line

__all__ = [
    "DAMAGES",
    "LONGEST_LINE",
    "PACKED_SUFFIXES",
    "Packing",
    "check_encoding",
    "open_bytes",
    "open_text",
    "packing_of",
    "plain_copy",
    "read_through",
    "too_long",
    "unpacked_name",
    "unpacking",
]

Packing = Literal["none", "gzip", "zstd", "bzip2", "xz"]
PACKED_SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
_BEGINNINGS: dict[bytes, Packing] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}
#: what reading a packed file raises where it is damaged
DAMAGES = (OSError, EOFError, lzma.LZMAError, zlib.error, pl.exceptions.PolarsError)
#: unpacked by polars while it scans
_SCANNED = ("none", "gzip", "zstd")
#: bytes of a line
LONGEST_LINE = 1 << 24
#: bytes that are unpacked at once
_BLOCK = 1 << 20
#: bytes that a plain copy leaves free on its disk
_LEFT = 1 << 28


def too_long(path: Path, longest: int, line: int) -> DelimiterError:
    """The error of a line that is longer than so many bytes."""
    message = f"the line is longer than {longest // 1024:,} KiB; is this a text file with an interaction a line?"
    return DelimiterError(message, path=path, line=line)


def unpacked_name(path: Path) -> Path:
    """The path without the suffix of a packed file."""
    return path.with_suffix("") if path.suffix.lower() in PACKED_SUFFIXES else path


def packing_of(path: Path) -> Packing:
    """How a file is packed, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(6)
    return next((packing for start, packing in _BEGINNINGS.items() if head.startswith(start)), "none")


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """The block reads a file; where that fails and the file is packed, it is damaged.

    Raises:
        CorruptFileError: it is.
    """
    try:
        yield
    except DAMAGES as error:
        if (kind := packing_of(path)) == "none":
            raise
        more = ", or its text is not UTF-8" if isinstance(error, pl.exceptions.PolarsError) else ""
        raise CorruptFileError(f"the {kind} file is damaged{more}: {first_line(error)}", path=path) from None


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
    """The unpacked bytes of a file, one after another.

    Reading a packed one raises :class:`recgraph.data.errors.CorruptFileError` where it unpacks to more than a file of
    its size may, and :class:`recgraph.data.errors.DelimiterError` at a line
    that is too long; of Zstandard, such a line is held in memory before.
    """
    packing = packing_of(path)
    if packing == "none":
        return path.open("rb")
    return io.BufferedReader(_Bounded(_unpacked(path, packing), path), _BLOCK)


def _unpacked(path: Path, packing: Packing) -> _Packed:
    if packing == "gzip":
        return gzip.open(path, "rb")
    if packing == "bzip2":
        return bz2.open(path, "rb")
    if packing == "xz":
        return lzma.open(path, "rb")
    return _Lines(path)  # the standard library reads it from Python 3.14 on; polars does now, if it is UTF-8


class _Packed(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class _Bounded(io.RawIOBase):
    """Bytes that are unpacked, as many as the file may have, in lines as long as they may be."""

    def __init__(self, packed: _Packed, path: Path) -> None:
        self._packed, self._path = packed, path
        self._line, self._begun = 1, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._packed.read(min(len(buffer), _BLOCK))
        ends = block.find(b"\n")
        if self._begun + (ends if ends >= 0 else len(block)) > LONGEST_LINE:
            raise too_long(self._path, LONGEST_LINE, self._line)
        self._begun = len(block) - 1 - block.rfind(b"\n") + (self._begun if ends < 0 else 0)
        self._line += block.count(b"\n")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        super().close()
        self._packed.close()


class _Lines:
    """The text of a Zstandard file as polars gives its lines, some at a time."""

    def __init__(self, path: Path) -> None:
        self._frames = pl.scan_lines(path, glob=False).collect_batches(chunk_size=1 << 16, lazy=True)
        self._held = memoryview(b"")

    def read(self, size: int) -> bytes:
        if not self._held:
            text = io.BytesIO()
            while not text.tell() and (frame := next(self._frames, None)) is not None:
                frame.write_csv(text, include_header=False, quote_style="never")
            self._held = text.getbuffer()
        block, self._held = self._held[:size], self._held[size:]
        return bytes(block)

    def close(self) -> None:
        del self._frames  # polars goes on no more


def open_text(path: Path, encoding: str = "utf-8") -> IO[str]:
    """The text of a file, unpacked, without a byte order mark; bytes that the encoding has not are replaced."""
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    return io.TextIOWrapper(open_bytes(path), encoding=name, errors="replace", newline="")


def read_through(path: Path) -> None:
    """Unpack a file and keep nothing, so that it is known to be whole and within its bounds (:func:`open_bytes`)."""
    with open_bytes(path) as file:
        while file.read(_BLOCK):
            pass


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
        try:
            for block in _transcoded(packed, path, encoding):
                copy.check_room(path)
                out.write(block)
            out.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise copy.no_room(path) from None
    return copy.path, copy


class _Copy:
    """A temporary file that is removed with this object."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="recgraph-")
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    def check_room(self, path: Path) -> None:
        """Refuse to fill the disk that the copy is on."""
        if shutil.disk_usage(self.path.parent).free < _LEFT:
            raise self.no_room(path)

    def no_room(self, path: Path) -> DataError:
        done = f"{self.path.stat().st_size:,} bytes"
        return DataError(
            f"its plain copy fills {self.path.parent}: there is no room behind {done}; set TMPDIR to a folder with "
            "more room, or unpack the file yourself",
            path=path,
        )


def _transcoded(packed: IO[bytes], path: Path, encoding: str) -> Iterator[bytes]:
    """The bytes of a text as UTF-8."""
    if encoding == "utf-8":
        yield from iter(lambda: packed.read(_BLOCK), b"")
        return
    decoder, n_lines = codecs.getincrementaldecoder(encoding)(), 0
    while True:
        block, before = packed.read(_BLOCK), decoder.getstate()
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            if isinstance(error, UnicodeDecodeError):  # the object begins with what the decoder held of the last block
                decoder.setstate(before)
                n_lines += decoder.decode(block[: max(error.start - len(before[0]), 0)]).count("\n")
            message = f"the text after line {n_lines} is not {encoding}: {error}"
            raise EncodingError(message, path=path, line=n_lines + 1) from None
        n_lines += text.count("\n")
        yield text.encode()
        if not block:
            return
