"""Files that appear whole or not at all, also after a power cut: the order in which things reach the disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recgraph.data.files import replace_bytes, replace_folder, replace_parquet, replace_text, replacing_folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is asked of the operating system: ("sync", name) and ("rename", new name), in order."""
    made: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(file: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"
        made.append((f"sync {kind}", Path(os.readlink(f"/proc/self/fd/{file}")).name))
        fsync(file)

    def note_replace(source: Any, target: Any) -> None:
        made.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    return made


@pytest.mark.parametrize(
    "write",
    [
        lambda path: replace_text("text", path),
        lambda path: replace_bytes(b"bytes", path),
        lambda path: replace_parquet(pl.DataFrame({"a": [1]}), path),
    ],
)
def test_a_file_is_on_the_disk_before_it_has_its_name(
    write: Callable[[Path], None], tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    write(tmp_path / "a")
    (file, renamed, folder) = calls
    assert (file[0], file[1].startswith(".a.")) == ("sync file", True)
    assert renamed == ("rename", "a")
    assert folder == ("sync folder", tmp_path.name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_on_the_disk_with_all_that_is_in_it_before_it_has_its_name(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    new = tmp_path / "new"
    (new / "inner").mkdir(parents=True)
    (new / "a").write_text("a")
    (new / "inner" / "b").write_text("b")
    replace_folder(new, tmp_path / "place")
    assert set(calls[:-2]) == {("sync file", "a"), ("sync file", "b"), ("sync folder", "inner"), ("sync folder", "new")}
    assert calls[-2:] == [("rename", "place"), ("sync folder", tmp_path.name)]
    assert (tmp_path / "place" / "inner" / "b").read_text() == "b"


def test_new_folders_are_on_the_disk_too(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    replace_text("text", tmp_path / "one" / "two" / "a")
    assert calls[:2] == [("sync folder", tmp_path.name), ("sync folder", "one")]
    assert calls[-1] == ("sync folder", "two")


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, replace = tmp_path / "place", os.replace
    place.mkdir()
    (place / "a").write_text("earlier")

    def fails_for_the_new(source: Path, target: Path) -> None:
        if source.suffix == ".new":
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new)
    with pytest.raises(OSError, match="no space"), replacing_folder(place) as new:
        (new / "a").write_text("later")
    assert (place / "a").read_text() == "earlier"
    monkeypatch.undo()
    with pytest.raises(RuntimeError), replacing_folder(place) as new:
        raise RuntimeError
    assert (place / "a").read_text() == "earlier"
    with replacing_folder(place) as new:
        (new / "a").write_text("later")
    assert (place / "a").read_text() == "later"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_all_files_of_a_folder_have_the_mode_that_the_mask_leaves(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        for path in (temporary / "open", temporary / "inner" / "closed"):
            path.write_bytes(b"x")
        path.chmod(0o600)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "folder").stat().st_mode & 0o666}
