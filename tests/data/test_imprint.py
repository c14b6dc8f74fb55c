"""What the library writes is refused by its name when it is damaged, cut or of a newer format, and never read wrong."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recgraph.data import files
from recgraph.data import imprint as imprints
from recgraph.data.errors import CorruptFileError, NewerFileError, ReplacedFileError
from recgraph.data.imprint import (
    check,
    check_folder,
    load_frame,
    load_json,
    load_tensors,
    replace_json,
    replace_page,
    replace_parquet,
    replace_tensors,
    write_checksums,
)
from recgraph.data.interactions import Interactions
from recgraph.data.sealing import SealedTestError
from recgraph.data.split import SealedSplit, Split
from recgraph.graph.hetero import HeteroGraph

FRAME = pl.DataFrame({"id": ["a", "b", "c"], "value": [0.5, 1.5, 2.5]})
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
VALUES = {"seed": 3, "best": 0.25, "names": ["a", "b"], "none": None, "nan": [float("inf")]}


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


PAGE = "<!doctype html>\n<p>A page.</p>"


def read_page(path: Path) -> str:
    if check(path) is None:
        raise CorruptFileError("there is no imprint", path=path)
    return path.read_text()


#: suffix -> write, read, and whether what was read is what was written
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Callable[[Any], bool]]] = {
    ".json": (lambda path: replace_json(VALUES, path), load_json, lambda found: {**found, **VALUES} == found),
    ".parquet": (lambda path: replace_parquet(FRAME, path), load_frame, lambda found: found.equals(FRAME)),
    ".html": (lambda path: replace_page(PAGE, path), read_page, lambda found: found.startswith(PAGE)),
    ".safetensors": (
        lambda path: replace_tensors(TENSORS, path),
        load_tensors,
        lambda found: same_tensors(found, TENSORS),
    ),
}


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"file{request.param}"
    KINDS[request.param][0](path)
    return path


def read(path: Path) -> Any:
    return KINDS[path.suffix][1](path)


def is_right(path: Path) -> bool:
    return KINDS[path.suffix][2](read(path))


def test_a_file_is_read_as_it_was_written(path: Path) -> None:
    assert is_right(path)


@pytest.mark.parametrize("bit", [0, 5])
def test_a_flipped_bit_anywhere_is_refused_by_name_or_changes_nothing(path: Path, bit: int) -> None:
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert is_right(path)
        except (CorruptFileError, NewerFileError) as error:
            assert path.name in str(error)  # noqa: PT017
            refused += 1
    # of the rest, the flip is in the first bytes of Parquet, which its reader passes over
    assert refused >= len(whole) - len("PAR1")


def test_json_is_checked_by_its_values(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    replace_json(VALUES, path)
    assert load_json(path) == VALUES
    text = path.read_text()
    assert text.count('"seed": 3') == 1
    for other in ('"seed": 2', '"seee": 3', '"seed": 33'):
        path.write_text(text.replace('"seed": 3', other))
        with pytest.raises(CorruptFileError, match=r"file\.json: the file was changed after it was written"):
            load_json(path)
    path.write_text(json.dumps(json.loads(text), sort_keys=True))  # another layout of the same values
    assert is_right(path)


def test_a_file_that_is_cut_anywhere_is_refused_by_name(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # JSON may lack its last line end
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError, match=path.name):
            read(path)


def test_a_file_of_a_newer_format_is_refused_with_the_way_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imprints, "FORMAT", imprints.FORMAT + 1)
    KINDS[path.suffix][0](path)
    monkeypatch.undo()
    with pytest.raises(NewerFileError, match=rf"{path.name}: a newer recgraph wrote .* upgrade it"):
        read(path)


def test_a_file_without_an_imprint_is_of_an_earlier_version_and_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    FRAME.write_parquet(tmp_path / "file.parquet")
    save_file(TENSORS, tmp_path / "file.safetensors")
    (tmp_path / "file.json").write_text(json.dumps(VALUES))
    for suffix in set(KINDS) - {".html"}:
        assert is_right(tmp_path / f"file{suffix}")
    assert check(tmp_path / "file.parquet") is None


def test_any_reader_reads_a_file_with_an_imprint(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    replace_parquet(FRAME, tmp_path / "file.parquet", {"mine": "yes"})
    assert pl.read_parquet(tmp_path / "file.parquet").equals(FRAME)
    assert pl.scan_parquet(tmp_path / "file.parquet").collect().equals(FRAME)
    assert pl.read_parquet_metadata(tmp_path / "file.parquet")["mine"] == "yes"
    replace_tensors(TENSORS, tmp_path / "file.safetensors")
    assert same_tensors(load_file(tmp_path / "file.safetensors"), TENSORS)


@pytest.mark.parametrize("name", ["files.json", "manifest.json"])
@pytest.mark.parametrize("change", ["flip", "cut", "remove", "another", "checksums"])
def test_a_folder_is_checked_by_its_checksums(tmp_path: Path, change: str, name: str) -> None:
    """Earlier versions wrote them as ``manifest.json``."""
    (tmp_path / "inner").mkdir()
    for file in ("a", "inner/b"):
        (tmp_path / file).write_bytes(b"0123456789")
    write_checksums(tmp_path)
    (tmp_path / "files.json").rename(tmp_path / name)
    assert check_folder(tmp_path) == {"a", "inner/b"}
    path = tmp_path / "inner" / "b"
    if change == "checksums":
        path = tmp_path / name
        path.write_text(path.read_text().replace("10", "11"))
    elif change == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": b"0123456788", "cut": b"012345678", "another": b""}[change])
    with pytest.raises(CorruptFileError, match=path.name):
        check_folder(tmp_path)


def log(shift: int = 0, features: bool = False) -> Interactions:
    rows = [(f"u{user}", f"i{(user + step) % 7 + shift}", step) for user in range(6) for step in range(5)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    of_items = pl.DataFrame({"item": [f"i{shift}"], "genre": ["x"]}) if features else None
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time", item_features=of_items)


#: what is saved as several files -> save, load, and what tells one value from another
SETS: dict[str, tuple[Callable[[Any, Path], None], Callable[[Path], Any], Callable[[int], Any]]] = {
    "log": (Interactions.save, Interactions.load, log),
    "split": (Split.save, lambda folder: SealedSplit.load(folder).unseal("a test"), lambda n: log(n).split()),
    "graph": (
        HeteroGraph.save,
        HeteroGraph.load,
        lambda n: HeteroGraph.from_interactions(log(n), log(n).split().train),
    ),
}


def told(value: Any) -> Any:
    if isinstance(value, HeteroGraph):
        return value.hash
    value = value.interactions if isinstance(value, Split) else value
    return value.to_frame().to_dict(as_series=False)


class Killed(BaseException):
    """What ends a save, as SIGKILL would."""


def killed_after(n_moves: int, write: Callable[[], None]) -> bool:
    """Write, and end after so many renames without any tidying -> whether it came that far."""
    moves, rename, remove = 0, os.replace, shutil.rmtree

    def move(source: Any, target: Any) -> None:
        nonlocal moves
        moves += 1
        if moves > n_moves:
            raise Killed
        rename(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", move)
        patched.setattr(shutil, "rmtree", lambda path, **more: moves > n_moves or remove(path, **more))
        try:
            write()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("kind", SETS)
def test_a_set_of_files_is_of_one_write_after_a_kill_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    save, load, make = SETS[kind]
    earlier, later = make(0), make(100)
    names: set[str] = set()
    found = []
    for call in itertools.count():
        monkeypatch.setattr(files, "_swept", set())  # as in a process that is started anew
        save(earlier, tmp_path / "set")
        (tmp_path / "set" / "mine.txt").write_text("mine")
        was_killed = killed_after(call, lambda: save(later, tmp_path / "set"))
        value = told(load(tmp_path / "set"))
        assert value in (told(earlier), told(later))
        found.append(value == told(later))
        names |= {path.name for path in (tmp_path / "set").rglob("*") if path.is_file()}
        assert (tmp_path / "set" / "mine.txt").read_text() == "mine"
        if not was_killed:
            break
        shutil.rmtree(tmp_path / "set")
    assert found == sorted(found)  # the earlier ones, and from one moment on the later ones
    assert any(found[:-1])
    assert not all(found)


@pytest.mark.parametrize("kind", SETS)
def test_files_of_two_writes_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    save, load, make = SETS[kind]
    save(make(0), tmp_path / "one")
    save(make(100), tmp_path / "other")
    refused = 0
    for path in sorted((tmp_path / "one").rglob("*.*")):
        other = tmp_path / "other" / path.relative_to(tmp_path / "one")
        if path.read_bytes() == other.read_bytes() or path.name in ("split.json",):
            continue
        whole = path.read_bytes()
        path.write_bytes(other.read_bytes())
        with pytest.raises(CorruptFileError, match=r"\.(parquet|json|safetensors)"):
            load(tmp_path / "one")
        refused += 1
        path.write_bytes(whole)
    assert refused >= 2
    load(tmp_path / "one")


@pytest.mark.parametrize("kind", SETS)
def test_a_reader_beside_a_writer_has_the_files_of_one_write(tmp_path: Path, kind: str) -> None:
    save, load, make = SETS[kind]
    values = [make(0), make(100)]
    save(values[0], tmp_path / "set")
    expected = [told(value) for value in values]
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(lambda: [save(values[number % 2], tmp_path / "set") for number in range(12)])
        n_read = 0
        while not written.done():
            with suppress(ReplacedFileError):  # of a split alone: written anew between its load and the test rows
                assert told(load(tmp_path / "set")) in expected
                n_read += 1
        written.result()
    assert n_read


def test_a_split_that_was_written_anew_since_it_was_loaded_is_not_unsealed(tmp_path: Path) -> None:
    first, second = log().split(), log(100).split()
    first.save(tmp_path)
    loaded = SealedSplit.load(tmp_path)
    second.save(tmp_path)
    with pytest.raises(ReplacedFileError, match=r"split\.json: .*written anew since it was loaded .*; load it again"):
        loaded.unseal("a test")
    assert loaded.unsealed_reasons == []
    first.save(tmp_path)
    assert told(loaded.unseal("a test")) == told(first)


def test_what_an_earlier_log_had_is_not_read_with_a_later_one(tmp_path: Path) -> None:
    log(features=True).save(tmp_path)
    stale = (tmp_path / "item_features.parquet").read_bytes()
    assert Interactions.load(tmp_path).item_features is not None
    log().save(tmp_path)
    assert not (tmp_path / "item_features.parquet").exists()
    (tmp_path / "item_features.parquet").write_bytes(stale)  # a kill before it was removed
    assert Interactions.load(tmp_path).item_features is None


def test_a_test_part_that_a_kill_left_is_not_unsealed(tmp_path: Path) -> None:
    split = log().split()
    split.save(tmp_path)
    stale = (tmp_path / "test" / "test.parquet").read_bytes()
    split.sealed().save(tmp_path)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test.parquet").write_bytes(stale)
    with pytest.raises(SealedTestError, match="holds no test part"):
        SealedSplit.load(tmp_path).unseal("a test")
