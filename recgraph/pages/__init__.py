"""Self-contained HTML pages, their templates and their look (``look.css``); texts of strangers where they are shown.

A log may come from strangers: escape sequences do nothing on a terminal, markup nothing on a page.
"""

from __future__ import annotations

import html
import json
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

#: controls, formats (bidirectional ones among them), lone surrogates, separators of lines and paragraphs
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
#: formats that scripts and emoji need
_JOINERS = "\u200c\u200d"


def for_terminal(text: str, lines: bool = True) -> str:
    r"""The text with every character that is no glyph written out, as ``\u001b``; ``lines``: breaks and tabs stay."""
    if text.isprintable():
        return text
    safe = _JOINERS + ("\n\t" if lines else "")
    return "".join(c if c in safe or unicodedata.category(c) not in _UNSEEN else json.dumps(c)[1:-1] for c in text)


def for_html(text: str) -> str:
    """The text in HTML, also in an attribute: escaped, and :func:`for_terminal`, as HTML has no such characters."""
    return html.escape(for_terminal(text))


def print_note(line: str) -> None:
    """Print a line on the standard error stream, :func:`for_terminal`."""
    print(for_terminal(line), file=sys.stderr, flush=True)


def environment(folder: str) -> Environment:
    """The templates of a folder beside this file, and what all pages share; values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    def glyphs(value: Any) -> Any:
        return for_terminal(value) if isinstance(value, str) and not hasattr(value, "__html__") else value

    return Environment(
        loader=ChoiceLoader([PackageLoader(__name__, place) for place in (folder, ".")]),
        autoescape=True,
        finalize=glyphs,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
