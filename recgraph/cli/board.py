"""``recgraph board``: run a board, and render its results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.options import DeviceOption, EngineOption, EngineSetOption, given_engine
from recgraph.cli.output import Failure, note, notes_of

app = typer.Typer(help="Run boards of data sets, models and seeds, and render their results.", no_args_is_help=True)

_BOARD = "A folder of experiments/ by name, any folder of TOML files, or one of its files."
BoardArgument = Annotated[str, typer.Argument(metavar="BOARD", help=_BOARD)]
_RESULTS = "Where records are kept; by default results/ beside the board."
ResultsOption = Annotated[Path | None, typer.Option(metavar="DIR", help=_RESULTS)]
_ONLY = "A model, or an entry by its name; may be given many times. All others wait."
_VALUES = "Do also again what has a record but no values of users here: entries are compared over users."
_WORKERS = "Trainings at a time, each in a process.  [default: 1, or as many as the engine has cores]"
_OUT = "Ends in .html (needs no network), .md or .csv; by default BOARD.html."


@app.command("run", no_args_is_help=True)
def run(
    board: BoardArgument,
    results: ResultsOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help=_WORKERS)] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=_ONLY)] = None,
    values: Annotated[bool, typer.Option("--values", help=_VALUES)] = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
) -> None:
    """Train and test what BOARD asks for and has no record yet.

    It may be killed at any time: the same command goes on. What failed is tried again.
    """
    from recgraph.leaderboard.runner import run as do

    on = given_engine(engine, engine_set)
    with notes_of("recgraph.leaderboard.runner"):
        summary = do(board, results=results, workers=workers, only=only or (), values=values, device=device, engine=on)
    for name in summary.missing:
        note(f"not at hand: {name}")
    note(f"{summary}")
    if summary.failed or summary.missing:
        raise Failure("not all is done: the lines above say why; mend that, then give the same command again")


@app.command("render", no_args_is_help=True)
def render(
    board: BoardArgument,
    results: ResultsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
) -> None:
    """Write BOARD's records as a page, as Markdown, or as CSV with all numbers."""
    from recgraph.leaderboard.board import load_board
    from recgraph.leaderboard.page import render as write

    found = load_board(board)
    note(f"written to {write(found, out or Path(f'{found.name}.html'), results=results)}")
