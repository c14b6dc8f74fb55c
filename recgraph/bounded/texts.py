"""JSON and TOML: bounded in bytes, in values and in depth."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from recgraph.bounded.files import read_bytes
from recgraph.data.errors import CorruptFileError

__all__ = [
    "MOST_BYTES",
    "MOST_VALUES",
    "RepeatedNameError",
    "each_once",
    "parse_json",
    "parse_toml",
    "read_json",
    "read_object",
    "read_toml",
]

#: of a text; vocabularies of item features are the longest that the library writes
MOST_BYTES = 64 << 20
#: values of a text; each takes about 100 bytes once it is read
MOST_VALUES = 4_000_000


class RepeatedNameError(ValueError):
    """An object of JSON has a name twice.

    Attributes:
        name: which one.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name[:80]!r} is given more than once; give it once")
        self.name = name


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON that people write: of a name that is given twice, it is not clear which value is meant.

    Raises:
        RepeatedNameError: a name is given twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise RepeatedNameError(next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1))
    return fields


def read_json(path: Path, most: int = MOST_BYTES, *, written_by_people: bool = False) -> Any:
    """The value of a JSON file.

    Args:
        written_by_people: refuse an object that has a name twice.

    Raises:
        CorruptFileError: it is no JSON in UTF-8, too long, or too deep.
        FileNotFoundError: it is not there.
    """
    return parse_json(read_bytes(path, most), path, written_by_people=written_by_people)


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The object of a JSON file; see :func:`read_json`, and any other value is an error too."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise CorruptFileError(f"the file holds no JSON object, but {_kind(value)}", path=path)
    return value


def parse_json(content: bytes | str, path: Path, line: int | None = None, *, written_by_people: bool = False) -> Any:
    """The value of a text, or of a line, of a file; see :func:`read_json`."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise CorruptFileError(f"the file holds more than {MOST_VALUES:,} values", path=path, line=line)
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=each_once if written_by_people else None)
    except RecursionError:
        raise CorruptFileError("the file is nested too deeply", path=path, line=line) from None
    except RepeatedNameError as error:
        raise CorruptFileError(f"{error}", path=path, line=line) from None
    except ValueError as error:  # also a number of too many digits
        raise CorruptFileError(f"the file is not JSON: {error}; restore it", path=path, line=line) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        CorruptFileError: it is no TOML in UTF-8, too long, or too deep; says the line where it is known.
        FileNotFoundError: it is not there.
    """
    return parse_toml(read_bytes(path, MOST_BYTES), path)


def parse_toml(content: bytes, path: Path) -> dict[str, Any]:
    """The values of a text in TOML."""
    # a parser in Python: text of a megabyte is read in a second
    if len(content) > MOST_BYTES >> 5:
        raise CorruptFileError(f"a TOML file has at most {MOST_BYTES >> 5:,} bytes", path=path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError:
        raise CorruptFileError("the file is nested too deeply", path=path) from None
    except ValueError as error:
        raise CorruptFileError(f"the file is not valid TOML: {error}", path=path) from None


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null", bool: "a boolean"}.get(type(value), "a number")
