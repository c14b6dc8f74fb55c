"""The commands that use trained runs: ``recommend``, ``similar``, ``vectors``, ``export``,
``inspect``, ``serve``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.options import NO_VALUES, EngineOption, EngineSetOption, RunArgument, given_engine
from recgraph.cli.output import (
    FileFormatOption,
    FormatOption,
    default_format,
    note,
    notes_of,
    say,
    show,
    show_frame,
    write_parts,
)

if TYPE_CHECKING:
    import polars as pl

    from recgraph.data.ids import IdMap
    from recgraph.explain import Explanation, NodeExplanation
    from recgraph.serve.recommender import Recommender
    from recgraph.serve.rules import Rules

_USER = "A user of the training data; may be given many times."
_HISTORIES = "A log of histories (csv, tsv, jsonl, parquet, .inter) or, as .txt, lines of 'user item item ...'."
_FALLBACK = "Popular items for users without a known history."
_WITH = "A column of the item features to show, e.g. title; may be given many times."
_ANN = "Find items through an approximate index (extra: serve) and rank these exactly: faster for large catalogues."
_ALL = "All users of the training data; written to --out part by part."
_RULES = "Business rules, a TOML or JSON file of: allow, block, boost, max_per, rerank, ..."
_RULE = (
    "A rule that is added to the file's or stands in its place, e.g. max_per.genre=2, boost.margin=0.5, diversity=0.3 "
    "or rerank.name=dpp; may be given many times."
)
_AT = "When the lists are asked for, as the times of the training data are written, for a model that reads times."
_ALLOW = "Recommend these items alone; may be given many times."
_BLOCK = "Never recommend this item; may be given many times."
_OUT = "Write to this file (.parquet, .csv, .tsv, .json, .jsonl)."
AllowOption = Annotated[list[str] | None, typer.Option(metavar="ITEM", help=_ALLOW)]
BlockOption = Annotated[list[str] | None, typer.Option(metavar="ITEM", help=_BLOCK)]
WithOption = Annotated[list[str], typer.Option("--with", metavar="COLUMN", help=_WITH)]
KOption = Annotated[int, typer.Option("-k", min=1, help="How many items for each.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)]


def recommend(
    run: RunArgument,
    user: Annotated[
        list[str] | None, typer.Option("--user", "-u", metavar="ID", help=_USER)
    ] = None,
    histories: Annotated[Path | None, typer.Option(metavar="FILE", help=_HISTORIES)] = None,
    every: Annotated[bool, typer.Option("--all", help=_ALL)] = False,
    k: KOption = 10,
    at: Annotated[str | None, typer.Option(metavar="TIME", help=_AT)] = None,
    with_columns: WithOption = NO_VALUES,
    keep_seen: Annotated[
        bool, typer.Option("--keep-seen", help="Also items that the user has had.")
    ] = False,
    popular: Annotated[bool, typer.Option("--popular", help=_FALLBACK)] = False,
    ann: Annotated[bool, typer.Option("--ann", help=_ANN)] = False,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help=_RULES)] = None,
    rule: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help=_RULE)] = NO_VALUES,
    allow: AllowOption = None,
    block: BlockOption = None,
    out: OutOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = NO_VALUES,
    form: FileFormatOption = None,
) -> None:
    """Recommend items to users of a run: by --user ID, to all of them by --all, or by --histories
    FILE.
    """
    from recgraph.serve.recommender import recall_of_lists

    n_ways = bool(user) + (histories is not None) + every
    if n_ways != 1 or (every and out is None):
        raise ValueError(
            "say for whom: one of --user ID (once or more), --histories FILE, and --all with --out FILE"
        )
    options: dict[str, Any] = {
        "k": k,
        "exclude_seen": not keep_seen,
        "rules": _rules(rules, rule, allow, block),
        "fallback": "popularity" if popular else None,
        "item_columns": with_columns,
        "at": at,
    }
    recommender = _open(run)
    if ann:
        recommender.use_ann()
        if len(recommender.users):  # a run on sessions may know none
            note(
                f"of the items of exact lists {recall_of_lists(recommender, k):.1%} are found, by a sample of users"
            )
    if every:
        assert out is not None
        parts = recommender.stream("all", engine=given_engine(engine, engine_set), **options)
        write_parts(parts, form, out)
        return
    if user:
        options["users"] = parse_ids(user, recommender.users, "user")
    if histories is not None:
        options["histories"] = _read(histories, recommender)
    lists = recommender.recommend(**options)
    if lists.is_empty():
        note("no item is left to recommend: what was seen and the rules leave none")
    show_frame(lists, form, out)


def _rules(
    file: Path | None, pairs: list[str], allow: list[str] | None, block: list[str] | None
) -> Rules:
    """The rules of a file with those of the options; an item that either blocks is blocked."""
    from recgraph.config import parse_settings
    from recgraph.serve.rules import Rules

    base = {}
    if file is not None:
        base = Rules.read(file).model_dump(exclude_unset=True)
    values = parse_settings(pairs, base, option="--rule")
    if allow:
        values["allow"] = allow
    if block:  # texts all, which are read as ids of the log's type
        values["block"] = list(dict.fromkeys([*map(str, values.get("block", ())), *block]))
    return Rules.of(values)


By = Literal["vectors", "co_occurrence"]
_ITEM = "An item of the training data; may be given many times."
_BY = "vectors: the cosine of the model's item vectors, the default where it has them; co_occurrence: of who had both."


def similar(
    run: RunArgument,
    item: Annotated[
        list[str] | None, typer.Option("--item", "-i", metavar="ID", help=_ITEM)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All items of the training data.")] = False,
    k: KOption = 10,
    by: Annotated[By | None, typer.Option("--by", help=_BY)] = None,
    with_columns: WithOption = NO_VALUES,
    allow: AllowOption = None,
    block: BlockOption = None,
    out: OutOption = None,
    form: FileFormatOption = None,
) -> None:
    """List the items most like each item: "more like this", or bought together (--by
    co_occurrence).
    """
    if bool(item) == every:
        raise ValueError("say to which items: one of --item ID (once or more) and --all")
    recommender = _open(run)
    items: Any = "all"
    if item:
        items = parse_ids(item, recommender.items, "item")
    lists = recommender.similar(
        items, k, by=by, allow=allow, block=block, item_columns=with_columns
    )
    show_frame(lists, form, out)


def vectors(
    run: RunArgument,
    users: Annotated[
        bool, typer.Option("--users", help="Those of the users of the training data.")
    ] = False,
    histories: Annotated[Path | None, typer.Option(metavar="FILE", help=_HISTORIES)] = None,
    out: OutOption = None,
    form: FileFormatOption = None,
) -> None:
    """Write the vectors of a run's items, of its users (--users) or of new users (--histories
    FILE), with their ids.

    A score is the inner product of a user's vector and an item's.
    """
    recommender = _open(run)
    if histories is not None:
        frame = recommender.user_vectors(histories=_read(histories, recommender))
    elif users:
        frame = recommender.user_vectors()
    else:
        frame = recommender.item_vectors()
    show_frame(frame, form, out)


def export(
    run: RunArgument,
    out: Annotated[
        Path,
        typer.Option("--out", help="The folder to write; an earlier export in it is replaced."),
    ],
) -> None:
    """Write a run's model as ONNX and for torch.export, with its vectors, ids and a manifest."""
    graph = _open(run).export(out)["graph"]
    inputs = " and ".join(f"{each['name']} {each['shape']}" for each in graph["inputs"])
    (output,) = graph["outputs"]
    note(f"{graph['kind']}: {inputs} to {output['name']} {output['shape']}")
    note(f"written to {out}; how the graph is called: {out / 'manifest.json'}")


_OF_USER = "A user of the training data (of a recommender)."
_NODE = "A node of the embedded type (of a run on a graph with classes of nodes)."
_PAGE = "Write the page to this file: one HTML file that needs no network."
_ATTRIBUTION = (
    "Attribute each recommendation to the history by these methods, separated by commas: leave_one_out, "
    "integrated_gradients, attention."
)


def inspect(
    run: RunArgument,
    user: Annotated[str | None, typer.Option("--user", "-u", metavar="ID", help=_OF_USER)] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", metavar="ID", help=_NODE)] = None,
    k: Annotated[
        int, typer.Option("-k", "--k", min=1, help="Number of recommendations or nearest nodes.")
    ] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_PAGE)] = None,
    attribution: Annotated[
        str | None, typer.Option("--attribution", "-a", metavar="NAMES", help=_ATTRIBUTION)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what attributions draw.")] = 0,
    form: FormatOption = None,
) -> None:
    """Explain recommendations: history, path weights, the paths between user and item, nearest
    items, attributions.
    """
    from recgraph.data.ids import IdMap
    from recgraph.explain import explain, explain_node, write_page
    from recgraph.explain.nodes import embedder_of, recommender_of
    from recgraph.explain.page import evidence_rows

    if (user is None) == (node is None):
        raise ValueError(
            "give one of --user ID (of a recommender) and --node ID (of a graph with classes of nodes)"
        )
    explanation: Explanation | NodeExplanation
    form = form or default_format()
    if user is not None:
        recommender = recommender_of(run)
        (user_id,) = parse_ids([user], recommender.users, "user")
        methods = (attribution or "").replace(",", " ").split()
        explanation = explain(recommender, user_id, k, attribution=methods, seed=seed)
    else:
        assert node is not None
        embedder = embedder_of(run)
        ids = IdMap(embedder.embeddings()[embedder.target])
        (node_id,) = parse_ids([node], ids, "node")
        explanation = explain_node(embedder, node_id, k)
    if form == "json":
        say(json.dumps(explanation.to_dict(), indent=2, default=str, ensure_ascii=False))
    elif form == "table":
        _print(explanation)
    else:
        show(evidence_rows(explanation), form)
    if out is not None:
        note(f"written to {write_page(explanation, out)}")


def _print(explanation: Explanation | NodeExplanation) -> None:
    """Print an explanation as tables and lines."""
    from recgraph.explain import NodeExplanation
    from recgraph.explain.page import (
        neighbour_lines,
        path_weight_rows,
        recommendation_rows,
        why_lines,
    )

    if isinstance(explanation, NodeExplanation):
        subject = f"{explanation.node.type} {explanation.node.title}"
        rows = []
        lines = ["Nearest", *neighbour_lines(explanation)]
    else:
        subject = f"User {explanation.user}"
        rows = recommendation_rows(explanation)
        lines = ["Why", *why_lines(explanation)]
    head = f"{subject} of {explanation.model}"
    if explanation.dataset:
        head += f" on {explanation.dataset}"
    for node_type, titles in explanation.related.items():
        head += f"; {node_type}: {', '.join(titles)}"
    say(f"{head}\n")
    for part in (rows, path_weight_rows(explanation.path_weights)):
        if part:
            show(part, "table")
    say("\n".join(lines))


_BUNDLE = "A bundle, or a folder that `recgraph train` wrote."
_HOST = "Address to listen on; 0.0.0.0 answers other machines, too."
_PORT = "Port to listen on; 0 takes a free one."
_RANKING = "Batches ranked at the same time, each on one core."
_ADMIN = "Also answer POST /reload."
_KEYS = "A file of API keys; a request needs one of them, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
_MOST = "Connections at a time; one that waits for its client gives way to a new one.  [default: by ulimit -n]"
_POLL = "Seconds between two looks at the folder for a new bundle."


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help=_BUNDLE)],
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help=_PORT)] = 8000,
    host: Annotated[str, typer.Option(help=_HOST)] = "127.0.0.1",
    threads: Annotated[int, typer.Option(min=1, help=_RANKING)] = 1,
    device: Annotated[str, typer.Option(help="Where the model computes, e.g. cuda.")] = "cpu",
    max_k: Annotated[int, typer.Option(min=1, help="Longest list that is answered.")] = 1000,
    max_users: Annotated[
        int, typer.Option(min=1, help="Users, histories or items of one request.")
    ] = 256,
    max_history: Annotated[int, typer.Option(min=1, help="Items of one history.")] = 10_000,
    max_body_kib: Annotated[int, typer.Option(min=1, help="Size of a request's body.")] = 1024,
    poll: Annotated[float, typer.Option(min=0.01, metavar="S", help=_POLL)] = 0.5,
    admin: Annotated[bool, typer.Option("--admin", help=_ADMIN)] = False,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help=_KEYS)] = None,
    limit_concurrency: Annotated[int | None, typer.Option(min=1, help=_MOST)] = None,
) -> None:
    """Answer requests over HTTP: POST /recommend, POST /similar, GET /health, GET /metrics.

    A new bundle in the same place takes over without a pause; SIGHUP looks for one at once. SIGTERM
    answers the requests in flight and stops.
    """
    import torch

    from recgraph.serve.http import Service, listen, run
    from recgraph.serve.service import Limits

    torch.set_num_threads(1)
    # the thread that reads and writes waits for the one that ranks this long, at most
    sys.setswitchinterval(0.0005)
    limits = Limits(k=max_k, users=max_users, history=max_history, body_kib=max_body_kib)
    keys: list[str] = []
    if api_key_file is not None:
        keys = api_key_file.read_text(encoding="utf-8").split()
        if not keys:
            raise ValueError(f"--api-key-file {api_key_file} holds no key; write one a line")
    with notes_of("recgraph.serve.http"), listen(host, port) as listening:
        service = Service(
            bundle, limits, threads=threads, device=device, poll_s=poll, admin=admin, api_keys=keys
        )
        if ":" in host:
            host = f"[{host}]"
        recommender = service.predictor.recommender
        line = f"{recommender!r} on http://{host}:{listening.getsockname()[1]}; Ctrl-C stops"
        if recommender.held_out:
            line += f"; {recommender.held_out}"
        run(service, listening, lambda: note(line), limit_concurrency)


def _open(run: Path) -> Recommender:
    from recgraph.serve.bundle import bundle_of
    from recgraph.serve.recommender import Recommender

    recommender = Recommender.load(bundle_of(run))
    recommender.kind = "polars"  # of frames that are written here, whatever the log's is
    recommender.warn_of_held_out()
    return recommender


def parse_ids(texts: list[str], ids: IdMap, what: str) -> pl.Series:
    """Ids that were typed as options ``--what ID``."""
    import polars as pl

    parsed = ids.parse(texts)
    other = pl.Series(texts).filter(parsed.is_null())
    if len(other):
        raise ValueError(
            f"--{what} {other[0]!r} is no {what} of this run: its ids are like {ids.ids([0])[0]!r}"
        )
    return parsed


def _read(path: Path, recommender: Recommender) -> pl.DataFrame:
    """A log as a frame with the run's column names."""
    from recgraph.data.dataframe import from_native
    from recgraph.train.update import read_new_log

    log = read_new_log(path, recommender)
    columns = recommender.columns
    names = {log.columns.user: columns.user, log.columns.item: columns.item}
    if log.columns.timestamp is not None:
        names[log.columns.timestamp] = columns.timestamp or "timestamp"
    return from_native(log.to_frame()).rename(names)
