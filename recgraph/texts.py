"""Texts of others (ids, titles, names of columns) where the library shows them.

A log may come from strangers. What a place gives a meaning to is written out here, and nowhere else: escape sequences
on a terminal, markup in Markdown, formulas in a spreadsheet. Pages are escaped by their templates; files that
programs read keep every id as it is.
"""

from __future__ import annotations

import csv
import html
import io
import json
import logging
import math
import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

#: controls, formats (bidirectional ones among them), lone surrogates, separators of lines and paragraphs
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
#: formats that scripts and emoji need: the joiners
_JOINERS = "\u200c\u200d"
#: the most names that a message lists, and of each the most characters
_MOST, _WIDEST = 20, 60


def for_terminal(text: str, lines: bool = True) -> str:
    r"""The text with every character that is no glyph written out, as ``\u001b`` (so JSON stays the same JSON).

    Args:
        text: of any origin.
        lines: keep line breaks and tabs; a cell of a table has none.
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    # json writes out all but ASCII
    return "".join(each if each in kept or _is_seen(each) else json.dumps(each)[1:-1] for each in text)


def tell(line: str) -> None:
    """Print a line on the standard error stream, :func:`for_terminal`."""
    print(for_terminal(line), file=sys.stderr, flush=True)


class RecordFormatter(logging.Formatter):
    """Records of a log file, :func:`for_terminal`; their further lines are indented, so that none looks like one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return for_terminal(super().formatMessage(record)).replace("\n", "\n  ")

    def formatException(self, ei: Any) -> str:
        return for_terminal(super().formatException(ei)).replace("\n", "\n  ")


def _is_seen(character: str) -> bool:
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) not in _UNSEEN


def for_html(text: str) -> str:
    """The text in HTML, also in an attribute: escaped, and :func:`for_terminal`, as HTML has no such characters."""
    return html.escape(for_terminal(text))


#: what has a meaning within a line: code, emphasis, HTML, mathematics, strikes, entities, the end of a link's text
_INLINE = re.compile(r"([\\`*<$~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)|\](?=[(\[:]))")
#: and at the beginning of a block: headings, quotes, lists, tables, rules
_BEGINNING = re.compile(r"^(?=[#>|:=]|[-+](?:[\s-]|$))|^(\d+)(?=[.)](?:\s|$))")


def for_markdown(text: str) -> str:
    """The text in one line of Markdown: it shows what it says, without markup, HTML or links of its own."""
    plain = for_terminal(" ".join(text.split("\n")), lines=False).strip()
    plain = _INLINE.sub(r"\\\1", plain)
    return _BEGINNING.sub(lambda found: f"{found[1]}\\" if found[1] else "\\", plain)


def markdown_code(text: str) -> str:
    """The text as code within a line of Markdown."""
    plain = for_terminal(text, lines=False)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    pad = " " if plain[:1] in ("`", " ") or plain[-1:] in ("`", " ") or not plain else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Lines as a block of code of Markdown."""
    plain = for_terminal(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    return f"{fence}{language}\n{plain}\n{fence}"


#: of a cell that a spreadsheet takes for a formula, or whose beginning it skips
FORMULA = r"^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"


def for_spreadsheet(value: Any) -> Any:
    """A cell of a CSV that people open: a text that a spreadsheet would compute gets an apostrophe before it.

    Numbers stay as they are, also negative ones.
    """
    if isinstance(value, str) and re.match(FORMULA, value) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None


def csv_line(cells: Iterable[Any], separator: str = ",") -> str:
    """A line of a CSV file, with its end; a cell with any line break is quoted, CR alone too."""
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def cell(value: Any) -> Any:
    """What a cell of a csv or tsv holds: bytes as UTF-8, the entries of a list after one another, a mapping as JSON."""
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    if isinstance(value, dict):
        return json_of(value)
    return _plain(value) if isinstance(value, bytes) else value


def json_of(value: Any, indent: int | None = None) -> str:
    """JSON, with null for NaN and infinities, which it does not have; what it has no form for becomes a text."""
    return json.dumps(_finite(value), indent=indent, default=_plain, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def listed(names: Iterable[Any]) -> str:
    """Names in a message, quoted; of many the first ones and how many more there are."""
    every = list(names)
    shown = ", ".join(map(_quoted, every[:_MOST]))
    return f"{shown} and {len(every) - _MOST:,} more" if len(every) > _MOST else shown


def _quoted(name: Any) -> str:
    text = str(name)
    return repr(text if len(text) <= _WIDEST else f"{text[:_WIDEST]}...")
