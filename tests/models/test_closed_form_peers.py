"""EASE, implicit ALS and LightGCN against what other libraries make of MovieLens-100k."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import recgraph as rg  # noqa: E402
from experiments.parity import TOLERANCES, closed_form_parity, lightgcn_parity  # noqa: E402


@pytest.mark.peer
def test_rectools_ease_and_implicit_als_agree(shared: Path) -> None:
    lines = {line["name"]: line for line in closed_form_parity(shared / "data" / "ml-100k")}
    assert set(lines) == set(TOLERANCES)
    assert [line for line in lines.values() if not line["ok"]] == []


def test_losses_and_vectors_of_lightgcn_agree_with_pyg_step_by_step(shared: Path) -> None:
    found = lightgcn_parity(rg.load_data(shared / "data" / "ml-100k").split("ratio").train)
    assert found["n_steps"] == 20
    assert found["last_loss_over_first"] < 0.9
    assert found["worst_difference_of_losses"] <= 1e-5
    assert found["worst_difference_of_vectors"] <= 1e-3
