"""The models, one file each: ``recgraph.models.MCLRec(hidden_dim=64)``. Each is imported when it is
first used.
"""

from __future__ import annotations

from typing import Any

from recgraph import registry


def __getattr__(name: str) -> Any:
    if registry.key(name) in registry.names("model"):
        model = registry.load("model", name)
        if model.__name__ == name:
            return model
    raise AttributeError(
        f"module 'recgraph.models' has no attribute {name!r}; the models are {', '.join(__dir__())}"
    )


def __dir__() -> list[str]:
    return sorted(registry.load("model", name).__name__ for name in registry.names("model"))
