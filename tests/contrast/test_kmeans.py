"""k-means: comparing rows with the centroids that moved gives what comparing them with all would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.contrast import prototypes
from recgraph.contrast.prototypes import kmeans


def all_again(x: Tensor, centroids: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return prototypes._nearest(x, centroids)


@pytest.mark.parametrize("k", [1, 7, 40, 120])
@pytest.mark.parametrize("data", ["spread", "narrow", "repeated"])
def test_moved_centroids_alone(data: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(k)
    x = torch.randn(500, 6, generator=draw, dtype=torch.float64)
    if data == "narrow":  # as embeddings are at first: all products are alike
        x = x * 0.1 + 1
    if data == "repeated":  # ties everywhere, empty clusters
        x = x.round()[:60].repeat(9, 1)
    x = torch.nn.functional.normalize(x + 1e-3, dim=1)
    found = kmeans(x, k, seed=3, iterations=30, restarts=3)
    monkeypatch.setattr(prototypes, "_nearest_again", all_again)
    monkeypatch.setattr(prototypes, "_CELLS_HOST", 64)  # blocks of the fewest rows
    plain = kmeans(x, k, seed=3, iterations=30, restarts=3)
    assert torch.equal(found.assignments, plain.assignments)
    torch.testing.assert_close(found.centroids, plain.centroids)
    assert found.objective == pytest.approx(plain.objective)
