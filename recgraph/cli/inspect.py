"""``recgraph inspect``: the recommendations for a user and their reasons, or the nodes nearest to a node of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recgraph.cli.options import RunArgument
from recgraph.cli.output import Format, FormatOption, default_format, note, say, show
from recgraph.cli.recommend import parse_ids

if TYPE_CHECKING:
    from recgraph.explain import Explanation, NodeExplanation

_USER = "A user of the training data (of a recommender)."
_NODE = "A node of the embedded type (of a run on a graph with classes of nodes)."
_OUT = "Write the page to this file: one HTML file that needs no network."
_ATTRIBUTION = (
    "Attribute each recommendation to the history by these methods, separated by commas: leave_one_out, "
    "integrated_gradients, attention."
)


def inspect(
    run: RunArgument,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help=_USER)] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", metavar="ID", help=_NODE)] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of recommendations or nearest nodes.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
    attribution: Annotated[str | None, typer.Option("--attribution", "-a", metavar="NAMES", help=_ATTRIBUTION)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what attributions draw.")] = 0,
    form: FormatOption = None,
) -> None:
    """Explain recommendations: history, path weights, the paths between user and item, nearest items, attributions."""
    from recgraph.data.ids import IdMap
    from recgraph.explain import explain, explain_node, write_page
    from recgraph.explain.nodes import embedder_of, recommender_of

    found: Explanation | NodeExplanation
    if user is not None and node is None:
        recommender = recommender_of(run)
        (own,) = parse_ids([user], recommender.users, "user").to_list()
        methods = [name.strip() for name in (attribution or "").split(",") if name.strip()]
        found = explain(recommender, own, k, attribution=methods, seed=seed)
    elif node is not None and user is None:
        embedder = embedder_of(run)
        (own,) = parse_ids([node], IdMap(embedder.embeddings()[embedder.target]), "node").to_list()
        found = explain_node(embedder, own, k)
    else:
        raise ValueError("give one of --user ID (of a recommender) and --node ID (of a graph with classes of nodes)")
    _print(found, form or default_format())
    if out is not None:
        note(f"written to {write_page(found, out)}")


def _print(found: Explanation | NodeExplanation, form: Format) -> None:
    from recgraph.explain import Explanation
    from recgraph.explain.page import evidence_rows, neighbour_lines, path_weight_rows, recommendation_rows, why_lines

    if form == "json":
        say(json.dumps(found.to_dict(), indent=2, default=str, ensure_ascii=False))
        return
    if form != "table":
        show(evidence_rows(found), form)
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
