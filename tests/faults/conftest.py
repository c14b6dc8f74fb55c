"""The bench of the fault harness, and what it has counted."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from checking import Bench
from driving import Driver
from injecting import compiler

_counted: list[Bench] = []


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Where cases are made, one at a time."""
    if not sys.platform.startswith("linux"):
        pytest.skip("what a process asks of its files is counted by LD_PRELOAD, on Linux alone")
    if compiler() is None:
        from conftest import missing

        missing("cc", "no C compiler here to build tests/faults/faults.c with; apt-get install gcc")
    folder = Path(tempfile.mkdtemp(prefix="recgraph-faults-"))
    try:
        with Driver(folder) as driver:
            made = Bench(driver, folder)
            _counted.append(made)
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases there were."""
    for made in _counted:
        for name, counts in (("kills", made.kills), ("damaged files", made.damages)):
            rows = ", ".join(f"{command} {count}" for command, count in counts.items())
            terminalreporter.write_line(f"{counts.total()} {name}: {rows}")
