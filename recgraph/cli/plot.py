"""The command ``recgraph plot``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.evaluation import Part
from recgraph.cli.output import FormatOption, note, show


class Kind(StrEnum):
    """What is drawn."""

    CURVES = "curves"
    GROUPS = "groups"


_KIND = "curves: the training; groups: a metric by groups of users."
_METRIC = "For groups, e.g. ndcg@10; by default the one that selected the run's best epoch."


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .svg or .html.")],
    kind: Annotated[Kind, typer.Option("--kind", "-k", help=_KIND)] = Kind.CURVES,
    part: Annotated[Part, typer.Option("--split", help="For groups; test is read and recorded.")] = (Part.VALID),
    metric: Annotated[str | None, typer.Option("--metric", "-m", help=_METRIC)] = None,
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print what is drawn.")] = False,
    form: FormatOption = None,
) -> None:
    """Draw RUN: its learning curves, or a metric by groups of users."""
    from recgraph.runs.run import NodeRun, Run

    if out.suffix not in (".svg", ".html"):
        raise ValueError(f"--out {out}: end its name in .svg or .html")
    if kind == Kind.CURVES and (part != Part.VALID or metric is not None):
        raise ValueError("--split and --metric are for --kind groups; curves are those of the training")
    if form is not None and not numbers:
        raise ValueError(f"--format {form.value} is of the numbers: add --numbers, or leave it out")
    found = Run.open(run)
    drawn = (
        found.plot(kind.value) if isinstance(found, NodeRun) else found.plot(kind.value, part=part.value, metric=metric)
    )
    note(f"written to {drawn.save(out)}")
    if numbers:
        show(drawn.rows, form)
