"""The searches: one study for each component of a base, all with the same budget, on the valid part alone.

A study works in a folder that git does not keep, and leaves a record in ``experiments/results/components/studies``; one
that has its record is not run again, one that was stopped goes on. No study opens the test part (``--test-seeds 0``).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.components.plan import BASES, ITSELF, Component
from experiments.tuned import record
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.files import replace_text
from recgraph.models.base import Space
from recgraph.setting_texts import toml_text
from recgraph.tuning.final import best_trial
from recgraph.tuning.finding import find_study
from recgraph.tuning.options import merge
from recgraph.tuning.report import settings_of

RESULTS = Path(__file__).parents[1] / "results" / "components"
#: kinds of which the best of each is taken together, in the place of one another's base
TOGETHER = 3


def study_record(dataset: str, base: str, component: Component) -> Path:
    """Where the record of a study is kept."""
    return RESULTS / "studies" / dataset / base / f"{component.stem}.json"


def search(dataset: str, base: str, component: Component, trials: int, work: Path) -> str:
    """Search one component; what came of it in a word: ``kept``, ``made`` or why it does not apply."""
    path = study_record(dataset, base, component)
    if path.exists():
        return "kept"
    chosen = BASES[base]
    fixed: dict[str, Any] = {**chosen.settings[dataset], **chosen.split.get(dataset, {}), **component.settings}
    space = {**{name: of for name, of in chosen.common.items() if name not in fixed}, **component.space, "*": "fixed"}
    folder = work / dataset / base / component.stem
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "space.toml").write_text("".join(f"{json.dumps(name)} = {toml_text(of)}\n" for name, of in space.items()))
    settings = [f"--set={name}={toml_text(value)}" for name, value in fixed.items() if name != "metric"]
    command = [
        *(sys.executable, "-m", "recgraph", "tune", chosen.model, "--dataset", dataset, "--metric", fixed["metric"]),
        *("--trials", str(trials), "--workers", "1", "--space", str(folder / "space.toml"), "--test-seeds", "0"),
        *("--out", str(folder / "study"), "--study", f"{base}-{dataset}-{component.stem}", *settings),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    replace_text(json.dumps(_record(folder / "study"), indent=1) + "\n", path)
    return "made"


def _record(folder: Path) -> dict[str, Any]:
    """The record of a study that opened no test part, with the settings of its best trial as boards read them."""
    with find_study(str(folder)) as (study, _):
        best = best_trial(study)
        assert best is not None  # the command ended well
        return record(folder) | {"settings": {"tuned": settings_of(study, best)}}


def best_valid(dataset: str, base: str, component: Component) -> tuple[float, Mapping[str, Any]] | None:
    """The best value on the valid part and the parameters of its trial; None where there is no study."""
    path = study_record(dataset, base, component)
    if not path.exists():
        return None
    trials = json.loads(path.read_text(encoding="utf-8"))["trials"]
    done = [(trial["values"][0], trial["params"]) for trial in trials if trial["state"] == "complete"]
    return max(done, key=lambda of: of[0]) if done else None


def together(dataset: str, base: str, found: Iterable[Component]) -> Component | None:
    """The best components of different kinds in one, by their gain over the base on the valid part.

    One that the better ones exclude is left out, as a weight is by an objective without candidates, and one that needs
    another value of a setting of theirs. A component takes part with the settings of its best trial, but for the base's
    common space, which is searched anew.

    Raises:
        ConfigError: the base itself has no study.
    """
    own = best_valid(dataset, base, ITSELF)
    if own is None:
        raise ConfigError(f"{base} on {dataset} has no study of the base itself; run the search first")
    taken: dict[str, Component] = {}
    settings: dict[str, Any] = {}
    for value, component, params in sorted(_measured(dataset, base, found), key=lambda of: -of[0]):
        its_own = _as_settings(component, params, BASES[base].common)
        if value <= own[0] or component.kind in taken or len(taken) == TOGETHER:
            continue
        if any(settings.get(name, needed) != needed for name, needed in its_own.items()):
            continue
        if _go_together(base, settings | its_own):
            taken[component.kind], settings = component, settings | its_own
    if len(taken) < 2:
        return None
    names = " + ".join(component.title for component in taken.values())
    return Component("together", names, settings)


def _go_together(base: str, settings: Mapping[str, Any]) -> bool:
    """Whether a model of the base can have all settings."""
    model = registry.load("model", BASES[base].model)(**settings)
    try:
        model.build(Space(n_users=2, n_items=3), seed=0)
    except ConfigError:
        return False
    except ValueError:  # a model that reads item features is not built without them
        pass
    return True


def tested(dataset: str, base: str, found: Iterable[Component], n: int) -> list[Component]:
    """What a board tests where it cannot test all: the n best on the valid part, and the best of each kind."""
    ordered = [component for _, component, _ in sorted(_measured(dataset, base, found), key=lambda of: -of[0])]
    best_of_kind = {component.kind: component for component in reversed(ordered)}
    return [each for place, each in enumerate(ordered) if place < n or best_of_kind[each.kind] is each]


def best_of(datasets: Iterable[str], base: str, found: Iterable[Component], n: int) -> list[Component]:
    """The n components with the greatest mean gain over the base on the valid parts of some data sets.

    Raises:
        ConfigError: a data set has no study of the base itself.
    """
    gains: dict[str, list[float]] = {}
    found, datasets = list(found), list(datasets)
    for dataset in datasets:
        own = best_valid(dataset, base, ITSELF)
        if own is None:
            raise ConfigError(f"{base} on {dataset} has no study of the base itself; run the search first")
        for value, component, _ in _measured(dataset, base, found):
            gains.setdefault(component.title, []).append(value / own[0] - 1)
    everywhere = [one for one in found if len(gains.get(one.title, ())) == len(datasets)]
    return sorted(everywhere, key=lambda one: -sum(gains[one.title]))[:n]


def _measured(
    dataset: str, base: str, found: Iterable[Component]
) -> Iterator[tuple[float, Component, Mapping[str, Any]]]:
    for component in found:
        if (best := best_valid(dataset, base, component)) is not None:
            yield best[0], component, best[1]


def _as_settings(component: Component, params: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """A component with the parameters of a trial, as settings of the model."""
    own = {
        name: json.loads(value) if isinstance(value, str) and value.startswith("{") else value
        for name, value in params.items()
        if name not in common
    }
    return merge({**component.settings, **own})
