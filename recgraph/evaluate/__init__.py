"""Evaluation: full ranking, metrics, the protocol that says how a number was made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recgraph.evaluate.evaluator import evaluate
    from recgraph.evaluate.frames import frame, matrix
    from recgraph.evaluate.protocol import Protocol
    from recgraph.evaluate.results import (
        ProtocolMismatch,
        Result,
        Results,
        compare,
        load_users,
        save_users,
    )
    from recgraph.evaluate.significance import Table, table

__all__ = [
    "Protocol",
    "ProtocolMismatch",
    "Result",
    "Results",
    "Table",
    "compare",
    "evaluate",
    "frame",
]
__all__ += ["load_users", "matrix", "save_users", "table"]
_MODULES = {"evaluate": "evaluator", "frame": "frames", "matrix": "frames", "Protocol": "protocol"}
_MODULES |= {"Table": "significance", "table": "significance"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(
            importlib.import_module(f"recgraph.evaluate.{_MODULES.get(name, 'results')}"), name
        )
    raise AttributeError(
        f"module 'recgraph.evaluate' has no attribute {name!r}; it has {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted(__all__)
