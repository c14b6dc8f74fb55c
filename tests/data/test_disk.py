"""Errors of a disk name what was written, whichever library wrote, and say the way out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from recgraph.data.disk import DiskError, naming, told
from recgraph.data.files import replace_text, replacing_folder

FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(errno.ENOSPC, FULL, "/there/.result.parquet.0123.recgraph/new.parquet"),
        OSError(f"{FULL} (os error 28): ...new.parquet"),  # polars
        RuntimeError(f"task 3: ComputeError: parquet: underlying IO error: {FULL} (os error 28)"),
        DiskError(errno.ENOSPC, Path("/there/.result.parquet.0123.recgraph/new/part.parquet")),
    ],
)
def test_a_full_disk_names_what_is_written(error: Exception) -> None:
    path = Path("/there/result.parquet")
    with pytest.raises(DiskError) as found, naming(path):
        raise error
    assert str(found.value).startswith(f"{path} cannot be written: {FULL}; free space there")
    assert found.value.errno == errno.ENOSPC
    assert told(found.value) is None  # it says so itself


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/elsewhere/log.csv"),  # that is read
        OSError(errno.EIO, os.strerror(errno.EIO), "/elsewhere/log.csv"),
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/there/result.parquet"),
        ValueError("another"),
    ],
)
def test_other_errors_stay(error: Exception) -> None:
    with pytest.raises(type(error)) as found, naming(Path("/there/result.parquet")):
        raise error
    assert found.value is error


def test_of_a_folder_the_folder_is_named(tmp_path: Path) -> None:
    def write() -> None:
        with replacing_folder(tmp_path / "made") as new:
            replace_text("one", new / "one.txt")
            raise OSError(errno.ENOSPC, FULL, str(new / "two.txt"))

    with pytest.raises(DiskError, match=rf"^{tmp_path / 'made'} cannot be written"):
        write()
    assert list(tmp_path.iterdir()) == []
