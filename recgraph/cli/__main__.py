"""``python -m recgraph.cli``: the same as ``recgraph``."""

from __future__ import annotations

from recgraph.cli.app import main

main()
