"""recgraph: graph and sequential recommendation on one contrastive core.

The public names are those of ``__init__.pyi``; each is imported when it is first used, so that
``import recgraph`` does not import torch.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_WHERE = {
    each.name: node.module
    for node in _stub.body
    if isinstance(node, ast.ImportFrom)
    for each in node.names
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(
            f"module 'recgraph' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    module = _WHERE[name]
    package = importlib.import_module(f"recgraph.{name}" if module == "recgraph" else str(module))
    return package if module == "recgraph" else getattr(package, name)


def __dir__() -> list[str]:
    return sorted(__all__)
