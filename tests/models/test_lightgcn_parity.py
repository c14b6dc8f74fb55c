"""LightGCN beside PyG's own model, trained by one recipe from one start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from recgraph.data.interactions import Interactions

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.lightgcn_parity import METRIC, Recipe, compare, sides, steps  # noqa: E402


def test_losses_and_vectors_agree_step_by_step(shared: Path) -> None:
    train = Interactions.from_recbole(shared / "data" / "ml-100k").split("ratio").train
    ours, peer = sides(train, Recipe(hidden_dim=16, batch_size=8192), seed=0)
    losses = torch.tensor([pair for epoch in range(2) for pair in steps(ours, peer, epoch)])
    assert len(losses) == 20
    assert losses[-1, 0] < 0.9 * losses[0, 0]
    torch.testing.assert_close(losses[:, 0], losses[:, 1], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.nodes(), peer.nodes(), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_levels_agree(shared: Path) -> None:
    split = Interactions.from_recbole(shared / "data" / "ml-100k").split("ratio")
    *epochs, last = compare(split, epochs=8)
    for part, record in (("valid", epochs[-1]), ("test", last)):
        of_ours, of_peer = record[f"{part} {METRIC}"].values()
        assert of_ours == pytest.approx(of_peer, abs=0.001)
        assert of_ours > 0.2
