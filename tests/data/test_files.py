"""Files that appear whole or not at all, also after a power cut: the order in which things reach the disk."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recgraph.data import files
from recgraph.data.disk import make_folder
from recgraph.data.files import (
    contents,
    recover,
    remove_folder,
    replace_bytes,
    replace_text,
    replacing_file,
    replacing_files,
    replacing_folder,
    sweep,
)
from recgraph.data.imprint import replace_parquet, replace_tensors


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
    assert file == ("sync file", "new")
    assert renamed == ("rename", "a")
    assert folder == ("sync folder", tmp_path.name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_on_the_disk_with_all_that_is_in_it_before_it_has_its_name(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    with replacing_folder(tmp_path / "place") as new:
        (new / "inner").mkdir(parents=True)
        (new / "a").write_text("a")
        (new / "inner" / "b").write_text("b")
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
        if source.name == "new" and not target.exists():
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new)
    monkeypatch.setattr(files, "exchange", lambda *_: False)
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


def test_a_file_has_the_mode_that_the_mask_leaves(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    replace_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")  # its writer gives files to the owner alone
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == (tmp_path / "folder").stat().st_mode & 0o666


def killed_in(call: int, write: Callable[[], None], exchanges: bool) -> bool:
    """Write in a child that is killed before its n-th call that changes a folder -> whether it came that far."""
    child = os.fork()
    if not child:
        left = call

        def counted(made: Callable[..., Any]) -> Callable[..., Any]:
            def count(*given: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return made(*given, **more)

            return count

        for name in ("replace", "mkdir", "fsync", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        files.exchange = counted(files.exchange) if exchanges else lambda *_: False  # type: ignore[assignment]
        try:
            write()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_whole_after_a_kill_at_any_moment_and_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, exchanges: bool
) -> None:
    def write(value: str) -> None:
        with replacing_folder(place) as new:
            (new / "a").write_text(value)
            (new / "b").write_text(value)

    place, before = tmp_path / "inner" / "place", "earlier" if there else None
    call, found, was_killed = 0, set(), True
    while was_killed:
        monkeypatch.setattr(files, "_swept", set())  # as in a process that is started anew
        if there:
            write("earlier")
        else:
            remove_folder(place)
        was_killed = killed_in(call, lambda: write("later"), exchanges)
        recover(place)
        values = {(place / name).read_text() if place.exists() else None for name in ("a", "b")}
        assert len(values) == 1
        found |= values
        monkeypatch.setattr(files, "_swept", set())
        write("again")
        assert (place / "a").read_text() == "again"
        assert [path.name for path in place.parent.iterdir()] == ["place"]
        call += 1
    assert call > 8
    assert found == {before, "later"}


def test_a_file_is_whole_after_a_kill_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, call, found, was_killed = tmp_path / "a.txt", 0, set(), True
    while was_killed:
        monkeypatch.setattr(files, "_swept", set())
        replace_text("earlier", path)
        was_killed = killed_in(call, lambda: replace_text("later", path), True)
        found.add(path.read_text())
        call += 1
    assert call > 4
    assert found == {"earlier", "later"}
    monkeypatch.setattr(files, "_swept", set())
    replace_text("again", path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_set_of_files_is_of_one_write_after_a_kill_at_any_moment_and_can_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(value: str, *names: str) -> None:
        with replacing_files(tmp_path, "head", own) as new:
            for name in (*names, "head"):
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(" ".join(names) if name == "head" else value)

    def own() -> set[str]:
        head = tmp_path / "head"
        return {"head", *head.read_text().split()} if head.exists() else set()

    def there() -> set[str]:
        return {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}

    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "notes").write_text("mine")
    call, found, was_killed = 0, set(), True
    while was_killed:
        monkeypatch.setattr(files, "_swept", set())  # as in a process that is started anew
        write("earlier", "a", "inner/b", "of/c")
        was_killed = killed_in(call, lambda: write("later", "a", "d"), True)
        sweep(tmp_path)
        assert there() == own() | {"inner/notes"}
        found.add((tmp_path / "a").read_text())
        assert {(tmp_path / name).read_text() for name in own() - {"head"}} == {(tmp_path / "a").read_text()}
        assert (tmp_path / "of").exists() == ("of/c" in own())
        call += 1
    assert call > 15
    assert found == {"earlier", "later"}


def test_a_set_of_files_does_not_write_over_those_of_others(tmp_path: Path) -> None:
    (tmp_path / "of").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")

    def write(name: str) -> None:
        with replacing_files(tmp_path, name, set) as new:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text("new")

    for name in ("a", "of/b"):
        with pytest.raises(FileExistsError, match=f"{name[:2]} exists"):
            write(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "of"]


def test_what_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "place") as new:
        sweep(tmp_path)
        assert new.is_dir()
        assert contents(tmp_path) == set()
        with replacing_folder(tmp_path / "place") as other:
            (other / "a").write_text("other")
        (new / "a").write_text("mine")
    assert (tmp_path / "place" / "a").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_temporary_that_another_process_sweeps_before_it_is_locked_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, seen = files._lock, []

    def late(folder: Path, wait: bool = False) -> int | None:
        seen.append(folder)
        if len(seen) == 1:  # a sweeper has it already, and removes it a moment later
            other = lock(folder)
            assert other is not None
            try:
                return lock(folder)
            finally:
                os.close(other)
        return lock(folder, wait)

    monkeypatch.setattr(files, "_lock", late)
    with files._temporary(tmp_path / "a") as temporary:
        assert temporary != seen[0]
        assert temporary == seen[1]


@pytest.mark.parametrize("exchanges", [True, False])
def test_readers_find_a_whole_folder_while_writers_replace_it(
    tmp_path: Path, exchanges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "exchange", lambda *_: False)

    def write(number: int) -> None:
        for _ in range(25):
            with replacing_folder(tmp_path / "place") as new:
                (new / "a").write_text(f"{number}")

    write(0)
    with ThreadPoolExecutor(3) as pool:
        written = [pool.submit(write, number) for number in range(1, 4)]
        while exchanges and not all(each.done() for each in written):
            assert (tmp_path / "place" / "a").read_text() in "0123"
        for each in written:
            each.result()
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "of" / "target.csv", tmp_path / "link.csv"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with replacing_file(link) as path:
        path.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "p.csv"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    with replacing_file(pipe) as path:
        path.write_text("rows")
    reader.join(timeout=30)
    assert read == [b"rows"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))), replacing_file(tmp_path) as path:
        path.write_text("rows")


def test_standard_output_by_its_name_is_written_to() -> None:
    program = (
        "from pathlib import Path\nfrom recgraph.data.files import replacing_file\n"
        "with replacing_file(Path('/dev/stdout')) as path:\n    path.write_text('rows')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "rows"


def test_a_folder_that_others_make_at_the_same_time_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several processes that write into a new folder, one makes it between the look and the making of another."""
    new, is_dir = tmp_path / "a" / "b", Path.is_dir

    def made_meanwhile(path: Path, **options: bool) -> bool:
        found = is_dir(path, **options)
        if not found and path == new:
            new.mkdir(parents=True)
        return found

    monkeypatch.setattr(Path, "is_dir", made_meanwhile)
    make_folder(new)
    assert is_dir(new)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file is a file, where a folder is to be"):
        make_folder(tmp_path / "file" / "inner")
