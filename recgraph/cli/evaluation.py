"""The commands that measure: ``recgraph evaluate``, ``check``, ``plot`` and ``board``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.options import (
    FOUND,
    NO_VALUES,
    DeviceOption,
    EngineOption,
    EngineSetOption,
    Source,
    given_engine,
)
from recgraph.cli.output import Failure, Format, FormatOption, default_format, note, notes_of, show

if TYPE_CHECKING:
    from recgraph.evaluate.results import Results
    from recgraph.train.run import NodeRun, Run

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
#: entries of a record that are those of the model, whatever its seed
_OF_MODEL = ("model", "config", "training", "data", "fitted_on", "init_items")


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
        list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)
    ] = NO_VALUES,
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", "-m", metavar="METRIC[@K]", help=_METRIC)
    ] = None,
    save_users: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SAVE)] = None,
    rerank: Annotated[str | None, typer.Option(metavar="NAME", help=_RERANK)] = None,
    data: Annotated[list[str], typer.Option(metavar="[PART=]PATH", help=_DATA)] = NO_VALUES,
    engine: EngineOption = None,
    engine_set: EngineSetOption = NO_VALUES,
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
    from recgraph.train.run import NodeRun, Run

    opened = _open(runs, data)
    for folder, run in opened.items():
        if isinstance(run, NodeRun):
            if len(opened) > 1:
                raise ValueError(f"{folder}: a run that embeds nodes is evaluated alone")
            _evaluate_nodes(run, settings, form)
            return
    specification = None
    if rerank is not None:
        specification = reranker_of(parse_settings([f"rerank={rerank}"])["rerank"]).specification
    lengths = tuple(cutoffs or (5, 10, 20))
    by_run: dict[Path, Results] = {}
    for folder, run in opened.items():
        assert isinstance(run, Run)
        results = run.evaluate(
            split,
            seen,
            lengths,
            metrics=metrics,
            engine=given_engine(engine, engine_set),
            rerank=specification,
        )
        for title, result in zip(results.titles(), results, strict=True):
            note(f"{title}: {len(result.users)} users, protocol {result.hash}")
        if save_users is not None:
            _save_users(results, save_users / f"{folder.resolve().name}-{split}")
        by_run[folder] = results
    if len(by_run) == 1:
        show(results.to_polars().iter_rows(named=True), form)
        return
    k = 10 if 10 in lengths else max(lengths)
    columns = [f"{name}@{k}" for name in _COLUMNS]
    if metrics:
        columns = list(results[0].metrics)
    records = {folder: run.record.to_json() for folder, run in opened.items()}
    _compare(records, by_run, columns, form or default_format())


def _open(folders: list[Path], data: list[str]) -> dict[Path, Run | NodeRun]:
    """The runs of some folders, each once, made of files that have moved where ``data`` says."""
    from recgraph.train.run import Run

    moved = {}
    for path in data:
        part, _, place = path.partition("=")
        if not path.startswith(_FILES):  # a folder may be called date=2020
            part, place = "train", path
        moved[part] = place
    # a shell's pattern may name one twice
    return {folder: Run.open(folder, moved or None) for folder in dict.fromkeys(folders)}


def _evaluate_nodes(run: NodeRun, settings: list[str], form: Format | None) -> None:
    from recgraph.config import parse_settings
    from recgraph.train.settings import ProbeSettings

    options = ProbeSettings.of(parse_settings(settings, run.record["evaluation"]))
    scores = run.evaluate(probe=options.probe)
    probe = scores.protocol.probe.model_dump()
    values = ", ".join(f"{name} {value}" for name, value in probe.items())
    note(f"linear probe: {values}; protocol {scores.hash}")
    show(scores.rows(), form)


def _save_users(results: Results, place: Path) -> None:
    """Write the values of users of each protocol, into files whose names begin with ``place``."""
    from recgraph.evaluate.rerank import reranker_of
    from recgraph.evaluate.results import save_users

    for result in results:
        name = f"{place.name}-{result.protocol.seen}"
        if result.protocol.rerank:
            name += f"-{reranker_of(result.protocol.rerank).specification['name']}"
        save_users(result, place.with_name(f"{name}.parquet"))


def _compare(
    records: dict[Path, Any], by_run: dict[Path, Results], metrics: list[str], form: Format
) -> None:
    """A table of models for each protocol; runs that differ in their seed alone are one model."""
    from recgraph.evaluate.significance import table

    models = _models(records)
    titles = next(iter(by_run.values())).titles()
    rows: list[dict[str, Any]] = []
    for place, title in enumerate(titles):
        results = {}
        for model, folders in models.items():
            results[model] = [by_run[folder][place] for folder in folders]
        comparison = table(results, metrics)
        for model, cells in comparison.cells.items():
            row: dict[str, Any] = {"candidates": title, "model": model}
            for metric, cell in cells.items():
                if form == "table":
                    row[metric] = cell
                else:
                    row |= {metric: cell.value, f"{metric} mark": cell.mark}
            rows.append(row)
    show(rows, form)
    legend = comparison.legend
    if form != "table":
        legend = legend.replace("* ", "best: ", 1).replace("= ", "tied: ", 1)
    note(legend)


def _models(records: dict[Path, Any]) -> dict[str, list[Path]]:
    """Name -> folders of the runs that differ in their seed alone."""
    alike: dict[str, list[Path]] = {}
    for folder, record in records.items():
        settings = {name: record.get(name) for name in _OF_MODEL}
        selection = record.get("selection")
        if selection:  # the number of epochs follows from it
            settings |= {"training": selection["training"], "refit": True}
        alike.setdefault(json.dumps(settings, sort_keys=True), []).append(folder)
    models = {}
    for folders in alike.values():
        name = str(folders[0])
        if len(folders) > 1:
            name += f" and {len(folders) - 1} more"
        models[name] = folders
    return models


_CHECK_SPLIT = (
    "How the log is split.  [default: as its parts are given or its card says, else leave-one-out]"
)
_CHECK_SET = "A parameter of the split, e.g. test=0.2; may be given many times."


def check(
    source: Source,
    split: Annotated[str | None, typer.Option(help=_CHECK_SPLIT)] = None,
    settings: Annotated[
        list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help=_CHECK_SET)
    ] = NO_VALUES,
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

    options = parse_settings(settings)
    data = DataConfig.of(source.settings, split=split, split_options=options, split_seed=split_seed)
    with notes_of(*FOUND):
        checked = data.split_of(source.dataset)
    note(
        f"{checked.n_users:,} users, {checked.n_items:,} items, "
        f"split {checked.name} {checked.hash[:12]}"
    )
    checks = [*check_split(checked), *order(checked)]
    rows = []
    failed = []
    for one in checks:
        rows.append(
            {"check": one.name, "status": one.status, "value": one.value, "detail": one.detail}
        )
        if one.status == "fail":
            failed.append(one.name)
    show(rows, form)
    if failed:
        raise Failure(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


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
    only: Annotated[list[str], typer.Option(metavar="MODEL", help=_ONLY)] = NO_VALUES,
    values: Annotated[bool, typer.Option("--values", help=_VALUES)] = False,
    device: DeviceOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = NO_VALUES,
) -> None:
    """Train and test what BOARD asks for and has no record yet.

    It may be killed at any time: the same command goes on. What failed is tried again.
    """
    from recgraph.leaderboard.runner import run as do

    with notes_of("recgraph.leaderboard.runner"):
        summary = do(
            board,
            results=results,
            workers=workers,
            only=only,
            values=values,
            device=device,
            engine=given_engine(engine, engine_set),
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

    loaded = load_board(board)
    path = write(loaded, out or Path(f"{loaded.name}.html"), results=results)
    note(f"written to {path}")
