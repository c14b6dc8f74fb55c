"""Which folders a bundle or an export may take the place of: what people have put into one is not deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recgraph.data.files import contents, unlisted

__all__ = ["why_kept"]


def why_kept(folder: Path, what: str, head: str, read: Callable[[Path], Mapping[str, Any]]) -> str | None:
    """Why a folder may not be replaced, in words; None: it is not there, is empty, or holds what was written alone.

    Args:
        what: was written there: ``"bundle"`` or ``"export"``.
        head: the name of its file that lists the others.
        read: reads that file of a folder, ``files`` and all; a ValueError or an OSError where the folder has none.
    """
    if not folder.exists() or (folder.is_dir() and not contents(folder)):
        return None
    try:
        listed = read(folder)["files"]
    except (OSError, ValueError):
        return f"{folder} exists and is no {what}; choose another folder"
    other = unlisted(folder, {head, *listed})
    if other is None:
        return None
    return (
        f"{folder / other} is no part of the {what} in {folder} and would be deleted with it; move it out of there, or "
        "choose another folder"
    )
