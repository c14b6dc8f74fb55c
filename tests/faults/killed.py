"""A command that is killed at one of the moments at which it changes a file below its working
folder.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR


def command(at: int, arguments: list[str]) -> None:
    """Run a ``recgraph`` command, and kill it (SIGKILL) at a change; at 0 print how many there
    are.
    """
    from recgraph.cli.app import main

    folder, seen = os.getcwd(), 0

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        is_change = event in _CHANGES or (
            event == "open" and isinstance(given[2], int) and given[2] & _WRITES
        )
        if (
            not is_change
            or not isinstance(given[0], str | Path)
            or not os.path.abspath(given[0]).startswith(folder)
        ):
            return
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    sys.argv[:] = ["recgraph", *arguments]
    try:
        main()
    finally:
        if not at:
            print(f"\nchanges: {seen}")
