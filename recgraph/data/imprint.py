"""The imprint of a file: the version of the library that wrote it, the format of imprints, and a checksum of the rest.

It is inside the file, in a place that every reader of the file's format passes over. So a file and its checksum take
their place in one rename, and no kill leaves one without the other:

    JSON          the entry ``imprint`` of the object; the checksum is over the values, whatever the layout of the text
    Parquet       ``recgraph.imprint`` in the metadata of the footer; the checksum is over all other bytes
    safetensors   ``recgraph.imprint`` in ``__metadata__``; likewise
    HTML, SVG     a comment at the end; likewise (:func:`replace_page` writes it, :func:`check` looks)

To take part, a writer uses :func:`replace_json`, :func:`replace_parquet` and :func:`replace_tensors` (a file takes its
place whole), or :func:`json_text`, :func:`write_parquet` and :func:`write_tensors` inside
:func:`recgraph.data.files.replacing_folder` (a folder takes its place whole). A reader uses :func:`load_json`,
:func:`load_frame` and :func:`load_tensors`, which refuse a file that is damaged or of a newer format, by its name. A
file without an imprint is of an earlier version, and is read as it is.

Several files that belong together have a description, a JSON file that is written last, with :func:`checksums_of` them;
:func:`recgraph.data.files.replacing_files` moves them to their places, and :func:`load_set` refuses a file of another
write. A folder of files of any kind has the checksums of all in ``files.json`` (:func:`write_checksums`,
:func:`check_folder`).

The checksum is CRC-32: it detects damage, not forgery, and reads three times as fast as SHA-256.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import polars as pl

from recgraph import __version__
from recgraph.bounded.files import file_size, named, within
from recgraph.bounded.tables import read_frame
from recgraph.bounded.tensors import read_tensors
from recgraph.bounded.texts import read_object
from recgraph.data.errors import CorruptFileError, NewerFileError
from recgraph.data.files import is_being_written, replace_text, replacing_file, sweep

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT",
    "check",
    "check_folder",
    "checksums_of",
    "imprint",
    "json_text",
    "load_frame",
    "load_json",
    "load_set",
    "load_tensors",
    "replace_json",
    "replace_page",
    "replace_parquet",
    "replace_tensors",
    "write_checksums",
    "write_parquet",
    "write_tensors",
]

#: raised when a change makes earlier readers misread files
FORMAT = 1
FILES = "files.json"
#: its earlier name, which an export's description has, too
_EARLIER_FILES = "manifest.json"
_ENTRY, _KEY = "imprint", "recgraph.imprint"
_TEXT = re.compile(rb"recgraph \S{1,40} format (\d{1,6}) crc32 ([0-9a-f]{8})")
#: digits of a checksum, and the bytes at the end of a page that its comment lies in
_DIGITS, _TAIL = 8, 160
_BLOCK = 1 << 20
#: times that a set of files is read, and seconds between two
_ATTEMPTS, _PAUSE = 50, 0.02
T = TypeVar("T")


def _blank() -> str:
    """The imprint of a file whose checksum is not known yet."""
    return f"recgraph {__version__} format {FORMAT} crc32 {'0' * _DIGITS}"


def json_text(value: Mapping[str, Any], **options: Any) -> str:
    """A JSON object as a text, with its imprint as the last entry.

    Args:
        value: of plain values.
        options: of :func:`json.dumps`.
    """
    entry: dict[str, Any] = {"recgraph": __version__, "format": FORMAT}
    whole = {**value, _ENTRY: entry}
    entry["crc32"] = _crc_of_json(json.loads(json.dumps(whole, **options)))
    return json.dumps(whole, indent=1, **options) + "\n"


def replace_json(value: Mapping[str, Any], path: Path, **options: Any) -> None:
    """Write a JSON object, atomically; see :func:`json_text`."""
    replace_text(json_text(value, **options), path)


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, without its imprint.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is not JSON, no object, or was changed after it was written.
        NewerFileError: a newer version of the library wrote it in a format of its own.
    """
    value = read_object(path)
    if not any(_is_imprint(*each) for each in value.items()):
        return value
    entry = value.get(_ENTRY)  # None: its name is damaged
    if not isinstance(entry, dict) or not isinstance(entry.get("format"), int):
        raise CorruptFileError("the file is damaged: its entry 'imprint' is none; restore the file", path=path)
    _check_format(entry["format"], path)
    told = entry.pop("crc32", None)
    if told != _crc_of_json(value):
        raise CorruptFileError(
            "the file was changed after it was written: its content does not give the checksum in its entry 'imprint'; "
            "restore the file, or, if you have changed it yourself, remove that entry",
            path=path,
        )
    del value[_ENTRY]
    return value


def _is_imprint(name: str, value: Any) -> bool:
    """Whether an entry of a JSON object is an imprint, if only by its name or by what it holds."""
    return name == _ENTRY or (isinstance(value, dict) and "crc32" in value)


def _crc_of_json(value: Any) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True, separators=(',', ':')).encode()):08x}"


def write_parquet(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a frame as a Parquet file with an imprint.

    Args:
        metadata: of the file, beside the imprint.
    """
    frame.write_parquet(path, metadata=parquet_metadata(metadata))
    imprint(path)


def parquet_metadata(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The metadata of a Parquet file that :func:`imprint` is to complete."""
    return {**(more or {}), _KEY: _blank()}


def replace_parquet(frame: pl.DataFrame, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a frame as a Parquet file with an imprint, atomically."""
    with replacing_file(path) as temporary:
        write_parquet(frame, temporary, metadata)


def load_frame(path: Path, memory_map: bool = True) -> pl.DataFrame:
    """Read a Parquet file.

    Args:
        memory_map: see :func:`polars.read_parquet`.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is damaged.
        NewerFileError: see :func:`load_json`.
    """
    check(path)
    return read_frame(path, memory_map=memory_map)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of the host as a safetensors file with an imprint.

    Args:
        metadata: of the file, beside the imprint.
    """
    from safetensors.torch import save_file

    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(contiguous, path, metadata={**(metadata or {}), _KEY: _blank()})
    imprint(path)


def replace_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors of the host as a safetensors file with an imprint, atomically."""
    with replacing_file(path) as temporary:
        write_tensors(tensors, temporary, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into memory: a mapped file that is cut while it is used ends the process.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptFileError: the file is damaged.
        NewerFileError: see :func:`load_json`.
    """
    check(path)
    return read_tensors(path)


def replace_page(text: str, path: Path) -> None:
    """Write a page of HTML, or an SVG, with an imprint, atomically."""
    with replacing_file(path) as temporary:
        temporary.write_text(f"{text.rstrip()}\n<!-- {_KEY}: {_blank()} -->\n", encoding="utf-8")
        imprint(temporary)


def imprint(path: Path) -> str:
    """Write the checksum of a file into the imprint that it was written with -> the checksum."""
    with path.open("rb+") as file:
        found = _find(file)
        assert found is not None, path
        digits = _crc(file, found[1])
        file.seek(found[1])
        file.write(digits.encode())
    return digits


def check(path: Path) -> str | None:
    """The checksum in the imprint of a file that is not JSON; None where it has no imprint.

    Raises:
        CorruptFileError: the rest of the file does not give it.
        NewerFileError: see :func:`load_json`.
    """
    file_size(path)
    with path.open("rb") as file:
        found = _find(file)
        if found is None:
            return None
        text, place = found
        _check_format(int(text[1]), path)
        told = text[2].decode()
        if _crc(file, place) != told:
            raise CorruptFileError("the file is damaged: its checksum differs; restore it or make it again", path=path)
    return told


def _find(file: BinaryIO) -> tuple[re.Match[bytes], int] | None:
    """The imprint in a file that is not JSON, and where its checksum begins; None where there is none.

    Raises:
        CorruptFileError: there was one.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(8)
    if head.startswith(b"PAR1"):
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        start = size - 8 - length
    else:
        start, length = 8, int.from_bytes(head, "little")
    if start < 0 or start + length > size:  # a page; or the reader of the format says what is wrong
        start, length = max(size - _TAIL, 0), _TAIL
    file.seek(start)
    part = file.read(length)
    text = _TEXT.search(part)
    if text is None and _KEY.encode() in part:
        raise CorruptFileError("the file is damaged: its imprint is none; restore it", path=Path(file.name))
    return None if text is None else (text, start + text.start(2))


def _crc(file: BinaryIO, place: int) -> str:
    """The checksum of a file, in which zeros stand for the digits at ``place``."""
    file.seek(0)
    checksum = zlib.crc32(b"0" * _DIGITS, _crc_of(file, 0, place))
    file.seek(place + _DIGITS)
    return f"{_crc_of(file, checksum):08x}"


def _crc_of(file: BinaryIO, checksum: int = 0, length: int | None = None) -> int:
    """The CRC-32 of the next ``length`` bytes of a file, or of all that follow."""
    while block := file.read(_BLOCK if length is None else min(_BLOCK, length)):
        checksum = zlib.crc32(block, checksum)
        length = None if length is None else length - len(block)
    return checksum


def _check_format(number: int, path: Path) -> None:
    if number > FORMAT:
        raise NewerFileError(
            f"a newer recgraph wrote the file, in format {number}; this is recgraph {__version__} and reads up to "
            f"format {FORMAT}: upgrade it (pip install -U recgraph), or make the file again with this version",
            path=path,
        )


def checksums_of(paths: Iterable[Path], folder: Path) -> dict[str, str]:
    """Name in a folder -> checksum in the imprint, of files that were just written; for their description."""
    return {path.relative_to(folder).as_posix(): checksum for path in paths if (checksum := _told(path)) is not None}


def load_set(description: Path, read: Callable[[dict[str, Any]], T]) -> T:
    """Read files that belong together, once more where another process has replaced them meanwhile.

    Args:
        description: of the files, in their folder: its entry ``files`` is what :func:`checksums_of` gave when they were
            written; one of an earlier version has none.
        read: reads the files, given what the description says.

    Raises:
        FileNotFoundError: there is no description.
        CorruptFileError: a file is missing, damaged, or of another write than the description; names it.
    """
    for attempt in range(_ATTEMPTS):
        told = load_json(description)
        try:
            value = read(told)
            _check_set(description.parent, told.get("files") or {})
            return value
        except (CorruptFileError, FileNotFoundError):
            sweep(description.parent)  # what a killed writer had not moved yet
            is_same = load_json(description) == told and not is_being_written(description.parent)
            if (is_same and attempt) or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE)
    raise AssertionError


def _check_set(folder: Path, files: Mapping[str, str]) -> None:
    """Refuse files that are not those of one write, by the checksums in their imprints alone."""
    for name, checksum in files.items():
        path = within(folder, name)
        if not path.is_file():
            raise CorruptFileError("the file is missing; restore it, or write the folder again", path=path)
        if _told(path) != checksum:
            raise CorruptFileError(
                "the file is not of the same write as its description; restore the folder, or write it again", path=path
            )


def _told(path: Path) -> str | None:
    """The checksum in the imprint of a file."""
    if path.suffix == ".json":
        entry = read_object(path).get(_ENTRY)
        return str(entry.get("crc32")) if isinstance(entry, dict) else None
    file_size(path)
    with path.open("rb") as file:
        found = _find(file)
    return None if found is None else found[0][2].decode()


def write_checksums(folder: Path) -> None:
    """Write ``files.json`` with size and checksum of all files of a folder that is not in its place yet."""
    files = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            checksum = f"{_crc_of(file):08x}"
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "crc32": checksum}
    (folder / FILES).write_text(json_text({"files": files}), encoding="utf-8")


def check_folder(folder: Path, of_earlier: str = "") -> Set[str]:
    """Check all files of a folder by its ``files.json``; a folder of an earlier version may have none.

    Args:
        of_earlier: name of the file in which earlier versions kept checksums alone, as numbers.

    Returns:
        The files that were checked; they need not be checked by their own imprints.

    Raises:
        CorruptFileError: a file is missing or damaged; names it.
        NewerFileError: see :func:`load_json`.
    """
    told: dict[str, str] = {}
    with named(folder):
        named_in = next((path for name in (FILES, _EARLIER_FILES) if (path := folder / name).is_file()), None)
        if named_in is not None:
            told = {name: about["crc32"] for name, about in load_json(named_in)["files"].items()}
        elif of_earlier and (folder / of_earlier).is_file():
            told = {name: f"{crc:08x}" for name, crc in load_json(folder / of_earlier).items()}
    for name, crc in told.items():
        path = within(folder, name)
        if not path.is_file():
            raise CorruptFileError("the file is missing; restore it", path=path)
        with path.open("rb") as file:
            if f"{_crc_of(file):08x}" != crc:
                raise CorruptFileError("the file changed since it was written; restore it", path=path)
    return told.keys()
