"""What objects look like in a notebook: a small HTML block of facts and tables that stands alone.

It takes the notebook's own colours, light or dark, and every value is escaped: titles and ids come from users' data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recgraph.pages import for_html as escape

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

Row = Mapping[str, Any]


def block(title: str, facts: Mapping[str, Any], tables: Sequence[str] = (), note: str = "") -> str:
    """The HTML of an object.

    Args:
        title: what it is.
        facts: name -> value; None is left out.
        tables: from :func:`table`; empty ones are left out.
        note: a last line.
    """
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_text(v))}</dd>" for k, v in facts.items() if v is not None)
    parts = [f"<b>{escape(title)}</b>", f"<dl>{rows}</dl>" if rows else "", *tables]
    parts.append(f"<p>{escape(note)}</p>" if note else "")
    return f'<div class="recgraph"><style>{_STYLE}</style>{"".join(parts)}</div>'


def table(rows: Sequence[Row], caption: str = "") -> str:
    """An HTML table with a column for each key; of many rows the first are shown. Empty without rows."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows[:_MOST] for name in row))
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(_text(row.get(name)))}</td>' for name in names)}</tr>" for row in rows[:_MOST]
    )
    more = f"<p>and {len(rows) - _MOST:,} more</p>" if len(rows) > _MOST else ""
    name = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{name}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


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
        return ", ".join(f"{name} {_text(held)}" for name, held in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value}"
