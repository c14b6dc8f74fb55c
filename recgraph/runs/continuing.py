"""A run that goes on in its folder: what may differ from what it was made with, and what is said of anything else.

A run may be given more epochs (``max_epochs``) and more patience, after it was stopped and after it was finished. It is
then the run that the larger numbers would have given at once, as long as no step that is made already depends on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph.config import Config
from recgraph.data.imprint import load_json
from recgraph.runs.record import RunRecord, identity
from recgraph.train.config import FALLING, TrainConfig

__all__ = ["check_same_run", "has_finished_run", "is_complete"]

#: settings of training of which more may be given
_MORE = ("max_epochs", "patience")


def is_complete(folder: Path, record: RunRecord, configs: Mapping[str, type[Config]]) -> bool:
    """Whether a folder has the finished run of a record; one of fewer epochs is not it."""
    if not has_finished_run(folder):
        return False
    here, there = (identity(each.to_json(), configs)["training"] for each in (record, RunRecord.read(folder)))
    return bool(here == there)


def has_finished_run(folder: Path) -> bool:
    """Whether a folder has a finished run, of whatever settings."""
    return (folder / "record.json").is_file() and (folder / "bundle").is_dir()


def check_same_run(folder: Path, record: RunRecord, configs: Mapping[str, type[Config]]) -> None:
    """Refuse to go on with another run than the one in a folder, or with one that more epochs would make another.

    Args:
        folder: with ``config.json``.
        record: of the run that is asked for.
        configs: see :func:`recgraph.runs.record.identity`.

    Raises:
        ValueError: names the settings that differ, or says why the run cannot have these epochs or this patience.
    """
    there = identity(load_json(folder / "config.json"), configs)
    here = identity(record.to_json(), configs)
    others = []
    for part, value in here.items():
        differing = _differing(there.get(part), value)
        if part == "training":
            differing = {name: pair for name, pair in differing.items() if name not in _MORE}
            if not differing:
                continue
        if there.get(part) != value:
            named = ", ".join(f"{name} = {_shown(was)}, now {_shown(now)}" for name, (was, now) in differing.items())
            others.append(f"{part} ({named})" if named else part)
    if others:
        raise ValueError(
            f"{folder} holds a run with another {', '.join(others)}; resume it with the same settings; it may be given "
            f"more epochs and patience only ({', '.join(_MORE)})"
        )
    _check_more(folder, there.get("training") or {}, configs["training"].of(record.training))


def _differing(was: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Setting -> its two values, where two mappings of settings differ; of single values the value itself is named."""
    if not isinstance(now, Mapping) or not isinstance(was, Mapping):
        return {}
    names = dict.fromkeys([*now, *was])
    return {name: (was.get(name), now.get(name)) for name in names if was.get(name) != now.get(name)}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_more(folder: Path, was: Mapping[str, Any], now: Any) -> None:
    """Refuse fewer epochs or less patience, and more epochs where the rate of earlier steps depends on them."""
    assert isinstance(now, TrainConfig)
    if "max_epochs" not in was:
        return
    before = was["max_epochs"]
    if now.max_epochs < before:
        raise ValueError(
            f"max_epochs = {now.max_epochs}: {folder} holds a run of {before} epochs, and a run is not made shorter; "
            f"give at least {before}, or another folder"
        )
    patience = was["patience"]
    if now.patience is not None and (patience is None or now.patience < patience):
        raise ValueError(
            f"patience = {now.patience}: {folder} holds a run of patience {'none' if patience is None else patience}; "
            "with less it would have stopped elsewhere; give at least that, or another folder"
        )
    if now.max_epochs > before and now.schedule in FALLING and now.schedule_epochs is None:
        raise ValueError(
            f"max_epochs = {now.max_epochs}: the {now.schedule} schedule of the run in {folder} brings the learning "
            f"rate down to 0 over its {before} epochs; stretched to {now.max_epochs} it would have been another at "
            f"every step that is made already. Train anew in another folder with max_epochs={now.max_epochs}; or, so "
            f"that more epochs can follow, with schedule='constant', or with schedule_epochs={now.max_epochs} and a "
            "smaller max_epochs"
        )
