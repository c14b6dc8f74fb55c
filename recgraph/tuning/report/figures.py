"""The figures of a study: history, epochs, importances, slices, Pareto fronts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from recgraph.charts.axes import Axis, Choices, Scale, number
from recgraph.charts.chart import Chart, Line, Mark, bars

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["Figure", "figures"]

#: curves of epochs that are drawn, the newest
_MOST_CURVES = 100


@dataclass(frozen=True)
class Figure:
    """A chart with its heading; ``note`` says what cannot be seen. ``svg`` is empty where there is nothing to show."""

    group: str
    title: str
    svg: str
    note: str = ""


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


def _told(trial: FrozenTrial) -> str:
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
        return Figure("history", title, "", "No trial is complete yet.")
    better = max if study.directions[index].name == "MAXIMIZE" else min
    values = [trial.values[index] for trial in complete]
    line = [(float(complete[0].number), values[0])]
    for trial in complete[1:]:
        so_far = line[-1][1]
        line += [(trial.number, so_far), (trial.number, better(so_far, trial.values[index]))]
    rug = [(t.number, _told(t)) for t in trials if t.state.name in ("PRUNED", "FAIL")]
    marks = [Mark(t.number, t.values[index], _kind(t, best), _told(t)) for t in _in_front(complete, best)]
    numbers = [trial.number for trial in trials]
    chart = Chart(
        title, Scale.of(numbers, whole=True), Scale.of(values), "trial", name, marks, [Line("so-far", line)], rug
    )
    ticks = "; ticks below are trials that were pruned or failed." if rug else "."
    return Figure("history", title, str(chart), f"The line is the best so far{ticks}")


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
            "history", "Epochs of each trial", str(chart), "Broken lines are trials that were pruned or failed."
        )


def _importances(study: Study, complete: Sequence[FrozenTrial], index: int, name: str) -> Figure:
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    title = f"Importance for {name}"
    needs = Figure(
        "importance", title, "", "Needs four complete trials that differ in their settings and in their values."
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
    return Figure("importance", title, bars(title, found), note + rough)


def _slices(complete: Sequence[FrozenTrial], index: int, name: str, best: set[int]) -> Iterator[Figure]:
    """The objective against each parameter."""
    parameters = sorted({parameter for trial in complete for parameter in trial.params})
    for parameter in parameters:
        having = [trial for trial in complete if parameter in trial.params]
        axis = _axis(having, parameter)
        marks = [
            Mark(
                t.params[parameter], t.values[index], _kind(t, best), f"{_told(t)}, {parameter} = {t.params[parameter]}"
            )
            for t in _in_front(having, best)
        ]
        values = Scale.of([trial.values[index] for trial in having])
        title = f"{name} by {parameter}"
        yield Figure("slices", title, str(Chart(title, axis, values, parameter, name, marks)))


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
            yield Figure("front", title, "", "No trial is complete yet.")
            continue
        marks = [
            Mark(t.values[one], t.values[other], "front" if t.number in best else "complete", _told(t))
            for t in _in_front(complete, best)
        ]
        front = sorted((t.values[one], t.values[other]) for t in complete if t.number in best)
        xs, ys = ([trial.values[axis] for trial in complete] for axis in (one, other))
        chart = Chart(title, Scale.of(xs), Scale.of(ys), names[one], names[other], marks, [Line("so-far", front)])
        yield Figure("front", title, str(chart), "Filled: no other trial is better in one and as good in the others.")
