"""Lines of text files before they are read: how long they are, and whether they are text.

Readers hold a line, and all fields of a header, in memory; a file of one line of a gigabyte must not be one of them.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recgraph.data.errors import CorruptFileError, DelimiterError, EncodingError
from recgraph.data.packing import LONGEST_LINE, open_bytes, packing_of, too_long

__all__ = ["LONGEST_HEADER", "check_lines", "check_quotes", "long_fields"]

#: bytes of the first line of a table: a name takes memory and time in every query
LONGEST_HEADER = 1 << 20
_BLOCK = 1 << 16
#: bytes that are searched for quotes at once
_SEARCHED = 1 << 22
#: more lines than this in one row are said to be odd: what is separated by tabs is seldom quoted, reviews in CSV are
_MOST_LINES, _MOST_LINES_OF_TSV = 100, 1
_log = logging.getLogger(__name__)


@contextmanager
def long_fields() -> Iterator[None]:
    """In the block :mod:`csv` reads fields of any allowed length, where it stops at 128 KiB otherwise."""
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def check_lines(path: Path, encoding: str, longest_first: int = LONGEST_LINE) -> None:
    """Refuse a text file with a line that is too long, or whose first line is no text.

    A plain file is looked at in a few places a gigabyte. Of a packed one, the first line alone is read; reading the
    others (:func:`recgraph.data.packing.open_bytes`) looks at them.

    Args:
        path: the file.
        encoding: of the text.
        longest_first: bytes of its first line.

    Raises:
        DelimiterError: a line is longer than allowed; names it.
        EncodingError: the first line holds NUL bytes where UTF-8 was expected.
        CorruptFileError: it is a zip archive.
        EOFError, OSError, zlib.error, lzma.LZMAError, polars' errors: a packed file is damaged.
    """
    with open_bytes(path) as file:
        first = file.readline(longest_first + 1)
    _check_first(first, path, encoding, longest_first)
    if packing_of(path) == "none":
        start = _too_long(path)
        if start is not None:
            raise too_long(path, LONGEST_LINE, _line_at(path, start))


def _check_first(first: bytes, path: Path, encoding: str, longest: int) -> None:
    if first.startswith(b"PK\x03\x04"):
        message = "this is a zip archive, which is not read: unpack it, or pack its file by gzip, Zstandard, bzip2, xz"
        raise CorruptFileError(message, path=path)
    place = first.find(b"\0")
    if encoding == "utf-8" and place >= 0:
        message = (
            f"byte {place + 1} of the line is NUL, so this is no UTF-8 text; if it is UTF-16, give encoding='utf-16' "
            "(--encoding utf-16)"
        )
        raise EncodingError(message, path=path, line=1)
    if b"\r" in first.rstrip(b"\r\n").replace(b"\r\n", b"") and not first.endswith(b"\n"):
        raise DelimiterError("lines end in CR alone; write them with LF, or CR LF", path=path, line=1)
    if len(first) > longest:
        raise too_long(path, longest, 1)


def _too_long(path: Path) -> int | None:
    """Where a line starts that is longer than allowed; None: there is none.

    From the start of a line, the last line break within the longest length is looked for, backwards; the next line
    starts behind it. Where there is no line break, this line is too long.
    """
    with path.open("rb") as file:
        start, size = 0, path.stat().st_size
        while size - start > LONGEST_LINE:
            end = start + LONGEST_LINE + 1
            while end > start:
                begin = max(start, end - _BLOCK)
                file.seek(begin)
                found = file.read(end - begin).rfind(b"\n")
                if found >= 0:
                    break
                end = begin
            else:
                return start
            start = begin + found + 1
    return None


def _line_at(path: Path, start: int) -> int:
    """The number of the line that starts at a byte of the text."""
    count = 1
    with open_bytes(path) as file:
        while start > 0 and (block := file.read(min(_BLOCK, start))):
            count += block.count(b"\n")
            start -= len(block)
    return count


def check_quotes(path: Path, text: Path, separator: str = ",") -> None:
    """Refuse a delimited text with a row that quotes hold open for longer than a line may be.

    A quote that never ends makes one field of the rest of the file, which polars would read, and copy into its message.
    Two quotes that are none, as in names of artists, make one field of all rows between them: the first row of
    unusually many lines is named in a warning. All of the text is searched.

    Args:
        path: the file, for messages.
        text: where its text is, in UTF-8, plain or packed.
        separator: between fields.

    Raises:
        CorruptFileError: there is such a row; names its line.
    """
    start, done, inside = 0, 0, False
    rows = _RowLines(_MOST_LINES_OF_TSV if separator == "\t" else _MOST_LINES)
    with open_bytes(text) as file:
        while block := file.read(_SEARCHED):
            rows.read(block, done, inside)
            inside ^= block.count(b'"') % 2 == 1
            ended = _last_break(block, inside)
            if ended is not None:
                start = done + ended + 1
            done += len(block)
            if done - start > LONGEST_LINE:  # none of its lines is as long
                message = (
                    f"a quote that begins in this row does not end within {LONGEST_LINE // 1024:,} KiB; "
                    'write a quote within a quoted field twice: ""'
                )
                raise CorruptFileError(message, path=path, line=_line_at(text, start))
    if rows.found is not None:
        begin, n_lines = rows.found
        _log.warning(
            "%s, line %s: quotes make one row of %s lines; where no field is quoted, give quotes=False (--no-quotes)",
            *(path, f"{_line_at(text, begin):,}", f"{n_lines:,}"),
        )


class _RowLines:
    """Finds the first row of more lines than ``most``: ``found`` is where it begins, and how many lines it has."""

    def __init__(self, most: int) -> None:
        self.found: tuple[int, int] | None = None
        self._most, self._begin, self._lines = most, 0, 1

    def read(self, block: bytes, done: int, inside: bool) -> None:
        """Read the next bytes, those behind the first ``done``, which begin within quotes or not."""
        if self.found is not None or not (inside or b'"' in block):
            if (last := block.rfind(b"\n")) >= 0:
                self._begin, self._lines = done + last + 1, 1
            return
        text = np.frombuffer(block, np.uint8)
        breaks, quotes = np.flatnonzero(text == ord("\n")), np.flatnonzero(text == ord('"'))
        within = (np.searchsorted(quotes, breaks) % 2 == 1) != inside
        ends = np.flatnonzero(~within)
        lines = np.diff(ends, prepend=-1, append=len(breaks))  # of each row; the last one goes on
        lines[0] += self._lines - 1
        begins = np.concatenate([[self._begin], done + breaks[ends] + 1])
        many = np.flatnonzero(lines > self._most)
        if len(many) and many[0] < len(ends):
            self.found = int(begins[many[0]]), int(lines[many[0]])
        self._begin, self._lines = int(begins[-1]), int(lines[-1])


def _last_break(block: bytes, inside: bool) -> int | None:
    """Where the last line break outside quotes is.

    Args:
        inside: whether the end of the block is within quotes.
    """
    # a break is nearly always near the end; all at once, as a block may be quotes alone
    for begin in dict.fromkeys((max(len(block) - _BLOCK, 0), 0)):
        tail = np.frombuffer(block, np.uint8, offset=begin)
        breaks, quotes = np.flatnonzero(tail == ord("\n")), np.flatnonzero(tail == ord('"'))
        is_odd = (len(quotes) - np.searchsorted(quotes, breaks)) % 2 == 1
        if len(found := breaks[is_odd == inside]):
            return begin + int(found[-1])
    return None
