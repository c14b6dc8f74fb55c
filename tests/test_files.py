"""Files are written whole, read with a bound, checked by a manifest and locked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
import torch
from refusing import refused

from recgraph import files
from recgraph.files import CorruptFileError


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.txt"
    files.write_text("one", path)
    with pytest.raises(UnicodeEncodeError), files.replacing(path) as new:
        new.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "one"
    assert files.contents(path.parent) == {"a.txt"}
    assert os.listdir(path.parent) == ["a.txt"]
    umask = os.umask(0)
    os.umask(umask)
    files.write_tensors({"x": torch.arange(3)}, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask
    path.chmod(0o640)
    files.write_text("two", path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o640)


@contextmanager
def sleeping(block: str, first: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has entered a block of :mod:`recgraph.files`, and stays there."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom recgraph.files import locked, replacing\n"
        f"path = Path(sys.argv[1])\nwith {block}:\n    {first}\n    print(flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process


def test_a_killed_writer_leaves_the_earlier_file_and_the_next_writer_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text("one", path)
    with sleeping("replacing(path) as new", "new.write_text('half')", path) as writer:
        assert len(os.listdir(tmp_path)) == 2
        files.sweep(tmp_path)  # its owner may live
        assert len(os.listdir(tmp_path)) == 2
        writer.send_signal(signal.SIGKILL)
    assert path.read_text() == "one"
    (left,) = tmp_path.glob(".*")
    os.utime(left, (0, 0))
    files.write_text("two", path)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_whole_and_never_one_of_others(tmp_path: Path) -> None:
    folder = tmp_path / "it"
    for text in ("one", "two"):
        with files.replacing_folder(folder) as new:
            (new / "sub").mkdir()
            (new / "sub" / "a.txt").write_text(text)
        assert (folder / "sub" / "a.txt").read_text() == text
    assert os.listdir(tmp_path) == ["it"]
    (folder / "mine.txt").touch()
    with refused("mine.txt", by=FileExistsError), files.replacing_folder(folder):
        pass
    files.remove_folder(folder)
    assert not os.listdir(tmp_path)


def test_the_manifest_names_a_file_with_a_flipped_bit(tmp_path: Path) -> None:
    with files.replacing_folder(tmp_path / "it") as new:
        files.write_frame(pl.DataFrame({"a": range(9)}), new / "a.parquet")
        files.write_json({"b": 1}, new / "sub" / "b.json")
    files.check_manifest(tmp_path / "it")
    for name in ("a.parquet", "sub/b.json"):
        path = tmp_path / "it" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with refused(name, by=CorruptFileError):
            files.check_manifest(tmp_path / "it")
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    files.check_manifest(tmp_path / "it")
    (tmp_path / "it" / "a.parquet").unlink()
    with refused("a.parquet", by=CorruptFileError):
        files.check_manifest(tmp_path / "it")
    files.check_manifest(tmp_path / "it", but=["a.parquet"])
    (tmp_path / "it" / files.MANIFEST).write_text(f"{'0' * 64}  ../a\n")
    with refused("../a", by=CorruptFileError):
        files.check_manifest(tmp_path / "it")


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../../b", "c:\\a", "a\\b", "a\0b"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        files.check_plain(name)
    assert files.check_plain("a/b.txt") == "a/b.txt"


def test_damaged_and_large_files_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    for read in (files.read_object, files.read_toml, files.read_frame, files.read_tensors):
        path.write_bytes(b"\xff[" * 20)
        with refused(str(path), by=CorruptFileError):
            read(path)
        path.unlink()
        with pytest.raises(FileNotFoundError):
            read(path)
    path.write_text("[1]")
    with refused(str(path), by=CorruptFileError):
        files.read_object(path)
    with refused(str(path), by=CorruptFileError):
        files.read_bytes(path, 2)


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with sleeping("locked(path)", "pass", path) as holder:
        with refused(str(path), by=files.InUse), files.locked(path, wait=0.1):
            pass
        holder.kill()
    with files.locked(path, wait=2.0):
        pass
    with (
        files.locked(tmp_path / "lock"),
        pytest.raises(files.InUse),
        files.locked(tmp_path / "lock", wait=False),
    ):
        pass
    began = time.monotonic()
    with files.locked(tmp_path / "lock"):
        assert time.monotonic() - began < 1
