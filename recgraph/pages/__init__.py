"""Self-contained HTML pages: their templates, one folder a page, and the look that they share (``look.css``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recgraph.texts import for_terminal

if TYPE_CHECKING:
    from jinja2 import Environment


def _glyphs(value: Any) -> Any:
    """A text without characters that HTML does not have, or that change the order of others; HTML as it is."""
    return for_terminal(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def environment(folder: str) -> Environment:
    """The templates of a folder beside this file, and what all pages share; values are escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(__name__, place) for place in (folder, ".")]),
        autoescape=True,
        finalize=_glyphs,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
