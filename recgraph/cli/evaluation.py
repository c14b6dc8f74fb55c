"""The commands that measure: ``recgraph evaluate``, ``check``, ``plot`` and ``board``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.options import (
    FOUND,
    DeviceOption,
    EngineOption,
    EngineSetOption,
    Source,
    given_engine,
)
from recgraph.cli.output import Failure, Format, FormatOption, default_format, note, notes_of, show

if TYPE_CHECKING:
    from recgraph.evaluate.results import Results

Part = Literal["valid", "test"]
Seen = Literal["keep", "exclude", "both"]
_SET = "Of a node task: a setting of the probe, e.g. probe_learning_rate=0.03; may be given many times."
_METRIC = "What to show, e.g. ndcg@10, coverage@20 or my_metric (at each cut-off); may be given many times."
_SAVE = (
    "Also write the values of users, a Parquet file for each run and protocol, into this folder."
)
_CUTOFFS = "Length of the lists that metrics look at; may be given many times.  [default: 5, 10, 20, and those of -m]"
_RERANK = "Pick lists that differ from the ranking: mmr, dpp, your own, or a table {name = 'mmr', strength = 0.2}."
_DATA = (
    "Where the file lies now that the run was made from; by default where it lay then. valid=PATH, test=PATH, "
    "item_features=PATH or user_features=PATH: the same of another file."
)
_FILES = ("train=", "valid=", "test=", "item_features=", "user_features=")
_COLUMNS = ("ndcg", "recall", "mrr")


def evaluate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A folder that `recgraph train` wrote.")
    ],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = "test",
    seen: Annotated[
        Seen, typer.Option(help="Whether items of the user's history are candidates.")
    ] = "both",
    cutoffs: Annotated[
        list[int] | None, typer.Option("--cutoff", metavar="K", min=1, help=_CUTOFFS)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", "-m", metavar="METRIC[@K]", help=_METRIC)
    ] = None,
    save_users: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SAVE)] = None,
    rerank: Annotated[str | None, typer.Option(metavar="NAME", help=_RERANK)] = None,
    data: Annotated[list[str] | None, typer.Option(metavar="[PART=]PATH", help=_DATA)] = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
    form: FormatOption = None,
) -> None:
    """Print a run's metrics, each with its protocol's hash; of several runs, which is significantly
    best.

    All items are ranked for every user of a part; several runs that differ in their seed alone are
    one row, their mean. Of a model that embeds the nodes of a graph, probes and clustering say how
    well the embeddings tell the classes of nodes apart.
    """
    from recgraph.config import parse_settings
    from recgraph.evaluate.rerank import reranker_of
    from recgraph.evaluate.results import save_users as write_users
    from recgraph.train.run import NodeRun, Run
    from recgraph.train.settings import ProbeSettings

    # a folder may be called date=2020
    moved = dict(
        path.split("=", 1) if path.startswith(_FILES) else ["train", path] for path in data or ()
    )
    opened = {
        run: Run.open(run, moved or None) for run in dict.fromkeys(runs)
    }  # a shell's pattern may name one twice
    nodes = {folder: one for folder, one in opened.items() if isinstance(one, NodeRun)}
    if nodes:
        if len(opened) > 1:
            raise ValueError(
                f"{', '.join(map(str, nodes))}: a run that embeds nodes is evaluated alone"
            )
        (of_nodes,) = nodes.values()
        chosen = ProbeSettings.of(parse_settings(settings or [], of_nodes.record["evaluation"]))
        scores = of_nodes.evaluate(probe=chosen.probe)
        used = ", ".join(
            f"{name} {value}" for name, value in scores.protocol.probe.model_dump().items()
        )
        note(f"linear probe: {used}; protocol {scores.hash}")
        return show(scores.rows(), form)
    on, lengths = given_engine(engine, engine_set), tuple(cutoffs or (5, 10, 20))
    picks = (
        None
        if rerank is None
        else reranker_of(parse_settings([f"rerank={rerank}"])["rerank"]).specification
    )
    found: dict[Path, Results] = {}
    for folder, run in opened.items():
        assert isinstance(run, Run)
        results = found[folder] = run.evaluate(
            split, seen, lengths, metrics=metrics, engine=on, rerank=picks
        )
        for title, result in zip(results.titles(), results, strict=True):
            note(f"{title}: {len(result.users)} users, protocol {result.hash}")
            if save_users is not None:
                picked = "" if picks is None else f"-{picks['name']}"
                named = f"{folder.resolve().name}-{split}-{result.protocol.seen}{picked}"
                write_users(result, save_users / f"{named}.parquet")
    if len(opened) == 1:
        show(next(iter(found.values())).to_polars().iter_rows(named=True), form)
        return None
    k = 10 if 10 in lengths else max(lengths)
    columns = (
        [*next(iter(found.values()))[0].metrics]
        if metrics
        else [f"{name}@{k}" for name in _COLUMNS]
    )
    records = {folder: run.record.to_json() for folder, run in opened.items()}
    return _compared(records, found, columns, form or default_format())


def _compared(
    records: dict[Path, Any], found: dict[Path, Results], metrics: list[str], form: Format
) -> None:
    """A table of models for each protocol; runs that differ in their seed alone are one model."""
    from recgraph.evaluate.significance import table

    same: dict[str, list[Path]] = {}
    for folder, record in records.items():
        own = {
            name: record.get(name)
            for name in ("model", "config", "training", "data", "fitted_on", "init_items")
        }
        if selection := record.get("selection"):  # the number of epochs follows from it
            own |= {"training": selection["training"], "refit": True}
        same.setdefault(json.dumps(own, sort_keys=True), []).append(folder)
    named = {
        str(folders[0])
        if len(folders) == 1
        else f"{folders[0]} and {len(folders) - 1} more": folders
        for folders in same.values()
    }
    rows: list[dict[str, Any]] = []
    for place, title in enumerate(next(iter(found.values())).titles()):
        made = table(
            {name: [found[folder][place] for folder in folders] for name, folders in named.items()},
            metrics,
        )
        for name, cells in made.cells.items():
            pairs = [
                {metric: cell.value, f"{metric} mark": cell.mark} for metric, cell in cells.items()
            ]
            values = (
                cells
                if form == "table"
                else {key: value for pair in pairs for key, value in pair.items()}
            )
            rows.append({"candidates": title, "model": name, **values})
    show(rows, form)
    note(
        made.legend
        if form == "table"
        else made.legend.replace("* ", "best: ", 1).replace("= ", "tied: ", 1)
    )


_CHECK_SPLIT = (
    "How the log is split.  [default: as its parts are given or its card says, else leave-one-out]"
)
_CHECK_SET = "A parameter of the split, e.g. test=0.2; may be given many times."


def check(
    source: Source,
    split: Annotated[str | None, typer.Option(help=_CHECK_SPLIT)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_CHECK_SET)
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Of splits that draw.")] = 0,
    form: FormatOption = None,
) -> None:
    """Check a split of DATASET, or of your own file (--data), and what its log gives away.

    Leakage of time and what one cut of time would give, duplicates across parts, items that only
    test knows, ties sorted by id, what histories and their order say. The exit code is 1 where a
    check fails; a warning says that numbers do not mean what they seem to, and is no failure.
    """
    from recgraph.config import parse_settings
    from recgraph.evaluate.checks import check_split
    from recgraph.train.order import order
    from recgraph.train.settings import DataConfig

    options = parse_settings(settings or [])
    data = DataConfig.of(source.settings, split=split, split_options=options, split_seed=split_seed)
    with notes_of(*FOUND):
        made = data.split_of(source.dataset)
    note(f"{made.n_users:,} users, {made.n_items:,} items, split {made.name} {made.hash[:12]}")
    rows = [*check_split(made), *order(made)]
    show(
        (
            {"check": row.name, "status": row.status, "value": row.value, "detail": row.detail}
            for row in rows
        ),
        form,
    )
    failed = [row.name for row in rows if row.status == "fail"]
    if failed:
        raise Failure(f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")


def plot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .svg or .html.")
    ],
) -> None:
    """Draw the learning curves of RUN."""
    from recgraph.train.run import Run

    note(f"written to {Run.open(run).plot().save(out)}")


board = typer.Typer(
    help="Run boards of data sets, models and seeds, and render their results.",
    no_args_is_help=True,
)

_BOARD = "A folder of experiments/ by name, any folder of TOML files, or one of its files."
BoardArgument = Annotated[str, typer.Argument(metavar="BOARD", help=_BOARD)]
_RESULTS = "Where records are kept; by default results/ beside the board."
ResultsOption = Annotated[Path | None, typer.Option(metavar="DIR", help=_RESULTS)]
_ONLY = "A model, or an entry by its name; may be given many times. All others wait."
_VALUES = (
    "Do also again what has a record but no values of users here: entries are compared over users."
)
_WORKERS = (
    "Trainings at a time, each in a process.  [default: 1, or as many as the engine has cores]"
)
_TABLE = "Ends in .html (needs no network), .md or .csv; by default BOARD.html."


@board.command("run", no_args_is_help=True)
def run(
    board: BoardArgument,
    results: ResultsOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help=_WORKERS)] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=_ONLY)] = None,
    values: Annotated[bool, typer.Option("--values", help=_VALUES)] = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
) -> None:
    """Train and test what BOARD asks for and has no record yet.

    It may be killed at any time: the same command goes on. What failed is tried again.
    """
    from recgraph.leaderboard.runner import run as do

    on = given_engine(engine, engine_set)
    with notes_of("recgraph.leaderboard.runner"):
        summary = do(
            board,
            results=results,
            workers=workers,
            only=only or (),
            values=values,
            device=device,
            engine=on,
        )
    note(f"{summary}")
    if summary.failed or summary.missing:
        raise Failure(
            "not all is done: the lines above say why; mend that, then give the same command again"
        )


@board.command("render", no_args_is_help=True)
def render(
    board: BoardArgument,
    results: ResultsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_TABLE)] = None,
) -> None:
    """Write BOARD's records as a page, as Markdown, or as CSV with all numbers."""
    from recgraph.leaderboard.board import load_board
    from recgraph.leaderboard.page import render as write

    found = load_board(board)
    note(f"written to {write(found, out or Path(f'{found.name}.html'), results=results)}")
