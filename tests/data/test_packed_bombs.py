"""Packed logs that unpack to far more than they are: bounded before they fill memory or disk, whatever they declare."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import recgraph as rg
from recgraph.bounded import files
from recgraph.bounded.zstd import check_zstd
from recgraph.data import errors, lines, packing

HEAD = b"user_id,item_id\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may unpack to a mebibyte, or 200 times their size where that is more."""
    monkeypatch.setattr(files, "FLOOR", 1 << 20)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "items.csv"])
def test_a_text_of_far_more_bytes_is_refused_and_no_disk_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str
) -> None:
    """Rows that repeat pack to a thousandth; several streams, one after another, are one text."""
    tmp_path.joinpath("plain.csv").write_bytes(HEAD + b"u1,i1\n")
    row = b'{"user_id": 1, "item_id": 2}\n' if "jsonl" in name else b"u1,i1\n"
    pack = PACKERS[suffix]
    packed = pack((b"" if "jsonl" in name else HEAD) + row) + pack(row * 10_000) * 40
    path = tmp_path / f"{name}.{suffix}"
    path.write_bytes(packed)
    if name != "items.csv":
        monkeypatch.setattr(pl, "scan_csv", lambda *_, **__: pytest.fail("polars reads it"))
    monkeypatch.setattr(pl, "scan_ndjson", lambda *_, **__: pytest.fail("polars reads it"))
    monkeypatch.setattr(packing.tempfile, "tempdir", str(tmp_path))
    most = max(1.0, 200 * len(packed) / 2**20)
    what = rf"{name}\.{suffix}: .* (to more than|may take) {most:.1f} MiB.*RECGRAPH_UNPACKED_LIMIT"
    log, features = (tmp_path / "plain.csv", path) if name == "items.csv" else (path, None)
    with pytest.raises(errors.CorruptFileError, match=what):
        rg.load_data(log, item_features=features)
    assert len([*tmp_path.iterdir()]) == 2
    monkeypatch.undo()
    monkeypatch.setenv(files.VARIABLE, "64MiB")
    if name == "log.csv":
        assert rg.load_data(path).n_interactions == 400_001


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_line_of_far_more_bytes_than_a_line_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for module in (packing, lines):
        monkeypatch.setattr(module, "LONGEST_LINE", 1 << 17)
    monkeypatch.setattr(packing, "_BLOCK", 1 << 16)
    path = tmp_path / f"log.csv.{suffix}"
    path.write_bytes(PACKERS[suffix](HEAD + b"u1,i1\nu2," + b"x" * (1 << 18) + b"\nu3,i3\n"))
    with pytest.raises(errors.DelimiterError, match=rf"log\.csv\.{suffix}, line 3: the line is longer than 128 KiB"):
        rg.load_data(path)
    path.write_bytes(PACKERS[suffix](HEAD + b'u1,i1\nu2,"i2\n' + b"u3,i3\n" * 100_000))
    with pytest.raises(errors.CorruptFileError, match=rf"log\.csv\.{suffix}, line 3: a quote that begins in this row"):
        rg.load_data(path)


def test_a_long_line_of_another_encoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LONGEST_LINE", 1 << 17)
    monkeypatch.setattr(packing, "_BLOCK", 1 << 16)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(HEAD + b"u1,i1\nu2," + b"\xe9" * (1 << 18)))
    with pytest.raises(errors.DelimiterError, match=r"line 3: the line is longer"):
        rg.load_data(path, encoding="latin-1")


@pytest.mark.parametrize("block", [1, 5, 64])
def test_a_wrong_byte_has_its_line_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(packing, "_BLOCK", block)
    path = tmp_path / "log.csv.gz"
    for encoding, bad in (("ascii", b"\xe9"), ("utf-16", b"\x00\xdc"), ("shift-jis", b"\xff\xff")):
        path.write_bytes(gzip.compress("a,b\nc,d\ne,".encode(encoding) + bad + "f\n".encode("utf-16-le")))
        with pytest.raises(errors.EncodingError, match=rf"line 3: the text after line 2 is not {encoding}"):
            packing.plain_copy(path, encoding)
    text = "user,日本\n" * 9
    path.write_bytes(gzip.compress(text.encode("utf-16")))
    copy, held = packing.plain_copy(path, "utf-16")
    assert copy.read_text("utf-8") == text
    del held
    path.write_bytes(gzip.compress("a,b\n".encode("utf-16-le")[1:]))
    with pytest.raises(errors.EncodingError, match=r"line 1: the text after line 0 is not utf-16"):
        packing.plain_copy(path, "utf-16")


def test_a_plain_copy_leaves_room_on_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv.bz2"
    path.write_bytes(bz2.compress(HEAD + b"u1,i1\n" * 100))
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setattr(packing.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(errors.DataError, match=r"log\.csv\.bz2: its plain copy fills .*disk: .* set TMPDIR"):
        rg.load_data(path)
    assert not [*folder.iterdir()]


def test_zstandard_blocks_bound_what_they_unpack_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle unpacks; the bound is at most a block above it. Neither frames nor blocks need be of one kind."""
    declared: list[int] = []
    monkeypatch.setattr("recgraph.bounded.zstd.check_declared", lambda size, *_: declared.append(size))
    rng, path = random.Random(0), tmp_path / "a.zst"
    texts = [b"", b"a", b"x" * 1_000_000, rng.randbytes(300_000), b"u1,i1\n" * 70_000]
    for _ in range(20):
        chosen = rng.choices(texts, k=rng.randrange(1, 4))
        skipped = (0x184D2A53).to_bytes(4, "little") + (7).to_bytes(4, "little") + b"1234567"
        path.write_bytes(b"".join(PACKERS["zst"](text) + rng.choice((b"", skipped)) for text in chosen))
        check_zstd(path)
        assert sum(map(len, chosen)) <= declared[-1] <= sum(len(text) + (1 << 17) for text in chosen)
    # options that pyarrow has not: a window, a checksum, blocks of raw and of repeated bytes
    frame = b"\x28\xb5\x2f\xfd" + bytes([4, 0x58]) + b"\x20\0\0abcd" + b"\x03\x40\0z" + b"\0\0\0\0"
    path.write_bytes(frame)
    check_zstd(path)
    assert declared[-1] == 4 + 2048
    for wrong, what in ((frame[:-9], "cut off"), (frame[:12], "cut off"), (frame + b"abcd", "no frame")):
        path.write_bytes(wrong)
        with pytest.raises(errors.CorruptFileError, match=rf"a\.zst: the zstd file is damaged: .*{what}"):
            check_zstd(path)
    path.write_bytes(frame[:6] + b"\x07\0\0")
    with pytest.raises(errors.CorruptFileError, match="no known kind"):
        check_zstd(path)


def test_zstandard_is_unpacked_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"u{i},{'é' * (i % 7)}" if i % 5 else "" for i in range(200_000)]
    text = ("\n".join(texts) + "\n").encode()
    path = tmp_path / "a.zst"
    path.write_bytes(PACKERS["zst"](text))
    with packing.open_bytes(path) as file:
        assert file.read() == text
    written: list[int] = []
    write = pl.DataFrame.write_csv

    def noted(frame: pl.DataFrame, *args: Any, **kwargs: Any) -> None:
        written.append(len(frame))
        write(frame, *args, **kwargs)

    monkeypatch.setattr(pl.DataFrame, "write_csv", noted)
    with packing.open_bytes(path) as file:
        assert file.readline() == b"\n"
        assert sum(written) < 200_000
        assert file.readline() == texts[1].encode() + b"\n"
