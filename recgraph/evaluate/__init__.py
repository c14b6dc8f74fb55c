"""Evaluation: full ranking, metrics, the protocol that says how a number was made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recgraph.evaluate.evaluator import evaluate
    from recgraph.evaluate.frames import frame
    from recgraph.evaluate.protocol import Protocol
    from recgraph.evaluate.results import ProtocolMismatch, Result, Results, compare
    from recgraph.evaluate.score_matrix import matrix

_WHERE = {
    "Protocol": "protocol",
    "ProtocolMismatch": "results",
    "Result": "results",
    "Results": "results",
    "compare": "results",
    "evaluate": "evaluator",
    "frame": "frames",
    "matrix": "score_matrix",
}

__all__ = ["Protocol", "ProtocolMismatch", "Result", "Results", "compare", "evaluate", "frame", "matrix"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"recgraph.evaluate.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'recgraph.evaluate' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
