"""An explanation as lines for a terminal, as rows for tables and programs, and as one HTML file."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recgraph.config import checked
from recgraph.explain.explanation import (
    Evidence,
    Explanation,
    Node,
    NodeExplanation,
    PathWeight,
    Recommendation,
    agreement_rows,
    faithfulness_rows,
)
from recgraph.files import write_text
from recgraph.pages import environment
from recgraph.pages.charts import number

Row = dict[str, Any]
#: columns of tables, which a feature of the same name does not replace
_OWN = ("rank", "item", "title", "score")
#: events of an attribution in a line
_MOST_EVENTS = 5


def _walk(path: Sequence[Node]) -> str:
    """A path as text. A user's title follows the word "user", as the ids of users often are
    numbers.
    """
    return " > ".join(_text(node) for node in path)


def _text(node: Node) -> str:
    return f"user {node.title}" if node.type == "user" else node.title


def recommendation_rows(explanation: Explanation) -> list[Row]:
    """One row for each recommendation: the id, the title where items have titles, features, the
    score.
    """
    items = [each.item for each in explanation.recommendations]
    titled = any(item.title != f"{item.id}" for item in items)
    rows = []
    for each in explanation.recommendations:
        title = {"title": each.item.title} if titled else {}
        fields = {name: value for name, value in each.item.fields.items() if name not in _OWN}
        rows.append(
            {"rank": each.rank, "item": each.item.id} | title | fields | {"score": each.score}
        )
    return rows


def path_weight_rows(weights: Sequence[PathWeight]) -> list[Row]:
    """One row for each meta-path."""
    return [
        {"node type": each.side, "meta-path": each.path, "path weight": each.weight}
        for each in weights
    ]


def evidence_rows(explanation: Explanation | NodeExplanation) -> Iterator[Row]:
    """One row for each recommendation or near node and meta-path; an empty one where no meta-path
    leads there.
    """
    names = (
        "view of",
        "meta-path",
        "paths",
        "similarity",
        "place",
        "of",
        "through",
        "for instance",
    )
    if isinstance(explanation, Explanation):
        for each in explanation.recommendations:
            head = {
                "rank": each.rank,
                "item": each.item.id,
                "title": each.item.title,
                "score": each.score,
            }
            parts = _parts(each)
            for found in each.evidence or (None,):
                adds = (
                    {"adds": None if found is None else parts.get((found.side, found.path))}
                    if parts
                    else {}
                )
                yield head | adds | dict(zip(names, _evidence_cells(found), strict=True))
        return
    for near in explanation.neighbours:
        head = {
            "rank": near.rank,
            explanation.node.type: near.near.node.id,
            "cosine": near.near.similarity,
        }
        for found in near.evidence or (None,):
            yield head | dict(zip(names, _evidence_cells(found), strict=True))


def _evidence_cells(found: Evidence | None) -> tuple[Any, ...]:
    if found is None:
        return (None,) * 8
    through = "; ".join(_text(each.via) for each in found.connections)
    instance = next((_walk(path) for each in found.connections for path in each.paths), "")
    return (
        found.side,
        found.path,
        found.count,
        found.score,
        found.rank,
        found.n_ranked,
        through,
        instance,
    )


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
            titles = [node.title for node in each.attributed.events]
            for one in each.attributed.methods:
                first = (
                    f"{titles[place]} {one.values[place]:+.3f}"
                    for place in one.order[:_MOST_EVENTS]
                )
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
def write_page(explanation: Explanation | NodeExplanation, path: str | Path) -> Path:
    """Write the page of an explanation as one file, replacing the file whole or not at all."""
    write_text(page(explanation), Path(path))
    return Path(path)


@checked
def page(explanation: Explanation | NodeExplanation) -> str:
    """The page as HTML."""
    templates = environment("explain")
    templates.filters |= {"number": number, "value_text": _value_text}
    values: dict[str, Any] = {
        "it": explanation,
        "at": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if isinstance(explanation, NodeExplanation):
        return templates.get_template("node.html.j2").render(values)
    return templates.get_template("user.html.j2").render(
        values,
        mean_parts=_mean_parts(explanation),
        agreement=agreement_rows(explanation.attributed),
        faithful=faithfulness_rows(explanation.attributed),
    )


def _mean_parts(explanation: Explanation) -> dict[tuple[str, str], float]:
    """(side, path) of each meta-path -> what it adds to a score, the mean over the
    recommendations.
    """
    means: dict[tuple[str, str], float] = defaultdict(float)
    for each in explanation.recommendations:
        for key, value in _parts(each).items():
            means[key] += value / len(explanation.recommendations)
    return dict(means)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(f"{part}" for part in value) if isinstance(value, tuple) else f"{value}"
