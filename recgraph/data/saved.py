"""What was saved in a folder: the files that its description lists, and those that these list in turn."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from recgraph.bounded.files import within
from recgraph.data.errors import DataError
from recgraph.data.imprint import load_json

__all__ = ["listed"]

_CHECKSUM = re.compile("[0-9a-f]{8}")


def listed(folder: Path, head: str) -> set[str]:
    """The names in a folder of a description and of all that it lists; none where it is no description, or damaged.

    Args:
        folder: where it lies.
        head: the name of the description: its entry ``files`` is what
            :func:`recgraph.data.imprint.checksums_of` gave.
    """
    names: set[str] = set()
    _add(folder, head, names)
    return names


def _add(folder: Path, head: str, names: set[str]) -> None:
    try:
        files = load_json(within(folder, head)).get("files")
        if not isinstance(files, dict) or not all(_CHECKSUM.fullmatch(str(each)) for each in files.values()):
            return
        own = {(PurePosixPath(head).parent / name).as_posix() for name in files}
        for name in own:
            within(folder, name)
    except (DataError, OSError):
        return
    inner = {name for name in own if name.endswith(".json")} - names
    names |= own | {head}
    for name in inner:
        _add(folder, name, names)
