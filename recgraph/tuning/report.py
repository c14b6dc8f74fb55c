"""What a study found: its best trial, the test of it against the default configuration, what each
parameter matters.
"""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Any

from recgraph.config import assignments, merged, put, setting_text
from recgraph.tuning.space import Dimension

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

#: the study's attribute with the results of each test
UNSEALED = "unsealed"


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; with several objectives, of the Pareto front the best in the first
    one.

    Of equal ones it is the first: a storage that named another each time would have each of them
    tested.
    """
    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    front = study.best_trials if complete and len(study.directions) > 1 else complete
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    return max(front, key=lambda trial: (sign * trial.values[0], -trial.number), default=None)


def settings_of(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """All settings with which a trial's configuration is trained on its own, as the study did."""
    identity, source = study.user_attrs["recgraph"], study.user_attrs.get("source") or {}
    searched = identity["space"]["searched"]
    settings = merged(source.get("settings", {}), identity["space"]["fixed"])
    for name, value in trial.params.items():  # choices that are no plain values are kept as JSON
        choices = searched.get(name, {}).get("choices")
        put(
            settings,
            name.split("."),
            Dimension(name, choices=tuple(choices)).decode(value) if choices else value,
        )
    selecting = study.user_attrs.get("selecting")
    return settings if selecting is None else {**settings, "metric": selecting}


def command(study: Study, trial: FrozenTrial) -> str:
    """The command that trains a trial's configuration on its own as the study did, with the seed of
    its test if any.
    """
    identity, source = study.user_attrs["recgraph"], study.user_attrs.get("source") or {}
    model, dataset = identity["model"].rpartition(":")[2], source.get("dataset", "DATASET")
    seeds = {
        each["trial"]: each["seeds"][0]
        for each in study.user_attrs.get(UNSEALED, ())
        if "seeds" in each
    }
    imports = [each["file"] or each["module"] for each in study.user_attrs.get("imports", ())]
    words = [
        "recgraph",
        "train",
        model,
        "--dataset",
        dataset,
        "--seed",
        f"{seeds.get(trial.number, identity['seed'])}",
    ]
    words += [word for name in imports for word in ("--import", name)]
    words += [
        word
        for each in assignments(settings_of(study, trial))
        for word in ("--set", setting_text(*each))
    ]
    return shlex.join([*words, "--out", "runs/best"])


def described(study: Study) -> list[str]:
    """Lines on a study, running or done: its trials, the best one with the command that trains it,
    and its test.
    """
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    lines = [
        f"{len(states)} trials: {', '.join(f'{states.count(each)} {each}' for each in sorted({*states}))}"
    ]
    best, identity = best_trial(study), study.user_attrs.get("recgraph") or {}
    if best is None:
        return [*lines, "no trial is complete"]
    names = identity.get("metrics") or [f"value {place}" for place, _ in enumerate(best.values)]
    values = ", ".join(
        f"{name} {value:.4f}" for name, value in zip(names, best.values, strict=True)
    )
    lines.append(f"best: trial {best.number}, on valid {values}, with")
    lines += [f"  {name} = {value}" for name, value in best.params.items()]
    if len(names) > 1:
        lines.append(
            f"it is one of {len(study.best_trials)} on the Pareto front, the best of them in {names[0]}"
        )
    return [
        *lines,
        *outcomes(study),
        *([f"to train it alone: {command(study, best)}"] if identity else []),
    ]


def importances(study: Study) -> list[dict[str, Any]]:
    """One row a parameter: the share of the first objective's variance that it explains (fANOVA),
    the greatest first.

    Empty with fewer than four complete trials, or where they do not differ.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    complete = [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"
    ]
    values = {trial.values[0] for trial in complete}
    if len(complete) < 4 or len(values) < 2 or not all(map(math.isfinite, values)):
        return []
    evaluator = FanovaImportanceEvaluator(seed=0)
    try:
        found = get_param_importances(
            study, evaluator=evaluator, target=lambda trial: float(trial.values[0])
        )
    except (
        RuntimeError
    ):  # no tree splits: one setting alone, or values that are equal to the last digits
        return []
    return [{"parameter": name, "importance": share} for name, share in found.items()]


def _last(study: Study) -> dict[str, Any]:
    """The newest test; empty where the test part is sealed."""
    tested = study.user_attrs.get(UNSEALED)
    return dict(tested[-1]) if tested else {}


def outcomes(study: Study) -> list[str]:
    """Lines with the difference of the tuned and the default configuration on test, its interval
    and its p-value; or why the default configuration was not trained; first, where the test is of
    an earlier best trial, that it is."""
    last, best, lines = _last(study), best_trial(study), list[str]()
    if last and best is not None and last["trial"] != best.number:
        lines.append(
            f"trial {best.number} is not tested yet (--test-seeds 3 tests it): the test is of trial {last['trial']}"
        )
    if (why := last.get("default_not_trained")) is not None:
        return [*lines, f"the default configuration cannot be trained: {why}"]
    comparison = last.get("comparison") or {}
    return lines + [
        f"test, seen items {'kept' if seen == 'keep' else 'excluded'}: tuned less default {each['metric']} "
        f"{each['difference']:+.4f} ({each['confidence']:.0%} interval {each['low']:+.4f} to {each['high']:+.4f}, "
        f"p = {each['p']:.2g}, {each['n_users']} users): {_conclusion(each)}"
        for seen, each in comparison.items()
    ]


def _conclusion(difference: dict[str, Any]) -> str:
    if difference["p"] >= 1 - difference["confidence"]:
        return "no difference that is more than chance"
    return "the tuned one is better" if difference["difference"] > 0 else "the tuned one is worse"


def test_rows(study: Study) -> list[dict[str, Any]]:
    """One row a test metric: of the best and of the default configuration, means over seeds."""
    results = _last(study).get("results", {})
    rows = []
    for seen, metrics in results.get("tuned", {}).items():
        for name, tuned in metrics.items():
            row = {"metric": name, "seen": seen, "tuned": tuned["mean"], "tuned std": tuned["std"]}
            default = results.get("default")
            if default is not None:
                row |= {
                    "default": default[seen][name]["mean"],
                    "default std": default[seen][name]["std"],
                }
            rows.append(row)
    return rows
