"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recgraph import files
from recgraph.data.errors import CorruptFileError
from recgraph.files import read_object, read_toml

__all__ = ["RepeatedNameError", "each_once", "parse_json", "read_json", "read_object", "read_toml"]


class RepeatedNameError(ValueError):
    name = ""


def each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(pairs)


def read_json(path: Path, most: int = 0, *, written_by_people: bool = False) -> Any:
    return files.read_json(path)


def parse_json(content: bytes | str, path: Path, line: int | None = None, *, written_by_people: bool = False) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"the file is not JSON: {error}", path=path, row=line) from None
