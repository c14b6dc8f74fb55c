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
from recgraph.cli.options import takes_data
from recgraph.cli.output import FILE, Failure, Watch
from recgraph.config import ELSEWHERE
from recgraph.pages import for_terminal
from recgraph.registry import import_all

#: exit codes: the request is wrong; it failed; Ctrl-C
USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
#: errors of the library that a right request may end with
_FAILURES = {"NonFinite", "StorageFailed", "TaskFailed", "UpdateRefused"}
#: commands that several processes, which a launcher starts, can run together
_TOGETHER = ("train", "evaluate", "update")


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an error that left a command.

    A ``ValueError`` or a missing or existing file is the user's mistake: the library's messages
    name the argument, its value and the fix. An unexpected error is given with its type, for a bug
    report.
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyboardInterrupt):
        return (
            INTERRUPTED,
            text or "interrupted; what was finished is kept, and the same command goes on",
        )
    if _FAILURES & {each.__name__ for each in type(error).__mro__}:
        return FAILURE, text
    if isinstance(
        error,
        ValueError | FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError,
    ):
        return USER_MISTAKE, text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
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
        own: dict[str, Any] = {name: option for option in self.params for name in option.opts}
        command = next((self.commands[text] for text in args if text in self.commands), None)
        taken = {name for option in (command.params if command else ()) for name in option.opts}
        takes_settings = command is not None and command.name in ("train", "tune")
        options = [*taken, *own, "--help"]
        first, rest, texts = list[str](), list[str](), iter(args)
        for text in texts:
            name, sign, value = ("-v", "", "") if re.fullmatch("-v+", text) else text.partition("=")
            if (
                takes_settings
                and name.startswith("--")
                and not get_close_matches(name, options, cutoff=0.8)
            ):
                setting = name.removeprefix("--").replace("-", "_")
                rest += [
                    "--set",
                    f"{ELSEWHERE.get(setting, setting)}={value if sign else next(texts, '')}",
                ]
                continue
            if name in taken or name not in own:
                rest.append(text)
                continue
            first.append(text)
            takes_value = not (own[name].is_flag or own[name].count or sign)
            first += [next(texts, "")] if takes_value else []
        read: list[str] = super().parse_args(ctx, [*first, *rest])
        return read

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a traceback is shown with ``--debug`` alone."""
        rank = _rank()
        try:
            with contextlib.ExitStack() as stack:
                ctx.meta["recgraph.stack"] = stack
                if rank:
                    stack.enter_context(
                        contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w")))
                    )
                return super().invoke(ctx)
        except BaseException as error:
            # a panic of polars is no Exception
            if (
                not isinstance(error, Exception | KeyboardInterrupt)
                and type(error).__name__ != "PanicException"
            ):
                raise
            code, message = describe(error)
            if rank:
                from recgraph.ranks import RankFailed

                if isinstance(error, RankFailed | KeyboardInterrupt):
                    raise typer.Exit(getattr(error, "exit_code", code)) from None
            # typer reports usage and exits itself, and the reader of a pipe may have gone
            is_typers = hasattr(error, "exit_code") or isinstance(
                error, typer.Abort | BrokenPipeError
            )
            if is_typers or ctx.params.get("debug"):
                raise
            FILE.error("%s", message, exc_info=error)
            place = "" if rank is None else f"rank {rank}: "
        typer.secho(for_terminal(f"recgraph: {place}{message}"), err=True, fg=typer.colors.RED)
        raise typer.Exit(code)


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
_MODEL, _COMPARE, _LOOK = "From a log to a service", "Find what works", "Look things up"
train, check = takes_data(training.train), takes_data(evaluation.check, positional=True)
for command in (train, evaluation.evaluate, recommend.recommend, training.update, recommend.serve):
    app.command(rich_help_panel=_MODEL, no_args_is_help=True)(command)
for command in (takes_data(training.tune), check):
    app.command(rich_help_panel=_COMPARE, no_args_is_help=True)(command)
app.add_typer(evaluation.board, name="board", rich_help_panel=_COMPARE)
app.add_typer(about.data, name="data", rich_help_panel=_LOOK)
for command in (about.models, recommend.inspect, about.doctor):
    app.command(rich_help_panel=_LOOK, no_args_is_help=command is recommend.inspect)(command)
for command in (
    recommend.similar,
    recommend.vectors,
    recommend.export,
    evaluation.plot,
    training.study,
    about.parts,
):
    app.command(hidden=True, no_args_is_help=command is not about.parts)(command)
for made in app.registered_commands:  # a screen has lines of its own
    made.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(made.callback) or "")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


_IMPORT = "Import a Python file (or module) of your own, so that its parts are known by name; may be given many times."
_THREADS = "Cores to compute with; by default as OMP_NUM_THREADS says, else all."


@app.callback()
def _root(
    context: typer.Context,
    own: Annotated[list[str] | None, typer.Option("--import", metavar="FILE", help=_IMPORT)] = None,
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
    rank, command = _rank(), context.invoked_subcommand
    if rank is not None and command not in _TOGETHER:
        from recgraph.ranks import refuse_launched

        together = (
            f"start it without a launcher; those that run on several are {', '.join(_TOGETHER)}"
        )
        refuse_launched(f"`recgraph {command}`", together)
    context.call_on_close(
        Watch(verbose * (not rank), quiet or bool(rank), None if rank else log_file).close
    )
    if threads is not None:
        # torch, its libraries and polars read them when they are imported, also in worker processes
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads))
        import torch

        torch.set_num_threads(threads)
    if rank is not None:
        from recgraph.ranks import together as connected

        context.meta["recgraph.stack"].enter_context(connected())
    import_all(own or ())


def main() -> None:
    """The entry point of the ``recgraph`` command."""
    app(prog_name="recgraph")
