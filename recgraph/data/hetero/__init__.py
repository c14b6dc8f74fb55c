"""Typed graphs: nodes and edges of several types."""
