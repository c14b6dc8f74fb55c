"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

from recgraph.files import naming

__all__ = ["DiskError", "naming", "told"]

DiskError = OSError


def told(error: OSError) -> str | None:
    return f"{error.filename2 or error.filename or 'a file'}: {error.strerror}" if error.errno else None
