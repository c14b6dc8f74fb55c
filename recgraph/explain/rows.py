"""An explanation as lines for a terminal, and as rows for tables and programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recgraph.explain.explanation import Connection, Evidence, Explanation, Item, Near, Node, NodeExplanation, ViewShare

__all__ = [
    "history_rows",
    "neighbour_lines",
    "neighbour_rows",
    "recommendation_rows",
    "view_rows",
    "walk",
    "why_lines",
    "why_rows",
]

Row = dict[str, Any]


def walk(path: Sequence[Node]) -> str:
    """A path in words; users are told from other nodes, as their ids often are numbers."""
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


def view_rows(views: Sequence[ViewShare]) -> list[Row]:
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
