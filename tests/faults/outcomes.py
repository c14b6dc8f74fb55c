"""What a command leaves behind, as values that are equal where the work is: without times, and without the machine."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

#: names of entries of records that differ from run to run, or are digests of files that hold such entries
_VOLATILE = {
    "at",
    "checksums",
    "cost",
    "cpu_seconds",
    "curve_seconds",
    "files",
    "imprint",
    "inference",
    "peak_memory_mb",
    "preparation",
    "provenance",
    "results",
    "seconds",
    "targets_per_second",
    "unsealed",
}
#: files of digests, and programs with times in them
_UNREAD = {"checksums.json", "files.json", "manifest.json", "model.pt2"}
#: locks stay where a process was killed; the operating system's lock on them does not
LOCKS = r"(^|/)\.lock$|\.flock$|\.lock$|(^|/)\.work/"
#: names under which files and folders are written before they are renamed
TEMPORARY = r"(^|/)\.[^/]+\.recgraph(/|$)|(^|/)\.tmp[^/]*(/|$)|(^|/)[^/]+\.tmp$"


def stable(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {name: stable(each) for name, each in value.items() if name not in _VOLATILE}
    return [stable(each) for each in value] if isinstance(value, list) else value


def contents(path: Path) -> Any:
    """The contents of a file, without what differs from run to run."""
    if path.name in _UNREAD:
        return "there"
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [stable(json.loads(line)) for line in lines]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path, leave_out: str = "(?!)", only: str = "") -> dict[str, Any]:
    """All files below a folder -> their contents.

    Args:
        folder: or a file.
        leave_out: a pattern of relative paths that are left out.
        only: a pattern of those that are kept.
    """
    if folder.is_file():
        return {"": contents(folder)}
    found = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file())
    unread = f"{leave_out}|{TEMPORARY}"
    return {name: contents(path) for name, path in found if re.search(only, name) and not re.search(unread, name)}


def leftovers(case: Path) -> list[str]:
    """Files and folders with a temporary name that no process works on any more."""
    names = (path.relative_to(case).as_posix() for path in sorted(case.rglob("*")))
    return [name for name in names if re.search(TEMPORARY, name)]
