"""Why: the history, views and meta-paths behind a recommendation, nearest items, and a map of them."""

from __future__ import annotations

from recgraph.explain.explanation import Explanation, NodeExplanation
from recgraph.explain.node import explain_node
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
