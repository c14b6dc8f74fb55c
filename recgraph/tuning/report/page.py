"""``write_page``: a study as one HTML file that needs nothing else."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.charts.axes import number
from recgraph.charts.pages import environment
from recgraph.config import setting_text
from recgraph.data.files import replace_text
from recgraph.tuning.final import UNSEALED, best_trial
from recgraph.tuning.report.figures import figures
from recgraph.tuning.verdict import test_rows, verdicts

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["page", "settings_of", "write_page"]

_GROUPS = {"front": "Pareto front", "history": "History", "importance": "Importances", "slices": "Slices"}


def write_page(study: Study, path: str | Path, dashboard: str = "") -> Path:
    """Write the page of a study, whole or not at all.

    Args:
        study: made by :func:`recgraph.tune`, or any of Optuna's.
        path: of the file.
        dashboard: what optuna-dashboard is to be given, without a password; see ``StudyStorage.dashboard``.
    """
    replace_text(page(study, dashboard), Path(path))
    return Path(path)


def page(study: Study, dashboard: str = "") -> str:
    """The page as text."""
    identity: dict[str, Any] = study.user_attrs.get("recgraph", {})
    names = identity.get("metrics") or study.metric_names or [f"value {i}" for i, _ in enumerate(study.directions)]
    trials = study.get_trials(deepcopy=False)
    drawn = figures(study, names)
    best = best_trial(study)
    parameters = sorted({name for trial in trials for name in trial.params})
    return (
        environment("recgraph.tuning.report")
        .get_template("study.html.j2")
        .render(
            name=study.study_name,
            at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            facts=_facts(study, identity, trials),
            best=best,
            best_values=_named(names, best),
            several=len(names) > 1,
            command=command(study, best) if best is not None and identity else "",
            verdicts=verdicts(study),
            tested=_tested(study),
            groups={title: [f for f in drawn if f.group == group] for group, title in _GROUPS.items()},
            names=names,
            parameters=parameters,
            rows=[_row(trial, names, parameters, best) for trial in reversed(trials)],
            dashboard=f"optuna-dashboard {shlex.quote(dashboard)}" if dashboard else "",
        )
    )


def settings_of(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """All settings with which a trial's configuration is trained on its own, as the study did."""
    identity, source = study.user_attrs["recgraph"], study.user_attrs.get("source") or {}
    settings = {**source.get("settings", {}), **identity["space"]["fixed"], **_decoded(identity, trial)}
    selecting = study.user_attrs.get("selecting")
    return settings if selecting is None else {**settings, "metric": selecting}


def command(study: Study, trial: FrozenTrial) -> str:
    """The command that trains a trial's configuration on its own, as the study did."""
    identity, source = study.user_attrs["recgraph"], study.user_attrs.get("source") or {}
    # all of it is from the storage, which others may write to, and is made to be pasted into a shell
    key, seed = (shlex.quote(f"{value}") for value in (identity["model"].rpartition(":")[2], identity["seed"]))
    pairs = [f"--set {shlex.quote(setting_text(*each))}" for each in settings_of(study, trial).items()]
    dataset = shlex.quote(f"{source['dataset']}") if "dataset" in source else "DATASET"
    parts = [f"recgraph train {key} --dataset {dataset}", f"--seed {seed}", *pairs, "--out runs/best"]
    return " \\\n  ".join(parts)


def _decoded(identity: Mapping[str, Any], trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters as the fields take them: choices that are no plain values are kept as JSON."""
    from recgraph.tuning.dimension import Dimension

    found = {}
    for name, value in trial.params.items():
        choices = identity["space"]["searched"].get(name, {}).get("choices")
        found[name] = Dimension(name, choices=tuple(choices)).decode(value) if choices else value
    return found


def _facts(study: Study, identity: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> dict[str, str]:
    """What is known of the study, for the head of the page."""
    states = [trial.state.name for trial in trials]
    finished = states.count("COMPLETE") + states.count("PRUNED")
    asked = study.user_attrs.get("asked", {})
    counted = f"{finished} of {asked['n_trials']}" if asked else f"{finished}"
    told = {"trials": f"{counted} finished"}
    for state, word in (("PRUNED", "pruned"), ("FAIL", "failed"), ("RUNNING", "running")):
        if states.count(state):
            told["trials"] += f", {states.count(state)} {word}"
    seconds = sum(trial.duration.total_seconds() for trial in trials if trial.duration is not None)
    if seconds:
        told["time in trials"] = f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"
    if identity:
        told |= {"model": identity["model"].rpartition(":")[2], "sampler": asked["sampler"], "pruner": asked["pruner"]}
        told |= {"seed": f"{identity['seed']}", "split": identity["split_hash"][:12]}
        fixed = identity["space"]["fixed"]
        if fixed:
            told["fixed"] = ", ".join(setting_text(*each).replace("=", " = ", 1) for each in fixed.items())
    source = study.user_attrs.get("source")
    return ({"data set": source["dataset"]} if source else {}) | told


def _tested(study: Study) -> dict[str, Any]:
    """The last test, for its table."""
    rows = test_rows(study)
    if not rows:
        return {}
    entry = study.user_attrs[UNSEALED][-1]
    cells = [
        {name: f"{v:.4f}" if isinstance(v, float) else "" if v is None else v for name, v in row.items()}
        for row in rows
    ]
    return {"trial": entry["trial"], "n_seeds": entry["n_seeds"], "at": entry["at"], "rows": cells}


def _named(names: Sequence[str], trial: FrozenTrial | None) -> dict[str, str]:
    if trial is None:
        return {}
    return {name: f"{value:.4f}" for name, value in zip(names, trial.values, strict=True)}


def _row(
    trial: FrozenTrial, names: Sequence[str], parameters: Sequence[str], best: FrozenTrial | None
) -> dict[str, Any]:
    """A line of the table of trials."""
    values = [f"{value:.4f}" for value in trial.values or ()] or [""] * len(names)
    seconds = "" if trial.duration is None else f"{trial.duration.total_seconds():.1f}"
    params = [_cell(trial.params.get(name, "")) for name in parameters]
    state = "best" if best is not None and trial.number == best.number else trial.state.name.lower()
    reason = trial.user_attrs.get("reason", "")
    return {"number": trial.number, "state": state, "reason": reason, "cells": [*values, seconds, *params]}


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else f"{value}"
