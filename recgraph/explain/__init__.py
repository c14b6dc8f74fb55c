"""Explanations and attributions of recommendations, explanations of nearest nodes, and maps of embeddings."""

from __future__ import annotations

from recgraph.explain.explanation import Attributed, Explanation, NodeExplanation
from recgraph.explain.nodes import explain_node
from recgraph.explain.page import page, write_page
from recgraph.explain.projection import ItemMap, item_map, node_map
from recgraph.explain.user import attribute, explain

__all__ = [
    "Attributed",
    "Explanation",
    "ItemMap",
    "NodeExplanation",
    "attribute",
    "explain",
    "explain_node",
    "item_map",
    "node_map",
    "page",
    "write_page",
]
