"""numpy's ``.npy`` and ``.npz`` files and scipy's sparse matrices: values alone, never pickles."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recgraph.bounded.files import check_memory, file_size, named
from recgraph.data.errors import CorruptFileError

__all__ = ["read_array", "read_matrix"]

_SPARSE = "format.npy"


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """The array of a ``.npy`` file.

    Raises:
        CorruptFileError: it is damaged, holds Python objects, or is not as long as its head says.
    """
    size = file_size(path)
    with named(path), path.open("rb") as file:
        _check(file, size, path)
        file.seek(0)
        try:
            made: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
        except EOFError as error:
            raise CorruptFileError(f"{error}", path=path) from None
    return made


def read_matrix(path: Path) -> Any:
    """A scipy sparse matrix of a ``.npz`` file, or the array of a ``.npy`` file, whatever it is called.

    Raises:
        CorruptFileError: see :func:`read_array`; or a sparse matrix has another number of entries than its parts say.
    """
    import scipy.sparse as sp

    size = file_size(path)
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        return read_array(path)
    with named(path):
        try:
            with zipfile.ZipFile(path) as archive:
                _check_members(archive, path, size)
            made = sp.load_npz(path)  # without pickles
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
            raise CorruptFileError(f"the archive is damaged: {error}", path=path) from None
        check_memory(8 * max(made.shape), path, size)
        getattr(made, "check_format", lambda: None)()
    return made


def _check_members(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    if _SPARSE not in archive.namelist():
        raise ValueError("it holds no scipy matrix (format.npy)")
    check_memory(sum(info.file_size for info in archive.infolist()), path, size)
    for info in archive.infolist():
        with archive.open(info) as member:
            _check(member, info.file_size, path)  # type: ignore[arg-type]


def _check(file: BinaryIO, size: int, path: Path) -> None:
    """Compare a head with the bytes that follow it."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which would have to be unpickled")
    n_bytes = math.prod(shape) * dtype.itemsize
    if any(width < 0 for width in shape) or n_bytes != size - file.tell():
        raise ValueError(f"an array of shape {shape} takes {n_bytes:,} bytes; {size - file.tell():,} follow")
    check_memory(n_bytes, path)
