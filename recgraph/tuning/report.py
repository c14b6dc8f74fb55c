"""What a study found: its best trial, the test of it against the default configuration, what each
parameter matters.
"""

from __future__ import annotations

import shlex
from collections import Counter
from typing import TYPE_CHECKING, Any

from recgraph.config import assignments, merged, put, setting_text
from recgraph.tuning.space import Dimension

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

#: the study's attribute with the results of each test
UNSEALED = "unsealed"
#: convention of seen items -> what is said of it
_SEEN = {"keep": "kept", "exclude": "excluded"}
#: fANOVA of fewer trials says nothing
_FEWEST_TRIALS = 4


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; with several objectives, of the Pareto front the best in the first
    one.

    Of equal ones it is the first: a storage that named another each time would have each of them
    tested.
    """
    sign = 1 if study.directions[0].name == "MAXIMIZE" else -1
    return max(
        study.best_trials,
        key=lambda trial: (sign * trial.values[0], -trial.number),
        default=None,
    )


def settings_of(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """All settings with which a trial's configuration is trained on its own, as the study did."""
    space = study.user_attrs["recgraph"]["space"]
    settings = merged(study.user_attrs["source"].get("settings", {}), space["fixed"])
    for name, value in trial.params.items():  # choices that are no plain values are kept as JSON
        dimension = Dimension(name, choices=space["searched"][name].get("choices"))
        put(settings, name.split("."), dimension.decode(value))
    metric = study.user_attrs["selecting"]
    if metric is not None:
        settings["metric"] = metric
    return settings


def command(study: Study, trial: FrozenTrial) -> str:
    """The command that trains a trial's configuration on its own as the study did, with the seed of
    its test if any.
    """
    identity = study.user_attrs["recgraph"]
    model = identity["model"].rpartition(":")[2]
    dataset = study.user_attrs["source"].get("dataset", "DATASET")
    seed = identity["seed"]
    for test in study.user_attrs.get(UNSEALED, ()):
        if test["trial"] == trial.number:
            seed = test["seeds"][0]
    words = ["recgraph", "train", model, "--dataset", dataset, "--seed", str(seed)]
    for module in study.user_attrs["imports"]:
        words += ["--import", module["file"] or module["module"]]
    for name, value in assignments(settings_of(study, trial)):
        words += ["--set", setting_text(name, value)]
    return shlex.join([*words, "--out", "runs/best"])


def described(study: Study) -> list[str]:
    """Lines on a study, running or done: its trials, the best one with the command that trains it,
    and its test.
    """
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states).items()))
    lines = [f"{len(states)} trials: {counts}"]
    best = best_trial(study)
    if best is None:
        return [*lines, "no trial is complete"]
    names = study.user_attrs["recgraph"]["metrics"]
    values = ", ".join(
        f"{name} {value:.4f}" for name, value in zip(names, best.values, strict=True)
    )
    lines.append(f"best: trial {best.number}, on valid {values}, with")
    lines += [f"  {name} = {value}" for name, value in best.params.items()]
    if len(names) > 1:
        lines.append(
            f"it is one of {len(study.best_trials)} on the Pareto front, the best of them in {names[0]}"
        )
    return [*lines, *outcomes(study), f"to train it alone: {command(study, best)}"]


def importances(study: Study) -> list[dict[str, Any]]:
    """One row a parameter: the share of the first objective's variance that it explains (fANOVA),
    the greatest first.

    Empty with fewer than four complete trials, or where they do not differ.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _FEWEST_TRIALS:
        return []
    try:
        shares = get_param_importances(
            study,
            evaluator=FanovaImportanceEvaluator(seed=0),
            target=lambda trial: float(trial.values[0]),
        )
    except RuntimeError:
        # no tree splits: one setting alone, or values that are equal to the last digits
        return []
    return [{"parameter": name, "importance": share} for name, share in shares.items()]


def _last_test(study: Study) -> dict[str, Any]:
    """The newest test; empty where the test part is sealed."""
    return dict(study.user_attrs.get(UNSEALED, [{}])[-1])


def outcomes(study: Study) -> list[str]:
    """Lines with the difference of the tuned and the default configuration on test, its interval
    and its p-value; or why the default configuration was not trained; first, where the test is of
    an earlier best trial, that it is."""
    test = _last_test(study)
    best = best_trial(study)
    if not test or best is None:
        return []
    lines = []
    if test["trial"] != best.number:
        lines.append(
            f"trial {best.number} is not tested yet (--test-seeds 3 tests it): the test is of trial {test['trial']}"
        )
    if "default_not_trained" in test:
        lines.append(f"the default configuration cannot be trained: {test['default_not_trained']}")
    for seen, row in (test["comparison"] or {}).items():
        lines.append(
            f"test, seen items {_SEEN[seen]}: tuned less default {row['metric']} {row['difference']:+.4f} "
            f"({row['confidence']:.0%} interval {row['low']:+.4f} to {row['high']:+.4f}, p = {row['p']:.2g}, "
            f"{row['n_users']} users): {_conclusion(row)}"
        )
    return lines


def _conclusion(row: dict[str, Any]) -> str:
    if row["p"] >= 1 - row["confidence"]:
        return "no difference that is more than chance"
    return "the tuned one is better" if row["difference"] > 0 else "the tuned one is worse"


def test_rows(study: Study) -> list[dict[str, Any]]:
    """One row a test metric: of the best and of the default configuration, means over seeds."""
    results = _last_test(study).get("results", {})
    rows = []
    for seen, metrics in results.get("tuned", {}).items():
        for name, tuned in metrics.items():
            row = {"metric": name, "seen": seen, "tuned": tuned["mean"], "tuned std": tuned["std"]}
            if "default" in results:
                default = results["default"][seen][name]
                row |= {"default": default["mean"], "default std": default["std"]}
            rows.append(row)
    return rows
