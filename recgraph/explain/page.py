"""An explanation as lines for a terminal, as rows for tables and programs, and as one HTML file with its map."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from recgraph.data.files import replace_text
from recgraph.explain.explanation import (
    Connection,
    Evidence,
    Explanation,
    Item,
    Near,
    Node,
    NodeExplanation,
    PathWeight,
)
from recgraph.explain.projection import ItemMap
from recgraph.pages import environment
from recgraph.pages.charts import Scale, number

__all__ = [
    "drawing",
    "history_rows",
    "neighbour_lines",
    "neighbour_rows",
    "page",
    "recommendation_rows",
    "view_rows",
    "walk",
    "why_lines",
    "why_rows",
    "write_page",
]


Row = dict[str, Any]


def walk(path: Sequence[Node]) -> str:
    """A path in words; users are marked as such, as their ids often are numbers."""
    return " > ".join(_called(node) for node in path)


def _called(node: Node) -> str:
    return f"user {node.title}" if node.type == "user" else node.title


def _items(items: Sequence[Item]) -> list[Row]:
    """Ids, titles where there are some, and features."""
    titled = any(item.title != f"{item.id}" for item in items)
    return [{"item": item.id} | ({"title": item.title} if titled else {}) | dict(item.fields) for item in items]


def history_rows(explanation: Explanation, most: int) -> list[Row]:
    """The last items of the history, the newest first."""
    shown = explanation.history[-most:][::-1]
    rows = _items([each.item for each in shown])
    return [
        row | {"fitted to": "unknown" if each.fitted is None else each.fitted}
        for row, each in zip(rows, shown, strict=True)
    ]


def recommendation_rows(explanation: Explanation) -> list[Row]:
    """One row a recommendation."""
    shown = explanation.recommendations
    rows = _items([each.item for each in shown])
    return [{"rank": each.rank} | row | {"score": each.score} for row, each in zip(rows, shown, strict=True)]


def view_rows(views: Sequence[PathWeight]) -> list[Row]:
    """One row a view."""
    return [{"view of": view.side, "meta-path": view.path, "attention": view.weight} for view in views]


def why_rows(explanation: Explanation) -> Iterator[Row]:
    """One row a recommendation and meta-path."""
    for each in explanation.recommendations:
        parts = {(part.side, part.path): part.value for part in each.parts}
        for found in each.evidence:
            adds = {"adds": parts.get((found.side, found.path))} if parts else {}
            yield (
                {"rank": each.rank, "item": each.item.id, "title": each.item.title}
                | _evidence(found)
                | adds
                | _best(found.connections)
            )


def neighbour_rows(explanation: NodeExplanation) -> Iterator[Row]:
    """One row a near node and meta-path; a row without a path where the two share nothing."""
    nothing = dict.fromkeys(("view of", "meta-path", "paths", "similarity", "place", "of", "through", "for instance"))
    for each in explanation.neighbours:
        head = {"rank": each.rank, explanation.node.type: each.near.node.id, "cosine": each.near.similarity}
        for found in each.evidence:
            yield head | _evidence(found) | _best(found.connections)
        if not each.evidence:
            yield head | nothing


def _evidence(found: Evidence) -> Row:
    return {
        "view of": found.side,
        "meta-path": found.path,
        "paths": found.count,
        "similarity": found.score,
        "place": found.rank,
        "of": found.n_ranked,
    }


def _best(connections: Sequence[Connection]) -> Row:
    through = "; ".join(_called(each.via) for each in connections)
    instance = next((walk(path) for each in connections for path in each.paths), "")
    return {"through": through, "for instance": instance}


def why_lines(explanation: Explanation) -> Iterator[str]:
    """What speaks for each recommendation, for a person."""
    for each in explanation.recommendations:
        yield f"{each.rank}. {each.item.title}"
        parts = {(part.side, part.path): part.value for part in each.parts}
        if parts and ("", "") in parts:
            yield f"   own vectors add {parts['', '']:+.3f} to the score {each.score:.3f}"
        for found in each.evidence:
            yield from _lines(found, parts.get((found.side, found.path)))
        if not each.evidence:
            yield "   no path of the graph joins it with the user"
        for name, near in (("of the history", each.nearest_seen), ("of all", each.nearest)):
            if near:
                yield f"   nearest {name}: {_near(near[:3])}"


def neighbour_lines(explanation: NodeExplanation) -> Iterator[str]:
    """What each near node shares with the node, for a person."""
    for each in explanation.neighbours:
        yield f"{each.rank}. {each.near.node.type} {each.near.node.title}, cosine {each.near.similarity:.3f}"
        for found in each.evidence:
            yield from _lines(found, None)
        if not each.evidence:
            yield "   nothing is shared along the meta-paths"


def _lines(found: Evidence, adds: float | None) -> Iterator[str]:
    gives = "" if adds is None else f" adds {adds:+.3f};"
    yield (
        f"   {found.path}:{gives} {found.count:,} path{'s' if found.count != 1 else ''}, "
        f"similarity {found.score:.3f}, by it alone place {found.rank:,} of {found.n_ranked:,}"
    )
    for each in found.connections[:1]:
        more = f" and {found.count - 1:,} more" if found.count > 1 else ""
        yield f"      {walk(each.paths[0])}{more}"


def _near(found: Sequence[Near]) -> str:
    return "; ".join(f"{each.node.title} {each.similarity:.2f}" for each in found)


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
    label = escape(_map_label(item_map, len(marked), len(ringed)), quote=True)
    inside = "".join("".join(layer) for layer in parts.values())
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{inside}</svg>'


def _map_label(item_map: ItemMap, n_marked: int, n_ringed: int) -> str:
    by = f", coloured by {item_map.feature}" if item_map.feature else ""
    more = f"; {n_marked} are marked" + (f", {n_ringed} have a ring" if n_ringed else "")
    return f"Map of {len(item_map.points)} embeddings in two dimensions{by}{more}"


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
    drawn = environment("explain")
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
