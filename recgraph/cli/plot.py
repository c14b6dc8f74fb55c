"""The command ``recgraph plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.output import FormatOption, note, show


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .svg or .html.")],
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print what is drawn.")] = False,
    form: FormatOption = None,
) -> None:
    """Draw the learning curves of RUN."""
    from recgraph.train.run import Run

    drawn = Run.open(run).plot()
    note(f"written to {drawn.save(out)}")
    if numbers:
        show(drawn.rows, form)
