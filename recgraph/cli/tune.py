"""``recgraph tune``: search a model's settings on validation data, then test the best once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.errors import Failure
from recgraph.cli.output import FormatOption, note, show

if TYPE_CHECKING:
    from optuna import Study


class Sampler(StrEnum):
    """What chooses the next trial."""

    TPE = "tpe"
    CMAES = "cmaes"
    GP = "gp"
    RANDOM = "random"
    GRID = "grid"
    NSGA2 = "nsga2"


class Pruner(StrEnum):
    """What ends trials early."""

    NONE = "none"
    MEDIAN = "median"
    HYPERBAND = "hyperband"
    HALVING = "halving"
    WILCOXON = "wilcoxon"


_SET = "A setting of the model, of training or of the data that is not searched; may be given many times."
_METRIC = "A validation metric; given twice, e.g. with 'seconds', both are searched."
_STORAGE = "journal:///FILE, sqlite:///FILE or postgresql://USER@HOST/DATABASE; by default a journal in --out."
_SPACE = 'A TOML file: key = value fixes, key = [..] lists, key = {low, high, log, step} ranges, "*" = "fixed".'


def tune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that `recgraph models` lists.")],
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="A data set that `recgraph data list` shows.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The study's folder; the same goes on with it.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help=_METRIC)] = None,
    trials: Annotated[int, typer.Option(min=1, help="Finished trials of the study in total, pruned ones too.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    storage: Annotated[str | None, typer.Option(metavar="URL", help=_STORAGE)] = None,
    study: Annotated[str | None, typer.Option(help="The study's name; by default model-dataset-metric.")] = None,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help=_SPACE)] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="[default: tpe; of two metrics nsga2]")] = None,
    pruner: Annotated[Pruner | None, typer.Option(help="[default: median; of two metrics none]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler and of every trial.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    test_seeds: Annotated[int, typer.Option(min=0, help="Last trainings, tested once; 0: no test.")] = 3,
    device: Annotated[str | None, typer.Option(help="Where to compute; else the best.")] = None,
    form: FormatOption = None,
) -> None:
    """Tune MODEL's settings on the validation part of a data set, and test the best configuration once.

    The same command goes on with a study that was stopped, and other machines join through --storage.
    """
    from recgraph.tuning.study import tune as run
    from recgraph.tuning.team import WorkerFailed

    metrics = tuple(metric or ["ndcg@10"])
    fixed, split = _settings_and_split(model, dataset, settings or [])
    name = study or f"{model}-{dataset}-{'-'.join(metrics)}"
    try:
        found = run(
            model,
            split,
            space,
            trials,
            metric=metrics,
            settings=fixed,
            seed=seed,
            sampler=sampler.value if sampler else None,
            pruner=pruner.value if pruner else None,
            workers=workers,
            storage=storage,
            study=name,
            out=out,
            device=device,
            test_seeds=test_seeds,
            progress=True,
        )
    except WorkerFailed as error:
        raise Failure(str(error)) from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"study {name!r} is kept; the same command goes on with it") from None
    _report(found, metrics, out, storage)
    show(_rows(found), form)


def _settings_and_split(model: str, dataset: str, pairs: list[str]) -> tuple[dict[str, Any], Any]:
    """The fixed settings of model and training, and the split that those of the data make."""
    from recgraph import registry
    from recgraph.config import distribute, parse_settings
    from recgraph.models.base import TrainableModel
    from recgraph.run import DataConfig
    from recgraph.train.config import TrainConfig

    cls = registry.load("model", model)
    training = {"training": TrainConfig} if issubclass(cls, TrainableModel) else {}
    parts = distribute(parse_settings(pairs), {"model": cls.Config, **training, "data": DataConfig})
    split = DataConfig.of(parts["data"]).split_of(dataset)
    return {**parts["model"], **parts.get("training", {})}, split


def _report(study: Study, metrics: tuple[str, ...], out: Path, storage: str | None) -> None:
    """Say what was found, to the person."""
    from recgraph.tuning.final import best_trial
    from recgraph.tuning.storage import without_password

    best = best_trial(study)
    if best is None:
        note("no trial is complete: all were pruned; see the reasons in trials/*/trial.json")
        return
    values = ", ".join(f"{name} {value:.4f}" for name, value in zip(metrics, best.values, strict=True))
    note(f"best: trial {best.number} of {len(study.trials)}, on valid {values}, with")
    for name, value in best.params.items():
        note(f"  {name} = {value}")
    for line in _verdicts(study):
        note(line)
    where = without_password(storage) if storage else out / "study.journal"
    note(f"kept in {out}; look at the study: optuna-dashboard {where}")


def _verdicts(study: Study) -> list[str]:
    """Whether the tuned configuration beats the default one on test, with how sure that is."""
    from recgraph.tuning.final import UNSEALED

    tested = study.user_attrs.get(UNSEALED)
    told = (tested[-1]["comparison"] if tested else None) or {}
    return [
        f"test, seen items {'kept' if seen == 'keep' else 'excluded'}: tuned less default {each['metric']} "
        f"{each['difference']:+.4f} ({each['confidence']:.0%} interval {each['low']:+.4f} to {each['high']:+.4f}, "
        f"p = {each['p']:.2g}, {each['n_users']} users): {_verdict(each)}"
        for seen, each in told.items()
    ]


def _verdict(told: dict[str, Any]) -> str:
    if told["p"] >= 1 - told["confidence"]:
        return "no difference that is more than chance"
    return "the tuned one is better" if told["difference"] > 0 else "the tuned one is worse"


def _rows(study: Study) -> list[dict[str, Any]]:
    """One row a test metric: of the best and of the default configuration, means over seeds."""
    from recgraph.tuning.final import UNSEALED

    tested = study.user_attrs.get(UNSEALED)
    if not tested:
        return []
    rows = []
    for seen, metrics in tested[-1]["results"]["tuned"].items():
        for name, tuned in metrics.items():
            row = {"metric": name, "seen": seen, "tuned": tuned["mean"], "tuned std": tuned["std"]}
            default = tested[-1]["results"].get("default")
            if default is not None:
                row |= {"default": default[seen][name]["mean"], "default std": default[seen][name]["std"]}
            rows.append(row)
    return rows
