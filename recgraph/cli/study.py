"""``recgraph study``: the page of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.output import note

_PLACE = (
    "The folder that `recgraph tune --out` was given, or a storage: sqlite:///FILE, postgresql://..., FILE.journal."
)


def study(
    place: Annotated[str, typer.Argument(metavar="PLACE", help=_PLACE)],
    name: Annotated[str | None, typer.Option("--study", help="Its name, where a storage holds several.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; by default study.html in the folder, or NAME.html.")
    ] = None,
) -> None:
    """Write the page of a study, running or done: history, importances, slices, Pareto front, best trial, table."""
    from recgraph.tuning.find import find_study
    from recgraph.tuning.report.page import write_page

    with find_study(place, name) as (found, storage):
        path = out or (Path(place) / "study.html" if Path(place).is_dir() else Path(f"{found.study_name}.html"))
        write_page(found, path, storage.dashboard)
        note(f"{len(found.trials)} trials; written to {path}")
        note(f"look further: optuna-dashboard {storage.dashboard}")
