"""Explanations of recommendations and of nearest nodes, and two-dimensional maps of embeddings."""

from __future__ import annotations

from recgraph.explain.explanation import Explanation, NodeExplanation
from recgraph.explain.nodes import explain_node
from recgraph.explain.page import page, write_page
from recgraph.explain.projection import ItemMap, item_map, node_map
from recgraph.explain.user import explain

__all__ = [
    "Explanation",
    "ItemMap",
    "NodeExplanation",
    "explain",
    "explain_node",
    "item_map",
    "node_map",
    "page",
    "write_page",
]
