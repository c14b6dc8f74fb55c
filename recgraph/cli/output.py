"""What commands print: a table on a terminal, TSV in a pipe, or the form that is asked for; errors as messages."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from recgraph.cli.watching import NOTES, showing
from recgraph.pages import for_terminal

if TYPE_CHECKING:
    import polars as pl

#: within a block, print as notes what a logger logs
notes_of = showing
#: exit codes: the request is wrong; it failed; Ctrl-C
USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130


class Failure(Exception):
    """A request that is right and failed all the same."""


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an error that left a command.

    A ``ValueError`` or a missing or existing file is the user's mistake: the library's messages name the argument, its
    value and the fix. An unexpected error is given with its type, for a bug report.
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, text or "interrupted; what was finished is kept, and the same command goes on"
    if isinstance(error, ValueError | FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError):
        return USER_MISTAKE, text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return FAILURE, f"memory is short: {text}; free some, or take less of it (batch_size, --workers)"
    if isinstance(error, OSError | Failure | ImportError):
        return FAILURE, text or type(error).__name__
    return FAILURE, f"unexpected {type(error).__name__}: {error}\n`recgraph --debug ...` shows where it happened"


Row = Mapping[str, Any]


class Format(StrEnum):
    """Forms in which rows are printed."""

    TABLE = "table"
    TSV = "tsv"
    CSV = "csv"
    JSON = "json"


class FileFormat(StrEnum):
    """Forms in which a frame is written."""

    TABLE = "table"
    TSV = "tsv"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


_HELP = "Form of the output; by default a table on a terminal and TSV in a pipe."
FormatOption = Annotated[Format | None, typer.Option("--format", help=_HELP)]
FileFormatOption = Annotated[FileFormat | None, typer.Option("--format", help=_HELP)]


def note(message: str) -> None:
    """Print a note on the standard error stream, so that it never mixes with the output; a log file gets it too."""
    NOTES.info("%s", message)


def say(text: str) -> None:
    """Print a text for people, or JSON, on the standard output stream."""
    typer.echo(for_terminal(text))


def show(
    rows: Iterable[Row], form: Format | FileFormat | None = None, title: str = "", columns: Sequence[str] = ()
) -> None:
    """Print rows that all have the same keys, which are ``columns`` where there are no rows."""
    from recgraph.data.row_files import cell, csv_line, json_of

    rows = list(rows)
    chosen = form or default_format()
    if chosen == Format.TABLE:
        _table(rows, title, columns)
    elif chosen == Format.JSON:
        say(json_of(rows, indent=2))
    elif chosen == FileFormat.JSONL:
        for row in rows:
            say(json_of(row))
    else:
        lines = [header] if (header := list(rows[0] if rows else columns)) else []
        lines += [[cell(value) for value in row.values()] for row in rows]
        text = "".join(csv_line(line, "," if chosen == Format.CSV else "\t") for line in lines)
        # a program that reads a pipe gets every id as it is
        sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)


def show_frame(frame: pl.DataFrame, form: FileFormat | None, output: Path | None) -> None:
    """Print a frame, or write it to a file; without ``form`` the file's ending decides.

    Raises:
        ValueError: a table was asked for in a file, or Parquet on a terminal.
    """
    if output is not None:
        write_parts([frame], form, output)
    elif form != FileFormat.PARQUET:
        show(frame.iter_rows(named=True), chosen_form(form, output), columns=frame.columns)
    elif sys.stdout.isatty():
        raise ValueError("--format parquet cannot be shown on a terminal; add --out FILE")
    else:
        made = io.BytesIO()
        frame.write_parquet(made)
        sys.stdout.buffer.write(made.getvalue())


def write_parts(parts: Iterable[pl.DataFrame], form: FileFormat | None, output: Path) -> None:
    """Write frames one under the other into a file, one at a time; without ``form`` the file's ending decides.

    Raises:
        ValueError: a table was asked for, or the ending is not known.
    """
    form = chosen_form(form, output)
    if form == FileFormat.TABLE:
        raise ValueError(f"--format table is for people; write {output} as csv, tsv, json, jsonl or parquet")
    from recgraph.data.row_files import Form, replace_parts

    written = replace_parts(parts, output, cast(Form, form.value))
    note(f"{written} rows written to {output}")


def default_format() -> Format:
    """A table on a terminal, TSV in a pipe."""
    return Format.TABLE if sys.stdout.isatty() else Format.TSV


def chosen_form(form: FileFormat | None, output: Path | None) -> FileFormat:
    """The form that is asked for; else by the ending of the file, or :func:`default_format`.

    Raises:
        ValueError: the ending is not known.
    """
    if form is not None or output is None:
        return form or FileFormat(default_format().value)
    try:
        return FileFormat(output.suffix.removeprefix(".").lower())
    except ValueError:
        endings = ".csv, .tsv, .json, .jsonl or .parquet"
        raise ValueError(f"--out {output}: end its name in {endings}, or give --format") from None


def _table(rows: Sequence[Row], title: str, columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = Text(for_terminal(title)) if title else None
    table = Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0] if rows else columns:
        numeric = all(isinstance(row[name], int | float) or row[name] is None for row in rows)
        table.add_column(
            Text(for_terminal(name)), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
        )
    for row in rows:
        # Text: a value such as "[Drama]" is no markup
        table.add_row(*(Text(for_terminal(_table_text(value))) for value in row.values()))
    Console().print(table)


def _table_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
