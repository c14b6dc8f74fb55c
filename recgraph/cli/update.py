"""The command ``recgraph update``: a run takes in a new log."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.machine import DeviceOption, RunArgument
from recgraph.cli.output import Failure, note
from recgraph.cli.watching import progress_wanted

if TYPE_CHECKING:
    from recgraph.train.run import Run

_FEATURES = "A file of item features, one row an item; RUN's items keep what the file has no row or column for."
_DATA = "New interactions: a file, a folder or a pattern of files; columns are named like the run's, or guessed."
_EPOCHS = "Over samples with new targets and replayed ones; the best is kept."
_RATE = "Of the training; by default a quarter of the run's; an update of an update keeps the rate."
_VALID = "The newest share of the new log: validated on, and not trained on."
_FORCE = "Keep a result that is worse than the run, or (--valid 0) not validated."


def update(
    run: Annotated[Path, RunArgument],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help=_DATA)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="NEWRUN", help="Folder of the new run.")],
    item_features: Annotated[str | None, typer.Option("--item-features", metavar="FILE", help=_FEATURES)] = None,
    epochs: Annotated[int, typer.Option(min=1, help=_EPOCHS)] = 2,
    replay: Annotated[float, typer.Option(min=0, max=1, help="Share of the old samples trained on again.")] = 0.1,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help=_RATE)] = None,
    valid: Annotated[float, typer.Option(min=0, max=0.9, help=_VALID)] = 0.1,
    fold_in: Annotated[
        bool, typer.Option("--fold-in/--no-fold-in", help="Whether that share becomes known history afterwards.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random; by default the run's.")] = None,
    device: DeviceOption = None,
) -> None:
    """Take new interactions, users and items into a run, at a fraction of the cost of training it again.

    A trained model goes on from its weights; one in closed form is fitted again. RUN stays as it is. The result is
    validated on the newest share of the new log, and refused (exit code 1, nothing written) where RUN is better there.
    """
    from recgraph.files import NonFinite
    from recgraph.train.update import UpdateRefused

    opened = _open(run)
    try:
        made = opened.update(
            data,
            item_features=item_features,
            out=out,
            epochs=epochs,
            replay=replay,
            learning_rate=learning_rate,
            valid=valid,
            fold_in=fold_in,
            force=force,
            seed=seed,
            device=device,
            progress=progress_wanted(),
        )
    except (UpdateRefused, NonFinite) as error:
        raise Failure(str(error).replace("force=True keeps it", "--force keeps it")) from error
    _report(made.record.update or {}, out)


def _open(folder: Path) -> Run:
    """The run of a folder, without its data, or that of a bundle."""
    from recgraph.serve.bundle import BundleError, bundle_of, read_config
    from recgraph.serve.recommender import Recommender
    from recgraph.train.record import RunRecord
    from recgraph.train.run import Run
    from recgraph.train.update import check_updatable

    at = bundle_of(folder)
    if read_config(at)["holds"] == "embedder":
        raise BundleError(f"{folder} embeds the nodes of a graph and cannot be updated; fit it again")
    if at == folder:
        made = Run.of_bundle(folder)
    else:
        made = Run.serving(Recommender.load(at), RunRecord.read(folder), folder)
    check_updatable(made.model)
    return made


def _report(update: dict[str, Any], out: Path) -> None:
    new = (f"{update[f'new_{what}']:,} {what}" for what in ("interactions", "users", "items"))
    note(f"new: {', '.join(new)}")
    if update["by"] == "training":
        note(f"trained for {update['epochs']} epochs on {update['samples']:,} samples; optimiser {update['optimiser']}")
    else:
        note("fitted again on everything, exactly: the model is in closed form")
    valid = update["valid"]
    if valid["after"] is not None:
        numbers = f"{valid['before']:.4f} before, {valid['after']:.4f} after"
        note(f"{valid['metric']} on the newest slice ({valid['users']:,} users): {numbers}")
    note(f"saved in {out}; try next: recgraph recommend {shlex.quote(str(out))} --user ID")
