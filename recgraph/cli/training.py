"""The commands ``recgraph train``, ``recgraph tune`` and ``recgraph study``."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.data_options import GivenData
from recgraph.cli.machine import (
    DeviceOption,
    EngineOption,
    EngineSetOption,
    given_engine,
)
from recgraph.cli.output import Failure, FormatOption, note, notes_of, show
from recgraph.cli.watching import is_quiet, progress_wanted

if TYPE_CHECKING:
    from optuna import Study

    from recgraph.config import Config
    from recgraph.train.settings import DataConfig


#: what of a split a model is fitted on
FitOn = Literal["train", "train+valid", "all"]
_TRAIN_SET = (
    "A setting of the model or of training, e.g. hidden_dim=32, or an entry of one, e.g. loss_options.shared=true; may "
    "be given many times."
)
_REFIT = "Choose the epoch on the validation part first, then fit anew to all for so many epochs."
_FIT_ON = "What the model learns from; all: to serve, and not to be evaluated. [default: train]"


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")],
    source: GivenData,
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder; it must not exist yet.")],
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_TRAIN_SET)] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file; --set wins.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches, views and dropout; recorded.")] = 0,
    device: DeviceOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    fit_on: Annotated[FitOn | None, typer.Option("--fit-on", help=_FIT_ON)] = None,
    refit: Annotated[bool, typer.Option("--refit", help=_REFIT)] = False,
) -> None:
    """Train MODEL on a data set, or on a file of your own (--data), and keep the run in a folder.

    `recgraph models MODEL` shows the settings. The folder holds the best model, the log and the resolved settings.
    """
    from recgraph.config import load_toml, parse_settings, with_none
    from recgraph.files import NonFinite
    from recgraph.train import fit
    from recgraph.train.record import SELECTION

    values = {**parse_settings(settings or [], with_none(load_toml(config)) if config else {}), **source.settings}
    try:
        with source.shown(), notes_of("recgraph.train.fit"):
            run = fit.train(
                model,
                source.dataset,
                out,
                settings=values,
                seed=seed,
                device=device,
                resume=resume,
                fit_on=fit_on,
                refit=refit,
                progress=progress_wanted(),
            )
    except NonFinite as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt as error:
        if str(error) or not (out / "config.json").exists():
            raise
        raise KeyboardInterrupt(f"interrupted; what {out} has is kept, and --resume goes on with it") from None
    if run.record.selection is not None:
        note(f"numbers of the fit that chose the epochs: recgraph evaluate {shlex.quote(str(out / SELECTION))}")
    serves = run.record.fitted_on == "all"
    place = shlex.quote(str(out))
    note(f"saved in {out}; try next: recgraph {f'recommend {place} --user ID' if serves else f'evaluate {place}'}")


#: what chooses the next trial, and what ends trials early
Sampler = Literal["tpe", "cmaes", "gp", "random", "grid", "nsga2"]
Pruner = Literal["none", "median", "hyperband", "halving"]

_SET = "A setting of the model, of training or of the data that is not searched; may be given many times."
_METRIC = "A validation metric, e.g. ndcg@10; given twice, e.g. with coverage@20 or train_seconds, both are optimised."
_STORAGE = "journal:///FILE, sqlite:///FILE or postgresql://USER@HOST/DATABASE; by default a journal in --out."
_WORKERS = "Processes at a time.  [default: 1, or as many as the engine has cores]"
_OUT = "The study's folder; the same goes on with it. By default runs/STUDY, under the study's name."
_SPACE = (
    'A TOML file: key = value fixes, key = [..] lists, key = {low, high, log, step} ranges, "*" = "fixed"; '
    '"weight.n_clusters" = .. is an option of the part that a setting chooses.'
)


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")],
    source: GivenData,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=_OUT)] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help=_METRIC)] = None,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of the study in total, pruned ones too.")] = 20,
    workers: Annotated[int | None, typer.Option(min=1, help=_WORKERS)] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help=_STORAGE)] = None,
    study: Annotated[str | None, typer.Option(help="The study's name; by default model-dataset-metric.")] = None,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help=_SPACE)] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="[default: tpe; of two metrics nsga2]")] = None,
    pruner: Annotated[Pruner | None, typer.Option(help="[default: median; of two metrics none]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and of every trial.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    test_seeds: Annotated[int, typer.Option(min=0, help="Last trainings, tested once; 0: no test.")] = 3,
    device: DeviceOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
    form: FormatOption = None,
) -> None:
    """Tune MODEL's settings on the validation part of a data set, and test the best configuration once.

    The data set may be a file of your own (--data). The same command goes on with a study that was stopped, and other
    machines join through --storage.
    """
    from recgraph.data.catalog.cards import data_name
    from recgraph.parallel import TaskFailed
    from recgraph.tuning.plan import check_dataset
    from recgraph.tuning.report import described, test_rows
    from recgraph.tuning.storage import StorageFailed
    from recgraph.tuning.study import tune as run

    metrics = tuple(metric or ["ndcg@10"])
    check_dataset(source.dataset)
    with source.shown():
        fixed, of_data = _settings(model, settings or [], source)
        split = of_data.split_of(source.dataset)
    name = study or f"{model}-{data_name(source.dataset)}-{'-'.join(metrics)}"
    folder = out or Path("runs") / name
    origin = {
        **of_data.source_of(source.dataset),
        "settings": of_data.model_dump(mode="json", exclude_defaults=True),
    }
    try:
        found = run(
            model,
            split,
            space,
            trials,
            metric=metrics,
            settings=fixed,
            seed=seed,
            sampler=sampler,
            pruner=pruner,
            workers=workers,
            engine=given_engine(engine, engine_set),
            storage=storage,
            study=name,
            out=folder,
            device=device,
            test_seeds=test_seeds,
            progress=not is_quiet(),
            source=origin,
        )
    except (StorageFailed, TaskFailed) as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"study {name!r} is kept; the same command goes on with it") from None
    for line in described(found):
        note(line)
    note(f"kept in {folder}; recgraph study {shlex.quote(str(folder))} shows more")
    _refuse_without_best(found)
    show(test_rows(found), form)


def _settings(model: str, pairs: list[str], source: GivenData) -> tuple[dict[str, Any], DataConfig]:
    """The fixed settings of model and training, and the configuration of the data."""
    from recgraph import registry
    from recgraph.config import parse_settings
    from recgraph.models.base import TrainableModel
    from recgraph.train.config import share_out, training_config
    from recgraph.train.pretrained import InitItemsConfig
    from recgraph.train.settings import DataConfig

    cls = registry.load("model", model)
    known: dict[str, type[Config]] = {"model": cls.Config, "data": DataConfig}
    if issubclass(cls, TrainableModel):
        known |= {"training": training_config(cls), "items": InitItemsConfig}
    settings = {**parse_settings(pairs), **source.settings}
    parts = share_out(cls, settings, known)
    of_data = DataConfig.of(parts["data"]).completed(source.dataset)
    return {**parts["model"], **parts.get("training", {}), **parts.get("items", {})}, of_data


def _refuse_without_best(study: Study) -> None:
    """End the command with an error where all trials were pruned, after the most frequent reasons.

    Raises:
        Failure: no trial is complete.
    """
    from recgraph.tuning.report import best_trial

    if best_trial(study) is not None:
        return
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    reasons = Counter(trial.user_attrs.get("reason") or "no reason" for trial in pruned)
    for reason, count in reasons.most_common(5):
        note(f"pruned, {count} of {reasons.total()}: {reason}")
    raise Failure("no trial is complete: all were pruned; go on with more --trials, or with other settings")


_PLACE = (
    "The folder that `recgraph tune --out` was given, or a storage: sqlite:///FILE, postgresql://..., FILE.journal."
)


def study(
    place: Annotated[str, typer.Argument(metavar="PLACE", help=_PLACE)],
    name: Annotated[str | None, typer.Option("--study", help="Its name, where a storage holds several.")] = None,
    form: FormatOption = None,
) -> None:
    """Show a study, running or done: its best trial, the test of it, and how much each parameter matters."""
    from recgraph.tuning.report import described, importances
    from recgraph.tuning.storage import find_study

    with find_study(place, name) as (found, storage):
        for line in described(found):
            note(line)
        note(f"look further: optuna-dashboard {shlex.quote(storage.dashboard)}")
        show(importances(found), form)
