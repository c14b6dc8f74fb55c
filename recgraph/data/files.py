"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from recgraph.files import contents, remove_folder, replacing_folder, sweep
from recgraph.files import replacing as replacing_file
from recgraph.files import write_text as replace_text

__all__ = [
    "contents",
    "make_folder",
    "recover",
    "remove_folder",
    "replace_text",
    "replacing_file",
    "replacing_folder",
    "sweep",
    "why_kept",
    "why_without",
]


def make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def recover(path: Path) -> None:
    return None


def why_kept(folder: Path, what: str, head: str, read: Callable[[Path], Mapping[str, Any]]) -> str | None:
    return None


def why_without(folder: Path, what: str) -> str:
    if folder.is_dir():
        return f"it has no {what}"
    return "it is a file" if folder.exists() else "there is no such folder"


def unlisted(folder: Path, listed: Collection[str]) -> str | None:
    return None
