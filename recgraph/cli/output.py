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
#: a logger that says the same of every run: a command shows its first record
_FIRST_RECORD = "recgraph.data.split"
#: loggers of which a command shows each text once
_EACH_TEXT_ONCE = (NOTES.name, "recgraph.data.")
#: loggers whose records are shown as notes
_shown_as_notes = {NOTES.name}
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
        self.verbose = verbose
        self.is_quiet = quiet
        self._texts: set[str] = set()
        self._least = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        self._file: logging.FileHandler | None = None
        self._levels = _root.level, NOTES.level
        _root.addHandler(self)
        _root.setLevel(self._least)
        NOTES.setLevel(logging.INFO)
        if log_file is not None:
            self._file = logging.FileHandler(log_file, encoding="utf-8")
            self._file.setFormatter(
                logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
            )
            _root.addHandler(self._file)
            _root.setLevel(logging.DEBUG)
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
        _root.removeHandler(self)
        if self._file is not None:
            _root.removeHandler(self._file)
            self._file.close()
        _root.setLevel(self._levels[0])
        NOTES.setLevel(self._levels[1])
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_shown(record) and not self._is_repeated(record):
            print_note(self._line(record))

    def _is_shown(self, record: logging.LogRecord) -> bool:
        if record.name == FILE.name:
            return False
        if self.is_quiet:
            return record.levelno >= logging.ERROR
        return record.name in _shown_as_notes or record.levelno >= self._least

    def _is_repeated(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.name == _FIRST_RECORD:
            text = record.name
        is_repeated = text in self._texts
        self._texts.add(text)
        return is_repeated and record.name.startswith(_EACH_TEXT_ONCE)

    def _line(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {message}"
        if record.name in _shown_as_notes:
            return message
        if record.levelno < logging.INFO:
            message = f"{record.name}: {message}"
        return f"[{time.strftime('%H:%M:%S', time.localtime(record.created))}] {message}"


@contextlib.contextmanager
def notes_of(*names: str) -> Iterator[None]:
    """Within the block, show as notes what these loggers log."""
    levels = {name: logging.getLogger(name).level for name in names}
    _shown_as_notes.update(names)
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield
    finally:
        _shown_as_notes.difference_update(names)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def progress_wanted() -> bool | None:
    """``progress`` of a command's training: False with ``-q``; None with ``-v``, whose records tell
    the same.
    """
    for watch in _current:
        if watch.is_quiet:
            return False
        if watch.verbose:
            return None
    return True


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
    if sys.stdout.isatty():
        return "table"
    return "tsv"


def show(rows: Iterable[Row], form: FileFormat | None = None, columns: Sequence[str] = ()) -> None:
    """Print rows that all have the same keys, which are ``columns`` where there are no rows."""
    from recgraph.data.row_files import cell, csv_line, json_of

    rows = list(rows)
    form = form or default_format()
    header = list(rows[0] if rows else columns)
    if form == "table":
        _table(rows, header)
    elif form == "json":
        say(json_of(rows, indent=2))
    elif form == "jsonl":
        for row in rows:
            say(json_of(row))
    elif header:
        separator = "," if form == "csv" else "\t"
        lines = [csv_line(header, separator)]
        lines += (csv_line(map(_short, map(cell, row.values())), separator) for row in rows)
        text = "".join(lines)
        # a program that reads a pipe gets every id as it is
        if sys.stdout.isatty():
            text = for_terminal(text)
        sys.stdout.write(text)


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


#: columns of names, which people copy: names of so many letters are not broken
_NAMES = ("model", "setting", "part", "kind", "name")
_LONGEST_NAME = 40


def _table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        values = [row[name] for row in rows]
        is_numeric = all(isinstance(value, int | float | None) for value in values)
        is_short = max(map(len, map(_table_text, values)), default=0) <= _LONGEST_NAME
        table.add_column(
            Text(for_terminal(name)),
            justify="right" if is_numeric else "left",
            no_wrap=is_numeric or (name in _NAMES and is_short),
            overflow="fold",
        )
    for row in rows:
        # Text: a value such as "[Drama]" is no markup
        table.add_row(*map(Text, map(for_terminal, map(_table_text, row.values()))))
    Console().print(table)


def _short(value: Any) -> Any:
    """A float with six significant digits, or all those before the point if they are more; other
    values as they are.
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    if abs(value) < 1e6:
        return f"{value:.6g}"
    return f"{value:.0f}"


def _table_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
