"""The commands that train: ``recgraph train``, ``tune``, ``study`` (what a tuning found) and
``update``.
"""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from recgraph.cli.options import (
    FOUND,
    NO_VALUES,
    DeviceOption,
    EngineOption,
    EngineSetOption,
    RunArgument,
    Source,
    given_engine,
)
from recgraph.cli.output import Failure, FormatOption, note, notes_of, progress_wanted, show

if TYPE_CHECKING:
    from recgraph.train.settings import DataConfig


#: what of a split a model is fitted on
FitOn = Literal["train", "train+valid", "all"]
_TRAIN_SET = (
    "A setting of the model or of training, e.g. hidden_dim=32, or of one of its parts, e.g. encoder.alpha=0.5; may be "
    "given many times. Shorter: --hidden-dim 32, --lr 0.001, --epochs 20, --batch-size 512."
)
_REFIT = "Choose the epoch on the validation part first, then fit anew to all for so many epochs."
_FIT_ON = "What the model learns from; all: to serve, and not to be evaluated. [default: train]"


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")
    ],
    source: Source,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The run's folder; it must not exist yet.")
    ],
    settings: Annotated[
        list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help=_TRAIN_SET)
    ] = NO_VALUES,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A TOML file; --set wins.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of weights, batches, views and dropout; recorded.")
    ] = 0,
    device: DeviceOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped.")
    ] = False,
    fit_on: Annotated[FitOn | None, typer.Option("--fit-on", help=_FIT_ON)] = None,
    refit: Annotated[bool, typer.Option("--refit", help=_REFIT)] = False,
) -> None:
    """Train MODEL on a data set, or on a file of your own (--data), and keep the run in a folder.

    `recgraph models MODEL` shows the settings. The folder holds the best model, the log and the
    resolved settings.
    """
    from recgraph.config import parse_settings, with_none
    from recgraph.files import read_toml
    from recgraph.train import fit
    from recgraph.train.record import SELECTION

    of_file = {}
    if config is not None:
        of_file = with_none(read_toml(config))
    values = parse_settings(settings, of_file) | source.settings
    with notes_of(*FOUND, "recgraph.train.fit"):
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
    if run.record.selection is not None:
        note(
            f"numbers of the fit that chose the epochs: recgraph evaluate {shlex.quote(str(out / SELECTION))}"
        )
    place = shlex.quote(str(out))
    command = f"evaluate {place}"
    if run.record.fitted_on == "all":
        command = f"recommend {place} --user ID"
    note(f"saved in {out}; try next: recgraph {command}")


#: what chooses the next trial, and what ends trials early
Sampler = Literal["tpe", "cmaes", "gp", "random", "grid", "nsga2"]
Pruner = Literal["none", "median", "hyperband", "halving"]

_SET = "A setting of the model, of training or of the data that is not searched; may be given many times."
_METRIC = "A validation metric, e.g. ndcg@10; given twice, e.g. with coverage@20 or train_seconds, both are optimised."
_STORAGE = "journal:///FILE, sqlite:///FILE or postgresql://USER@HOST/DATABASE; by default a journal in --out."
_WORKERS = "Processes at a time.  [default: 1, or as many as the engine has cores]"
_OUT = (
    "The study's folder; the same goes on with it. By default runs/STUDY, under the study's name."
)
_SPACE = (
    'A TOML file: key = value fixes, key = [..] lists, key = {low, high, log, step} ranges, "*" = "fixed"; '
    '"weight.n_clusters" = .. is an option of the part that a setting chooses.'
)


def tune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")
    ],
    source: Source,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=_OUT)] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help=_METRIC)] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Finished trials of the study in total, pruned ones too.")
    ] = 20,
    workers: Annotated[int | None, typer.Option(min=1, help=_WORKERS)] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help=_STORAGE)] = None,
    study: Annotated[
        str | None, typer.Option(help="The study's name; by default model-dataset-metric.")
    ] = None,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help=_SPACE)] = None,
    sampler: Annotated[
        Sampler | None, typer.Option(help="[default: tpe; of two metrics nsga2]")
    ] = None,
    pruner: Annotated[
        Pruner | None, typer.Option(help="[default: median; of two metrics none]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and of every trial.")] = 0,
    settings: Annotated[
        list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)
    ] = NO_VALUES,
    test_seeds: Annotated[
        int, typer.Option(min=0, help="Last trainings, tested once; 0: no test.")
    ] = 3,
    device: DeviceOption = None,
    engine: EngineOption = None,
    engine_set: EngineSetOption = NO_VALUES,
    form: FormatOption = None,
) -> None:
    """Tune MODEL's settings on the validation part of a data set, and test the best configuration
    once.

    The data set may be a file of your own (--data). The same command goes on with a study that was
    stopped, and other machines join through --storage.
    """
    from recgraph.data.catalog.cards import data_name
    from recgraph.tuning.report import best_trial, described, test_rows
    from recgraph.tuning.study import tune as run

    metrics = tuple(metric or ["ndcg@10"])
    with notes_of(*FOUND):
        fixed, of_data = _settings(model, settings, source)
        split = of_data.split_of(source.dataset)
    name = study or f"{model}-{data_name(source.dataset)}-{'-'.join(metrics)}"
    folder = out or Path("runs") / name
    settings_of_data = of_data.model_dump(mode="json", exclude_defaults=True)
    finished = run(
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
        progress=progress_wanted() is not False,
        source={**of_data.source_of(source.dataset), "settings": settings_of_data},
    )
    note("\n".join(described(finished)))
    note(f"kept in {folder}; recgraph study {shlex.quote(str(folder))} shows more")
    if best_trial(finished) is None:
        reasons = Counter(trial.user_attrs.get("reason") for trial in finished.trials)
        ((reason, _),) = reasons.most_common(1)
        raise Failure(
            f"no trial is complete, most are pruned: {reason or 'for no reason that is known'}; "
            "give more --trials, or other settings"
        )
    show(test_rows(finished), form)


def _settings(model: str, pairs: list[str], source: Source) -> tuple[dict[str, Any], DataConfig]:
    """The fixed settings of model and training, and the configuration of the data."""
    from recgraph import registry
    from recgraph.config import parse_settings
    from recgraph.train.config import share_out
    from recgraph.train.fit import parts_of
    from recgraph.train.settings import DataConfig

    cls = registry.load("model", model)
    configs = {"model": cls.Config, **parts_of(cls)}
    parts = share_out(cls, parse_settings(pairs) | source.settings, configs)
    of_data = DataConfig.of(parts.get("data")).completed(source.dataset)
    return parts["model"] | parts.get("training", {}) | parts.get("items", {}), of_data


_PLACE = (
    "The folder that `recgraph tune --out` was given, or a storage: "
    "sqlite:///FILE, postgresql://..., FILE.journal."
)


def study(
    place: Annotated[str, typer.Argument(metavar="PLACE", help=_PLACE)],
    name: Annotated[
        str | None, typer.Option("--study", help="Its name, where a storage holds several.")
    ] = None,
    form: FormatOption = None,
) -> None:
    """Show a study, running or done: its best trial, the test of it, and how much each parameter
    matters.
    """
    from recgraph.tuning.report import described, importances
    from recgraph.tuning.storage import find_study

    with find_study(place, name) as (stored, storage):
        note("\n".join(described(stored)))
        note(f"look further: optuna-dashboard {shlex.quote(storage.dashboard)}")
        show(importances(stored), form)


_FEATURES = "A file of item features, one row an item; RUN's items keep what the file has no row or column for."
_DATA = "New interactions: a file, a folder or a pattern of files; columns are named like the run's, or guessed."
_EPOCHS = "Over samples with new targets and replayed ones; the best is kept."
_RATE = "Of the training; by default a quarter of the run's; an update of an update keeps the rate."
_VALID = "The newest share of the new log: validated on, and not trained on."
_FORCE = "Keep a result that is worse than the run, or (--valid 0) not validated."
_REPLACE = "In place of --out: the new run takes RUN's place, and a service of RUN follows; RUN-before is what RUN was."


def update(
    run: RunArgument,
    data: Annotated[str, typer.Option("--data", metavar="FILE", help=_DATA)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="NEWRUN", help="Folder of the new run.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help=_REPLACE)] = False,
    item_features: Annotated[
        str | None, typer.Option("--item-features", metavar="FILE", help=_FEATURES)
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help=_EPOCHS)] = 2,
    replay: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the old samples trained on again.")
    ] = 0.1,
    learning_rate: Annotated[
        float | None, typer.Option("--lr", "--learning-rate", help=_RATE)
    ] = None,
    valid: Annotated[float, typer.Option(min=0, max=0.9, help=_VALID)] = 0.1,
    force: Annotated[bool, typer.Option("--force", help=_FORCE)] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of everything random; by default the run's.")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Take new interactions, users and items into a run, at a fraction of the cost of training it
    again.

    A trained model goes on from its weights; one in closed form is fitted again. The result is
    validated on the newest share of the new log, and refused (exit code 1, RUN stays as it is)
    where RUN is better there.
    """
    from recgraph.files import exchange, remove_folder
    from recgraph.ranks import first_does
    from recgraph.serve.bundle import bundle_of
    from recgraph.train.run import Run

    if (out is None) != replace:
        raise ValueError("say where the new run goes: one of --out NEWRUN and --replace")
    here = run.resolve()
    is_bundle = bundle_of(run) == run
    place = out or here.with_name(f"{here.name}-new")
    updated = Run.of_bundle(run).update(
        data,
        item_features=item_features,
        out=None if replace and is_bundle else place,
        epochs=epochs,
        replay=replay,
        learning_rate=learning_rate,
        valid=valid,
        force=force,
        seed=seed,
        device=device,
        progress=progress_wanted(),
    )
    facts: dict[str, Any] = updated.record.update or {}
    note(
        f"new: {facts['new_interactions']:,} interactions, {facts['new_users']:,} users, "
        f"{facts['new_items']:,} items"
    )
    if facts["by"] == "training":
        note(
            f"trained for {facts['epochs']} epochs on {facts['samples']:,} samples; optimiser {facts['optimiser']}"
        )
    valid_facts = facts["valid"]
    if valid_facts["after"] is not None:
        note(
            f"{valid_facts['metric']} on the newest slice ({valid_facts['users']:,} users): "
            f"{valid_facts['before']:.4f} before, {valid_facts['after']:.4f} after"
        )

    def take_place() -> None:
        if is_bundle:
            updated.save(place)
        before = here.with_name(f"{here.name}-before")
        exchange(place, here)
        remove_folder(before)
        place.rename(before)

    if replace:
        first_does(take_place)
    saved = run if replace else place
    note(f"saved in {saved}; try next: recgraph recommend {shlex.quote(str(saved))} --user ID")
