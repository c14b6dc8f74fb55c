"""Evaluation: full ranking, metrics, the protocol that says how a number was made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recgraph.evaluate.evaluator import evaluate
    from recgraph.evaluate.frames import frame, matrix
    from recgraph.evaluate.protocol import Protocol
    from recgraph.evaluate.results import ProtocolMismatch, Result, Results, compare, load_users, save_users
    from recgraph.evaluate.significance import Table, table

_WHERE = {
    "evaluator": ("evaluate",),
    "frames": ("frame", "matrix"),
    "protocol": ("Protocol",),
    "results": ("ProtocolMismatch", "Result", "Results", "compare", "load_users", "save_users"),
    "significance": ("Table", "table"),
}
__all__ = ["Protocol", "ProtocolMismatch", "Result", "Results", "Table", "compare", "evaluate", "frame"]
__all__ += ["load_users", "matrix", "save_users", "table"]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"recgraph.evaluate.{module}"), name)
    raise AttributeError(f"module 'recgraph.evaluate' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
