"""The commands that measure trained runs: ``recgraph evaluate`` and ``recgraph check``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.data_options import GivenData
from recgraph.cli.machine import EngineOption, EngineSetOption, MemoryLimitOption, ThreadsOption, given_engine, take
from recgraph.cli.output import Failure, Format, FormatOption, note, show
from recgraph.cli.rules import RerankOption, RerankOptionsOption, reranker_given

if TYPE_CHECKING:
    from recgraph.evaluate.results import Results
    from recgraph.parallel import Engine
    from recgraph.runs.run import NodeRun, Run


class Part(StrEnum):
    """The part of the split that is ranked."""

    VALID = "valid"
    TEST = "test"


class Seen(StrEnum):
    """Whether a user's seen items stay candidates."""

    KEEP = "keep"
    EXCLUDE = "exclude"
    BOTH = "both"


_SET = "Of a node task: a setting of the probe, e.g. probe_learning_rate=0.03; may be given many times."


_METRIC = "What to show, e.g. ndcg@10, coverage@20 or my_metric (at each cut-off); may be given many times."
_DATA = "Where the file lies now that a run was made from; by default where it lay then."
_MOVED = "Likewise, of a run that was made from parts: its {} part."
_FEATURES = "Likewise, the file of {} features that a run was made with."
_SAVE = "Also write the values of users, a Parquet file for each run and protocol, into this folder."
_CUTOFFS = "Length of the lists that metrics look at; may be given many times.  [default: 5, 10, 20, and those of -m]"
_COLUMNS = ("ndcg", "recall", "mrr")


def evaluate(
    context: typer.Context,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A folder that `recgraph train` wrote.")],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = Part.TEST,
    seen: Annotated[Seen, typer.Option(help="Whether items of the user's history are candidates.")] = Seen.BOTH,
    cutoffs: Annotated[list[int] | None, typer.Option("--cutoff", metavar="K", min=1, help=_CUTOFFS)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", "-m", metavar="METRIC[@K]", help=_METRIC)] = None,
    save_users: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SAVE)] = None,
    rerank: RerankOption = None,
    rerank_options: RerankOptionsOption = None,
    data: Annotated[str | None, typer.Option("--data", metavar="PATH", help=_DATA)] = None,
    train: Annotated[str | None, typer.Option("--train", metavar="PATH", help=_MOVED.format("training"))] = None,
    valid: Annotated[str | None, typer.Option("--valid", metavar="PATH", help=_MOVED.format("validation"))] = None,
    test: Annotated[str | None, typer.Option("--test", metavar="PATH", help=_MOVED.format("test"))] = None,
    item_features: Annotated[
        str | None, typer.Option("--item-features", metavar="FILE", help=_FEATURES.format("item"))
    ] = None,
    user_features: Annotated[
        str | None, typer.Option("--user-features", metavar="FILE", help=_FEATURES.format("user"))
    ] = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
    threads: ThreadsOption = None,
    memory_limit: MemoryLimitOption = None,
    form: FormatOption = None,
) -> None:
    """Print a run's metrics, each with its protocol's hash; of several runs, which is significantly best.

    All items are ranked for every user of a part. Of a model that embeds the nodes of a graph, probes and clustering
    say how well the embeddings tell the classes of nodes apart.
    """
    take(context, threads, memory_limit)
    from recgraph.runs.run import NodeRun, Run

    runs = list(dict.fromkeys(runs))  # patterns of a shell may name one twice
    if save_users is not None:
        _check_names(runs, save_users)
    ranks_on = given_engine(engine, engine_set)
    picks = reranker_given(rerank, rerank_options)
    moved = {name: path for name, path in (("train", train), ("valid", valid), ("test", test)) if path is not None}
    if moved and data is not None:
        raise ValueError(f"--data {data} and --{next(iter(moved))} exclude one another; --train is --data beside parts")
    features = {"item_features": item_features, "user_features": user_features}
    if given := {name: path for name, path in features.items() if path is not None}:
        moved |= given if data is None else {"train": data, **given}
    opened = {run: Run.open(run, moved or data) for run in runs}
    ranking = {run: one for run, one in opened.items() if isinstance(one, Run)}
    if len(ranking) == len(runs):
        names, lengths, columns = _asked_metrics(metrics or [], cutoffs or [5, 10, 20])
        found = _ranked(ranking, split, seen, lengths, names, settings or [], save_users, ranks_on, picks)
        if len(runs) == 1:
            rows = found[runs[0]].to_polars().iter_rows(named=True)
            show((row for row in rows if not columns or row["metric"] in columns), form)
        else:
            shown = 10 if 10 in lengths else max(lengths)
            _compared(ranking, found, columns or [f"{name}@{shown}" for name in _COLUMNS], form)
        return
    if len(runs) > 1:
        raise ValueError(f"{len(runs)} runs are compared where all recommend; evaluate the others one by one")
    (run, only), *_ = opened.items()
    assert isinstance(only, NodeRun)
    options = (cutoffs, metrics, save_users, memory_limit, ranks_on, picks)
    if split != Part.TEST or seen != Seen.BOTH or any(options):
        raise ValueError(
            "--split, --seen, --cutoff, --metric, --save-users, --rerank, --memory-limit and --engine "
            f"are for runs that recommend; {run} embeds the nodes of a graph: probes are chosen on the valid nodes and "
            "scored on the test nodes"
        )
    _nodes(only, settings or [], form)


def _check_names(runs: list[Path], save: Path) -> None:
    """Refuse runs whose values of users would be written into one file."""
    named: dict[str, Path] = {}
    for run in runs:
        name = run.resolve().name
        other = named.setdefault(name, run)
        if other.resolve() != run.resolve():
            raise ValueError(
                f"--save-users {save}: {other} and {run} are both called {name!r} and would be written into one file; "
                "rename one of the folders, or evaluate them one by one into different folders"
            )


def _asked_metrics(asked: list[str], cutoffs: list[int]) -> tuple[list[str], tuple[int, ...], list[str]]:
    """What is computed, the default metrics first, at which cut-offs, and the columns that are shown; none shows all.

    Raises:
        ValueError: there is no such metric.
    """
    from recgraph.evaluate.metrics.names import DEFAULT_METRICS, Asked

    wanted = Asked.of(asked)
    columns = [
        metric.name if k is None else f"{metric.name}@{k}"
        for metric in wanted.metrics
        for k in wanted.columns(metric, sorted({*cutoffs}))
    ]
    names = dict.fromkeys((*DEFAULT_METRICS, *(metric.name for metric in wanted.metrics)))
    return list(names), wanted.cutoffs(cutoffs, ()), columns


def _ranked(
    runs: dict[Path, Run],
    split: Part,
    seen: Seen,
    cutoffs: tuple[int, ...],
    metrics: list[str],
    settings: list[str],
    save: Path | None,
    engine: Engine | None,
    rerank: dict[str, Any] | None,
) -> dict[Path, Results]:
    from recgraph.evaluate.protocol import is_leaked
    from recgraph.evaluate.results import save_users
    from recgraph.runs.record import SELECTION

    if settings:
        raise ValueError(f"--set {settings[0]!r}: a run that recommends is evaluated without settings")
    for folder, run in runs.items():  # before any is ranked
        if is_leaked(split.value, fitted_on := run.record["fitted_on"]):
            instead = f"{'' if fitted_on == 'all' else '--split test, or '}a run that was fitted on train"
            if run.record.selection is not None:
                instead = f"{folder / SELECTION}, the run that chose its number of epochs"
            raise ValueError(
                f"--split {split.value}: {folder} was fitted on {fitted_on}, so that it knows what is asked for; take "
                f"{instead}"
            )
    found = {}
    for folder, run in runs.items():
        results = found[folder] = run.evaluate(split.value, seen.value, cutoffs, metrics, engine=engine, rerank=rerank)
        for title, result in zip(results.titles(), results, strict=True):
            note(f"{title}: {len(result.users)} users, protocol {result.hash}")
            if save is not None:
                picked = "" if rerank is None else f"-{rerank['name']}"
                named = f"{folder.resolve().name}-{split.value}-{result.protocol.seen}{picked}"
                save_users(result, save / f"{named}.parquet")
    return found


def _compared(runs: dict[Path, Run], found: dict[Path, Results], metrics: list[str], form: Format | None) -> None:
    """A table of models for each protocol; runs that differ in their seed alone are one model."""
    from recgraph.evaluate.standings import table

    alike: dict[str, list[Path]] = {}
    for folder, run in runs.items():
        alike.setdefault(json.dumps(_beside_seed(run.record.to_json()), sort_keys=True), []).append(folder)
    named = {
        str(folders[0]) if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more": folders
        for folders in alike.values()
    }
    rows = []
    titles = found[next(iter(runs))].titles()
    for place, title in enumerate(titles):
        of = {name: [found[folder][place] for folder in folders] for name, folders in named.items()}
        made = table(of, metrics)
        rows += [{"candidates": title, **row} for row in made.rows()]
    show(rows, form)
    note(made.legend)


def _beside_seed(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's record does not follow from its seed."""
    names = ("model", "model_revision", "config", "training", "data", "fitted_on")
    kept = {name: record.get(name) for name in names}
    # of other features a run is not opened, and earlier versions recorded none
    kept["data"] = {name: value for name, value in (kept["data"] or {}).items() if name != "features"}
    if (selection := record.get("selection")) is not None:  # the number of epochs follows from it
        kept |= {"training": selection["training"], "refit": True}
    items = record.get("init_items")
    if items is not None and "source_record" in items:  # likewise the vectors of another run
        of_source = {name: value for name, value in items.items() if name not in ("source", "digest")}
        kept["init_items"] = {**of_source, "source_record": _beside_seed(items["source_record"])}
    elif items is not None:
        kept["init_items"] = items
    return kept


def _nodes(run: NodeRun, settings: list[str], form: Format | None) -> None:
    from recgraph.runs.settings import ProbeSettings, probe_of
    from recgraph.setting_texts import parse_settings

    chosen = ProbeSettings.of({**run.record["evaluation"], **parse_settings(settings)})
    results = run.evaluate(probe=probe_of(chosen))
    settings_used = ", ".join(f"{name} {value}" for name, value in results.protocol.probe.model_dump().items())
    note(f"linear probe: {settings_used}; protocol {results.hash}")
    show(results.rows(), form)


_CHECK_SPLIT = "How the log is split.  [default: as its parts are given or its card says, else leave-one-out]"
_CHECK_SET = "A parameter of the split, e.g. test=0.2; may be given many times."


def check(
    source: GivenData,
    split: Annotated[str | None, typer.Option(help=_CHECK_SPLIT)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_CHECK_SET)] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Of splits that draw.")] = 0,
    cutoff: Annotated[int, typer.Option(min=1, help="Of the recall at chance.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="Test users, at most, that scorers at chance rank for.")] = 2000,
    form: FormatOption = None,
) -> None:
    """Check a split of DATASET, or of your own file (--data), and the evaluation on it.

    Leakage of time and what one cut of time would give, duplicates across parts, items that only test knows, constant
    and random scorers at chance. The exit code is 1 where a check fails; a warning says that numbers do not mean what
    they seem to, and is no failure.
    """
    from recgraph.evaluate.checks import check_split
    from recgraph.runs.settings import DataConfig
    from recgraph.setting_texts import parse_settings

    data = DataConfig.of(
        source.settings, split=split, split_options=parse_settings(settings or []), split_seed=split_seed
    )
    with source.shown():
        made = data.split_of(source.dataset)
    note(f"{made.n_users:,} users, {made.n_items:,} items, split {made.name} {made.hash[:12]}")
    rows = check_split(made, cutoff=cutoff, n_users=users)
    show(({"check": row.name, "status": row.status, "value": row.value, "detail": row.detail} for row in rows), form)
    failed = [row.name for row in rows if row.status == "fail"]
    if failed:
        raise Failure(f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")
