"""Explanations and attributions of recommendations, and explanations of nearest nodes."""

from __future__ import annotations

from recgraph.explain.explanation import Attributed, Explanation, NodeExplanation
from recgraph.explain.nodes import explain_node
from recgraph.explain.page import page, write_page
from recgraph.explain.users import attribute, explain

__all__ = [
    "Attributed",
    "Explanation",
    "NodeExplanation",
    "attribute",
    "explain",
    "explain_node",
    "page",
    "write_page",
]
