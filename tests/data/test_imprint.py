"""What the library writes is refused by its name when it is damaged, cut or of a newer format, and never read wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recgraph.data import imprint as imprints
from recgraph.data.errors import CorruptFileError, NewerFileError
from recgraph.data.imprint import (
    check,
    check_manifest,
    load_frame,
    load_json,
    load_tensors,
    replace_json,
    replace_parquet,
    replace_tensors,
    write_manifest,
)

FRAME = pl.DataFrame({"id": ["a", "b", "c"], "value": [0.5, 1.5, 2.5]})
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False])}
VALUES = {"seed": 3, "best": 0.25, "names": ["a", "b"], "none": None, "nan": [float("inf")]}


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


#: suffix -> write, read, and whether what was read is what was written
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], Callable[[Any], bool]]] = {
    ".json": (lambda path: replace_json(VALUES, path), load_json, lambda found: {**found, **VALUES} == found),
    ".parquet": (lambda path: replace_parquet(FRAME, path), load_frame, lambda found: found.equals(FRAME)),
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
    # of the rest, the flip is in the name of the imprint: what it guards is untouched
    assert refused >= len(whole) - len("recgraph.imprint") - len("recgraph 0.1.0 format crc32") - 12


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
    for suffix in KINDS:
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


@pytest.mark.parametrize("change", ["flip", "cut", "remove", "another", "manifest"])
def test_a_folder_is_checked_by_its_manifest(tmp_path: Path, change: str) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a", "inner/b"):
        (tmp_path / name).write_bytes(b"0123456789")
    write_manifest(tmp_path)
    check_manifest(tmp_path)
    path = tmp_path / "inner" / "b"
    if change == "manifest":
        path = tmp_path / "manifest.json"
        path.write_text(path.read_text().replace("10", "11"))
    elif change == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": b"0123456788", "cut": b"012345678", "another": b""}[change])
    with pytest.raises(CorruptFileError, match=path.name):
        check_manifest(tmp_path)
