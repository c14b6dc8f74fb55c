"""Encoders of sequences and graphs; a name of a member, as ``encoders.GRU``, is its settings as a
value.
"""

from __future__ import annotations

from typing import Any

from recgraph.registry import find_part


def __getattr__(name: str) -> Any:
    return find_part(name, "encoder", "item_graph", "aggregator")
