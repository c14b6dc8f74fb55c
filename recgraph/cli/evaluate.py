"""``recgraph evaluate``: the metrics of a trained run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.output import FormatOption, note, show


class Part(StrEnum):
    """The part of the split that is ranked."""

    VALID = "valid"
    TEST = "test"


class Seen(StrEnum):
    """Whether a user's seen items stay candidates."""

    KEEP = "keep"
    EXCLUDE = "exclude"
    BOTH = "both"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote.")],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = Part.TEST,
    seen: Annotated[Seen, typer.Option(help="Whether items of the user's history are candidates.")] = Seen.BOTH,
    form: FormatOption = None,
) -> None:
    """Rank all items for every user of a part and print the metrics, each with its protocol's hash."""
    from recgraph.run import Run

    results = Run.open(run).evaluate(split.value, seen=seen.value)
    for title, result in zip(results.titles(), results, strict=True):
        note(f"{title}: {len(result.users)} users, protocol {result.hash}")
    show(results.to_polars().iter_rows(named=True), form)
