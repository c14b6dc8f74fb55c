"""``recgraph check``: what may be wrong with a split and the numbers on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recgraph.cli.errors import Failure
from recgraph.cli.output import FormatOption, note, show

if TYPE_CHECKING:
    from recgraph.data.split import Split
    from recgraph.evaluate.checks import Check

_SET = "A parameter of the split, e.g. test=0.2; may be given many times."
_RUN = "A run on this split; with several, of other seeds, each metric's spread is shown. May be given many times."


def check(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A data set that `recgraph data list` shows.")],
    split: Annotated[str, typer.Option(help="How the log is split.")] = "leave-one-out",
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Of splits that draw.")] = 0,
    runs: Annotated[list[Path] | None, typer.Option("--run", metavar="RUN", help=_RUN)] = None,
    cutoff: Annotated[int, typer.Option(min=1, help="Of the recall at chance.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="Test users, at most, that scorers at chance rank for.")] = 2000,
    form: FormatOption = None,
) -> None:
    """Check a split of DATASET and the evaluation on it.

    Leakage of time and what one cut of time would give, duplicates across parts, items that only test knows, constant
    and random scorers at chance. The exit code is 1 where a check fails; a warning says that numbers do not mean what
    they seem to, and is no failure.
    """
    from recgraph.config import parse_settings
    from recgraph.evaluate.checks import check_split
    from recgraph.run import DataConfig

    data = DataConfig(split=split, split_options=parse_settings(settings or []), split_seed=split_seed)
    made = data.split_of(dataset)
    note(f"{made.n_users:,} users, {made.n_items:,} items, split {made.name} {made.hash[:12]}")
    rows = [*check_split(made, cutoff=cutoff, n_users=users), *_of_runs(runs or [], made)]
    show(({"check": row.name, "status": row.status, "value": row.value, "detail": row.detail} for row in rows), form)
    failed = [row.name for row in rows if row.status == "fail"]
    if failed:
        raise Failure(f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")


def _of_runs(folders: list[Path], split: Split) -> list[Check]:
    """The spread of each metric over runs, on the validation part: the test part stays sealed to models."""
    from recgraph.evaluate.checks import seeds
    from recgraph.evaluate.protocol import is_leaked
    from recgraph.run import Run

    opened = [Run.open(folder, split) for folder in folders]
    for folder, run in zip(folders, opened, strict=True):
        if not isinstance(run, Run):
            raise ValueError(f"--run {folder}: it embeds the nodes of a graph; give runs that recommend")
        if is_leaked("valid", run.record["fitted_on"]):
            raise ValueError(
                f"--run {folder}: it was fitted on {run.record['fitted_on']}, so that it knows what the validation "
                "part asks for; give runs that were fitted on train"
            )
    of_runs = [run.evaluate("valid") for run in opened if isinstance(run, Run)]
    if not of_runs:
        return []
    titles = of_runs[0].titles()
    return [row for place, title in enumerate(titles) for row in seeds([results[place] for results in of_runs], title)]
