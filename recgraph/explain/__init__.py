"""Explanations and attributions of recommendations, explanations of nearest nodes, and maps of embeddings."""

from __future__ import annotations

from recgraph.explain.explanation import Attributed, Explanation, NodeExplanation
from recgraph.explain.nodes import explain_node
from recgraph.explain.page import ItemMap, item_map, page, write_page
from recgraph.explain.users import attribute, explain

__all__ = [
    "Attributed",
    "Explanation",
    "ItemMap",
    "NodeExplanation",
    "attribute",
    "explain",
    "explain_node",
    "item_map",
    "page",
    "write_page",
]
