"""Objectives that workers import: those that reach for test data, and an honest one."""

from __future__ import annotations

import recgraph as rg
from recgraph.runs.run import Run


def honest(run: Run) -> float:
    return run.evaluate("valid", seen="keep")[0]["mrr@5"]


def not_a_number(run: Run) -> float:
    return float("nan")


def two_values(run: Run) -> tuple[float, float]:
    return 1.0, 2.0


def evaluates_on_test(run: Run) -> float:
    return run.evaluate("test")[0]["ndcg@10"]


def unseals(run: Run) -> float:
    assert run.split is not None
    return float(len(run.split.unseal("I want to see it").test))


def reads_test(run: Run) -> float:
    assert run.split is not None
    return float(len(run.split.test))


def splits_again(run: Run) -> float:
    return float(len(rg.load_dataset("synthetic").split("leave-one-out").test))


def opens_its_folder(run: Run) -> float:
    assert run.folder is not None
    split = rg.load_dataset("synthetic").split("leave-one-out")
    return Run.open(run.folder, split).evaluate("test")[0]["ndcg@10"]
