"""Parquet files: footers and page heads are added up before a table is made.

A page of a few bytes may stand for a billion equal values, and a compressed one may unpack to a gigabyte: what a file
declares to hold is bounded by :func:`recgraph.bounded.files.check_declared`, also where it is read in streams: the
allocation of a page that is too large ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from recgraph.bounded.files import check_declared, check_memory, file_size, named
from recgraph.bounded.thrift import Reader
from recgraph.data.errors import CorruptFileError

__all__ = ["check_frame", "read_frame", "read_frame_metadata", "read_schema"]

_MAGIC = b"PAR1"
_MOST_FOOTER = 64 << 20
#: of a page's head; statistics of long texts are in it
_MOST_PAGE_HEAD = 1 << 20
_FIRST_READ = 512
#: Parquet's number of a type of values -> the bytes that one takes in memory; of texts without the text
_WIDTHS = {0: 1, 1: 8, 2: 8, 3: 12, 4: 8, 5: 8, 6: 16}
_FIXED = 7
_DATA, _INDEX, _DICTIONARY, _DATA_2 = range(4)


def read_frame(path: Path, *, columns: Sequence[str] | None = None, memory_map: bool = True) -> pl.DataFrame:
    """A Parquet file.

    Args:
        columns: those to read; None: all.
        memory_map: whether columns may be parts of the mapped file, which must not be cut as long as they are in use.

    Raises:
        CorruptFileError: it is damaged, or declares more than a file of its size may hold.
        MemoryLimitError: it takes more than the limit of this process leaves.
        FileNotFoundError: it is not there.
    """
    size = file_size(path)
    chosen = None if columns is None else [*columns]
    with _explained(path):
        for declared in _sizes(path, size):
            check_memory(declared, path, size)
        frame = pl.read_parquet(path, columns=chosen, memory_map=memory_map, glob=False)
    for column in frame.iter_columns():
        # values of a text may be views of one and the same long text
        if column.dtype in (pl.String, pl.Binary):
            lengths = column.str.len_bytes() if column.dtype == pl.String else column.bin.size()
            check_memory(int(lengths.sum() or 0), path, size)
    return frame


def check_frame(path: Path) -> None:
    """Check a Parquet file that is then read in streams, so that it may be larger than the memory.

    Raises:
        CorruptFileError: its footer or a page's head is damaged, or it declares more than a file of its size may hold.
        FileNotFoundError: it is not there.
    """
    size = file_size(path)
    with _explained(path):
        for declared in _sizes(path, size):
            check_declared(declared, path, size)


def read_frame_metadata(path: Path) -> dict[str, str]:
    """The texts that a Parquet file has about itself."""
    file_size(path)
    with _explained(path):
        return pl.read_parquet_metadata(path)


def read_schema(path: Path) -> pl.Schema:
    """The columns of a Parquet file; polars' own function takes its path for a pattern."""
    return pl.scan_parquet(path, glob=False).collect_schema()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What polars says of a file inside the block is an error that names the file; what the disk says stays."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno is not None:  # of the system; those of polars, which says so of damage, have no number
            raise OSError(error.errno, error.strerror, f"{path}") from None
        raise CorruptFileError(f"the Parquet file cannot be read: {error}"[:1000], path=path) from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise CorruptFileError(f"the Parquet file cannot be read: {error}"[:1000], path=path) from None


def _sizes(path: Path, size: int) -> Iterator[int]:
    """The bytes that the pages of a file are going to take, and those of its arrays of fixed size."""
    with path.open("rb") as file, named(path):
        rows, declared = _declared(file, size)
    yield declared
    yield rows * sum(_width(_made(dtype)) for dtype in read_schema(path).values())


def _width(dtype: pl.DataType) -> int:
    """Bytes of the arrays of fixed size in a value: they have all their values also where they are null."""
    if isinstance(dtype, pl.Array):
        return dtype.size * max(_width(_made(dtype.inner)), 8)
    if isinstance(dtype, pl.List):
        return _width(_made(dtype.inner))
    if isinstance(dtype, pl.Struct):
        return sum(_width(_made(field.dtype)) for field in dtype.fields)
    return 0


def _made(dtype: Any) -> pl.DataType:
    found: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return found


@dataclass(frozen=True)
class _Page:
    kind: int
    unpacked: int
    values: int


def _declared(file: BinaryIO, size: int) -> tuple[int, int]:
    """The rows of a file, and the bytes that its pages are going to take."""
    if size < 12:
        raise ValueError(f"no Parquet file: it has {size} bytes")
    file.seek(size - 8)
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != _MAGIC or length > min(size - 12, _MOST_FOOTER):
        raise ValueError(f"no Parquet file: a footer of {length:,} bytes that ends with {magic!r} in {size:,}")
    file.seek(size - 8 - length)
    footer = Reader(file.read(length)).struct()
    fixed = max((element.get(2, 0) for element in footer[2] if element.get(1) == _FIXED), default=0)
    rows, total = _number(footer[3]), 0
    for group in footer[4]:
        for chunk in group[1]:
            total += _of_column(file, size, chunk[3], _number(group[3]), fixed)
    return max(rows, sum(group[3] for group in footer[4])), total


def _of_column(file: BinaryIO, size: int, column: Mapping[int, Any], rows: int, fixed: int) -> int:
    width = _WIDTHS.get(column[1], fixed + 16)
    first = _number(column[9])
    if column.get(11) is not None and 4 <= column[11] < first:
        first = column[11]
    packed = _number(column[7])
    if first + packed > size:
        raise ValueError(f"a column ends at byte {first + packed:,} of {size:,}")
    unpacked = values = 0
    for page in _pages(file, first, first + packed):
        unpacked += page.unpacked
        values += page.values
    return unpacked + max(values, rows, _number(column[5])) * width


def _pages(file: BinaryIO, at: int, end: int) -> Iterator[_Page]:
    while at < end:
        head, length = _page_head(file, at, end)
        kind, unpacked, packed = head[1], _number(head[2]), _number(head[3])
        of = head.get({_DATA: 5, _INDEX: 6, _DICTIONARY: 7, _DATA_2: 8}.get(kind, 0)) or {}
        yield _Page(kind, unpacked, _number(of.get(1, 0)))
        at += length + packed


def _page_head(file: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """The head of the page at a place, and its length."""
    width = _FIRST_READ
    while True:
        file.seek(at)
        reader = Reader(file.read(min(width, end - at)))
        try:
            return reader.struct(), reader.at
        except ValueError:
            if width >= min(end - at, _MOST_PAGE_HEAD):
                raise
            width *= 8


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count"[:100])
    return value
