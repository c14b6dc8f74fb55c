"""Aggregators of histories against loops over their items, and the contract of the kind."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.encoders.histories import HistoryAggregator, SelfAttention, UserAttention
from recgraph.sparse.ragged import Ragged

NAMES = registry.names("aggregator")
N_ITEMS, D = 9, 4
ROWS = [[3, 1, 8], [], [5], [2, 2, 0, 7]]


def case(dtype: torch.dtype = torch.float64, times: int = 1) -> tuple[Tensor, Ragged, Tensor]:
    g = torch.Generator().manual_seed(4)
    own = (
        torch.randn(times * len(ROWS), D, generator=g, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )
    items = torch.randn(N_ITEMS, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    return own, Ragged.from_lists(times * ROWS), items


def made(name: str, dtype: torch.dtype = torch.float64, **settings: Any) -> HistoryAggregator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one: HistoryAggregator = registry.make(
            "aggregator", {"name": name, **settings}, hidden_dim=D
        )
    return one.to(dtype)


def question(aggregator: HistoryAggregator, own: Tensor) -> Tensor | None:
    """What a history is asked for, [D]; None: all items count alike."""
    if isinstance(aggregator, UserAttention):
        return own
    return aggregator.query[:, 0] if isinstance(aggregator, SelfAttention) else None


@pytest.mark.parametrize("times", [1, 3], ids=["fewer events than items", "more events than items"])
@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_the_weighted_mean_of_its_items(name: str, times: int) -> None:
    aggregator, (own, rows, items) = made(name), case(times=times)
    found = aggregator(own, rows, items)
    for user, history in enumerate(times * ROWS):
        asked = question(aggregator, own[user])
        shares = [1.0] * len(history)
        if asked is not None:
            keys = [
                torch.tanh(aggregator.key.weight @ items[i] + aggregator.key.bias) for i in history
            ]
            shares = [math.exp(float(asked @ key)) for key in keys]
        pooled = sum(
            (share / sum(shares) * items[i] for share, i in zip(shares, history, strict=True)),
            torch.zeros(D),
        )
        torch.testing.assert_close(
            found[user], aggregator.out.weight @ pooled.double(), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("n_places", [1, 3, 700])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "mean"])
def test_empty_places_take_a_share_as_padding_does_in_the_published_code(
    name: str, n_places: int
) -> None:
    aggregator, (own, rows, items) = made(name, n_places=n_places), case()
    width = max(n_places, rows.longest)
    padded = torch.zeros(len(ROWS), width, D, dtype=torch.float64)
    scores = torch.zeros(len(ROWS), width, dtype=torch.float64)
    n_taken = torch.zeros(len(ROWS), width, dtype=torch.float64)
    for user, history in enumerate(ROWS):
        asked = question(aggregator, own[user])
        assert asked is not None
        padded[user, : len(history)] = items[history]
        scores[user, : len(history)] = torch.tanh(aggregator.key(items[history])) @ asked
        n_taken[user, : max(n_places, len(history))] = 1
    shares = scores.exp() * n_taken
    expected = aggregator.out((shares / shares.sum(1, keepdim=True))[:, None] @ padded)[:, 0]
    torch.testing.assert_close(aggregator(own, rows, items), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda a, b: aggregator(a, rows, b), (own, items))
    great = aggregator(own.detach() * 1e4, rows, items)  # scores of thousands, of both signs
    assert bool(great.isfinite().all())


def test_matrices_start_as_the_published_ones_where_asked() -> None:
    wide = UserAttention(200, init="xavier")
    for layer in (wide.out, wide.key):
        assert float(layer.weight.std()) == pytest.approx(200**-0.5, rel=0.03)
    assert float(wide.key.bias.abs().max()) == 0
    assert float(UserAttention(200).out.weight.abs().max()) <= 200**-0.5


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_no_history_at_all(name: str) -> None:
    aggregator, (own, rows, items) = made(name), case(times=3)
    assert torch.autograd.gradcheck(lambda a, b: aggregator(a, rows, b), (own, items))
    empty = Ragged.from_lists([[], []])
    assert torch.equal(aggregator(own[:2], empty, items), torch.zeros(2, D, dtype=torch.float64))


def test_dropout_is_drawn_from_the_generator_in_training_alone() -> None:
    aggregator, (own, rows, items) = made("mean", dropout=0.5), case()

    def drawn(seed: int) -> Tensor:
        found: Tensor = aggregator(own, rows, items, torch.Generator().manual_seed(seed))
        return found

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    with refused("generator"):
        aggregator(own, rows, items)
    aggregator.eval()
    assert torch.equal(aggregator(own, rows, items), drawn(3))
