"""An explanation as lines for a terminal, as rows for tables and programs, and as one HTML file with a map."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recgraph.config import checked
from recgraph.explain.explanation import (
    Attributed,
    Evidence,
    Explanation,
    Item,
    Node,
    NodeExplanation,
    PathWeight,
    Recommendation,
    agreement_rows,
    faithfulness_rows,
)
from recgraph.explain.projection import ItemMap
from recgraph.files import write_text
from recgraph.pages import environment
from recgraph.pages.charts import MAP, Chart, Mark, Scale, number

Row = dict[str, Any]
#: columns of tables, which a feature of the same name does not replace
_OWN = ("rank", "item", "title", "score", "fitted to")
#: events of an attribution in a line
_MOST_EVENTS = 5


def _walk(path: Sequence[Node]) -> str:
    """A path as text. A user's title follows the word "user", as the ids of users often are numbers."""
    return " > ".join(_text(node) for node in path)


def _text(node: Node) -> str:
    return f"user {node.title}" if node.type == "user" else node.title


def _item_rows(items: Sequence[Item]) -> list[Row]:
    """Ids, titles where items have titles, and features."""
    titled = any(item.title != f"{item.id}" for item in items)
    rows = []
    for item in items:
        fields = {name: value for name, value in item.fields.items() if name not in _OWN}
        rows.append({"item": item.id} | ({"title": item.title} if titled else {}) | fields)
    return rows


def history_rows(explanation: Explanation, most: int) -> list[Row]:
    """The last items of the history, the newest first."""
    shown = explanation.history[-most:][::-1]
    rows = _item_rows([each.item for each in shown])
    return [
        row | {"fitted to": "unknown" if each.fitted is None else each.fitted}
        for row, each in zip(rows, shown, strict=True)
    ]


def recommendation_rows(explanation: Explanation) -> list[Row]:
    """One row for each recommendation."""
    shown = explanation.recommendations
    rows = _item_rows([each.item for each in shown])
    return [{"rank": each.rank} | row | {"score": each.score} for row, each in zip(rows, shown, strict=True)]


def path_weight_rows(weights: Sequence[PathWeight]) -> list[Row]:
    """One row for each meta-path."""
    return [{"node type": each.side, "meta-path": each.path, "path weight": each.weight} for each in weights]


def why_rows(explanation: Explanation) -> Iterator[Row]:
    """One row for each recommendation and meta-path; an empty one where no meta-path leads to the item."""
    for each in explanation.recommendations:
        head = {"rank": each.rank, "item": each.item.id, "title": each.item.title, "score": each.score}
        parts = _parts(each)
        for found in each.evidence or (None,):
            adds = {} if not parts else {"adds": None if found is None else parts.get((found.side, found.path))}
            yield head | _evidence_row(found, adds)


def neighbour_rows(explanation: NodeExplanation) -> Iterator[Row]:
    """One row for each near node and meta-path; an empty one where no meta-path connects the two nodes."""
    for each in explanation.neighbours:
        head = {"rank": each.rank, explanation.node.type: each.near.node.id, "cosine": each.near.similarity}
        for found in each.evidence or (None,):
            yield head | _evidence_row(found, {})


def _evidence_row(found: Evidence | None, adds: Mapping[str, float | None]) -> Row:
    names = ("view of", "meta-path", "paths", "similarity", "place", "of", *adds, "through", "for instance")
    if found is None:
        return dict.fromkeys(names)
    through = "; ".join(_text(each.via) for each in found.connections)
    instance = next((_walk(path) for each in found.connections for path in each.paths), "")
    of_path = (found.side, found.path, found.count, found.score, found.rank, found.n_ranked)
    return dict(zip(names, (*of_path, *adds.values(), through, instance), strict=True))


def _parts(recommendation: Recommendation) -> dict[tuple[str, str], float]:
    return {(part.side, part.path): part.value for part in recommendation.parts}


def why_lines(explanation: Explanation) -> Iterator[str]:
    """The reasons for each recommendation, for a terminal."""
    for each in explanation.recommendations:
        yield f"{each.rank}. {each.item.title}"
        parts = _parts(each)
        if ("", "") in parts:
            yield f"   own vectors add {parts['', '']:+.3f} to the score {each.score:.3f}"
        for found in each.evidence:
            yield from _evidence_lines(found, parts.get((found.side, found.path)))
        for name, near in (("of the history", each.nearest_seen), ("of all", each.nearest)):
            if near:
                yield f"   nearest {name}: {'; '.join(f'{one.node.title} {one.similarity:.2f}' for one in near[:3])}"
        if each.attributed is not None:
            yield from _attribution_lines(each.attributed)


def _attribution_lines(found: Attributed) -> Iterator[str]:
    for one in found.methods:
        first = (f"{found.events[place].title} {one.values[place]:+.3f}" for place in one.order[:_MOST_EVENTS])
        yield f"   {one.method}: {'; '.join(first)}"


def neighbour_lines(explanation: NodeExplanation) -> Iterator[str]:
    """The paths between the node and each near node, for a terminal."""
    for each in explanation.neighbours:
        yield f"{each.rank}. {each.near.node.type} {each.near.node.title}, cosine {each.near.similarity:.3f}"
        for found in each.evidence:
            yield from _evidence_lines(found, None)


def _evidence_lines(found: Evidence, adds: float | None) -> Iterator[str]:
    added = "" if adds is None else f" adds {adds:+.3f};"
    yield (
        f"   {found.path}:{added} {found.count:,} path{'s' if found.count != 1 else ''}, "
        f"similarity {found.score:.3f}, rank {found.rank:,} of {found.n_ranked:,} by this path alone"
    )
    if found.connections:
        more = f" and {found.count - 1:,} more" if found.count > 1 else ""
        yield f"      {_walk(found.connections[0].paths[0])}{more}"


@checked
def write_page(explanation: Explanation | NodeExplanation, path: str | Path, item_map: ItemMap | None = None) -> Path:
    """Write the page as one file, replacing the file whole or not at all.

    Args:
        explanation: from :func:`explain` or :func:`explain_node`.
        path: of the file.
        item_map: from :func:`item_map` or :func:`node_map`; None leaves the map out.
    """
    write_text(page(explanation, item_map), Path(path))
    return Path(path)


@checked
def page(explanation: Explanation | NodeExplanation, item_map: ItemMap | None = None) -> str:
    """The page as HTML."""
    of_user = isinstance(explanation, Explanation)
    templates = environment("explain")
    templates.filters |= {"number": number, "value_text": _value_text}
    return templates.get_template("user.html.j2" if of_user else "node.html.j2").render(
        it=explanation,
        at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        map=item_map,
        svg="" if item_map is None else _map_svg(explanation, item_map),
        mean_parts=_mean_parts(explanation) if isinstance(explanation, Explanation) else {},
        agreement=agreement_rows(explanation.attributed) if isinstance(explanation, Explanation) else [],
        faithful=faithfulness_rows(explanation.attributed) if isinstance(explanation, Explanation) else [],
    )


def _map_svg(explanation: Explanation | NodeExplanation, item_map: ItemMap) -> str:
    """The map: recommendations or near nodes carry their rank, history items a ring; both lie on top."""
    if isinstance(explanation, Explanation):
        labels = {each.item.id: f"{each.rank}" for each in explanation.recommendations}
        ringed = {each.item.id for each in explanation.history}
    else:
        labels = {explanation.node.id: "•"} | {each.near.node.id: f"{each.rank}" for each in explanation.neighbours}
        ringed = set()
    layers: dict[str, list[Mark]] = {"plain": [], "ringed": [], "marked": []}
    for point in item_map.points:
        own = point.node.id
        layer = "marked" if own in labels else "ringed" if own in ringed else "plain"
        kind = layer if layer == "marked" else f"{layer} g{point.group}"
        text = point.node.title if point.group < 0 else f"{point.node.title} ({item_map.groups[point.group]})"
        layers[layer].append(Mark(point.x, point.y, kind, text, label=labels.get(own, "")))
    by = f", coloured by {item_map.feature}" if item_map.feature else ""
    title = f"Map of {len(item_map.points)} embeddings in two dimensions{by}; {len(layers['marked'])} are marked"
    x, y = (Scale.of([getattr(point, axis) for point in item_map.points]) for axis in ("x", "y"))
    marks = [mark for layer in layers.values() for mark in layer]
    return str(Chart(title, x, y, marks=marks, layout=MAP))


def _mean_parts(explanation: Explanation) -> dict[tuple[str, str], float]:
    """(side, path) of each meta-path -> what it adds to a score, the mean over the recommendations."""
    means: dict[tuple[str, str], float] = defaultdict(float)
    for each in explanation.recommendations:
        for key, value in _parts(each).items():
            means[key] += value / len(explanation.recommendations)
    return dict(means)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{part}" for part in value) if isinstance(value, tuple) else f"{value}"
