"""``recgraph evaluate``: the metrics of a trained run."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recgraph.cli.output import Format, FormatOption, note, notes_of, show

if TYPE_CHECKING:
    from recgraph.evaluate.results import Results
    from recgraph.node_run import NodeRun
    from recgraph.run import Run


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


_METRIC = "Of several runs: a column of the table, e.g. ndcg@10; may be given many times."
_SAVE = "Also write the values of users, a Parquet file for each run and protocol, into this folder."
_CUTOFFS = "Length of the lists that metrics look at; may be given many times.  [default: 5, 10, 20]"
_COLUMNS = ("ndcg", "recall", "mrr")


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="A folder that `recgraph train` wrote.")],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = Part.TEST,
    seen: Annotated[Seen, typer.Option(help="Whether items of the user's history are candidates.")] = Seen.BOTH,
    cutoffs: Annotated[list[int] | None, typer.Option("--cutoff", metavar="K", min=1, help=_CUTOFFS)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    metrics: Annotated[list[str] | None, typer.Option("--metric", "-m", metavar="METRIC@K", help=_METRIC)] = None,
    save_users: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SAVE)] = None,
    memory_mib: Annotated[int | None, typer.Option(min=1, help="Memory to take beyond the model and the data.")] = None,
    form: FormatOption = None,
) -> None:
    """Print a run's metrics, each with its protocol's hash; of several runs, which is significantly best.

    All items are ranked for every user of a part. Of a model that embeds the nodes of a graph, probes and clustering
    say how well the embeddings tell the classes of nodes apart.
    """
    from recgraph.node_run import NodeRun
    from recgraph.run import Run

    if save_users is not None:
        _check_names(runs, save_users)
    opened = {run: Run.open(run) for run in runs}
    ranking = {run: one for run, one in opened.items() if isinstance(one, Run)}
    if len(ranking) == len(runs):
        lengths = tuple(cutoffs or (5, 10, 20))
        found = _ranked(ranking, split, seen, lengths, settings or [], save_users, memory_mib)
        if len(runs) == 1:
            show(found[runs[0]].to_polars().iter_rows(named=True), form)
        else:
            shown = 10 if 10 in lengths else max(lengths)
            _compared(ranking, found, metrics or [f"{name}@{shown}" for name in _COLUMNS], form)
        return
    if len(runs) > 1:
        raise ValueError(f"{len(runs)} runs are compared where all recommend; evaluate the others one by one")
    (run, only), *_ = opened.items()
    assert isinstance(only, NodeRun)
    if split != Part.TEST or seen != Seen.BOTH or cutoffs:
        raise ValueError(
            f"--split, --seen and --cutoff are for runs that recommend; {run} embeds the nodes of a graph: probes are "
            "chosen on the valid nodes and scored on the test nodes"
        )
    _nodes(only, settings or [], form)


def _check_names(runs: list[Path], save: Path) -> None:
    """Refuse runs whose values of users would be written into one file."""
    named: dict[str, Path] = {}
    for run in runs:
        other = named.setdefault(run.name, run)
        if other != run:
            raise ValueError(
                f"--save-users {save}: {other} and {run} are both called {run.name!r} and would be written into one "
                "file; rename one of the folders, or evaluate them one by one into different folders"
            )


def _ranked(
    runs: dict[Path, Run],
    split: Part,
    seen: Seen,
    cutoffs: tuple[int, ...],
    settings: list[str],
    save: Path | None,
    memory_mib: int | None,
) -> dict[Path, Results]:
    from recgraph.evaluate.protocol import is_leaked
    from recgraph.evaluate.saved import save_users

    if settings:
        raise ValueError(f"--set {settings[0]!r}: a run that recommends is evaluated without settings")
    for folder, run in runs.items():  # before any is ranked
        if is_leaked(split.value, run.record["fitted_on"]):
            raise ValueError(
                f"--split {split.value}: {folder} was fitted on {run.record['fitted_on']}, so that it knows what is "
                "asked for; take --split test, or a run that was fitted on train"
            )
    found = {}
    for folder, run in runs.items():
        with notes_of("recgraph.evaluate.memory"):
            results = found[folder] = run.evaluate(split.value, seen.value, cutoffs, memory_mib)
        for title, result in zip(results.titles(), results, strict=True):
            note(f"{title}: {len(result.users)} users, protocol {result.hash}")
            if save is not None:
                save_users(result, save / f"{folder.name}-{split.value}-{result.protocol.seen}.parquet")
    return found


def _compared(runs: dict[Path, Run], found: dict[Path, Results], metrics: list[str], form: Format | None) -> None:
    """A table of models for each protocol; runs that differ in their seed alone are one model."""
    from recgraph.evaluate.tables import table

    alike: dict[str, list[Path]] = {}
    for folder, run in runs.items():
        settings = {name: run.record[name] for name in ("model", "config", "training", "data", "fitted_on")}
        alike.setdefault(json.dumps(settings, sort_keys=True), []).append(folder)
    named = {
        str(folders[0]) if len(folders) == 1 else f"{folders[0]} and {len(folders) - 1} more": folders
        for folders in alike.values()
    }
    rows = []
    titles = found[next(iter(runs))].titles()
    for place, title in enumerate(titles):
        of = {name: [found[folder][place] for folder in folders] for name, folders in named.items()}
        known = ", ".join(next(iter(of.values()))[0].metrics)
        missing = set(metrics) - set(known.split(", "))
        if missing:
            raise ValueError(f"--metric {min(missing)} is not computed; take one of {known}")
        made = table(of, metrics)
        rows += [{"candidates": title, **row} for row in made.rows()]
    show(rows, form)
    note(made.legend)


def _nodes(run: NodeRun, settings: list[str], form: Format | None) -> None:
    from recgraph.config import parse_settings
    from recgraph.node_run import ProbeSettings, probe_of

    chosen = ProbeSettings.of({**run.record["evaluation"], **parse_settings(settings)})
    results = run.evaluate(probe=probe_of(chosen))
    told = ", ".join(f"{name} {value}" for name, value in results.protocol.probe.model_dump().items())
    note(f"linear probe: {told}; protocol {results.hash}")
    show(results.rows(), form)
