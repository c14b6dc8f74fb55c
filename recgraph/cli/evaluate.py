"""``recgraph evaluate``: the metrics of a trained run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recgraph.cli.output import Format, FormatOption, note, show

if TYPE_CHECKING:
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


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote.")],
    split: Annotated[Part, typer.Option(help="Which part to rank.")] = Part.TEST,
    seen: Annotated[Seen, typer.Option(help="Whether items of the user's history are candidates.")] = Seen.BOTH,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    form: FormatOption = None,
) -> None:
    """Print a run's metrics, each with its protocol's hash.

    All items are ranked for every user of a part. Of a model that embeds the nodes of a graph, probes and clustering
    say how well the embeddings tell the classes of nodes apart.
    """
    from recgraph.node_run import NodeRun
    from recgraph.run import Run

    opened = Run.open(run)
    if not isinstance(opened, NodeRun):
        _ranking(opened, split, seen, settings or [], form)
        return
    if split != Part.TEST or seen != Seen.BOTH:
        raise ValueError(
            f"--split and --seen are for runs that recommend; {run} embeds the nodes of a graph: probes are chosen on "
            "the valid nodes and scored on the test nodes"
        )
    _nodes(opened, settings or [], form)


def _ranking(run: Run, split: Part, seen: Seen, settings: list[str], form: Format | None) -> None:
    if settings:
        raise ValueError(f"--set {settings[0]!r}: a run that recommends is evaluated without settings")
    results = run.evaluate(split.value, seen=seen.value)
    for title, result in zip(results.titles(), results, strict=True):
        note(f"{title}: {len(result.users)} users, protocol {result.hash}")
    show(results.to_polars().iter_rows(named=True), form)


def _nodes(run: NodeRun, settings: list[str], form: Format | None) -> None:
    from recgraph.config import parse_settings
    from recgraph.node_run import ProbeSettings, probe_of

    chosen = ProbeSettings.of({**run.record["evaluation"], **parse_settings(settings)})
    results = run.evaluate(probe=probe_of(chosen))
    told = ", ".join(f"{name} {value}" for name, value in results.protocol.probe.model_dump().items())
    note(f"linear probe: {told}; protocol {results.hash}")
    show(results.rows(), form)
