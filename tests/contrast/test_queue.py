"""A term's queue of earlier rows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from refusing import refused
from torch import Tensor

from recgraph.contrast.queue import Queue
from recgraph.contrast.term import ContrastiveTerm
from recgraph.ranks import Share

N, D = 6, 4


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, N, D, generator=draw, dtype=torch.float64)
    return a, b


def queued(**settings: Any) -> ContrastiveTerm:
    given = {"similarity": "cosine", "temperature": 0.5, "objective": "info_nce", "queue_size": 8, "dim": D}
    return ContrastiveTerm(**{**given, **settings}).double()


def test_earlier_rows_are_candidates() -> None:
    """The loss of the second step, written out: the queue is aligned with the batch and has no ids of it."""
    term, ids = queued(), torch.arange(N)
    first, second = views(1), views(2)
    term(*first, ids)
    found = term(*second, ids + 4)  # ids 4 and 5 are in both batches
    old, new = (F.normalize(views_of[1], dim=1) for views_of in (first, second))
    old = old[:4]
    moved = F.normalize((old - old.mean(0)) * (new.std(0) / old.std(0)) + new.mean(0), dim=1)
    s = F.normalize(second[0], dim=1) @ torch.cat([new, moved]).T / 0.5
    torch.testing.assert_close(found, F.cross_entropy(s, torch.arange(N)), rtol=1e-6, atol=1e-6)


def test_of_one_id_the_last_rows_stay_and_a_batch_that_comes_again_replaces_itself() -> None:
    queue = Queue(4, 1)
    rows = torch.arange(8.0)[:, None]
    queue.push(rows[:3], torch.tensor([0, 1, 2]))
    queue.push(rows[3:5], torch.tensor([1, 5]))
    queue.push(rows[5:7], torch.tensor([1, 5]))
    held = {int(one): float(row) for one, row in zip(queue.ids, queue.rows[:, 0], strict=True) if one >= 0}
    assert held == {1: 5.0, 5: 6.0, 2: 2.0}
    queue.push(rows, torch.arange(8))
    assert sorted(queue.ids.tolist()) == [4, 5, 6, 7]


def test_ranks_divide_the_anchors_of_a_queue() -> None:
    """The mean over two ranks, each with its anchors, is the loss of one process; all ranks keep the same rows."""
    whole, shares = queued(), [Share((4, 2), rank) for rank in range(2)]
    ranks = [queued() for _ in shares]
    for seed in (1, 2):
        a, b = (view.requires_grad_() for view in views(seed))
        ids = torch.arange(N) + 5 * seed
        expected = whole(a, b, ids)
        found = [term(a, b, ids, share=share) for term, share in zip(ranks, shares, strict=True)]
        torch.testing.assert_close(torch.stack(found).mean(), expected)
    for term in ranks:
        assert torch.equal(term.queue.ids, whole.queue.ids)  # type: ignore[union-attr]
        assert torch.equal(term.queue.rows, whole.queue.rows)  # type: ignore[union-attr]


def test_the_queue_takes_in_training_alone_and_is_part_of_the_state() -> None:
    term = queued()
    assert term.queue is not None
    term.eval()(*views())
    with torch.no_grad():
        term.train()(*views())
    assert bool((term.queue.ids == -1).all())
    term(*(view.requires_grad_() for view in views()))
    assert sorted(term.queue.ids.tolist()) == [-1, -1, 0, 1, 2, 3, 4, 5]
    other = queued()
    other.load_state_dict(term.state_dict())
    second = views(3)
    torch.testing.assert_close(other.eval()(*second), term.eval()(*second))


def test_what_a_queue_needs() -> None:
    with refused("pairs"):
        queued(objective="nt_xent")(*views())
