"""Items and nodes with the user's own ids and their titles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Item", "Node"]


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
        type: node type.
        id: the user's own id; the index where the graph has no ids.
        title: an item's title, else the id as text.
    """

    type: str
    id: Any
    title: str


@dataclass(frozen=True)
class Item:
    """An item.

    Attributes:
        id: the user's own id.
        title: the title or name from the item features, else the id as text.
        fields: the other item features, by column, without vectors; lists are tuples.
    """

    id: Any
    title: str
    fields: Mapping[str, Any] = field(default_factory=dict)
