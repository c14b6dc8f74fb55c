"""Every bounded reader refuses what a file cannot hold, before it allocates, and names the file."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import forging
import numpy as np
import polars as pl
import pytest
import safetensors.torch
import scipy.sparse as sp
import torch

from recgraph.bounded import archives, files
from recgraph.bounded.archives import unpack_member
from recgraph.bounded.arrays import read_array, read_matrix
from recgraph.bounded.files import VARIABLE, check_memory, check_plain, file_size, within
from recgraph.bounded.tables import read_frame
from recgraph.bounded.tensors import read_heads, read_tensors
from recgraph.bounded.texts import MOST_VALUES, read_json, read_object, read_toml
from recgraph.data.errors import CorruptFileError
from recgraph.memory import MemoryLimitError

GIB = 1 << 30


def test_a_pipe_and_a_device_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CorruptFileError, match="no regular file"):
            file_size(path)
    with pytest.raises(CorruptFileError, match="this is a folder; give a file"):
        file_size(tmp_path)


@pytest.mark.parametrize(
    "name", ["", ".", "/x", "../x", "a/../../x", "a\\b", "C:x", "C:/x", "//host/x", "a\0b", None, 3]
)
def test_names_that_lead_out_of_a_folder(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside the folder"):
        check_plain(name)
    with pytest.raises(CorruptFileError, match="inside the folder"):
        within(tmp_path, name)


def test_a_link_must_stay_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "there").write_text("1")
    (tmp_path / "out").write_text("2")
    (tmp_path / "own" / "inside").symlink_to("there")
    (tmp_path / "own" / "outside").symlink_to("../out")
    (tmp_path / "own" / "round").symlink_to("round")
    assert within(tmp_path / "own", "inside").read_text() == "1"
    with pytest.raises(CorruptFileError, match="leads out of the folder"):
        within(tmp_path / "own", "outside")


def test_memory_is_bounded_by_the_size_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"x" * 1000)
    check_memory(256 << 20, path)
    with pytest.raises(CorruptFileError, match=rf"small: the file declares 1.0 GiB.*set {VARIABLE}"):
        check_memory(GIB, path)
    check_memory(GIB, path, size=GIB >> 4)
    monkeypatch.setenv(VARIABLE, "2GiB")
    check_memory(GIB, path)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1GiB")
    with pytest.raises(MemoryLimitError, match=r"reading .*small would take 1.0 GiB"):
        check_memory(GIB, path)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1MiB")
    check_memory(1 << 20, path)  # the process holds more already, and says so where it counts


def test_json_is_bounded_in_bytes_values_and_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, None]}))
    assert read_object(path) == {"a": [1, None]}
    for text, message in {
        "[" * 100_000: "nested too deeply",
        "[" + "[]," * MOST_VALUES + "1]": "more than",
        "[1]": "no JSON object, but a list",
        '{"a": ' + "9" * 5000 + "}": "not JSON",
        '{"a"': "not JSON",
        "\ud800": "not JSON",
    }.items():
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(CorruptFileError, match=rf"a\.json: .*{message}"):
            read_object(path)
    path.write_text(" " * 2000 + "1")
    with pytest.raises(CorruptFileError, match="at most 1,000"):
        read_json(path, most=1000)


def test_toml_is_bounded_in_depth_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for text, message in {
        "x = " + "[" * 50_000: "nested",
        "x = [": "not valid TOML",
        "#" * 3_000_000: "at most",
    }.items():
        path.write_text(text)
        with pytest.raises(CorruptFileError, match=rf"a\.toml: .*{message}"):
            read_toml(path)


def _entry(shape: list[Any], first: Any, last: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


def test_tensors_come_back(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(6.0).view(2, 3),
        "b": torch.zeros(0, 4),
        "c": torch.tensor(3),
        "d": torch.tensor([True]),
    }
    path = tmp_path / "t.safetensors"
    safetensors.torch.save_file(tensors, path, {"about": "text"})
    heads = read_heads(path)
    assert heads.metadata == {"about": "text"}
    assert {name: head.shape for name, head in heads.heads.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    assert heads.nbytes == sum(tensor.nbytes for tensor in tensors.values())
    for mapped in (False, True):
        found = read_tensors(path, mapped=mapped)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ({"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}, bytes(12)),  # overlapping
        ({"a": _entry([2], 0, 8), "b": _entry([2], 12, 20)}, bytes(20)),  # a hole
        ({"a": _entry([2], 0, 8)}, bytes(4)),  # out of the file
        ({"a": _entry([2], 0, 8)}, bytes(12)),  # more than tensors
        ({"a": _entry([10**9], 0, 8)}, bytes(8)),
        ({"a": _entry([2**40, 2**40, 0], 0, 0)}, b""),
        ({"a": _entry([-2, -1], 0, 8)}, bytes(8)),
        ({"a": _entry([10**30], 0, 4 * 10**30)}, b""),
        ({"a": _entry([2.0], 0, 8)}, bytes(8)),
        ({"a": _entry([2], False, 8)}, bytes(8)),
        ({"a": _entry([2], 0, 8, "F33")}, bytes(8)),
        ({"a": _entry([2], 0, 8, ["F32"])}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        ({"a": None}, b""),
        ([], b""),
        ({"__metadata__": {"a": 1}}, b""),
        (b"{" * 5000, b""),
        (b"\xff\xfe", b""),
    ],
)
def test_heads_that_do_not_fit_their_file(head: Any, content: bytes, tmp_path: Path) -> None:
    path = forging.tensor_file(tmp_path / "t.safetensors", head, content)
    for read in (read_heads, read_tensors):
        with pytest.raises(CorruptFileError, match=r"t\.safetensors"):
            read(path)


def test_a_head_longer_than_its_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    for content in (b"", b"\1", b"\xff" * 8, (2**40).to_bytes(8, "little") + b"{}"):
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match="no safetensors file"):
            read_heads(path)


def test_a_frame_comes_back(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "n": list(range(5000)),
            "t": [f"text {n % 7}" for n in range(5000)],
            "v": pl.Series([[1.0, 2.0]] * 5000, dtype=pl.Array(pl.Float32, 2)),
            "l": [[n, n] for n in range(5000)],
            "b": [n % 2 == 0 for n in range(5000)],
            "s": [{"x": n, "y": None} for n in range(5000)],
        }
    )
    for compression in ("zstd", "uncompressed", "snappy", "gzip", "lz4"):
        frame.write_parquet(tmp_path / "f.parquet", compression=compression, row_group_size=999)
        assert read_frame(tmp_path / "f.parquet").equals(frame)
        assert read_frame(tmp_path / "f.parquet", columns=["t"]).equals(frame.select("t"))


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    raised: list[OSError] = [OSError(errno.EIO, "Input/output error"), OSError("incomplete frame")]
    monkeypatch.setattr(pl, "read_parquet", lambda *_, **__: (_ for _ in ()).throw(raised.pop(0)))
    with pytest.raises(OSError, match=r"Input/output error: '.*a\.parquet'") as caught:
        read_frame(path)
    assert not isinstance(caught.value, CorruptFileError)
    with pytest.raises(CorruptFileError, match=r"a\.parquet: the Parquet file cannot be read: incomplete frame"):
        read_frame(path)


def test_a_frame_of_other_writers_comes_back(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": list(range(100)), "b": pa.array(["x", None] * 50).dictionary_encode()})
    for version in ("1.0", "2.0"):
        pq.write_table(table, tmp_path / "f.parquet", data_page_version=version, write_statistics=True)
        assert read_frame(tmp_path / "f.parquet")["a"].sum() == 4950


@pytest.mark.parametrize("kind", ["repeated", "packed", "arrays", "views"])
def test_a_table_that_unpacks_to_too_much(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller scale: 1 MiB for gigabytes is 5 kB for megabytes. The check comes before the memory is taken."""
    monkeypatch.setattr(files, "FLOOR", 4 << 20)
    path = tmp_path / "bomb.parquet"
    if kind == "repeated":  # equal numbers
        pl.select(pl.repeat(7, 2_000_000, dtype=pl.Int64).alias("id")).write_parquet(path)
    elif kind == "packed":  # a page of zeros
        pl.DataFrame({"id": ["0" * (8 << 20)]}).write_parquet(path)
    elif kind == "arrays":
        rows = pl.Series("id", [None] * 1000, dtype=pl.Array(pl.Float64, 1000))
        rows.to_frame().write_parquet(path)
    else:  # one text of 16 kB, in a thousand rows
        import pyarrow as pa
        import pyarrow.parquet as pq

        codes = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), pa.array([os.urandom(8 << 10).hex()]))
        pq.write_table(pa.table({"id": codes}), path, store_schema=False)
    assert path.stat().st_size < 20 << 10
    with pytest.raises(CorruptFileError, match=r"bomb\.parquet: the file declares"):
        read_frame(path)


@pytest.mark.parametrize(
    "footer",
    [
        b"",
        b"\x19" * 50,
        b"\x1c" * 60_000,  # structures in structures
        b"\x19\xfc\xff\xff\xff\xff\x0f",  # a list of 2**32 structures
        forging.thrift({1: 1, 2: [{4: b"schema", 5: 1}], 3: 10**12, 4: []}),
        forging.thrift({1: 1, 2: [{4: b"schema"}], 3: -5, 4: []}),
        forging.thrift({1: 1, 2: [{4: b"schema"}], 3: 5}),
    ],
)
def test_footers_that_do_not_fit_their_file(footer: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(CorruptFileError, match=r"f\.parquet"):
        read_frame(path)
    path.write_bytes(b"PAR1" + footer + (2**31).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(CorruptFileError, match="no Parquet file"):
        read_frame(path)


class Pickled:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Pickled(tmp_path / "run")], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", format=np.array([Pickled(tmp_path / "run")], dtype=object))
    torch.save(Pickled(tmp_path / "run"), tmp_path / "model.safetensors")
    for read, name in ((read_array, "a.npy"), (read_matrix, "a.npz"), (read_tensors, "model.safetensors")):
        with pytest.raises(CorruptFileError, match=name):
            read(tmp_path / name)
    assert not (tmp_path / "run").exists()


def test_arrays_come_back(tmp_path: Path) -> None:
    values = np.arange(6).reshape(2, 3)
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "plain.npz").write_bytes((tmp_path / "a.npy").read_bytes())  # some published ones are called so
    sp.save_npz(tmp_path / "m.npz", sp.csr_matrix(values))
    assert (read_array(tmp_path / "a.npy") == values).all()
    assert (read_matrix(tmp_path / "plain.npz") == values).all()
    assert (read_matrix(tmp_path / "m.npz").toarray() == values).all()


def test_an_array_must_be_as_long_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for shape in ((10**12,), (-1, -8), (2**40, 2**40)):
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<i8"})
            file.write(bytes(8))
        with pytest.raises(CorruptFileError, match=r"a\.npy"):
            read_array(path)


def test_a_matrix_of_more_rows_than_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    matrix = sp.coo_array(([1.0], ([0], [0])), shape=(10**12, 10))
    sp.save_npz(path, matrix)
    with pytest.raises(CorruptFileError, match=r"m\.npz: the file declares"):
        read_matrix(path)


def _archive(path: Path, content: bytes, **fields: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("log.csv")
        for name, value in fields.items():
            setattr(info, name, value)
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def test_members_are_bounded_by_what_is_declared_and_by_what_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FLOOR", 1 << 20)
    bomb, into = _archive(tmp_path / "bomb.zip", bytes(3 << 20)), tmp_path / "into"
    with pytest.raises(CorruptFileError, match=r"bomb\.zip: member 'log\.csv' has more than 1,048,576 bytes"):
        unpack_member(bomb, "log.csv", into)
    assert not into.exists()
    unpack_member(bomb, "log.csv", into, most=4 << 20)
    assert into.stat().st_size == 3 << 20

    # the directory says 10 bytes; zipfile stops there and finds another checksum
    data = bytearray(bomb.read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    bomb.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"bomb\.zip"):
        unpack_member(bomb, "log.csv", into)
    assert not into.exists()


def test_members_that_are_links_or_encrypted(tmp_path: Path) -> None:
    into = tmp_path / "into"
    for number, kind in enumerate((0o120777, 0o020666, 0o010666)):  # a link, a device, a pipe
        archive = _archive(tmp_path / f"{number}.zip", b"/etc/passwd", external_attr=kind << 16)
        with pytest.raises(CorruptFileError, match="no regular file"):
            unpack_member(archive, "log.csv", into)
    locked = bytearray(_archive(tmp_path / "locked.zip", b"abc").read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(mark) + place] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(CorruptFileError, match="encrypted"):
        unpack_member(tmp_path / "locked.zip", "log.csv", into)
    with pytest.raises(KeyError):
        unpack_member(tmp_path / "0.zip", "other.csv", into)
    assert not into.exists()


def test_a_bare_zip_directory_is_damaged(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("log.csv", b"abc" * 100)
    (tmp_path / "cut.zip").write_bytes(made.getvalue()[200:])
    with pytest.raises(CorruptFileError, match=r"cut\.zip"):
        unpack_member(tmp_path / "cut.zip", "log.csv", tmp_path / "into")
