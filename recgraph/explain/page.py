"""The page of an explanation: one HTML file that needs nothing else."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from pathlib import Path
from typing import Any

from recgraph.charts.axes import number
from recgraph.charts.pages import environment
from recgraph.data.files import replace_text
from recgraph.explain.drawing import drawing
from recgraph.explain.explanation import Explanation, NodeExplanation
from recgraph.explain.projection import ItemMap

__all__ = ["page", "write_page"]


def write_page(explanation: Explanation | NodeExplanation, path: str | Path, item_map: ItemMap | None = None) -> Path:
    """Write the page, whole or not at all.

    Args:
        explanation: from :func:`explain` or :func:`explain_node`.
        path: of the file.
        item_map: from :func:`item_map` or :func:`node_map`; None leaves the map out.
    """
    replace_text(page(explanation, item_map), Path(path))
    return Path(path)


def page(explanation: Explanation | NodeExplanation, item_map: ItemMap | None = None) -> str:
    """The page as text."""
    of_user = isinstance(explanation, Explanation)
    drawn = environment("recgraph.explain")
    drawn.filters |= {"number": number, "listed": _listed}
    return drawn.get_template("user.html.j2" if of_user else "node.html.j2").render(
        it=explanation,
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        map=item_map,
        svg="" if item_map is None else _drawn(explanation, item_map),
        sums=_sums(explanation) if isinstance(explanation, Explanation) else {},
    )


def _drawn(explanation: Explanation | NodeExplanation, item_map: ItemMap) -> str:
    if isinstance(explanation, Explanation):
        marked = {each.item.id: f"{each.rank}" for each in explanation.recommendations}
        return drawing(item_map, marked, frozenset(each.item.id for each in explanation.history))
    marked = {explanation.node.id: "•"} | {each.near.node.id: f"{each.rank}" for each in explanation.neighbours}
    return drawing(item_map, marked, frozenset())


def _sums(explanation: Explanation) -> dict[tuple[str, str], float]:
    """(side, path) of each view -> what it adds to the scores, the mean over the recommendations."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    for each in explanation.recommendations:
        for part in each.parts:
            total[part.side, part.path] += part.value / len(explanation.recommendations)
    return dict(total)


def _listed(value: Any) -> str:
    """A feature as text."""
    if value is None:
        return ""
    return ", ".join(f"{part}" for part in value) if isinstance(value, tuple) else f"{value}"
