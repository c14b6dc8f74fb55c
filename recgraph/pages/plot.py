"""Charts that stand alone: in the output of a notebook, in an SVG file, in an HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from recgraph.pages import for_html as escape
from recgraph.pages.charts import HEIGHT, WIDTH, Figure

#: class -> what it looks like; lines and marks of up to five series are ``s1`` to ``s5``
STYLE = (
    ".rg text{fill:currentColor;opacity:.75;font:12px system-ui,sans-serif}"
    ".rg text.name{opacity:1;font-size:13px}.rg text.title{opacity:1;font-size:14px;font-weight:600}"
    ".rg .grid{stroke:currentColor;stroke-width:.6;opacity:.18;fill:none}"
    ".rg .axis{stroke:currentColor;opacity:.6;fill:none}"
    ".rg .whisker{stroke:currentColor;opacity:.5;fill:none}"
    ".rg polyline{fill:none;stroke-width:1.8}"
    + "".join(
        f".rg polyline.s{n}{{stroke:var(--s{n})}}.rg circle.s{n}{{fill:var(--s{n})}}"
        for n in range(1, 6)
    )
    + ".rg circle.best{fill:var(--best)}"
    ".rg{--s1:#0969da;--s2:#bc4c00;--s3:#1a7f37;--s4:#8250df;--s5:#9a6700;--best:#cf222e}"
)
#: a file has a ground of its own; a notebook has the reader's
_GROUND = (
    "svg.rg{color:#1b1f24;background:#fff}@media (prefers-color-scheme:dark){svg.rg{color:#e6edf3;background:#0d1117;"
    "--s1:#58a6ff;--s2:#f0883e;--s3:#3fb950;--s4:#bc8cff;--s5:#d29922;--best:#ff7b72}}"
)
#: heights of a title or a key and of a note, and the space between two charts
_TITLE, _NOTE, _GAP = 24, 20, 16


def drawing(figures: Sequence[Figure], standalone: bool = True) -> str:
    """One SVG of several charts side by side, each under its title.

    Args:
        figures: at least one.
        standalone: with its style and ground, as a file; else for a page that has :data:`STYLE`.
    """
    width = (WIDTH + _GAP) * len(figures) - _GAP
    height = _TITLE + HEIGHT
    if any(figure.key for figure in figures):
        height += _TITLE
    if any(figure.note for figure in figures):
        height += _NOTE
    parts = []
    for number, figure in enumerate(figures):
        left = number * (WIDTH + _GAP)
        parts.append(f'<g transform="translate({left} 0)">{_panel(figure, height)}</g>')
    name = escape("; ".join(figure.title for figure in figures))
    head = f'class="rg" viewBox="0 0 {width} {height}" role="img" aria-label="{name}"'
    if not standalone:
        return f'<svg {head} style="max-width:{width}px;width:100%">{"".join(parts)}</svg>'
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    return f"<svg {size} {head}><style>{STYLE}{_GROUND}</style>{''.join(parts)}</svg>"


def notebook_html(figures: Sequence[Figure]) -> str:
    """The charts for the output of a notebook, in its colours."""
    return f"<div><style>{STYLE}</style>{drawing(figures, standalone=False)}</div>"


def html_page(title: str, figures: Sequence[Figure]) -> str:
    """A page of the charts that needs nothing else."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = f"<h1>{escape(title)}</h1>{drawing(figures, standalone=False)}"
    look = (
        "body{margin:1rem;font-family:system-ui,sans-serif}h1{font-size:1.2rem}"
        ":root{color-scheme:light dark}body{background:Canvas}svg.rg{background:none}"
    )
    style = f"<style>{look}{STYLE}{_GROUND}</style>"
    return f'<!doctype html><html lang="en"><head>{head}{style}</head><body>{body}</body></html>\n'


def _panel(figure: Figure, height: int) -> str:
    """A chart with its title and key, and its note at the bottom of the height."""
    top = _TITLE
    parts = [f'<text class="title" x="4" y="17">{escape(figure.title)}</text>']
    if figure.key:
        at = 4.0
        for kind, text in figure.key:
            parts.append(f'<circle class="{kind}" cx="{at + 5:.0f}" cy="{top + 9}" r="4"/>')
            parts.append(f'<text x="{at + 13:.0f}" y="{top + 13}">{escape(text)}</text>')
            at += 26 + 7 * len(text)
        top += _TITLE
    parts.append(
        figure.svg.replace("<svg ", f'<svg y="{top}" width="{WIDTH}" height="{HEIGHT}" ', 1)
    )
    if figure.note:
        parts.append(f'<text x="4" y="{height - 6}">{escape(figure.note)}</text>')
    return "".join(parts)
