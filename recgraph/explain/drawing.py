"""The map as inline SVG; its colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from recgraph.charts.axes import Scale
from recgraph.explain.projection import ItemMap

__all__ = ["drawing"]

_WIDTH, _HEIGHT, _EDGE = 640, 460, 14


def drawing(item_map: ItemMap, marked: Mapping[Any, str], ringed: frozenset[Any]) -> str:
    """The points, those with a mark or a ring on top.

    Args:
        marked: id -> what is written into its mark, a character or two.
        ringed: ids of points that get a ring.
    """
    across, up = (Scale.of([getattr(point, axis) for point in item_map.points]) for axis in ("x", "y"))
    parts: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for point in item_map.points:
        x = _EDGE + across.place(point.x) * (_WIDTH - 2 * _EDGE)
        y = _HEIGHT - _EDGE - up.place(point.y) * (_HEIGHT - 2 * _EDGE)
        group = item_map.groups[point.group] if point.group >= 0 else ""
        text = escape(f"{point.node.title} ({group})" if group else point.node.title)
        at = f'cx="{x:.1f}" cy="{y:.1f}"'
        label = marked.get(point.node.id)
        if label is not None:
            circle = f'<circle class="marked" {at} r="9"><title>{text}</title></circle>'
            label = f'<text class="label" x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle">{escape(label)}</text>'
            parts[2].append(circle + label)
        elif point.node.id in ringed:
            parts[1].append(f'<circle class="ringed g{point.group}" {at} r="5"><title>{text}</title></circle>')
        else:
            parts[0].append(f'<circle class="g{point.group}" {at} r="3"><title>{text}</title></circle>')
    label = escape(_told(item_map, len(marked), len(ringed)), quote=True)
    inside = "".join("".join(layer) for layer in parts.values())
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{inside}</svg>'


def _told(item_map: ItemMap, n_marked: int, n_ringed: int) -> str:
    by = f", coloured by {item_map.feature}" if item_map.feature else ""
    more = f"; {n_marked} are marked" + (f", {n_ringed} have a ring" if n_ringed else "")
    return f"Map of {len(item_map.points)} embeddings in two dimensions{by}{more}"
