"""Speed and memory of recgraph against its peers: ``python -m experiments.bench`` (see
docs/benchmarks.md).
"""
