"""``recgraph inspect``: what a run recommends to a user and why, or the nodes nearest to a node of a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.output import Format, FormatOption, default_format, note, show

if TYPE_CHECKING:
    from recgraph.data.ids import IdMap
    from recgraph.explain import Explanation, ItemMap, NodeExplanation

_USER = "A user of the training data (of a recommender)."
_NODE = "A node of the embedded type (of a run on a graph with classes of nodes)."
_OUT = "Write the page to this file: one HTML file that needs no network."
_COLOR = "What colours the map: a column of the item features, or a node type; by default one is chosen."
_SHOWN = 10


Projection = Literal["pca", "tsne", "none"]


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote, or a bundle.")],
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help=_USER)] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", metavar="ID", help=_NODE)] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Recommendations, or nearest nodes.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
    projection: Annotated[Projection, typer.Option("--map", help="Of the page's map of embeddings.")] = "pca",
    color: Annotated[str | None, typer.Option("--color", metavar="NAME", help=_COLOR)] = None,
    form: FormatOption = None,
) -> None:
    """Show why: history, recommendations, views and meta-paths, the paths that join them, nearest items."""
    if (user is None) == (node is None):
        raise ValueError("say of whom: --user ID (of a recommender), or --node ID (of a graph with classes of nodes)")
    if projection == "none" and color is not None:
        raise ValueError(f"--color {color!r} colours the map, which --map none leaves out; leave out one of them")
    chosen = form or default_format()
    if user is not None:
        _user(run, user, k, out, projection, color, chosen)
    else:
        assert node is not None
        _node(run, node, k, out, projection, color, chosen)


def _user(
    run: Path, text: str, k: int, out: Path | None, projection: Projection, color: str | None, form: Format
) -> None:
    from recgraph.explain import explain, item_map, write_page
    from recgraph.explain.page import history_rows, recommendation_rows, view_rows, why_lines, why_rows
    from recgraph.explain.user import recommender_of

    recommender = recommender_of(run)
    found = explain(recommender, _parse(text, recommender.users, "user"), k)
    _say(found)
    if form == Format.JSON:
        typer.echo(json.dumps(found.to_dict(), indent=2, default=str, ensure_ascii=False))
    elif form == Format.TABLE:
        known = "".join(f", {name}: {', '.join(values)}" for name, values in found.about.items())
        typer.echo(f"User {found.user} of {found.model}{f' on {found.dataset}' if found.dataset else ''}{known}\n")
        n = len(found.history)
        show(history_rows(found, _SHOWN), form, f"History, the last {min(n, _SHOWN)} of {n} items")
        show(recommendation_rows(found), form, "Recommendations")
        if found.views:
            show(view_rows(found.views), form, "Views")
        typer.echo("Why")
        typer.echo("\n".join(why_lines(found)))
    else:
        show(list(why_rows(found)), form)
    if out is not None:
        kept = [each.item.id for each in found.recommendations] + [each.item.id for each in found.history]
        drawn: ItemMap | None = None
        if projection != "none":
            if recommender.model.has_vectors:
                drawn = item_map(recommender, color=color, method=projection, keep=kept)
            elif color is not None:
                raise ValueError(f"--color {color!r}: {found.model} has no item vectors to be mapped; leave it out")
        note(f"written to {write_page(found, out, drawn)}")


def _node(
    run: Path, text: str, k: int, out: Path | None, projection: Projection, color: str | None, form: Format
) -> None:
    from recgraph.data.ids import IdMap
    from recgraph.explain import explain_node, node_map, write_page
    from recgraph.explain.node import embedder_of
    from recgraph.explain.page import neighbour_lines, neighbour_rows, view_rows

    embedder = embedder_of(run)
    ids = IdMap(embedder.embeddings()[embedder.target])
    wanted = _parse(text, ids, "node")
    found = explain_node(embedder, wanted, k)
    _say(found)
    if form == Format.JSON:
        typer.echo(json.dumps(found.to_dict(), indent=2, default=str, ensure_ascii=False))
    elif form == Format.TABLE:
        known = "".join(f"; {name}: {', '.join(values)}" for name, values in found.about.items())
        typer.echo(
            f"{found.node.type} {found.node.title} of {found.model}"
            f"{f' on {found.dataset}' if found.dataset else ''}{known}\n"
        )
        show(view_rows(found.views), form, "Views")
        typer.echo("Nearest")
        typer.echo("\n".join(neighbour_lines(found)))
    else:
        show(list(neighbour_rows(found)), form)
    if out is not None:
        drawn = None
        if projection != "none":
            indices = ids.index([each.near.node.id for each in found.neighbours] + [found.node.id])
            drawn = node_map(embedder, color=color, method=projection, keep=indices.tolist())
        note(f"written to {write_page(found, out, drawn)}")


def _say(found: Explanation | NodeExplanation) -> None:
    for line in found.notes:
        note(line)


def _parse(text: str, ids: IdMap, what: str) -> Any:
    value = ids.parse([text])
    if value[0] is None:
        raise ValueError(f"--{what} {text!r} cannot be a {what} of this run: its ids are like {ids.ids([0])[0]!r}")
    return value.to_list()[0]
