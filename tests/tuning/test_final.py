"""Which process tests the best configuration of a study: one, once, and none for ever."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_study import SETTINGS, SPACE, synthetic, tune

from recgraph import registry
from recgraph.data.split import Split
from recgraph.tuning import final
from recgraph.tuning.finding import find_study
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import open_storage
from recgraph.tuning.trials import Trials, load_study
from recgraph.workers.process import this_process


@pytest.fixture(scope="module")
def split() -> Split:
    return synthetic()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_test_that_ends_with_an_error_is_no_longer_claimed(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def fail(*_: Any) -> None:
        with find_study(str(tmp_path / "s")) as (study, _):
            assert study.user_attrs["tester"]["pid"] == this_process().pid
        raise error("here")

    with monkeypatch.context() as patch:
        patch.setattr(final, "train", fail)
        with pytest.raises(error, match="here"):
            tune(split, tmp_path / "s", 1, test_seeds=1)
    with find_study(str(tmp_path / "s")) as (study, _):
        assert study.user_attrs["tester"] is None
        assert "unsealed" not in study.user_attrs
    study = tune(split, tmp_path / "s", 1, test_seeds=1)
    assert len(study.user_attrs["unsealed"]) == 1
    assert study.user_attrs["tester"] is None


def test_what_another_machine_tested_meanwhile_is_not_tested_again(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tune(split, tmp_path / "s", 1)
    storage = open_storage(None, tmp_path / "s")
    plan = Plan("s", registry.load("model", "sasrec"), ("ndcg@10",), 1, SETTINGS, SPACE, folder=tmp_path / "s")
    trials = Trials(load_study(plan, storage), storage, plan)
    trials.study.set_user_attr("tester", {**this_process().to_dict(), "host": "another", "beat": 1})
    theirs = {"trial": 0, "n_seeds": 2}

    def end_there(_: float) -> None:
        """While this process waits for the next heartbeat."""
        trials.study.set_user_attr("unsealed", [theirs])
        trials.study.set_user_attr("tester", None)

    monkeypatch.setattr(final, "time", SimpleNamespace(sleep=end_there))
    monkeypatch.setattr(final, "train", lambda *_: pytest.fail("it is trained again"))
    assert final.test_the_best(plan, trials, split, 2, 1, None, None) == theirs
    assert trials.study.user_attrs["unsealed"] == [theirs]
    assert trials.study.user_attrs["tester"] is None
    storage.close()
