"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""

from __future__ import annotations

from recgraph.files import LOCK, FolderInUse, hold, locked

__all__ = ["LOCK", "FolderInUse", "hold", "locked"]
