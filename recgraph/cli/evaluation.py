"""The commands that measure trained runs: ``recgraph evaluate`` and ``recgraph check``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.data_options import GivenData
from recgraph.cli.machine import EngineOption, EngineSetOption, given_engine
from recgraph.cli.output import Failure, Format, FormatOption, note, show
from recgraph.cli.rules import RerankOption, RerankOptionsOption, reranker_given

if TYPE_CHECKING:
    from recgraph.evaluate.results import Results
    from recgraph.train.run import NodeRun

Part = Literal["valid", "test"]
Seen = Literal["keep", "exclude", "both"]
_SET = "Of a node task: a setting of the probe, e.g. probe_learning_rate=0.03; may be given many times."
_METRIC = "What to show, e.g. ndcg@10, coverage@20 or my_metric (at each cut-off); may be given many times."
_SAVE = "Also write the values of users, a Parquet file for each run and protocol, into this folder."
_CUTOFFS = "Length of the lists that metrics look at; may be given many times.  [default: 5, 10, 20, and those of -m]"
_COLUMNS = ("ndcg", "recall", "mrr")


def _moved(option: str, what: str) -> Any:
    """A file of a run that lies elsewhere now."""
    text = f"Where {what} lies now that a run was made from; by default where it lay then."
    return typer.Option(option, metavar="PATH", help=text)


DataOption = Annotated[str | None, _moved("--data", "the file")]
TrainOption = Annotated[str | None, _moved("--train", "the training part")]
ValidOption = Annotated[str | None, _moved("--valid", "the validation part")]
TestOption = Annotated[str | None, _moved("--test", "the test part")]
ItemFeaturesOption = Annotated[str | None, _moved("--item-features", "the file of item features")]
UserFeaturesOption = Annotated[str | None, _moved("--user-features", "the file of user features")]


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A folder that `recgraph train` wrote.")],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = "test",
    seen: Annotated[Seen, typer.Option(help="Whether items of the user's history are candidates.")] = "both",
    cutoffs: Annotated[list[int] | None, typer.Option("--cutoff", metavar="K", min=1, help=_CUTOFFS)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", "-m", metavar="METRIC[@K]", help=_METRIC)] = None,
    save_users: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SAVE)] = None,
    rerank: RerankOption = None,
    rerank_options: RerankOptionsOption = None,
    data: DataOption = None,
    train: TrainOption = None,
    valid: ValidOption = None,
    test: TestOption = None,
    item_features: ItemFeaturesOption = None,
    user_features: UserFeaturesOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
    form: FormatOption = None,
) -> None:
    """Print a run's metrics, each with its protocol's hash; of several runs, which is significantly best.

    All items are ranked for every user of a part. Of a model that embeds the nodes of a graph, probes and clustering
    say how well the embeddings tell the classes of nodes apart.
    """
    from recgraph.evaluate.results import save_users as write_users
    from recgraph.train.run import NodeRun, Run

    files = {"train": train or data, "valid": valid, "test": test}
    files |= {"item_features": item_features, "user_features": user_features}
    moved = {name: path for name, path in files.items() if path is not None}
    where = data if {*moved} == {"train"} and train is None else moved or None
    opened = {run: Run.open(run, where) for run in dict.fromkeys(runs)}  # patterns of a shell may name one twice
    nodes = {folder: one for folder, one in opened.items() if isinstance(one, NodeRun)}
    if nodes:
        if len(opened) > 1:
            raise ValueError(f"{', '.join(map(str, nodes))}: a run that embeds nodes is evaluated alone")
        return _nodes(next(iter(nodes.values())), settings or [], form)
    names, lengths, columns = _asked_metrics(metrics or [], cutoffs or [5, 10, 20])
    on, picks = given_engine(engine, engine_set), reranker_given(rerank, rerank_options)
    found: dict[Path, Results] = {}
    for folder, run in opened.items():
        assert isinstance(run, Run)
        results = found[folder] = run.evaluate(split, seen, lengths, metrics=names, engine=on, rerank=picks)
        for title, result in zip(results.titles(), results, strict=True):
            note(f"{title}: {len(result.users)} users, protocol {result.hash}")
            if save_users is not None:
                picked = "" if picks is None else f"-{picks['name']}"
                named = f"{folder.resolve().name}-{split}-{result.protocol.seen}{picked}"
                write_users(result, save_users / f"{named}.parquet")
    if len(opened) == 1:
        rows = next(iter(found.values())).to_polars().iter_rows(named=True)
        show((row for row in rows if not columns or row["metric"] in columns), form)
        return None
    shown = 10 if 10 in lengths else max(lengths)
    records = {folder: run.record.to_json() for folder, run in opened.items()}
    return _compared(records, found, columns or [f"{name}@{shown}" for name in _COLUMNS], form)


def _asked_metrics(asked: list[str], cutoffs: list[int]) -> tuple[list[str], tuple[int, ...], list[str]]:
    """What is computed, the default metrics first, at which cut-offs, and the columns that are shown; none shows all.

    Raises:
        ValueError: there is no such metric.
    """
    from recgraph.evaluate.metrics import DEFAULT_METRICS, MetricList

    wanted = MetricList.of(asked)
    columns = [
        metric.name if k is None else f"{metric.name}@{k}"
        for metric in wanted.metrics
        for k in wanted.columns(metric, sorted({*cutoffs}))
    ]
    names = dict.fromkeys((*DEFAULT_METRICS, *(metric.name for metric in wanted.metrics)))
    return list(names), wanted.cutoffs(cutoffs, ()), columns


def _compared(
    records: Mapping[Path, Mapping[str, Any]], found: dict[Path, Results], metrics: list[str], form: Format | None
) -> None:
    """A table of models for each protocol; runs that differ in their seed alone are one model."""
    from recgraph.evaluate.significance import table

    alike: dict[str, list[Path]] = {}
    for folder, record in records.items():
        alike.setdefault(json.dumps(_beside_seed(record), sort_keys=True), []).append(folder)
    named = {
        str(folders[0]) if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more": folders
        for folders in alike.values()
    }
    rows = []
    for place, title in enumerate(next(iter(found.values())).titles()):
        made = table({name: [found[folder][place] for folder in folders] for name, folders in named.items()}, metrics)
        rows += [{"candidates": title, **row} for row in made.rows()]
    show(rows, form)
    note(made.legend)


def _beside_seed(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's record does not follow from its seed."""
    kept = {name: record.get(name) for name in ("model", "config", "training", "data", "fitted_on")}
    if (selection := record.get("selection")) is not None:  # the number of epochs follows from it
        kept |= {"training": selection["training"], "refit": True}
    items = record.get("init_items")
    if items is not None and "source_record" in items:  # likewise the vectors of another run
        of_source = {name: value for name, value in items.items() if name not in ("source", "digest")}
        items = {**of_source, "source_record": _beside_seed(items["source_record"])}
    return {**kept, "init_items": items}


def _nodes(run: NodeRun, settings: list[str], form: Format | None) -> None:
    from recgraph.config import parse_settings
    from recgraph.train.settings import ProbeSettings

    chosen = ProbeSettings.of(parse_settings(settings, run.record["evaluation"]))
    results = run.evaluate(probe=chosen.probe)
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
    from recgraph.config import parse_settings
    from recgraph.evaluate.checks import check_split
    from recgraph.train.settings import DataConfig

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
