"""Self-contained HTML pages, their templates and their look (``look.css``); blocks of notebooks;
texts of strangers.

A log may come from strangers: escape sequences do nothing on a terminal, markup nothing on a page.
"""

from __future__ import annotations

import html
import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

#: controls, formats (bidirectional ones among them), lone surrogates, separators of lines and
#: paragraphs
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
#: formats that scripts and emoji need
_JOINERS = "\u200c\u200d"
#: the most rows of a table that are shown
_MOST = 30
_LINE = "1px solid color-mix(in srgb, currentColor 20%, transparent)"
_STYLE = (
    ".recgraph{display:inline-block;max-width:100%;overflow-x:auto;margin:.2em 0;padding:.5em .8em;"
    f"border:{_LINE};border-radius:6px;font:13px/1.5 system-ui,sans-serif}}"
    ".recgraph dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1em;margin:.2em 0}"
    ".recgraph dt{opacity:.7;font-weight:normal}.recgraph dd{margin:0;overflow-wrap:anywhere}"
    ".recgraph table{border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums}"
    f".recgraph th,.recgraph td{{padding:.1em .6em;text-align:right;border:0;border-bottom:{_LINE}}}"
    ".recgraph th:first-child,.recgraph td:first-child{text-align:left}"
    ".recgraph caption{text-align:left;opacity:.7}.recgraph p{margin:.2em 0;opacity:.7}"
)


def for_terminal(text: str, lines: bool = True) -> str:
    r"""The text with every character that is no glyph written out, as ``\u001b``; ``lines``: breaks
    and tabs stay.
    """
    safe = set(_JOINERS)
    if lines:
        safe |= {"\n", "\t"}
    for character in set(text) - safe:
        if unicodedata.category(character) in _UNSEEN:
            text = text.replace(character, json.dumps(character)[1:-1])
    return text


def for_html(text: str) -> str:
    """The text in HTML, also in an attribute: escaped, and :func:`for_terminal`, as HTML has no
    such characters.
    """
    return html.escape(for_terminal(text))


def print_note(line: str) -> None:
    """Print a line on the standard error stream, :func:`for_terminal`."""
    print(for_terminal(line), file=sys.stderr, flush=True)


def environment(folder: str) -> Environment:
    """The templates of a folder beside this file, and what all pages share; values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    def glyphs(value: Any) -> Any:
        return for_terminal(value) if isinstance(value, str) else value

    return Environment(
        loader=ChoiceLoader([PackageLoader(__name__, folder), PackageLoader(__name__, ".")]),
        autoescape=True,
        finalize=glyphs,
        undefined=StrictUndefined,
        trim_blocks=True,
    )


def block(title: str, facts: Mapping[str, Any], tables: Sequence[str] = (), note: str = "") -> str:
    """What an object looks like in a notebook: HTML that stands alone, in the notebook's own
    colours.

    Args:
        title: what it is.
        facts: name -> value; None is left out.
        tables: from :func:`table`; empty ones are left out.
        note: a last line.
    """
    parts = [f"<b>{for_html(title)}</b>"]
    rows = [
        f"<dt>{for_html(name)}</dt><dd>{for_html(_text(value))}</dd>"
        for name, value in facts.items()
        if value is not None
    ]
    if rows:
        parts += ["<dl>", *rows, "</dl>"]
    parts += tables
    if note:
        parts.append(f"<p>{for_html(note)}</p>")
    return f'<div class="recgraph"><style>{_STYLE}</style>{"".join(parts)}</div>'


def table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """An HTML table with a column for each key; of many rows the first are shown. Empty without
    rows.
    """
    if not rows:
        return ""
    shown = rows[:_MOST]
    names = list(dict.fromkeys(chain.from_iterable(shown)))
    body = "".join(_table_row("td", map(row.get, names)) for row in shown)
    text = f"<thead>{_table_row('th', names)}</thead><tbody>{body}</tbody></table>"
    if caption:
        text = f"<caption>{for_html(caption)}</caption>{text}"
    if len(rows) > _MOST:
        text += f"<p>and {len(rows) - _MOST:,} more</p>"
    return f"<table>{text}"


def _table_row(tag: str, values: Iterable[Any]) -> str:
    cells = "".join(f"<{tag}>{for_html(_text(value))}</{tag}>" for value in values)
    return f"<tr>{cells}</tr>"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value}"
