"""The ``recgraph`` command: its subcommands, and the place where an error becomes a message and an
exit code.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from recgraph import __version__
from recgraph.cli import about, evaluation, recommend, training
from recgraph.cli.options import NO_VALUES, takes_data
from recgraph.cli.output import FILE, Failure, Watch
from recgraph.config import ELSEWHERE
from recgraph.pages import for_terminal
from recgraph.registry import import_all

#: exit codes: the request is wrong; it failed; Ctrl-C
USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
_INTERRUPTED = "interrupted; what was finished is kept, and the same command goes on"
#: errors that say that the request is wrong
_MISTAKES = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
#: errors of the library that a right request may end with
_FAILURES = {"NonFinite", "StorageFailed", "TaskFailed", "UpdateRefused"}
#: commands that several processes, which a launcher starts, can run together
_TOGETHER = ("train", "evaluate", "update")
#: commands of which an option that is not known is a setting
_TAKE_SETTINGS = ("train", "tune")


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an error that left a command.

    A ``ValueError`` or a missing or existing file is the user's mistake: the library's messages
    name the argument, its value and the fix. An unexpected error is given with its type, for a bug
    report.
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    names = {each.__name__ for each in type(error).__mro__}
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, text or _INTERRUPTED
    if names & _FAILURES:
        return FAILURE, text
    if isinstance(error, _MISTAKES):
        return USER_MISTAKE, text
    if names & {"MemoryError", "OutOfMemoryError"}:
        return (
            FAILURE,
            f"memory is short: {text}; free some, or take less of it (batch_size, --workers)",
        )
    if isinstance(error, OSError | Failure | ImportError):
        return FAILURE, text or type(error).__name__
    return (
        FAILURE,
        f"unexpected {type(error).__name__}: {error}\n`recgraph --debug ...` shows where it happened",
    )


class Commands(TyperGroup):
    """The group of all commands: its own options may stand behind a command, and it catches the
    errors that leave one.

    Where a launcher has started several processes, the first alone prints, and an error that all
    have is told once.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options of the group, wherever they stand, unless the command has one of the
        same name. An option that `train` or `tune` does not have is a setting: ``--hidden-dim 32``
        stands for ``--set hidden_dim=32``."""
        command = self.commands.get(next(filter(self.commands.get, args), ""), self)
        of_group = _by_name(self)
        of_command = _by_name(command)
        names = [*of_command, *of_group, "--help"]
        first = list[str]()
        rest = list[str]()
        texts = iter(args)
        for text in texts:
            name, sign, value = text.partition("=")
            if re.fullmatch("-v+", text):
                name = "-v"
            if command.name in _TAKE_SETTINGS and _is_setting(name, names):
                setting = name.removeprefix("--").replace("-", "_")
                if not sign:
                    value = next(texts, "")
                rest += ["--set", f"{ELSEWHERE.get(setting, setting)}={value}"]
            elif name in of_command or name not in of_group:
                rest.append(text)
            else:
                first.append(text)
                option = of_group[name]
                if not (sign or option.is_flag or option.count):
                    first.append(next(texts, ""))
        arguments: list[str] = super().parse_args(ctx, first + rest)
        return arguments

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a traceback is shown with ``--debug`` alone."""
        rank = _rank()
        try:
            with contextlib.ExitStack() as stack:
                ctx.meta["recgraph.stack"] = stack
                if rank:
                    nowhere = stack.enter_context(open(os.devnull, "w"))
                    stack.enter_context(contextlib.redirect_stdout(nowhere))
                return super().invoke(ctx)
        except BaseException as error:
            # a panic of polars is no Exception
            name = type(error).__name__
            if not isinstance(error, Exception | KeyboardInterrupt) and name != "PanicException":
                raise
            code, message = describe(error)
            if rank:
                from recgraph.ranks import RankFailed

                if isinstance(error, RankFailed | KeyboardInterrupt):
                    raise typer.Exit(getattr(error, "exit_code", code)) from None
            # typer reports usage and exits itself, and the reader of a pipe may have gone
            is_reported = isinstance(error, typer.Abort | BrokenPipeError)
            if is_reported or hasattr(error, "exit_code") or ctx.params.get("debug"):
                raise
            FILE.error("%s", message, exc_info=error)
        if rank is not None:
            message = f"rank {rank}: {message}"
        typer.secho(for_terminal(f"recgraph: {message}"), err=True, fg=typer.colors.RED)
        raise typer.Exit(code)


def _by_name(command: Any) -> dict[str, Any]:
    """Name -> option of a command."""
    return {name: option for option in command.params for name in option.opts}


def _is_setting(name: str, options: list[str]) -> bool:
    """Whether an option is a setting: it is not known, and no known one misspelt."""
    return name.startswith("--") and not get_close_matches(name, options, cutoff=0.8)


def _rank() -> int | None:
    """The rank that a launcher gave this process; None where it is no one of several. It costs no
    torch then.
    """
    if "RANK" not in os.environ:
        return None
    from recgraph.ranks import launched_rank

    return launched_rank()


app = typer.Typer(
    cls=Commands,
    help="Graph and sequential recommendation on one contrastive core. The options may stand behind a command, too.",
    epilog="Further commands, each with --help: similar, vectors, export, plot, study, parts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_MODEL = "From a log to a service"
_COMPARE = "Find what works"
_LOOK = "Look things up"
train = takes_data(training.train)
check = takes_data(evaluation.check, positional=True)
for command in (train, evaluation.evaluate, recommend.recommend, training.update, recommend.serve):
    app.command(rich_help_panel=_MODEL, no_args_is_help=True)(command)
for command in (takes_data(training.tune), check):
    app.command(rich_help_panel=_COMPARE, no_args_is_help=True)(command)
app.add_typer(evaluation.board, name="board", rich_help_panel=_COMPARE)
app.add_typer(about.data, name="data", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(about.models)
app.command(rich_help_panel=_LOOK, no_args_is_help=True)(recommend.inspect)
app.command(rich_help_panel=_LOOK)(about.doctor)
for command in (
    recommend.similar,
    recommend.vectors,
    recommend.export,
    evaluation.plot,
    training.study,
):
    app.command(hidden=True, no_args_is_help=True)(command)
app.command(hidden=True)(about.parts)
for registered in app.registered_commands:  # a screen has lines of its own
    text = inspect.cleandoc(registered.callback.__doc__)  # type: ignore[union-attr, arg-type]
    registered.help = re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


_IMPORT = "Import a Python file (or module) of your own, so that its parts are known by name; may be given many times."
_THREADS = "Cores to compute with; by default as OMP_NUM_THREADS says, else all."


@app.callback()
def _root(
    context: typer.Context,
    files: Annotated[list[str], typer.Option("--import", metavar="FILE", help=_IMPORT)] = NO_VALUES,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Show log records; -vv: with details."),
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors alone.")] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append all log records, with times, to a file."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help=_THREADS)] = None,
) -> None:
    """Graph and sequential recommendation on one contrastive core."""
    rank = _rank()
    command = context.invoked_subcommand
    if rank is not None and command not in _TOGETHER:
        from recgraph.ranks import refuse_launched

        fix = f"start it without a launcher; those that run on several are {', '.join(_TOGETHER)}"
        refuse_launched(f"`recgraph {command}`", fix)
    if rank:
        watch = Watch(quiet=True)
    else:
        watch = Watch(verbose, quiet, log_file)
    context.call_on_close(watch.close)
    if threads is not None:
        # torch, its libraries and polars read them when they are imported, also in worker processes
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads))
        import torch

        torch.set_num_threads(threads)
    if rank is not None:
        from recgraph.ranks import together

        context.meta["recgraph.stack"].enter_context(together())
    import_all(files)


def main() -> None:
    """The entry point of the ``recgraph`` command."""
    app(prog_name="recgraph")
