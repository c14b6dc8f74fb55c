"""Fit twice: choose the number of epochs on the validation part of a split, then fit anew on everything for so many."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recgraph.config import ConfigError
from recgraph.data.files import contents
from recgraph.data.imprint import load_json
from recgraph.data.split import FitPart, SealedSplit, Split
from recgraph.data.strategies import EVERYTHING
from recgraph.models.base import Model, TrainableModel
from recgraph.ranks import of_all
from recgraph.runs.fit_split import fit_split
from recgraph.runs.fitting import FitOptions
from recgraph.runs.pretrained import Scale
from recgraph.runs.record import SELECTION
from recgraph.runs.run import Run
from recgraph.train.config import FALLING, TrainConfig
from recgraph.workers.lock import LOCK

__all__ = ["refit_split"]

#: entries of the selection's record that the record of the refit keeps
_KEPT = ("training", "best_epoch", "best", "history", "cost")
_log = logging.getLogger(__name__)


def refit_split(
    model: Model,
    split: Split | SealedSplit,
    options: FitOptions,
    fit_on: FitPart,
    init_items: Any,
    init_items_scale: Scale,
    source: Mapping[str, Any],
) -> Run:
    """Select on a split, in the folder ``selection`` of the run's, and fit to ``fit_on`` for as many epochs.

    The number of epochs is what is carried over, so that every interaction is read as often as in the selection; with
    more interactions an epoch has more steps. A linear or cosine schedule keeps the selection's length in epochs and
    ends where the best epoch was; a step schedule drops after the same epochs; a warm-up keeps its number of steps. A
    model that is fitted in one step has nothing to select, and is fitted to ``fit_on`` straight away. Observers of
    ``options`` see the selection.

    Raises:
        ConfigError: ``metric`` selects on nothing.
        ValueError: the data is not split, ``fit_on`` is train, or the folder holds something else.
    """
    if fit_on == "train":
        raise ValueError("fit_on = 'train' is what refit=True selects on; leave it out (all), or give 'train+valid'")
    more = (init_items, init_items_scale, source)
    if not isinstance(model, TrainableModel):
        _log.info("%s is fitted in one step and has no epoch to choose: fitted to %s at once", model.key(), fit_on)
        return fit_split(model, split, options, fit_on, *more)
    if split.name == EVERYTHING:
        raise ValueError(
            "refit=True chooses the number of epochs on a validation part, and data is not split; give "
            "data.split('leave-one-out')"
        )
    if options.config.metric in ("loss", "last"):
        raise ConfigError(
            f"metric = {options.config.metric!r} chooses nothing on the validation part, which is what refit=True is "
            "for; give a validation metric such as 'ndcg@10'"
        )
    folder = options.folder
    of_all(lambda: _check_folder(folder, options.resume))  # all look before one writes
    inside = None if folder is None else folder / SELECTION
    first = fit_split(type(model)(model.config), split, replace(options, folder=inside), "train", *more)
    epochs, found = first.record.best_epoch or 0, first.record
    _log.info(
        "epoch %d of %d is the best on the validation part, with %s %s; now a new fit to %s, of %d epochs",
        epochs,
        len(found.history),
        options.config.metric,
        "unknown" if found.best is None else f"{found.best:.4f}",
        fit_on,
        epochs,
    )
    config = _without_selection(options.config, epochs, folder)
    kept = found.only(*_KEPT)
    then = replace(options, config=config, observers=(), beside=(SELECTION,), selection=kept)
    run = fit_split(model, split, then, fit_on, *more)
    run.selection = first
    if run.record.selection != kept:  # the selection has gone on with more epochs
        run.record.selection = kept
        run.write_record()
    return run


def _without_selection(config: TrainConfig, epochs: int, folder: Path | None) -> TrainConfig:
    """The same training of exactly so many epochs, whose learning rates are those of the selection's epochs."""
    length = config.schedule_epochs
    if config.schedule in FALLING and length is None and not _says_no_length(folder, config.max_epochs):
        length = max(1, config.max_epochs)
    more = {"metric": "last", "patience": None, "max_epochs": epochs, "schedule_epochs": length}
    return TrainConfig.of({**config.model_dump(), **more})


def _says_no_length(folder: Path | None, max_epochs: int) -> bool:
    """Whether a fit is there that an earlier version made, which gave no length where the best epoch was the last."""
    path = None if folder is None else folder / "config.json"
    if path is None or not path.exists():
        return False
    training = load_json(path).get("training") or {}
    return training.get("max_epochs") == max_epochs and training.get("schedule_epochs") is None


def _check_folder(folder: Path | None, resume: bool) -> None:
    """Refuse a folder that holds something else, before the selection is trained into it."""
    if folder is None or not folder.exists():
        return
    is_run, is_refit = ((each / "config.json").exists() for each in (folder, folder / SELECTION))
    if not is_run and contents(folder) - {LOCK, SELECTION}:
        raise ValueError(f"{folder} exists and is not a run; give an empty or new folder")
    if (is_run or is_refit) and not resume:
        raise ValueError(f"{folder} holds a run already; use resume=True (--resume) or another folder")
    if is_run and not is_refit:
        raise ValueError(f"{folder} holds a run that was not made with refit=True (--refit); give another folder")
