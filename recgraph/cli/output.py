"""What commands print: a table on a terminal, TSV in a pipe, or the form that is asked for; errors as messages."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from recgraph.cli.watching import NOTES, showing
from recgraph.texts import FORMULA, cell, csv_line, for_spreadsheet, for_terminal, json_of

if TYPE_CHECKING:
    import polars as pl


#: exit codes: the request is wrong; it failed; Ctrl-C
USER_MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130


#: what to do where memory does not suffice
_MEMORY = "free some, or take less of it (batch_size, --workers), then give the same command again"


class Failure(Exception):
    """A request that is right and failed all the same."""


def describe(error: BaseException) -> tuple[int, str]:
    """The exit code and the message for an error that left a command.

    A ``ValueError`` or a missing or existing file is the user's mistake: the library's messages name the argument, its
    value and the fix. An unexpected error is given with its type, for a bug report.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "interrupted; what was finished is kept, and the same command goes on"
    if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError):
        named = error.filename and error.strerror
        return USER_MISTAKE, f"{error.filename}: {error.strerror}" if named else str(error)
    if isinstance(error, ValueError):
        return USER_MISTAKE, str(error)
    if _lacks_memory(error):
        return FAILURE, f"memory is short: {str(error) or 'there is none left'}; {_MEMORY}"
    if isinstance(error, OSError):
        from recgraph.data.disk import told

        return FAILURE, told(error) or str(error) or type(error).__name__
    if isinstance(error, Failure | ImportError):
        return FAILURE, str(error) or type(error).__name__
    return FAILURE, f"unexpected {type(error).__name__}: {error}\n`recgraph --debug ...` shows where it happened"


def _lacks_memory(error: BaseException) -> bool:
    """Whether there was no memory left; torch is not imported to find out."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from recgraph.finite import lacks_memory

    return lacks_memory(error)


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of polars, which is no ``Exception``; polars itself takes long to import."""
    return type(error).__name__ == "PanicException"


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


#: the forms whose cells hold texts
_CELLS = (FileFormat.CSV, FileFormat.TSV)

_HELP = "Form of the output; by default a table on a terminal and TSV in a pipe."
FormatOption = Annotated[Format | None, typer.Option("--format", help=_HELP)]
FileFormatOption = Annotated[FileFormat | None, typer.Option("--format", help=_HELP)]


def note(message: str) -> None:
    """Print a note on the standard error stream, so that it never mixes with the output; a log file gets it too."""
    NOTES.info("%s", message)


def say(text: str) -> None:
    """Print a text for people, or JSON, on the standard output stream."""
    typer.echo(for_terminal(text))


@contextlib.contextmanager
def notes_of(name: str) -> Iterator[None]:
    """Within the block, print as notes what the logger ``name`` logs."""
    with showing(name):
        yield


def show(
    rows: Iterable[Row], form: Format | FileFormat | None = None, title: str = "", columns: Sequence[str] = ()
) -> None:
    """Print rows that all have the same keys, which are ``columns`` where there are no rows."""
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
        _separated(rows, "," if chosen == Format.CSV else "\t", columns)


def show_frame(
    frame: pl.DataFrame,
    form: FileFormat | None,
    output: Path | None,
    title: str = "",
    for_spreadsheets: bool = False,
) -> None:
    """Print a frame, or write it to a file; without ``form`` the file's ending decides.

    Raises:
        ValueError: a table was asked for in a file, Parquet on a terminal, or cells of a spreadsheet in another form
            than theirs.
    """
    if output is None:
        if form == FileFormat.PARQUET:
            if sys.stdout.isatty():
                raise ValueError("--format parquet cannot be shown on a terminal; add --out FILE")
            made = io.BytesIO()
            frame.write_parquet(made)
            sys.stdout.buffer.write(made.getvalue())
            return
        chosen = chosen_form(form, output)
        _check_spreadsheets(for_spreadsheets, chosen, "the output")
        if for_spreadsheets:
            (frame,) = _of_cells([frame], None, protected=True)
        show(frame.iter_rows(named=True), chosen, title, frame.columns)
        return
    write_parts([frame], form, output, for_spreadsheets)


def write_parts(
    parts: Iterable[pl.DataFrame], form: FileFormat | None, output: Path, for_spreadsheets: bool = False
) -> None:
    """Write frames one under the other into a file, one at a time; without ``form`` the file's ending decides.

    Args:
        for_spreadsheets: see :func:`recgraph.texts.for_spreadsheet`; by default texts stay as they are, and a note
            says where a spreadsheet would compute some of a csv or tsv.

    Raises:
        ValueError: a table was asked for, the ending is not known, or the form is not one of spreadsheets.
    """
    form = chosen_form(form, output)
    _check_spreadsheets(for_spreadsheets, form, f"--out {output}")
    if form in _CELLS:
        parts = _of_cells(parts, output, for_spreadsheets)
    if form == FileFormat.TABLE:
        raise ValueError(f"--format table is for people; write {output} as csv, tsv, json, jsonl or parquet")
    from recgraph.data.row_files import Form, replace_parts

    written = replace_parts(parts, output, cast(Form, form.value))
    note(f"{written} rows written to {output}")


def _of_cells(parts: Iterable[pl.DataFrame], output: Path | None, protected: bool) -> Iterator[pl.DataFrame]:
    """The frames with the texts that a spreadsheet would compute protected, or with a note of the first."""
    import polars as pl

    from recgraph.data.row_files import as_cells

    told = False
    for part in map(as_cells, parts):
        for name in [name for name, dtype in part.schema.items() if dtype == pl.String]:
            found = part[name].str.contains(FORMULA)
            if not found.any():
                continue
            if protected:
                part = part.with_columns(pl.Series(name, [for_spreadsheet(text) for text in part[name]]))
            elif not told:
                told = True
                first = part[name].filter(found)[0]
                note(
                    f"{output}: a spreadsheet may take {first[:40]!r} (column {name!r}) for a formula; "
                    "--for-spreadsheets keeps it from that, by an apostrophe before such texts"
                )
        yield part


def _check_spreadsheets(wanted: bool, form: FileFormat, what: str) -> None:
    if wanted and form not in _CELLS:
        raise ValueError(f"--for-spreadsheets is for csv and tsv; {what} is {form.value}")


def default_format() -> Format:
    """A table on a terminal, TSV in a pipe."""
    return Format.TABLE if sys.stdout.isatty() else Format.TSV


def chosen_form(form: FileFormat | None, output: Path | None) -> FileFormat:
    """The form that is asked for; else by the ending of the file, or :func:`default_format`.

    Raises:
        ValueError: the ending is not known.
    """
    return form or (FileFormat(default_format().value) if output is None else _form_of(output))


def _form_of(path: Path) -> FileFormat:
    try:
        return FileFormat(path.suffix.removeprefix(".").lower())
    except ValueError:
        raise ValueError(
            f"--out {path}: end its name in .csv, .tsv, .json, .jsonl or .parquet, or give --format"
        ) from None


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


def _separated(rows: Sequence[Row], separator: str, columns: Sequence[str]) -> None:
    lines = [header] if (header := list(rows[0] if rows else columns)) else []
    lines += [[cell(value) for value in row.values()] for row in rows]
    text = "".join(csv_line(line, separator) for line in lines)
    # a program that reads a pipe gets every id as it is
    sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)


def _table_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
