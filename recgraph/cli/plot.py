"""The command ``recgraph plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recgraph.cli.evaluation import Part
from recgraph.cli.output import FormatOption, note, show

Kind = Literal["curves", "groups"]
_KIND = "curves: the training; groups: a metric by groups of users."
_METRIC = "For groups, e.g. ndcg@10; by default the one that selected the run's best epoch."


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .svg or .html.")],
    kind: Annotated[Kind, typer.Option("--kind", "-k", help=_KIND)] = "curves",
    part: Annotated[Part, typer.Option("--split", help="For groups; test is read and recorded.")] = "valid",
    metric: Annotated[str | None, typer.Option("--metric", "-m", help=_METRIC)] = None,
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print what is drawn.")] = False,
    form: FormatOption = None,
) -> None:
    """Draw RUN: its learning curves, or a metric by groups of users."""
    from recgraph.train.run import NodeRun, Run

    found = Run.open(run)
    drawn = found.plot() if isinstance(found, NodeRun) else found.plot(kind, part=part, metric=metric)
    note(f"written to {drawn.save(out)}")
    if numbers:
        show(drawn.rows, form)
