"""What commands print: rows on standard output, as a table, TSV or the form that is asked for;
notes and log records on standard error, and in a log file."""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph import __version__
from recgraph.pages import for_terminal, print_note

if TYPE_CHECKING:
    import polars as pl

Row = Mapping[str, Any]
#: forms in which rows are printed, and in which a frame is written
Format = Literal["table", "tsv", "csv", "json"]
FileFormat = Literal["table", "tsv", "csv", "json", "jsonl", "parquet"]
_HELP = "Form of the output; by default a table on a terminal and TSV in a pipe."
FormatOption = Annotated[Format | None, typer.Option("--format", help=_HELP)]
FileFormatOption = Annotated[FileFormat | None, typer.Option("--format", help=_HELP)]
#: notes of the commands, shown unless ``-q``; and what the log file alone gets
NOTES, FILE = logging.getLogger("recgraph.cli.notes"), logging.getLogger("recgraph.cli")
_root = logging.getLogger("recgraph")
#: loggers that say the same of every run: a command shows their first record, and of notes each
#: text once
_ONCE = ("recgraph.data.split",)
#: the watch of the command that runs
_current: list[Watch] = []


class Failure(Exception):
    """A request that is right and failed all the same."""


# -- notes and log records


class Watch(logging.Handler):
    """Shows what a command logs on the standard error stream, and appends all of it to a log file,
    until it is closed.

    Args:
        verbose: 0: notes and warnings; 1: information, too; 2: details, too.
        quiet: errors alone.
        log_file: appended to.
    """

    def __init__(self, verbose: int = 0, quiet: bool = False, log_file: Path | None = None) -> None:
        super().__init__()
        if verbose and quiet:
            raise ValueError("-v shows more and -q shows errors alone: give one of them")
        self.verbose, self.is_quiet = verbose, quiet
        self._said: set[str] = set()
        self._shown = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        #: loggers whose records are shown as notes
        self.notes = {NOTES.name}
        self._handlers: list[logging.Handler] = [self]
        self._levels = _root.level, NOTES.level
        if log_file is not None:
            file = logging.FileHandler(log_file, encoding="utf-8")
            file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            self._handlers.append(file)
        for handler in self._handlers:
            _root.addHandler(handler)
        _root.setLevel(logging.DEBUG if log_file else self._shown)
        NOTES.setLevel(logging.INFO)
        _current.append(self)
        # the password of a storage's address stays out of the file
        command = re.sub(
            r"(://[^:/@ ]*):[^@ ]*@", r"\1:***@", " ".join(["recgraph", *sys.argv[1:]])
        )
        FILE.info("recgraph %s, Python %s: %s", __version__, platform.python_version(), command)

    def close(self) -> None:
        """Leave the loggers as they were."""
        if self not in _current:
            return
        _current.remove(self)
        for handler in self._handlers:
            _root.removeHandler(handler)
        for handler in self._handlers[1:]:
            handler.close()
        _root.setLevel(self._levels[0])
        NOTES.setLevel(self._levels[1])
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        is_note, level = record.name in self.notes, record.levelno
        least = logging.ERROR if self.is_quiet else logging.DEBUG if is_note else self._shown
        message = record.getMessage()
        is_once = record.name == NOTES.name or record.name.startswith("recgraph.data.")
        said = record.name if record.name in _ONCE else message
        if level < least or record.name == FILE.name or (is_once and said in self._said):
            return
        self._said.add(said)
        if level >= logging.WARNING:
            message = f"{record.levelname.lower()}: {message}"
        elif not is_note:
            name = "" if level >= logging.INFO else f"{record.name}: "
            message = (
                f"[{time.strftime('%H:%M:%S', time.localtime(record.created))}] {name}{message}"
            )
        print_note(message)


@contextlib.contextmanager
def notes_of(*names: str) -> Iterator[None]:
    """Within the block, show as notes what these loggers log."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for watch in _current:
        watch.notes |= {*names}
    for logger in levels:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for watch in _current:
            watch.notes -= {*names}
        for logger, level in levels.items():
            logger.setLevel(level)


def progress_wanted() -> bool | None:
    """``progress`` of a command's training: False with ``-q``; None with ``-v``, whose records tell
    the same.
    """
    quiet = any(watch.is_quiet for watch in _current)
    return False if quiet else None if any(watch.verbose for watch in _current) else True


def note(message: str) -> None:
    """Print a note on the standard error stream, so that it never mixes with the output; a log file
    gets it too.
    """
    NOTES.info("%s", message)


# -- rows and frames


def say(text: str) -> None:
    """Print a text for people, or JSON, on the standard output stream."""
    typer.echo(for_terminal(text))


def default_format() -> Format:
    """A table on a terminal, TSV in a pipe."""
    return "table" if sys.stdout.isatty() else "tsv"


def show(rows: Iterable[Row], form: FileFormat | None = None, columns: Sequence[str] = ()) -> None:
    """Print rows that all have the same keys, which are ``columns`` where there are no rows."""
    from recgraph.data.row_files import cell, csv_line, json_of

    rows, form = list(rows), form or default_format()
    header = list(rows[0] if rows else columns)
    if form == "table":
        _table(rows, header)
    elif form in ("json", "jsonl"):
        for text in [json_of(rows, indent=2)] if form == "json" else map(json_of, rows):
            say(text)
    else:
        lines = [
            *([header] if header else []),
            *([_short(cell(value)) for value in row.values()] for row in rows),
        ]
        text = "".join(csv_line(line, "," if form == "csv" else "\t") for line in lines)
        # a program that reads a pipe gets every id as it is
        sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)


def show_frame(frame: pl.DataFrame, form: FileFormat | None, output: Path | None) -> None:
    """Print a frame, or write it to a file; without ``form`` the file's ending decides."""
    if output is not None:
        write_parts([frame], form, output)
    elif form == "parquet":
        raise ValueError("--format parquet is a file's: add --out FILE")
    else:
        show(frame.iter_rows(named=True), form, columns=frame.columns)


def write_parts(parts: Iterable[pl.DataFrame], form: FileFormat | None, output: Path) -> None:
    """Write frames one under the other into a file, one at a time; without ``form`` the file's
    ending decides.
    """
    from recgraph.data.row_files import replace_parts

    chosen: Any = form or output.suffix.removeprefix(".").lower()
    if chosen not in ("csv", "tsv", "json", "jsonl", "parquet"):
        raise ValueError(
            f"--out {output}: a file is .csv, .tsv, .json, .jsonl or .parquet, by its ending or --format"
        )
    note(f"{replace_parts(parts, output, chosen)} rows written to {output}")


#: columns of names, which people copy: names of up to 40 letters are not broken
_NAMES = ("model", "setting", "part", "kind", "name")


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        numeric = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        whole = numeric or (
            name in _NAMES and all(len(_table_text(row[name])) <= 40 for row in rows)
        )
        justify: Any = "right" if numeric else "left"
        table.add_column(Text(for_terminal(name)), justify=justify, no_wrap=whole, overflow="fold")
    for row in rows:
        # Text: a value such as "[Drama]" is no markup
        table.add_row(*(Text(for_terminal(_table_text(value))) for value in row.values()))
    Console().print(table)


def _short(value: Any) -> Any:
    """A float with six significant digits, or all those before the point if they are more; other
    values as they are.
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _table_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return (
        ", ".join(map(str, value))
        if isinstance(value, list | tuple)
        else ""
        if value is None
        else str(value)
    )
