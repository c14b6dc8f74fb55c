"""``recgraph``: the commands, and the one place that turns an error into a message and an exit code."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from recgraph import __version__
from recgraph.cli import about as data
from recgraph.cli import about as doctor
from recgraph.cli import about as models
from recgraph.cli import evaluation as check
from recgraph.cli import evaluation as evaluate
from recgraph.cli import evaluation as recommend
from recgraph.cli import inspect, leaderboard
from recgraph.cli import training as study
from recgraph.cli import training as train
from recgraph.cli import training as tune
from recgraph.cli.output import explain


class Commands(TyperGroup):
    """The group of all commands; errors that leave a command end here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; without ``--debug`` no error shows a traceback."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if ctx.params.get("debug") or _is_typers(error):
                raise
            code, message = explain(error)
        typer.secho(f"recgraph: {message}", err=True, fg=typer.colors.RED)
        raise typer.Exit(code)


def _is_typers(error: BaseException) -> bool:
    """Whether typer prints the error itself (usage, exit), or the reader of our output has gone."""
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError)


app = typer.Typer(
    cls=Commands,
    help="Graph and sequential recommendation on one contrastive core.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("train", no_args_is_help=True)(train.train)
app.command("tune", no_args_is_help=True)(tune.tune)
app.command("study", no_args_is_help=True)(study.study)
app.command("evaluate", no_args_is_help=True)(evaluate.evaluate)
app.command("check", no_args_is_help=True)(check.check)
app.command("recommend", no_args_is_help=True)(recommend.recommend)
app.command("inspect", no_args_is_help=True)(inspect.inspect)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Graph and sequential recommendation on one contrastive core."""


def main() -> None:
    """The entry point of the ``recgraph`` command."""
    app(prog_name="recgraph")
