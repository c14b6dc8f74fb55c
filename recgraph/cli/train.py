"""``recgraph train``: train a model on a prepared data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.errors import Failure
from recgraph.cli.output import note

_SET = "A setting of the model or of training; may be given many times."


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A data set that `recgraph data list` shows.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; it must not exist yet.")],
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file; --set wins.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches, views and dropout; recorded.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute, e.g. cuda:1; else cuda or cpu.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
) -> None:
    """Train MODEL on a data set and keep the run in a folder.

    `recgraph models MODEL` shows the settings. The folder holds the best model, the log and the resolved settings.
    """
    from recgraph import experiment
    from recgraph.config import load_toml, parse_settings
    from recgraph.train.trainer import NonFiniteLoss

    values = {**(load_toml(config) if config else {}), **parse_settings(settings or [])}
    try:
        experiment.train(model, dataset, out, settings=values, seed=seed, device=device, resume=resume)
    except NonFiniteLoss as error:
        raise Failure(str(error)) from error
    note(f"saved in {out}; try next: recgraph evaluate {out}")
