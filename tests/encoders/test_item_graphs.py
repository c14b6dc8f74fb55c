"""Graphs of items learned from a log: against loops over users and places, their state, and what is
refused.
"""

from __future__ import annotations

import io

import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph.encoders.graph import Interactions, LinkedItems, Transitions
from recgraph.sparse.ragged import Ragged

N_ITEMS, DIM = 7, 3
# item 6 has no interaction, one user none, one item occurs twice in a row and one twice in a
# history
ROWS = [[0, 1, 1, 2], [], [3, 0, 4, 3], [5]]


def vectors(device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(
        N_ITEMS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).to(device)


def connected(graph: LinkedItems, device: torch.device | str = "cpu") -> LinkedItems:
    graph = graph.to(device).double()
    graph.connect(Ragged.from_lists(ROWS))
    return graph


def of_interactions() -> list[list[float]]:
    """The operator of one layer, pair by pair."""
    sets = [set(row) for row in ROWS]
    degrees = [sum(item in of_user for of_user in sets) for item in range(N_ITEMS)]
    return [
        [
            sum(
                (i in own and j in own) / len(own) / (degrees[i] * degrees[j]) ** 0.5
                for own in sets
                if {i, j} <= own
            )
            for j in range(N_ITEMS)
        ]
        for i in range(N_ITEMS)
    ]


def of_transitions(window: int) -> list[list[float]]:
    counts = [[0.0] * N_ITEMS for _ in range(N_ITEMS)]
    for row in ROWS:
        for place, one in enumerate(row):
            for other_place, other in enumerate(row):
                if one != other and 0 < abs(place - other_place) <= window:
                    counts[one][other] += 1 / abs(place - other_place)
    sums = [sum(row) for row in counts]
    return [
        [counts[i][j] / (sums[i] * sums[j]) ** 0.5 if counts[i][j] else 0.0 for j in range(N_ITEMS)]
        for i in range(N_ITEMS)
    ]


def propagated(operator: list[list[float]], x: Tensor, n_layers: int) -> Tensor:
    every, dense = [x], torch.tensor(operator, dtype=x.dtype, device=x.device)
    for _ in range(n_layers):
        every.append(dense @ every[-1])
    return torch.stack(every).mean(0)


@pytest.mark.parametrize("n_layers", [1, 3])
def test_items_of_the_same_users(n_layers: int, device: torch.device) -> None:
    graph, x = connected(Interactions(N_ITEMS, n_layers), device), vectors(device)
    torch.testing.assert_close(
        graph(x), propagated(of_interactions(), x, n_layers), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_items_that_follow_one_another(window: int, device: torch.device) -> None:
    graph, x = connected(Transitions(N_ITEMS, 2, window), device), vectors(device)
    torch.testing.assert_close(
        graph(x), propagated(of_transitions(window), x, 2), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(
    "graph", [Interactions(N_ITEMS), Transitions(N_ITEMS, window=2)], ids=["users", "places"]
)
def test_gradients_and_state(graph: LinkedItems) -> None:
    untouched = torch.zeros(N_ITEMS, DIM, dtype=torch.float64)
    # no neighbours: x of three layers
    torch.testing.assert_close(graph.double()(untouched + 3), untouched + 1)
    connected(graph)
    x = vectors().requires_grad_()
    assert torch.autograd.gradcheck(graph, (x,))
    file = io.BytesIO()
    torch.save(graph.state_dict(), file)
    file.seek(0)
    again = type(graph)(N_ITEMS).double()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again(x), graph(x))


def test_what_is_wrong_is_named() -> None:
    graph = connected(Interactions(N_ITEMS))
    graph.indices[0] = 99  # as a file of weights may have it
    with refused("none of a matrix"):
        graph(vectors())
