"""k-means: comparing rows with the centroids that moved gives what comparing them with all would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.contrast import clustering
from recgraph.contrast.clustering import assign, kmeans


def all_again(x: Tensor, centroids: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return clustering._nearest(x, centroids)


@pytest.mark.parametrize("k", [1, 7, 40, 120])
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


@pytest.mark.parametrize("n_moved", [0, 1, 5, 19, 30])
def test_ties(n_moved: int) -> None:
    """Whole numbers, whose products are exact in every order of summation: of equal centroids the first."""
    draw = torch.Generator().manual_seed(n_moved)
    x, before = (torch.randint(-2, 3, (n, 3), generator=draw).double() for n in (400, 40))
    after, moved_mask = before.clone(), torch.zeros(40, dtype=torch.bool)
    moved_mask[torch.randperm(40, generator=draw)[:n_moved]] = True
    after[moved_mask] = torch.randint(-2, 3, (n_moved, 3), generator=draw).double()
    value, own, rival = clustering._nearest_again(x, after, moved_mask, clustering._nearest(x, before))
    best, first, second = clustering._nearest(x, after)
    assert torch.equal(value, best)
    assert torch.equal(own, first)
    assert bool((rival >= second).all())


def test_repeated_rows_leave_no_cluster_empty_where_there_are_enough() -> None:
    x = torch.eye(7, dtype=torch.float64).repeat(9, 1)
    found = kmeans(x, 7, seed=3, iterations=30, restarts=3)
    assert len(found.assignments.unique()) == 7
    assert found.objective == pytest.approx(63)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [5, 200])
def test_the_nearest_of_few_and_of_many_centroids(k: int, dtype: torch.dtype) -> None:
    """Whatever finds the places of maxima: in every type, with gradients too, the first of equal ones.

    Of whole numbers, whose products are exact: some CPUs round the last columns of a product unlike the others.
    """
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(-5, 6, (50, 4), generator=draw).to(dtype).requires_grad_()
    centroids = torch.randint(-5, 6, (k, 4), generator=draw).to(dtype)
    centroids = torch.cat([centroids, centroids])  # each stands twice
    assert torch.equal(assign(x, centroids), (x @ centroids.t()).detach().argmax(1))
    assert int(assign(x, centroids).max()) < k
