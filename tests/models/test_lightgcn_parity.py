"""LightGCN beside PyG's own model, trained by one recipe from one start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recgraph.data.split import Interactions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.lightgcn_parity import METRIC, agreement, compare  # noqa: E402


def test_losses_and_vectors_agree_step_by_step(shared: Path) -> None:
    train = Interactions.read(shared / "data" / "ml-100k").split("ratio").train
    found = agreement(train)
    assert found["n_steps"] == 20
    assert found["last_loss_over_first"] < 0.9
    assert found["worst_difference_of_losses"] <= 1e-5
    assert found["worst_difference_of_vectors"] <= 1e-3


@pytest.mark.slow
def test_levels_agree(shared: Path) -> None:
    split = Interactions.read(shared / "data" / "ml-100k").split("ratio")
    *epochs, last = compare(split, epochs=8)
    for part, record in (("valid", epochs[-1]), ("test", last)):
        of_ours, of_peer = record[f"{part} {METRIC}"].values()
        assert of_ours == pytest.approx(of_peer, abs=0.001)
        assert of_ours > 0.2
