"""RecBole's atomic files: tab separated, with a header of ``name:type``.

Types are ``token``, ``token_seq``, ``float`` and ``float_seq``. A ``*_seq`` field stays a text, as titles are of that
type as well as lists of genres; ``Interactions.item_relation`` splits it, and graphs have a node for each word.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from recgraph.data.diagnose import collect
from recgraph.data.errors import CorruptFileError, DataError, DuplicateColumnError, MissingColumnError
from recgraph.data.ids import FOR_MISSING
from recgraph.data.packing import PACKED_SUFFIXES, unpacked_name
from recgraph.data.readers import scan_delimited
from recgraph.data.source import Raw, Source
from recgraph.texts import listed

__all__ = ["atomic_files", "read_features", "scan_atomic", "side_files"]

_RECBOLE_TYPES = ("token", "token_seq", "float", "float_seq")


def atomic_files(path: str | Path) -> dict[str, Path]:
    """The files of a data set by suffix (``inter``, and ``user``, ``item`` where they exist).

    Args:
        path: the folder that holds one ``*.inter`` file, or that file, plain or packed.

    Raises:
        FileNotFoundError: there is no ``.inter`` file.
        ValueError: there are several.
    """
    path = Path(path)
    found = [path] if path.is_file() else sorted(path.glob("*.inter*"))
    found = [file for file in found if unpacked_name(file).suffix == ".inter"]
    if not found:
        raise FileNotFoundError(f"{str(path)!r} is no .inter file and no folder that holds one")
    if len(found) > 1:
        raise ValueError(f"{str(path)!r} holds {len(found)} .inter files; name one: {', '.join(f.name for f in found)}")
    return {"inter": found[0], **side_files(found[0])}


def side_files(inter: Path) -> dict[str, Path]:
    """The files ``user`` and ``item`` beside an ``.inter`` file, plain or packed; of ``ml.train`` also ``ml.item``."""
    name = unpacked_name(inter).name.removesuffix(".inter")
    stems = dict.fromkeys((name, name.removesuffix(".train").removesuffix(".valid").removesuffix(".test")))
    found: dict[str, Path] = {}
    for side in ("user", "item"):
        names = (f"{stem}.{side}{packing}" for stem in stems for packing in ("", *PACKED_SUFFIXES))
        there = [file for name in names if (file := inter.with_name(name)).is_file()]
        if there:
            found[side] = there[0]
    return found


def scan_atomic(path: Path, encoding: str = "utf-8", quotes: bool = True) -> tuple[Raw, dict[str, str]]:
    """Scan one atomic file.

    Returns:
        The rows, with the columns named without their types, and name -> type.

    Raises:
        CorruptFileError: a header field is not ``name:type``.
        DuplicateColumnError: two have the same name.
    """
    raw = scan_delimited(path, separator="\t", encoding=encoding, quotes=quotes)
    header = raw.lazy.collect_schema().names()
    types: dict[str, str] = {}
    for field in header:
        name, _, kind = field.rpartition(":")
        if not name or kind not in _RECBOLE_TYPES:
            message = (
                f"header field {field!r} is not name:type with a type of {', '.join(_RECBOLE_TYPES)}, tab separated"
            )
            raise raw.source.error(CorruptFileError, message, line=1)
        if name in types:
            raise raw.source.error(DuplicateColumnError, f"the header names {name!r} twice; rename one", line=1)
        types[name] = kind
    lazy = raw.lazy.rename(dict(zip(header, types, strict=True)))
    return replace(raw, lazy=lazy), types


def read_features(path: Path, key: str, encoding: str = "utf-8", quotes: bool = True) -> pl.DataFrame:
    """A ``.user`` or ``.item`` file: ``float`` columns as numbers, all others as text, with the key column.

    Empty fields, and words for a missing value, are no numbers.

    Raises:
        MissingColumnError: the key column is not there.
        DataError: another text of a ``float`` column is no number; names its line.
    """
    raw, types = scan_atomic(path, encoding, quotes)
    if key not in types:
        raise raw.source.error(
            MissingColumnError,
            f"there is no column {key!r}; the columns are {listed(types)}",
            line=1,
        )
    frame = collect(raw.lazy, raw.source)
    numbers = [name for name, kind in types.items() if kind == "float" and name != key]
    return frame.with_columns(_as_numbers(frame[name], raw.source) for name in numbers)


def _as_numbers(texts: pl.Series, source: Source) -> pl.Series:
    texts = texts.str.strip_chars()
    numbers = texts.cast(pl.Float64, strict=False)
    lost = numbers.is_null() & texts.is_not_null() & ~texts.is_in(FOR_MISSING)
    if lost.any():
        row = int(lost.arg_max() or 0)
        message = (
            f"{texts[row]!r} (column '{texts.name}:float') is no number; write one such as 12.5, leave it empty, "
            f"or call the column '{texts.name}:token'"
        )
        raise source.error(DataError, message, row=row)
    return numbers
