"""The ``recgraph`` command as a user types it: one line, and what must come of it."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from recgraph.cli.app import app


def call(line: str, *more: str) -> Result:
    """Run a command; ``more`` are arguments behind the line's own, which may hold spaces."""
    return CliRunner().invoke(app, [*line.split(), *more])


def works(line: str, *more: str) -> Result:
    """Run a command that succeeds."""
    done = call(line, *more)
    assert done.exit_code == 0, done.output
    return done


def refused(line: str, *more: str) -> str:
    """Run a command that is a user's mistake -> its message, on one line."""
    done = call(line, *more)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.stderr.split())
