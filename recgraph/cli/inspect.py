"""``recgraph inspect``: the recommendations for a user and their reasons, or the nodes nearest to a node of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.machine import RunArgument
from recgraph.cli.output import Format, FormatOption, default_format, note, say, show
from recgraph.cli.recommend import parse_ids

if TYPE_CHECKING:
    from recgraph.data.ids import IdMap
    from recgraph.explain import Explanation, NodeExplanation

_USER = "A user of the training data (of a recommender)."
_NODE = "A node of the embedded type (of a run on a graph with classes of nodes)."
_OUT = "Write the page to this file: one HTML file that needs no network."
_ATTRIBUTION = (
    "Attribute each recommendation to the history by these methods, separated by commas: leave_one_out, "
    "integrated_gradients, attention."
)
_MOST_HISTORY = 10


def inspect(
    run: Annotated[Path, RunArgument],
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help=_USER)] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", metavar="ID", help=_NODE)] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of recommendations or nearest nodes.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
    attribution: Annotated[str | None, typer.Option("--attribution", "-a", metavar="NAMES", help=_ATTRIBUTION)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what attributions draw.")] = 0,
    form: FormatOption = None,
) -> None:
    """Explain recommendations: history, path weights, the paths between user and item, nearest items, attributions."""
    if (user is None) == (node is None):
        raise ValueError("give one of --user ID (of a recommender) and --node ID (of a graph with classes of nodes)")
    chosen = form or default_format()
    found: Explanation | NodeExplanation
    from recgraph.explain import explain, explain_node, write_page

    if user is not None:
        from recgraph.explain.nodes import recommender_of

        methods = [] if attribution is None else [name.strip() for name in attribution.split(",")]
        recommender = recommender_of(run)
        found = explain(recommender, _parse(user, recommender.users, "user"), k, attribution=methods, seed=seed)
    else:
        from recgraph.data.ids import IdMap
        from recgraph.explain.nodes import embedder_of

        embedder = embedder_of(run)
        ids = IdMap(embedder.embeddings()[embedder.target])
        assert node is not None
        found = explain_node(embedder, _parse(node, ids, "node"), k)
    _print(found, chosen)
    if out is not None:
        note(f"written to {write_page(found, out)}")


def _print(found: Explanation | NodeExplanation, form: Format) -> None:
    from recgraph.explain import Explanation
    from recgraph.explain.page import neighbour_rows, why_rows

    if form == Format.JSON:
        say(json.dumps(found.to_dict(), indent=2, default=str, ensure_ascii=False))
    elif form != Format.TABLE:
        show(why_rows(found) if isinstance(found, Explanation) else neighbour_rows(found), form)
    elif isinstance(found, Explanation):
        _user_tables(found)
    else:
        _node_tables(found)


def _user_tables(found: Explanation) -> None:
    from recgraph.explain.explanation import agreement_rows, faithfulness_rows
    from recgraph.explain.page import history_rows, path_weight_rows, recommendation_rows, why_lines

    say(", ".join([f"User {found.user} of {_source(found)}", *_related(found)]) + "\n")
    n = len(found.history)
    title = f"History, the last {min(n, _MOST_HISTORY)} of {n} items"
    show(history_rows(found, _MOST_HISTORY), Format.TABLE, title)
    show(recommendation_rows(found), Format.TABLE, "Recommendations")
    if found.path_weights:
        show(path_weight_rows(found.path_weights), Format.TABLE, "Path weights")
    say("\n".join(["Why", *why_lines(found)]))
    if found.attributed:
        note("of the attributions: means over the recommendations")
        if rows := agreement_rows(found.attributed):
            show(rows, Format.TABLE, "Whether the methods agree")
        show(faithfulness_rows(found.attributed), Format.TABLE, "Whether they are faithful")


def _node_tables(found: NodeExplanation) -> None:
    from recgraph.explain.page import neighbour_lines, path_weight_rows

    head = f"{found.node.type} {found.node.title} of {_source(found)}"
    say("; ".join([head, *_related(found)]) + "\n")
    if found.path_weights:
        show(path_weight_rows(found.path_weights), Format.TABLE, "Path weights")
    say("\n".join(["Nearest", *neighbour_lines(found)]))


def _source(found: Explanation | NodeExplanation) -> str:
    return f"{found.model} on {found.dataset}" if found.dataset else found.model


def _related(found: Explanation | NodeExplanation) -> list[str]:
    return [f"{node_type}: {', '.join(titles)}" for node_type, titles in found.related.items()]


def _parse(text: str, ids: IdMap, what: str) -> Any:
    return parse_ids([text], ids, what).to_list()[0]
