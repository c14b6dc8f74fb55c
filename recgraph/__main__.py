"""``python -m recgraph``: the same as the ``recgraph`` command; what launchers (torchrun,
accelerate) are given.
"""

from __future__ import annotations

from recgraph.cli.app import main

main()
