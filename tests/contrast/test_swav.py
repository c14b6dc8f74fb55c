"""SwAV against Sinkhorn-Knopp and cross-entropy on whole matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_non_contrastive import B, D, two
from torch import Tensor

from recgraph.contrast.assignments import SwAV, prices
from recgraph.contrast.objectives import Similarity, Views
from recgraph.rng import seeded_init

K = 5
SIMILARITY = Similarity(temperature=0.1)


def made(**settings: object) -> SwAV:
    with seeded_init(1):
        return SwAV(dim=D, n_prototypes=K, **settings).double()


def views(a: Tensor, b: Tensor, epoch: int | None = None) -> Views:
    ids = torch.arange(len(a))
    return Views(a, b, ids, ids, epoch=epoch)


def codes(rows: Tensor, c: Tensor, epsilon: float, rounds: int = 3) -> Tensor:
    """[B, K]: the published loop, over the matrix of all rows and prototypes."""
    q = (rows @ c.T / epsilon).exp().T
    q = q / q.sum()
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def swapped(a: Tensor, b: Tensor, c: Tensor, q_a: Tensor, q_b: Tensor) -> Tensor:
    """The mean cross-entropy of each view's prediction with the other's codes, a row at a time."""
    losses = []
    for x, q in ((a, q_b), (b, q_a)):
        log_p = (F.normalize(x, dim=1) @ c.T / SIMILARITY.temperature).log_softmax(1)
        losses += [-(q[i] * log_p[i]).sum() for i in range(len(x))]
    return torch.stack(losses).mean()


@pytest.mark.parametrize("block_rows", [None, 2])
def test_value_and_gradients_are_those_of_whole_matrices(block_rows: int | None) -> None:
    objective = made(epsilon=0.3, block_rows=block_rows)
    a, b = (x.requires_grad_() for x in two())
    loss = objective(views(a, b), SIMILARITY, None).loss
    c = F.normalize(objective.directions, dim=1)
    q_a, q_b = (codes(F.normalize(x, dim=1), c, 0.3).detach() for x in (a, b))
    torch.testing.assert_close(q_a.sum(1), torch.ones(B, dtype=torch.float64))
    expected = swapped(a, b, c, q_a, q_b)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    inputs = (a, b, objective.directions)
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_many_rounds_give_each_prototype_as_many_rows() -> None:
    x, c = (F.normalize(x, dim=1) for x in (two(12)[0], two(3, seed=9)[0]))
    v = prices(x / 0.2, c, 200, block_rows=5)
    q = (x @ c.T / 0.2 + v).softmax(1)
    torch.testing.assert_close(q.sum(0), torch.full((3,), 4.0, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_queued_rows_are_assigned_along_and_are_part_of_the_state() -> None:
    objective = made(queue=4, epsilon=0.3, queue_from=1)
    (a, b), (old_a, old_b) = two(3), two(6, seed=11)
    objective(views(old_a, old_b, epoch=0), SIMILARITY, None)
    again = made(queue=4, epsilon=0.3, queue_from=1)
    again.load_state_dict(objective.state_dict())
    loss = again(views(a, b, epoch=1), SIMILARITY, None).loss
    c = F.normalize(objective.directions, dim=1).detach()
    # of six rows the last four are queued
    both = [torch.cat([F.normalize(x, dim=1), F.normalize(old[-4:], dim=1)]) for x, old in ((a, old_a), (b, old_b))]
    # the queue is kept in the type of the parameters
    q_a, q_b = (codes(x, c, 0.3)[:3] for x in both)
    torch.testing.assert_close(loss, swapped(a, b, c, q_a, q_b), rtol=1e-6, atol=1e-6)
    alone = again(views(a, b, epoch=0), SIMILARITY, None).loss
    q_a, q_b = (codes(x[:3], c, 0.3) for x in both)
    torch.testing.assert_close(alone, swapped(a, b, c, q_a, q_b), rtol=1e-9, atol=1e-9)
    before = int(again.n_queued)
    with torch.no_grad():
        again(views(a, b, epoch=1), SIMILARITY, None)
    again.eval()(views(a, b, epoch=1), SIMILARITY, None)
    assert int(again.n_queued) == before


def test_rows_that_come_again_in_a_step_are_queued_once() -> None:
    """Those of the last time, and none of the step is assigned along with itself."""
    once, twice = made(queue=3 * B), made(queue=3 * B)
    for seed in range(7):
        (a, b), (other, _) = two(seed=seed), two(seed=seed + 10)
        expected = once(views(a, b), SIMILARITY, None).loss
        twice(views(other, b), SIMILARITY, None)
        found = twice(replace(views(a, b), again=True), SIMILARITY, None).loss
        if seed < 3:  # once the queue is full, those of the first time have replaced the oldest
            torch.testing.assert_close(found, expected)
        assert int(twice.n_queued) == int(once.n_queued) == (seed + 1) * B
        assert torch.equal(twice.queued, once.queued)


@pytest.mark.parametrize("n_queued", [6, 7, 9, 11])
def test_a_full_queue_leaves_out_the_rows_of_the_step(n_queued: int) -> None:
    objective = made(queue=6)
    for number in range(n_queued - 3):
        objective._push([torch.full((1, D), float(number))] * 2)
    objective._push([torch.full((3, D), -1.0)] * 2)
    objective._n_queued = objective._count() - objective._n_last  # as a call with the same rows finds it
    earlier = objective._earlier(again=True)[0, :, 0].tolist()
    assert sorted(earlier) == [float(number) for number in range(n_queued - 6, n_queued - 3)]


def test_prototypes_do_not_move_in_the_first_epoch() -> None:
    objective = made(frozen_epochs=2)
    for epoch, moves in ((0, False), (1, False), (2, True), (None, True)):
        a, b = (x.requires_grad_() for x in two())
        objective.zero_grad()
        objective(views(a, b, epoch=epoch), SIMILARITY, None).loss.backward()
        assert objective.directions is not None
        assert (objective.directions.grad is not None) == moves
        assert a.grad is not None
        assert bool(a.grad.any())


def test_prototypes_of_clusters_are_taken_as_they_are() -> None:
    objective = SwAV(prototypes="clusters", epsilon=0.3)
    assert not [*objective.parameters()]
    a, b = two()
    with pytest.raises(ValueError, match="prototypes = 'clusters' needs a model that clusters"):
        objective(views(a, b), SIMILARITY, None)
    sets = [F.normalize(two(k, seed=k)[0], dim=1) for k in (3, 5)]
    objective.offer(lambda: sets)
    expected = [swapped(a, b, c, *(codes(F.normalize(x, dim=1), c, 0.3) for x in (a, b))) for c in sets]
    torch.testing.assert_close(objective(views(a, b), SIMILARITY, None).loss, torch.stack(expected).mean())
