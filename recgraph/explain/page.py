"""An explanation as lines for a terminal, as rows for tables and programs, and as one HTML file."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from recgraph.config import checked
from recgraph.explain.explanation import (
    Attributed,
    Evidence,
    Explanation,
    Near,
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
_EVIDENCE_COLUMNS = (
    "view of",
    "meta-path",
    "paths",
    "similarity",
    "place",
    "of",
    "through",
    "for instance",
)
#: node type and meta-path of the part of a score that comes from own vectors
_OWN_VECTORS = ("", "")
#: near items, and events of an attribution, in a line
_MOST_NEAR = 3
_MOST_EVENTS = 5


def _walk(path: Sequence[Node]) -> str:
    return " > ".join(map(_text, path))


def _text(node: Node) -> str:
    """A node as text. A user's title follows the word "user", as the ids of users often are
    numbers.
    """
    if node.type == "user":
        return f"user {node.title}"
    return node.title


def recommendation_rows(explanation: Explanation) -> list[Row]:
    """One row for each recommendation: the id, the title where items have titles, features, the
    score.
    """
    has_titles = False
    rows = []
    for recommendation in explanation.recommendations:
        item = recommendation.item
        has_titles |= item.title != f"{item.id}"
        own = {"rank": recommendation.rank, "item": item.id, "title": item.title}
        score = {"score": recommendation.score}
        # a feature does not replace a column of ours
        rows.append(own | {**item.fields, **own, **score} | score)
    if not has_titles:
        for row in rows:
            del row["title"]
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
    if isinstance(explanation, Explanation):
        yield from _recommendation_evidence(explanation)
        return
    for neighbour in explanation.neighbours:
        head = {
            "rank": neighbour.rank,
            explanation.node.type: neighbour.near.node.id,
            "cosine": neighbour.near.similarity,
        }
        for evidence in neighbour.evidence or (None,):
            yield head | _evidence_cells(evidence)


def _recommendation_evidence(explanation: Explanation) -> Iterator[Row]:
    for recommendation in explanation.recommendations:
        head = {
            "rank": recommendation.rank,
            "item": recommendation.item.id,
            "title": recommendation.item.title,
            "score": recommendation.score,
        }
        parts = _parts(recommendation)
        for evidence in recommendation.evidence or (None,):
            cells = _evidence_cells(evidence)
            if parts:
                head["adds"] = parts.get((cells["view of"], cells["meta-path"]))
            yield head | cells


def _evidence_cells(evidence: Evidence | None) -> Row:
    if evidence is None:
        return dict.fromkeys(_EVIDENCE_COLUMNS)
    through = "; ".join(_text(connection.via) for connection in evidence.connections)
    instances = chain.from_iterable(connection.paths for connection in evidence.connections)
    values = (
        evidence.side,
        evidence.path,
        evidence.count,
        evidence.score,
        evidence.rank,
        evidence.n_ranked,
        through,
        _walk(next(instances, ())),
    )
    return dict(zip(_EVIDENCE_COLUMNS, values, strict=True))


def _parts(recommendation: Recommendation) -> dict[tuple[str, str], float]:
    return {(part.side, part.path): part.value for part in recommendation.parts}


def why_lines(explanation: Explanation) -> Iterator[str]:
    """The reasons for each recommendation, for a terminal."""
    for recommendation in explanation.recommendations:
        yield f"{recommendation.rank}. {recommendation.item.title}"
        parts = _parts(recommendation)
        if _OWN_VECTORS in parts:
            yield f"   own vectors add {parts[_OWN_VECTORS]:+.3f} to the score {recommendation.score:.3f}"
        for evidence in recommendation.evidence:
            yield from _evidence_lines(evidence, parts.get((evidence.side, evidence.path)))
        yield from _near_lines("of the history", recommendation.nearest_seen)
        yield from _near_lines("of all", recommendation.nearest)
        if recommendation.attributed is not None:
            yield from _attribution_lines(recommendation.attributed)


def neighbour_lines(explanation: NodeExplanation) -> Iterator[str]:
    """The paths between the node and each near node, for a terminal."""
    for each in explanation.neighbours:
        yield f"{each.rank}. {each.near.node.type} {each.near.node.title}, cosine {each.near.similarity:.3f}"
        for evidence in each.evidence:
            yield from _evidence_lines(evidence, None)


def _evidence_lines(evidence: Evidence, adds: float | None) -> Iterator[str]:
    added = ""
    if adds is not None:
        added = f" adds {adds:+.3f};"
    paths = "1 path"
    more = ""
    if evidence.count > 1:
        paths = f"{evidence.count:,} paths"
        more = f" and {evidence.count - 1:,} more"
    yield (
        f"   {evidence.path}:{added} {paths}, similarity {evidence.score:.3f}, "
        f"rank {evidence.rank:,} of {evidence.n_ranked:,} by this path alone"
    )
    if evidence.connections:
        yield f"      {_walk(evidence.connections[0].paths[0])}{more}"


def _near_lines(name: str, nearest: Sequence[Near]) -> Iterator[str]:
    if nearest:
        titles = (f"{near.node.title} {near.similarity:.2f}" for near in nearest[:_MOST_NEAR])
        yield f"   nearest {name}: {'; '.join(titles)}"


def _attribution_lines(attributed: Attributed) -> Iterator[str]:
    for method in attributed.methods:
        events = (
            f"{attributed.events[place].title} {method.values[place]:+.3f}"
            for place in method.order[:_MOST_EVENTS]
        )
        yield f"   {method.method}: {'; '.join(events)}"


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
    for recommendation in explanation.recommendations:
        for part in recommendation.parts:
            means[part.side, part.path] += part.value / len(explanation.recommendations)
    return dict(means)


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)
