"""Drawn candidates: all of them give the exact loss, and a few an unbiased estimate of the sum."""

from __future__ import annotations

import math
from typing import Any

import contrast_oracles as dense
import pytest
import torch
import torch.nn.functional as F
from contrast_oracles import agree
from refusing import refused
from torch import Tensor

from recgraph.contrast.blockwise import Candidates, contrast, contrast_drawn
from recgraph.contrast.term import ContrastiveTerm, Queue
from recgraph.contrast.weights import Pairs, Weight
from recgraph.ranks import Share
from recgraph.registry import make

N, D = 12, 5
FLAGS = [(True, False), (True, True), (False, False)]
WEIGHTS: dict[str, dict[str, Any]] = {
    "none": {},
    "cluster": {"name": "cluster"},
    "at hand": {"name": "cluster", "n_clusters": (2, 3)},
    "hardest": {"name": "hardness", "hardest": 0.4},
    "learned": {"name": "learned", "dim": D, "inner_dim": 4},
    "normalised": {"name": "learned", "dim": D, "inner_dim": 4, "normalise": True},
}


def views(n: int = N) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, n, D, generator=draw, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def weight_of(kind: str) -> Weight | None:
    if kind == "none":
        return None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weight: Weight = make("weight", WEIGHTS[kind]).double()
    if kind == "cluster":
        weight.prepare(lambda: torch.stack([torch.arange(100) % 3, torch.arange(100) % 4]))
    return weight


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_all_candidates_give_the_exact_loss(kind: str, flags: tuple[bool, bool]) -> None:
    (a, b), block_rows = views(), 5
    weight, positives = weight_of(kind), torch.arange(N).roll(3)
    pairs = None if weight is None else Pairs(torch.arange(N) + 5, torch.arange(N) + 7, a, b)
    candidates = Candidates(positives, torch.arange(N), *flags)
    exact, left_out = contrast(a, b, candidates, weight, pairs, block_rows)
    found, also = contrast_drawn(a, b, torch.arange(N), candidates, weight, pairs, block_rows)
    agree(found, exact, a, b, *([] if weight is None else weight.parameters()))
    assert int(left_out) == int(also)


@pytest.mark.parametrize("kind", ["none", "learned"])
@pytest.mark.parametrize("flags", FLAGS)
def test_the_sum_is_estimated_without_bias(kind: str, flags: tuple[bool, bool]) -> None:
    """Of one anchor the loss is the logarithm of that sum, less the positive's similarity; all 56
    draws are made.
    """
    a, b = (view.detach() for view in views(8))
    weight, candidates = weight_of(kind), Candidates(torch.tensor([4]), None, *flags)
    pairs = None if weight is None else Pairs(torch.tensor([4]), torch.arange(8), a[:1], b)
    exact = contrast(a[:1], b, candidates, weight, pairs)[0].exp()
    draws = torch.combinations(torch.arange(8), 3)
    found = torch.stack(
        [contrast_drawn(a[:1], b, drawn, candidates, weight, pairs)[0].exp() for drawn in draws]
    )
    torch.testing.assert_close(found.mean(), exact, rtol=1e-10, atol=1e-12)
    assert bool(found.std() > 0)


@pytest.mark.parametrize("flags", FLAGS)
def test_drawn_candidates_are_dense(flags: tuple[bool, bool]) -> None:
    """The loss and its gradients written out, with log-weights that are no function of the
    embeddings.
    """
    a, b = views()
    log_w = torch.randn(N, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    drawn, positives = torch.tensor([0, 3, 5, 9]), torch.arange(N)
    pairs = Pairs(torch.arange(N), torch.arange(N), a, b)
    found, _ = contrast_drawn(
        a, b, drawn, Candidates(positives, None, *flags), dense.Dense(log_w), pairs
    )
    s = a @ b.T
    logits = (s + log_w)[:, drawn] + math.log(N / 4)
    logits = logits.masked_fill(drawn == positives[:, None], -math.inf)
    if flags[0]:
        own = s.diagonal() + (log_w.diagonal() if flags[1] else 0)
        logits = torch.cat([logits, own[:, None]], 1)
    agree(found, (logits.logsumexp(1) - s.diagonal()).mean(), a, b)


# A term's queue of earlier rows


FEW_N, FEW_D = 6, 4


def queued_views(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, FEW_N, FEW_D, generator=draw, dtype=torch.float64)
    return a, b


def queued(**settings: Any) -> ContrastiveTerm:
    given = {
        "similarity": "cosine",
        "temperature": 0.5,
        "objective": "info_nce",
        "queue_size": 8,
        "dim": FEW_D,
    }
    return ContrastiveTerm(**{**given, **settings}).double()


def test_earlier_rows_are_candidates() -> None:
    """The loss of the second step, written out: the queue is aligned with the batch and has no ids
    of it.
    """
    term, ids = queued(), torch.arange(FEW_N)
    first, second = queued_views(1), queued_views(2)
    term(*first, ids)
    found = term(*second, ids + 4)  # ids 4 and 5 are in both batches
    old, new = (F.normalize(views_of[1], dim=1) for views_of in (first, second))
    old = old[:4]
    moved = F.normalize((old - old.mean(0)) * (new.std(0) / old.std(0)) + new.mean(0), dim=1)
    s = F.normalize(second[0], dim=1) @ torch.cat([new, moved]).T / 0.5
    torch.testing.assert_close(found, F.cross_entropy(s, torch.arange(FEW_N)), rtol=1e-6, atol=1e-6)


def test_of_one_id_the_last_rows_stay_and_a_batch_that_comes_again_replaces_itself() -> None:
    queue = Queue(4, 1)
    rows = torch.arange(8.0)[:, None]
    queue.push(rows[:3], torch.tensor([0, 1, 2]))
    queue.push(rows[3:5], torch.tensor([1, 5]))
    queue.push(rows[5:7], torch.tensor([1, 5]))
    held = {
        int(one): float(row)
        for one, row in zip(queue.ids, queue.rows[:, 0], strict=True)
        if one >= 0
    }
    assert held == {1: 5.0, 5: 6.0, 2: 2.0}
    queue.push(rows, torch.arange(8))
    assert sorted(queue.ids.tolist()) == [4, 5, 6, 7]


def test_ranks_divide_the_anchors_of_a_queue() -> None:
    """The mean over two ranks, each with its anchors, is the loss of one process; all ranks keep
    the same rows.
    """
    whole, shares = queued(), [Share((4, 2), rank) for rank in range(2)]
    ranks = [queued() for _ in shares]
    for seed in (1, 2):
        a, b = (view.requires_grad_() for view in queued_views(seed))
        ids = torch.arange(FEW_N) + 5 * seed
        expected = whole(a, b, ids)
        found = [term(a, b, ids, share=share) for term, share in zip(ranks, shares, strict=True)]
        torch.testing.assert_close(torch.stack(found).mean(), expected)
    for term in ranks:
        assert torch.equal(term.queue.ids, whole.queue.ids)  # type: ignore[union-attr]
        assert torch.equal(term.queue.rows, whole.queue.rows)  # type: ignore[union-attr]


def test_the_queue_takes_in_training_alone_and_is_part_of_the_state() -> None:
    term = queued()
    assert term.queue is not None
    term.eval()(*queued_views())
    with torch.no_grad():
        term.train()(*queued_views())
    assert bool((term.queue.ids == -1).all())
    term(*(view.requires_grad_() for view in queued_views()))
    assert sorted(term.queue.ids.tolist()) == [-1, -1, 0, 1, 2, 3, 4, 5]
    other = queued()
    other.load_state_dict(term.state_dict())
    second = queued_views(3)
    torch.testing.assert_close(other.eval()(*second), term.eval()(*second))


def test_what_a_queue_needs() -> None:
    with refused("pairs"):
        queued(objective="nt_xent")(*queued_views())
