"""Studies of earlier versions go on: modules have moved and settings were renamed since (``old_study``: c175eb4)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from small_study import states, synthetic, tune

from recgraph import registry
from recgraph.leaderboard.plan import load_tuned
from recgraph.tuning.finding import find_study
from recgraph.tuning.plan import Plan
from recgraph.tuning.report import command, page

FOLDER = Path(__file__).with_name("old_study")
SPACE: dict[str, Any] = {
    "*": "fixed",
    "learning_rate": {},
    "dropout": {},
    "views": [["crop", "mask"], ["crop", "mask", "reorder"]],
}
SETTINGS = {
    "max_epochs": 1,
    "hidden_dim": 8,
    "n_layers": 1,
    "n_heads": 1,
    "batch_size": 256,
    "patience": None,
    "max_len": 10,
    "contrast_of": "sequence",
}


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_an_old_study_goes_on(kind: str, tmp_path: Path) -> None:
    """Its third trial was running when its process, on another machine, was killed."""
    folder, storage = tmp_path / "s", None
    folder.mkdir()
    for name in ("study.journal", "study.json"):
        shutil.copy(FOLDER / name, folder)
    if kind == "sqlite":
        storage = f"sqlite:///{tmp_path}/study.db"
        with find_study(str(folder)) as (study, kept):
            optuna.copy_study(from_study_name="s", from_storage=kept.optuna, to_storage=storage)
    given: dict[str, Any] = {"space": SPACE, "settings": SETTINGS, "storage": storage}
    study = tune(synthetic(), folder, 4, model="cl4srec", interval=0.1, grace=0.2, **given)
    with find_study(str(folder)) as (found, _):
        assert len(found.trials) == len(study.trials)  # also of a study that was copied into another storage
    assert states(study) == {"COMPLETE": 4, "FAIL": 1}
    lost = study.trials[2]
    assert lost.user_attrs["reason"] == "its worker is gone"
    (again,) = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == 2]
    assert again.params == lost.params
    assert set(study.trials[4].params) == set(lost.params)
    with pytest.raises(ValueError, match="exists with another model"):
        tune(synthetic(), folder, 4, model="mclrec", **given)


def test_an_old_study_is_read() -> None:
    best = load_tuned("old_study", FOLDER.parent)
    assert (best.model, best.dataset) == ("CL4SRec", "synthetic")
    assert registry.load("model", "cl4srec").Config.of(
        {name: value for name, value in best.settings.items() if name in ("views", "dropout", "hidden_dim")}
    )
    with find_study(str(FOLDER)) as (study, _):
        assert "recgraph train CL4SRec --dataset synthetic" in command(study, study.best_trial)
        assert "CL4SRec" in page(study)


def test_a_reference_to_a_module_that_has_moved() -> None:
    plan = Plan("s", registry.load("model", "lightgcn"), ("ndcg@10",), 1)
    old = {**plan.to_dict(), "model": "recgraph.models.lightgcn:LightGCN"}
    assert Plan.from_dict(old).model is plan.model
    with pytest.raises(ModuleNotFoundError):
        Plan.from_dict({**old, "model": "elsewhere.models:LightGCN"})
