"""``recgraph inspect``: the recommendations for a user and their reasons, or the nodes nearest to a node of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from recgraph.cli.options import RunArgument
from recgraph.cli.output import Format, FormatOption, default_format, note, say, show
from recgraph.cli.recommend import parse_ids

if TYPE_CHECKING:
    from recgraph.explain import Explanation, ItemMap, NodeExplanation

_USER = "A user of the training data (of a recommender)."
_NODE = "A node of the embedded type (of a run on a graph with classes of nodes)."
_OUT = "Write the page to this file: one HTML file that needs no network."
_COLOR = "The feature that colours the map: a column of the item features, or a node type; by default one is chosen."
_ATTRIBUTION = (
    "Attribute each recommendation to the history by these methods, separated by commas: leave_one_out, "
    "integrated_gradients, attention."
)


Projection = Literal["pca", "tsne", "none"]


def inspect(
    run: RunArgument,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help=_USER)] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", metavar="ID", help=_NODE)] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of recommendations or nearest nodes.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
    projection: Annotated[Projection, typer.Option("--map", help="Projection of the page's map.")] = "pca",
    color: Annotated[str | None, typer.Option("--color", metavar="NAME", help=_COLOR)] = None,
    attribution: Annotated[str | None, typer.Option("--attribution", "-a", metavar="NAMES", help=_ATTRIBUTION)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what attributions draw.")] = 0,
    form: FormatOption = None,
) -> None:
    """Explain recommendations: history, path weights, the paths between user and item, nearest items, attributions."""
    if (user is None) == (node is None):
        raise ValueError("give one of --user ID (of a recommender) and --node ID (of a graph with classes of nodes)")
    drawn: ItemMap | None = None
    found: Explanation | NodeExplanation
    from recgraph.explain import explain, explain_node, item_map, write_page

    if user is not None:
        from recgraph.explain.nodes import recommender_of

        methods = [] if attribution is None else [name.strip() for name in attribution.split(",")]
        recommender = recommender_of(run)
        found = explain(
            recommender, parse_ids([user], recommender.users, "user").to_list()[0], k, attribution=methods, seed=seed
        )
        if out is not None and projection != "none" and recommender.model.has_vectors:
            shown = [each.item.id for each in found.recommendations] + [each.item.id for each in found.history]
            drawn = item_map(recommender, color=color, method=projection, keep=shown)
    else:
        from recgraph.data.ids import IdMap
        from recgraph.explain.nodes import embedder_of

        embedder = embedder_of(run)
        ids = IdMap(embedder.embeddings()[embedder.target])
        assert node is not None
        found = explain_node(embedder, parse_ids([node], ids, "node").to_list()[0], k)
        if out is not None and projection != "none":
            shown = [each.near.node.id for each in found.neighbours] + [found.node.id]
            drawn = item_map(embedder, color=color, method=projection, keep=shown)
    _print(found, form or default_format())
    if out is not None:
        note(f"written to {write_page(found, out, drawn)}")


def _print(found: Explanation | NodeExplanation, form: Format) -> None:
    from recgraph.explain import Explanation
    from recgraph.explain.page import (
        neighbour_lines,
        neighbour_rows,
        path_weight_rows,
        recommendation_rows,
        why_lines,
        why_rows,
    )

    if form == "json":
        say(json.dumps(found.to_dict(), indent=2, default=str, ensure_ascii=False))
        return
    if form != "table":
        show(why_rows(found) if isinstance(found, Explanation) else neighbour_rows(found), form)
        return
    what = f"User {found.user}" if isinstance(found, Explanation) else f"{found.node.type} {found.node.title}"
    related = [f"{node_type}: {', '.join(titles)}" for node_type, titles in found.related.items()]
    say("; ".join([f"{what} of {found.model}{f' on {found.dataset}' if found.dataset else ''}", *related]) + "\n")
    if isinstance(found, Explanation):
        show(recommendation_rows(found), form, "Recommendations")
    if found.path_weights:
        show(path_weight_rows(found.path_weights), form, "Path weights")
    lines = ["Why", *why_lines(found)] if isinstance(found, Explanation) else ["Nearest", *neighbour_lines(found)]
    say("\n".join(lines))
