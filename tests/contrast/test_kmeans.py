"""k-means and prototypes; comparing rows with the centroids that moved gives what comparing them
with all would.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from launches import count
from torch import Tensor

from recgraph.contrast import clustering
from recgraph.contrast.clustering import Clustering, concentration, kmeans, nearest
from recgraph.contrast.prototypes import Prototypes
from recgraph.sparse.device import accelerator_path


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestKMeans:
    def blobs(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        labels = torch.arange(60) % 4
        x = F.normalize(3 * torch.eye(4, 8, dtype=torch.float64)[labels] + 0.2 * draw(60, 8), dim=1)
        return x.to(device), labels.to(device)

    @pytest.mark.parametrize("method", ["published", "scikit-learn"])
    def test_finds_blobs(self, method: str, device: torch.device) -> None:
        x, labels = self.blobs(device)
        found = kmeans(x, 4, method=method, restarts=10)
        pairs = torch.unique(torch.stack([labels, found.assignments]), dim=1)
        assert pairs.shape[1] == 4
        for c in range(4):
            torch.testing.assert_close(found.centroids[c], x[found.assignments == c].mean(0))

    @pytest.mark.parametrize("method", ["published", "scikit-learn"])
    def test_the_seed_decides(self, method: str) -> None:
        x = draw(80, 5)
        one, two, other = (
            kmeans(x, 9, seed=seed, method=method, iterations=3) for seed in (1, 1, 2)
        )
        assert torch.equal(one.assignments, two.assignments)
        assert not torch.equal(one.assignments, other.assignments)

    def test_every_restart_can_only_help(self) -> None:
        x = F.normalize(draw(100, 5), dim=1)
        values = [kmeans(x, 10, restarts=n).objective for n in (1, 5, 20)]
        assert values == sorted(values)

    def test_an_empty_cluster_is_filled(self) -> None:
        x, _ = self.blobs()
        start = torch.cat([x[:3], -100 * x[:1]])
        assert torch.bincount(kmeans(x, 4, start=start).assignments, minlength=4).min() > 0

    def test_warm_start(self) -> None:
        x, _ = self.blobs()
        cold, warm = (
            Prototypes(n_clusters=(4, 6)),
            Prototypes(dim=8, n_clusters=(4, 6), warm_start=True).double(),
        )
        first = warm(x)
        for ours, theirs in zip(first, cold(x), strict=True):
            assert torch.equal(ours.assignments, theirs.assignments)
        for ours, again in zip(warm(x), first, strict=True):
            assert torch.equal(ours.assignments, again.assignments)
        assert set(warm.state_dict()) == {"last_0", "last_1"}

    def test_half_precision_is_clustered_in_float32(self) -> None:
        x = self.blobs()[0].bfloat16()
        with torch.autocast(x.device.type, torch.bfloat16):
            found = kmeans(x, 4, restarts=10)
            phi = concentration(x, found, 0.5)
        exact = kmeans(x.float(), 4, restarts=10)
        assert torch.equal(found.assignments, exact.assignments)
        assert torch.equal(found.centroids, exact.centroids)
        assert torch.equal(phi, concentration(x.float(), exact, 0.5))

    def test_small_batches_have_fewer_clusters(self) -> None:
        assert [len(c.centroids) for c in Prototypes(n_clusters=(3, 50))(draw(7, 4))] == [3, 7]


def test_concentration_of_singletons_and_right_angles() -> None:
    x = F.normalize(draw(20, 4), dim=1)
    found = kmeans(x, 12)
    phi = concentration(x, found, 0.7)
    assert float(phi.mean()) == pytest.approx(0.7)
    singles = torch.bincount(found.assignments, minlength=12) < 2
    assert bool((phi[singles] == phi.max()).all())
    crossed = Clustering(torch.tensor([0, 0]), torch.tensor([[0.0, 1.0]]), 0.0)
    assert concentration(
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]), crossed, 0.3
    ).tolist() == pytest.approx([0.3])


def all_again(x: Tensor, centroids: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return nearest(x, centroids)


@pytest.mark.parametrize("k", [1, 120])
@pytest.mark.parametrize("data", ["spread", "narrow"])
def test_moved_centroids_alone(data: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(k)
    x = torch.randn(500, 6, generator=draw, dtype=torch.float64)
    if data == "narrow":  # as embeddings are at first: all products are alike
        x = x * 0.1 + 1
    x = torch.nn.functional.normalize(x + 1e-3, dim=1)
    found = kmeans(x, k, seed=3, iterations=30, restarts=3)
    monkeypatch.setattr(clustering, "_nearest_again", all_again)
    monkeypatch.setattr(clustering, "_CELLS_HOST", 64)  # blocks of the fewest rows
    plain = kmeans(x, k, seed=3, iterations=30, restarts=3)
    assert torch.equal(found.assignments, plain.assignments)
    torch.testing.assert_close(found.centroids, plain.centroids)
    assert found.objective == pytest.approx(plain.objective)


@pytest.mark.parametrize(
    ("k", "data", "given"),
    [
        (7, "spread", "drawn"),
        (40, "narrow", "started"),
        (40, "narrow", "drawn"),
        (40, "repeated", "drawn"),
    ],
)
def test_an_accelerator_finds_the_same_clusters_and_reads_nothing(
    k: int, data: str, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(k)
    x = torch.randn(300, 6, generator=draw, dtype=torch.float64)
    if data == "narrow":
        x = x * 0.1 + 1
    if data == "repeated":  # fewer different rows than clusters: some are empty in every iteration
        x = x[:30].repeat(10, 1)
    x = torch.nn.functional.normalize(x, dim=1)
    start = x[:k] if given == "started" else None
    on_host = kmeans(x, k, seed=3, iterations=25, restarts=3, start=start)
    monkeypatch.setattr(clustering, "_CELLS_ACCELERATOR", 64)  # more than one block of rows
    with accelerator_path():
        there = kmeans(x, k, seed=3, iterations=25, restarts=3, start=start)
        found = count(lambda: kmeans(x, k, seed=3, iterations=25, restarts=3, start=start), "cpu")
    assert not found.reads
    if data == "repeated":  # of equal rows any may fill what is empty
        assert torch.equal(there.assignments, nearest(x, there.centroids)[1])
        assert there.objective == pytest.approx(float((x @ there.centroids.t()).amax(1).sum()))
        return
    torch.testing.assert_close(there.objective, on_host.objective)
    assert torch.equal(there.assignments, on_host.assignments)
    torch.testing.assert_close(there.centroids, on_host.centroids)
