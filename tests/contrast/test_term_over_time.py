"""What of a term changes from step to step: its temperature and its queue."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.contrast.term import ContrastiveTerm
from recgraph.ranks import Share

N, D = 6, 4


def views(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, N, D, generator=draw, dtype=torch.float64)
    return a, b


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.775, 0.1, 0.1]),
        ("cosine", [1.0, 0.55, 1.0, 0.1]),
    ],
)
def test_temperatures(schedule: str, expected: list[float]) -> None:
    """At epochs 0, a quarter of the period, the period, and one period and a half."""
    a, b = views()
    over_time = {} if schedule == "constant" else {"temperature_end": 0.1, "temperature_epochs": 8}
    term = ContrastiveTerm(similarity="cosine", temperature=1.0, temperature_schedule=schedule, **over_time)
    for epoch, tau in zip((0, 2, 8, 12), expected, strict=True):
        assert term.similarity(epoch).temperature == pytest.approx(tau)
        plain = ContrastiveTerm(similarity="cosine", temperature=tau)
        torch.testing.assert_close(term(a, b, epoch=epoch), plain(a, b))


def test_a_schedule_needs_an_end_and_the_epoch() -> None:
    with pytest.raises(ValueError, match="'cosine' needs temperature_end"):
        ContrastiveTerm(temperature_schedule="cosine")
    with pytest.raises(ValueError, match=r"temperature_end = 0.1 has no effect without a schedule"):
        ContrastiveTerm(temperature_end=0.1)
    term = ContrastiveTerm(temperature_schedule="linear", temperature_end=0.1)
    with pytest.raises(ValueError, match="needs the epoch"):
        term(*views())


def queued(**settings: Any) -> ContrastiveTerm:
    given = {"similarity": "cosine", "temperature": 0.5, "objective": "info_nce", "queue_size": 8, "dim": D}
    return ContrastiveTerm(**{**given, **settings}).double()


def test_earlier_rows_are_candidates() -> None:
    """The loss of the second step, written out: the queue is aligned with the batch and has no ids of it."""
    term, ids = queued(), torch.arange(N)
    first, second = views(1), views(2)
    torch.testing.assert_close(
        term(*first, ids), ContrastiveTerm(similarity="cosine", temperature=0.5, objective="info_nce")(*first)
    )
    later = ids + 4  # ids 4 and 5 are in both batches
    found = term(*second, later)
    old, new = (F.normalize(views_of[1], dim=1) for views_of in (first, second))
    old = old[:4]
    moved = F.normalize((old - old.mean(0)) * (new.std(0) / old.std(0)) + new.mean(0), dim=1)
    candidates = torch.cat([new, moved])
    s = F.normalize(second[0], dim=1) @ candidates.T / 0.5
    torch.testing.assert_close(found, F.cross_entropy(s, torch.arange(N)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", [{"weight": "learned"}, {"transform": "centre"}])
def test_parts_see_both_sides_alike_beside_a_queue(part: dict[str, Any]) -> None:
    """Directions on both sides, as the queue has them: of an empty queue it is the loss of directions."""
    torch.manual_seed(0)
    term = queued(**part)
    torch.manual_seed(0)
    plain = queued(queue_size=0, **part)
    a, b = views()
    draws = (torch.Generator().manual_seed(1) for _ in range(2))
    found = term(3 * a, b, generator=next(draws))
    torch.testing.assert_close(found, plain(F.normalize(a, dim=1), F.normalize(b, dim=1), generator=next(draws)))


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
    assert whole.queue is not None
    for term in ranks:
        assert term.queue is not None
        assert torch.equal(term.queue.ids, whole.queue.ids)
        assert torch.equal(term.queue.rows, whole.queue.rows)


def test_the_queue_takes_in_training_alone_and_is_part_of_the_state() -> None:
    term = queued()
    assert term.queue is not None
    term.eval()(*views())
    with torch.no_grad():
        term.train()(*views())
    assert bool((term.queue.ids == -1).all())
    a, b = (view.requires_grad_() for view in views())
    term(a, b)
    assert sorted(term.queue.ids.tolist()) == [-1, -1, 0, 1, 2, 3, 4, 5]
    other = queued()
    other.load_state_dict(term.state_dict())
    second = views(3)
    torch.testing.assert_close(other.eval()(*second), term.eval()(*second))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "nt_xent"}, "queue_size = 8 adds candidates, and objective = 'nt_xent'"),
        ({"similarity": "dot"}, "queue_size = 8 keeps rows of unit length; use similarity='cosine'"),
        ({"dim": None}, "queue_size = 8 needs dim"),
        ({"objective_settings": {"both_directions": True}}, "queue_size = 8 adds candidates without a positive"),
    ],
)
def test_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        queued(**settings)


def test_a_queue_needs_rows_in_pairs() -> None:
    a, b = views()
    with pytest.raises(ValueError, match="needs two views with rows in pairs"):
        queued()(a[:2], b, positives=torch.tensor([1, 3]))
    assert math.isfinite(float(queued()(a[:2], b[:2])))
