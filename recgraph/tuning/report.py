"""A study as one HTML file that needs nothing else: history, epochs, importances, slices and Pareto fronts."""

from __future__ import annotations

import datetime as dt
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.data.imprint import replace_page
from recgraph.pages import environment
from recgraph.pages.charts import Axis, Chart, Choices, Figure, Line, Mark, Scale, bars, number
from recgraph.setting_texts import setting_text
from recgraph.tuning.dimension import Dimension
from recgraph.tuning.final import UNSEALED, best_trial, outcomes, test_rows
from recgraph.tuning.options import merge

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["figures", "page", "settings_of", "write_page"]


#: curves of epochs that are drawn, the newest
_MOST_CURVES = 100


def figures(study: Study, names: Sequence[str]) -> list[Figure]:
    """All figures.

    Args:
        study: read as it is now.
        names: of the objectives.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state.name == "COMPLETE" and all(map(math.isfinite, trial.values))]
    best = {trial.number for trial in study.best_trials} if complete else set()
    found = list(_pareto(complete, names, best))
    for index, name in enumerate(names):
        found.append(_history(study, complete, index, name, best))
    if len(names) == 1:
        found.extend(_epochs(trials, best))
    for index, name in enumerate(names):
        found.append(_importances(study, complete, index, name))
    for index, name in enumerate(names):
        found.extend(_slices(complete, index, name, best))
    return found


def _text(trial: FrozenTrial) -> str:
    values = ", ".join(number(value) for value in trial.values or ())
    return f"trial {trial.number}: {values or trial.state.name.lower()}"


def _kind(trial: FrozenTrial, best: set[int]) -> str:
    return "best" if trial.number in best else "complete"


def _in_front(trials: Sequence[FrozenTrial], best: set[int]) -> list[FrozenTrial]:
    """The best ones last, so that nothing lies on top of them."""
    return sorted(trials, key=lambda trial: trial.number in best)


def _history(study: Study, complete: Sequence[FrozenTrial], index: int, name: str, best: set[int]) -> Figure:
    """Each trial's value, and the best so far."""
    trials = study.get_trials(deepcopy=False)
    title = f"History of {name}" if len(study.directions) > 1 else "Optimisation history"
    if not complete:
        return Figure(title, "", "No trial is complete yet.", group="history")
    better = max if study.directions[index].name == "MAXIMIZE" else min
    values = [trial.values[index] for trial in complete]
    line = [(float(complete[0].number), values[0])]
    for trial in complete[1:]:
        so_far = line[-1][1]
        line += [(trial.number, so_far), (trial.number, better(so_far, trial.values[index]))]
    rug = [(t.number, _text(t)) for t in trials if t.state.name in ("PRUNED", "FAIL")]
    marks = [Mark(t.number, t.values[index], _kind(t, best), _text(t)) for t in _in_front(complete, best)]
    numbers = [trial.number for trial in trials]
    chart = Chart(
        title, Scale.of(numbers, whole=True), Scale.of(values), "trial", name, marks, [Line("so-far", line)], rug
    )
    ticks = "; ticks below are trials that were pruned or failed." if rug else "."
    return Figure(title, str(chart), f"The line is the best so far{ticks}", group="history")


def _epochs(trials: Sequence[FrozenTrial], best: set[int]) -> Iterator[Figure]:
    """A curve for each trial that reported epochs."""
    shown = [trial for trial in trials if len(trial.intermediate_values) > 1][-_MOST_CURVES:]
    lines = []
    for trial in _in_front(shown, best):
        kind = "curve pruned" if trial.state.name != "COMPLETE" else f"curve {_kind(trial, best)}"
        points = [(x, y) for x, y in sorted(trial.intermediate_values.items()) if math.isfinite(y)]
        lines.append(Line(kind, points))
    if lines:
        xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
        chart = Chart("Metric by epoch", Scale.of(xs, whole=True), Scale.of(ys), "epoch", "reported metric", (), lines)
        yield Figure(
            "Epochs of each trial",
            str(chart),
            "Broken lines are trials that were pruned or failed.",
            group="history",
        )


def _importances(study: Study, complete: Sequence[FrozenTrial], index: int, name: str) -> Figure:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    title = f"Importance for {name}"
    needs = Figure(
        title, "", "Needs four complete trials that differ in their settings and in their values.", group="importance"
    )
    values = {trial.values[index] for trial in complete}
    if len(complete) < 4 or len(values) < 2:
        return needs
    try:
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0), target=lambda trial: float(trial.values[index])
        )
    except RuntimeError:  # no tree splits: one setting alone, or values that are equal to the last digits
        return needs
    note = f"Share of the variance that a parameter explains (fANOVA over {len(complete)} complete trials)"
    rough = "; a rough guide with so few." if len(complete) < 50 else "."
    return Figure(title, bars(title, found), note + rough, group="importance")


def _slices(complete: Sequence[FrozenTrial], index: int, name: str, best: set[int]) -> Iterator[Figure]:
    """The objective against each parameter."""
    parameters = sorted({parameter for trial in complete for parameter in trial.params})
    for parameter in parameters:
        having = [trial for trial in complete if parameter in trial.params]
        axis = _axis(having, parameter)
        marks = [
            Mark(
                t.params[parameter], t.values[index], _kind(t, best), f"{_text(t)}, {parameter} = {t.params[parameter]}"
            )
            for t in _in_front(having, best)
        ]
        values = Scale.of([trial.values[index] for trial in having])
        title = f"{name} by {parameter}"
        yield Figure(title, str(Chart(title, axis, values, parameter, name, marks)), group="slices")


def _axis(trials: Sequence[FrozenTrial], parameter: str) -> Axis:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    distribution: Any = trials[-1].distributions[parameter]
    if isinstance(distribution, CategoricalDistribution):
        return Choices(tuple(distribution.choices))
    values = [trial.params[parameter] for trial in trials]
    return Scale.of(values, log=distribution.log, whole=isinstance(distribution, IntDistribution))


def _pareto(complete: Sequence[FrozenTrial], names: Sequence[str], best: set[int]) -> Iterator[Figure]:
    """Every two objectives against each other, with the trials that no other beats in all."""
    for one, other in combinations(range(len(names)), 2):
        title = f"Pareto front: {names[one]} and {names[other]}"
        if not complete:
            yield Figure(title, "", "No trial is complete yet.", group="front")
            continue
        marks = [
            Mark(t.values[one], t.values[other], "front" if t.number in best else "complete", _text(t))
            for t in _in_front(complete, best)
        ]
        front = sorted((t.values[one], t.values[other]) for t in complete if t.number in best)
        xs, ys = ([trial.values[axis] for trial in complete] for axis in (one, other))
        chart = Chart(title, Scale.of(xs), Scale.of(ys), names[one], names[other], marks, [Line("so-far", front)])
        note = "Filled: no other trial is better in one and as good in the others."
        yield Figure(title, str(chart), note, group="front")


_GROUPS = {"front": "Pareto front", "history": "History", "importance": "Importances", "slices": "Slices"}


def write_page(study: Study, path: str | Path, dashboard: str = "") -> Path:
    """Write the page of a study, whole or not at all.

    Args:
        study: made by :func:`recgraph.tune`, or any of Optuna's.
        path: of the file.
        dashboard: what optuna-dashboard is to be given, without a password; see ``StudyStorage.dashboard``.
    """
    replace_page(page(study, dashboard), Path(path))
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
        environment("study")
        .get_template("study.html.j2")
        .render(
            name=study.study_name,
            at=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            facts=_facts(study, identity, trials),
            best=best,
            best_values=_named(names, best),
            several=len(names) > 1,
            command=command(study, best) if best is not None and identity else "",
            verdicts=outcomes(study),
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
    given = merge({**source.get("settings", {}), **identity["space"]["fixed"], **_decoded(identity, trial)})
    settings = dict(given)
    selecting = study.user_attrs.get("selecting")
    return settings if selecting is None else {**settings, "metric": selecting}


def command(study: Study, trial: FrozenTrial) -> str:
    """The command that trains a trial's configuration on its own, as the study did."""
    identity, source = study.user_attrs["recgraph"], study.user_attrs.get("source") or {}
    # all of it is from the storage, which others may write to, and is made to be pasted into a shell
    key, seed = (shlex.quote(f"{value}") for value in (identity["model"].rpartition(":")[2], identity["seed"]))
    pairs = [f"--set {shlex.quote(setting_text(*each))}" for each in settings_of(study, trial).items()]
    dataset = shlex.quote(f"{source['dataset']}") if "dataset" in source else "DATASET"
    imports = [each["file"] or each["module"] for each in study.user_attrs.get("imports", ())]
    own = [f"--import {shlex.quote(f'{name}')}" for name in imports]
    parts = [f"recgraph train {key} --dataset {dataset}", f"--seed {seed}", *own, *pairs, "--out runs/best"]
    return " \\\n  ".join(parts)


def _decoded(identity: Mapping[str, Any], trial: FrozenTrial) -> dict[str, Any]:
    """A trial's parameters as the fields take them: choices that are no plain values are kept as JSON."""
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
    facts = {"trials": f"{counted} finished"}
    for state, word in (("PRUNED", "pruned"), ("FAIL", "failed"), ("RUNNING", "running")):
        if states.count(state):
            facts["trials"] += f", {states.count(state)} {word}"
    seconds = sum(trial.duration.total_seconds() for trial in trials if trial.duration is not None)
    if seconds:
        facts["time in trials"] = f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"
    if identity:
        facts |= {"model": identity["model"].rpartition(":")[2]}
        # a study that has just begun, or was killed then, does not say what is asked for yet
        facts |= {name: asked[name] for name in ("sampler", "pruner") if name in asked}
        facts |= {"seed": f"{identity['seed']}", "split": identity["split_hash"][:12]}
        fixed = identity["space"]["fixed"]
        if fixed:
            facts["fixed"] = ", ".join(setting_text(*each).replace("=", " = ", 1) for each in fixed.items())
    source = study.user_attrs.get("source")
    return ({"data set": source["dataset"]} if source and "dataset" in source else {}) | facts


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
    named = {name: entry[name] for name in ("trial", "n_seeds", "at")}
    is_alone = "default" not in entry["results"]
    is_default = is_alone and "default_not_trained" not in entry
    return {**named, "is_alone": is_alone, "is_default": is_default, "rows": cells}


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
