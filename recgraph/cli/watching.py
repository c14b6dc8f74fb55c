"""What a command shows of its work: notes and log records on the standard error stream, and in a log file.

``-v``, ``-q`` and ``--log-file`` are options of the root and of every command.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recgraph import __version__
from recgraph.pages import for_terminal, print_note

#: notes of the commands; shown unless ``-q``
NOTES = logging.getLogger("recgraph.cli.notes")
_root = logging.getLogger("recgraph")
#: the watch of the command that runs
_current: list[Watch] = []


class _Formatter(logging.Formatter):
    """Records of a log file, whose further lines are indented, so that none looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return for_terminal(super().formatMessage(record)).replace("\n", "\n  ")

    def formatException(self, ei: Any) -> str:
        return for_terminal(super().formatException(ei)).replace("\n", "\n  ")


class Watch(logging.Handler):
    """Shows notes and warnings from its making on; then also what the options ask for, until it is closed.

    Records go to the standard error stream; a live bar there is written around.

    Args:
        is_mute: show nothing, whatever is asked for: another process of the same command does.
    """

    def __init__(self, is_mute: bool = False) -> None:
        super().__init__()
        self.verbose, self.is_quiet, self._is_mute = 0, is_mute, is_mute
        #: loggers whose records are shown as notes
        self._notes = {NOTES.name}
        self._files: dict[Path, logging.Handler] = {}
        self._levels = _root.level, NOTES.level
        _root.addHandler(self)
        NOTES.setLevel(logging.INFO)
        self._set_level()
        _current.append(self)

    def ask(self, verbose: int = 0, quiet: bool = False, log_file: Path | None = None) -> None:
        """Take in options; those of the root and of the command are added.

        Raises:
            ValueError: both more and less is asked for.
            OSError: the log file cannot be written.
        """
        if self._is_mute:
            return
        self.verbose += verbose
        self.is_quiet = self.is_quiet or quiet
        if self.verbose and self.is_quiet:
            raise ValueError("-v shows more and -q shows errors alone: give one of them")
        if log_file is not None and log_file not in self._files:
            handler = self._files[log_file] = logging.FileHandler(log_file, encoding="utf-8")
            handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            _root.addHandler(handler)
            # the password of a storage's address stays out of the file
            command = re.sub(r"(://[^:/@ ]*):[^@ ]*@", r"\1:***@", " ".join(["recgraph", *sys.argv[1:]]))
            self.tell_files(logging.INFO, f"recgraph {__version__}, Python {platform.python_version()}: {command}")
        self._set_level()

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
        self._notes.add(name)
        try:
            yield
        finally:
            self._notes.discard(name)
            logger.setLevel(level)

    def close(self) -> None:
        """Leave the loggers as they were."""
        if self in _current:
            _current.remove(self)
            for handler in (self, *self._files.values()):
                _root.removeHandler(handler)
            for handler in self._files.values():
                handler.close()
            _root.setLevel(self._levels[0])
            NOTES.setLevel(self._levels[1])
        super().close()

    def _set_level(self) -> None:
        _root.setLevel(logging.DEBUG if self._files else self._shown)

    @property
    def _shown(self) -> int:
        """The lowest level that is shown."""
        return (logging.WARNING, logging.INFO, logging.DEBUG)[min(self.verbose, 2)]

    def emit(self, record: logging.LogRecord) -> None:
        is_note, level = record.name in self._notes, record.levelno
        if level < (logging.ERROR if self.is_quiet else logging.DEBUG if is_note else self._shown):
            return
        message = record.getMessage()
        if level >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        elif not is_note:
            name = "" if level >= logging.INFO else f"{record.name}: "
            message = f"[{time.strftime('%H:%M:%S', time.localtime(record.created))}] {name}{message}"
        print_note(message)


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
    return False if is_quiet() else None if _current and _current[-1].verbose else True


def _option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Seen while it works", **settings)


VerboseOption = Annotated[int, _option("--verbose", "-v", count=True, help="Show log records; -vv: with details.")]
QuietOption = Annotated[bool, _option("--quiet", "-q", help="Show errors alone.")]
LogFileOption = Annotated[
    Path | None, _option("--log-file", metavar="FILE", help="Append all log records, with times, to a file.")
]


def ask(**options: Any) -> None:
    """Hand an option of the command that runs to its :class:`Watch`."""
    if _current:
        _current[-1].ask(**options)
