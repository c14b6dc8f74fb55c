"""What a command shows of its work: notes and log records on the standard error stream, and in a log file.

``-v``, ``-q`` and ``--log-file`` are options of the root and of every command.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recgraph import __version__
from recgraph.texts import RecordFormatter, tell

__all__ = [
    "NOTES",
    "LogFileOption",
    "QuietOption",
    "VerboseOption",
    "Watch",
    "is_quiet",
    "progress_wanted",
    "share_options",
    "showing",
    "tell_error",
]

#: notes of the commands; shown unless ``-q``
NOTES = logging.getLogger("recgraph.cli.notes")
_root = logging.getLogger("recgraph")
#: the watch of the command that runs
_current: list[Watch] = []


class Watch:
    """Shows notes and warnings from its making on; then also what the options ask for, until it is closed.

    Args:
        is_mute: show nothing, whatever is asked for: another process of the same command does.
    """

    def __init__(self, is_mute: bool = False) -> None:
        self._verbose, self.is_quiet, self._is_mute = 0, is_mute, is_mute
        self._console = _Console()
        self._files: dict[Path, logging.Handler] = {}
        self._levels = _root.level, NOTES.level
        _root.addHandler(self._console)
        NOTES.setLevel(logging.INFO)
        self._set_levels()
        _current.append(self)

    @property
    def is_verbose(self) -> bool:
        return self._verbose > 0

    def ask(self, verbose: int = 0, quiet: bool = False, log_file: Path | None = None) -> None:
        """Take in options; those of the root and of the command are added.

        Raises:
            ValueError: both more and less is asked for.
            OSError: the log file cannot be written.
        """
        if self._is_mute:
            return
        self._verbose += verbose
        self.is_quiet = self.is_quiet or quiet
        if self._verbose and self.is_quiet:
            raise ValueError("-v shows more and -q shows errors alone: give one of them")
        if log_file is not None and log_file not in self._files:
            self._open(log_file)
        self._set_levels()

    def tell_files(self, level: int, message: str, error: BaseException | None = None) -> None:
        """Write a record into the log files alone."""
        trace = None if error is None else (type(error), error, error.__traceback__)
        record = _root.makeRecord("recgraph.cli", level, __file__, 0, message, (), trace)
        for handler in self._files.values():
            handler.handle(record)

    @contextlib.contextmanager
    def showing(self, name: str) -> Iterator[None]:
        """Within the block, show as notes what the logger ``name`` logs."""
        logger = logging.getLogger(name)
        level = logger.level
        logger.setLevel(logging.DEBUG)
        self._console.notes.add(name)
        try:
            yield
        finally:
            self._console.notes.discard(name)
            logger.setLevel(level)

    def close(self) -> None:
        """Leave the loggers as they were."""
        if self not in _current:
            return
        _current.remove(self)
        for handler in (self._console, *self._files.values()):
            _root.removeHandler(handler)
            handler.close()
        _root.setLevel(self._levels[0])
        NOTES.setLevel(self._levels[1])

    def _open(self, path: Path) -> None:
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(RecordFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._files[path] = handler
        _root.addHandler(handler)
        about = f"recgraph {__version__}, Python {platform.python_version()}: {_command()}"
        self.tell_files(logging.INFO, about)

    def _set_levels(self) -> None:
        console = (logging.WARNING, logging.INFO, logging.DEBUG)[min(self._verbose, 2)]
        self._console.setLevel(logging.ERROR if self.is_quiet else logging.DEBUG)
        self._console.shown = console
        _root.setLevel(logging.DEBUG if self._files else console)


class _Console(logging.Handler):
    """Records on the standard error stream; a live bar there is written around."""

    def __init__(self) -> None:
        super().__init__()
        #: the lowest level that is shown, and loggers whose records are shown as notes
        self.shown, self.notes = logging.WARNING, {NOTES.name}

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name in self.notes or record.levelno >= self.shown

    def emit(self, record: logging.LogRecord) -> None:
        tell(self._text(record))

    def _text(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.name in self.notes and record.levelno < logging.WARNING:
            return message
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        return f"[{at}] {message}" if record.levelno >= logging.INFO else f"[{at}] {record.name}: {message}"


def showing(name: str) -> contextlib.AbstractContextManager[None]:
    """See :meth:`Watch.showing`; nothing where no command runs."""
    return _current[-1].showing(name) if _current else contextlib.nullcontext()


def tell_error(message: str, error: BaseException) -> None:
    """Write the error that ended a command into its log file, with the traceback; the console has the message."""
    if _current:
        _current[-1].tell_files(logging.ERROR, message, error)


def is_quiet() -> bool:
    """Whether the command shows errors alone (``-q``)."""
    return bool(_current) and _current[-1].is_quiet


def progress_wanted() -> bool | None:
    """``progress`` of a command's training: False with ``-q``; None with ``-v``, whose records tell the same."""
    if is_quiet():
        return False
    return None if _current and _current[-1].is_verbose else True


def _command() -> str:
    from recgraph.tuning.storage import without_password

    # the password of a storage's address stays out of the file
    return " ".join(["recgraph", *map(without_password, sys.argv[1:])])


PANEL = "Seen while it works"
VerboseOption = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, rich_help_panel=PANEL, help="Show log records; -vv: with details."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=PANEL, help="Show errors alone.")]
LogFileOption = Annotated[
    Path | None,
    typer.Option(
        "--log-file", metavar="FILE", rich_help_panel=PANEL, help="Append all log records, with times, to a file."
    ),
]
_SHARED = ("verbose", "quiet", "log_file")


def share_options(group: Any) -> None:
    """Let every command of a group take the options of this module too, wherever they stand after its name."""
    options = []
    for option in group.params:
        if option.name in _SHARED:
            shared = copy.copy(option)
            shared.expose_value, shared.callback = False, _ask
            options.append(shared)
    _extend(group, options)


def _extend(group: Any, options: list[Any]) -> None:
    for command in group.commands.values():
        if hasattr(command, "commands"):
            _extend(command, options)
        else:
            command.params.extend(options)


def _ask(_: Any, option: Any, value: Any) -> Any:
    if value and _current:
        _current[-1].ask(**{option.name: value})
    return value
