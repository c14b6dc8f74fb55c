"""Earlier names of :mod:`recgraph.files`, until their callers have moved."""
