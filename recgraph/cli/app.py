"""The ``recgraph`` command: its subcommands, and the place where an error becomes a message and an exit code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from recgraph import __version__
from recgraph.cli import about, evaluation, inspect, leaderboard, plot, recommend, serve, training, update
from recgraph.cli.data_options import DatasetArgument, takes_data
from recgraph.cli.machine import MemoryLimitOption, ThreadsOption, take
from recgraph.cli.output import describe
from recgraph.cli.ranks import alongside, check_command, is_silent, join, of_rank, rank
from recgraph.cli.watching import LogFileOption, QuietOption, VerboseOption, Watch, ask, tell_error
from recgraph.pages import for_terminal
from recgraph.registry import import_all

#: options of the root that every command takes too, wherever they stand after its name
_SHARED: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("verbose", "quiet", "log_file"), lambda _, **option: ask(**option)),
    **dict.fromkeys(("threads", "memory_limit"), take),
}


def _share(group: Any, options: list[Any]) -> None:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            _share(command, options)
        else:
            own = {option.name for option in command.params}
            command.params.extend(option for option in options if option.name not in own)


def _shared(option: Any) -> Any:
    def given(context: Any, param: Any, value: Any) -> None:
        if value:
            _SHARED[param.name](context, **{param.name: value})

    shared = copy.copy(option)
    shared.expose_value, shared.callback = False, given
    return shared


class Commands(TyperGroup):
    """The group of all commands; it gives them the options that all have, and catches the errors that leave them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        _share(self, [_shared(option) for option in self.params if option.name in _SHARED])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options; ``--import`` may stand behind the command, too."""
        found: list[str] = super().parse_args(ctx, _imports_first(args))
        return found

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a traceback is shown with ``--debug`` alone.

        Where a launcher has started several processes, one of them speaks.
        """
        try:
            with alongside(ctx):
                return super().invoke(ctx)
        except BaseException as error:
            # a panic of polars is no Exception
            if not isinstance(error, Exception | KeyboardInterrupt) and type(error).__name__ != "PanicException":
                raise
            if is_silent(error):
                raise typer.Exit(getattr(error, "exit_code", describe(error)[0])) from None
            if ctx.params.get("debug") or _is_typers(error):
                _say_how_settings_are_given(error)
                raise
            code, message = describe(error)
            tell_error(message, error)
            message = of_rank(message)
        typer.secho(for_terminal(f"recgraph: {message}"), err=True, fg=typer.colors.RED)
        raise typer.Exit(code)


def _imports_first(args: list[str]) -> list[str]:
    """The arguments with each ``--import WHAT`` before all others."""
    first: list[str] = []
    rest: list[str] = []
    for place, text in enumerate(args):
        is_import = text.startswith("--import=") or "--import" in (text, args[place - 1] if place else "")
        (first if is_import else rest).append(text)
    return [*first, *rest]


def _is_typers(error: BaseException) -> bool:
    """Whether typer reports the error itself (usage, exit), or the reader of a pipe has gone."""
    return hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError)


def _say_how_settings_are_given(error: Any) -> None:
    """Add it to an error about an option or an argument that a command with a MODEL does not have."""
    context = getattr(error, "ctx", None)
    if context is not None and context.info_name in ("train", "tune") and not getattr(error, "possibilities", True):
        error.message += f". A setting is given by --set {error.option_name.lstrip('-').replace('-', '_')}=VALUE."


app = typer.Typer(
    cls=Commands,
    help="Graph and sequential recommendation on one contrastive core.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(about.data, name="data")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("train", no_args_is_help=True)(takes_data(training.train))
app.command("tune", no_args_is_help=True)(takes_data(training.tune))
app.command("study", no_args_is_help=True)(training.study)
app.command("evaluate", no_args_is_help=True)(evaluation.evaluate)
app.command("check", no_args_is_help=True)(takes_data(evaluation.check, dataset=DatasetArgument))
app.command("recommend", no_args_is_help=True)(recommend.recommend)
app.command("similar", no_args_is_help=True)(recommend.similar)
app.command("vectors", no_args_is_help=True)(recommend.vectors)
app.command("export", no_args_is_help=True)(recommend.export)
app.command("plot", no_args_is_help=True)(plot.plot)
app.command("update", no_args_is_help=True)(update.update)
app.command("serve", no_args_is_help=True)(serve.serve)
app.command("inspect", no_args_is_help=True)(inspect.inspect)
app.command("models")(about.models)
app.command("parts")(about.parts)
app.command("doctor")(about.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


_IMPORT = (
    "Import a Python file (or module) of your own, so that its models, metrics and other parts are known by their "
    "names; also behind the command; may be given many times."
)


@app.callback()
def _root(
    context: typer.Context,
    own: Annotated[list[str] | None, typer.Option("--import", metavar="FILE", help=_IMPORT)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: VerboseOption = 0,
    quiet: QuietOption = False,
    log_file: LogFileOption = None,
    threads: ThreadsOption = None,
    memory_limit: MemoryLimitOption = None,
) -> None:
    """Graph and sequential recommendation on one contrastive core."""
    check_command(context.invoked_subcommand)
    watch = Watch(is_mute=(rank() or 0) > 0)
    context.call_on_close(watch.close)
    watch.ask(verbose, quiet, log_file)
    take(context, threads, memory_limit)
    join(context)
    import_all(own or ())


def main() -> None:
    """The entry point of the ``recgraph`` command."""
    app(prog_name="recgraph")
