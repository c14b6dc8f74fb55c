"""The item tower against a slow loop, and its gradients."""

from __future__ import annotations

import pytest
import torch
from refusing import refused
from torch import Tensor

from recgraph.encoders.items import ItemTower
from recgraph.sparse.csr import Csr

N_ITEMS, N_VALUES, WIDTH, DIM = 7, 6, 3, 4
MISSING = [0, 4]


def made(
    device: torch.device | str = "cpu", id_dropout: float = 0.0, width: int = WIDTH
) -> ItemTower:
    draw = torch.Generator().manual_seed(1)
    entries = torch.rand(N_ITEMS, N_VALUES, generator=draw) * (
        torch.rand(N_ITEMS, N_VALUES, generator=draw) < 0.5
    )
    dense = torch.randn(N_ITEMS, width, generator=draw)
    torch.manual_seed(3)
    return ItemTower(DIM, Csr.from_dense(entries), dense, MISSING, id_dropout).to(device).double()


def own(device: torch.device | str = "cpu", n: int = N_ITEMS) -> Tensor:
    return torch.randn(n + 1, DIM, generator=torch.Generator().manual_seed(2)).to(device).double()


def slowly(tower: ItemTower, own: Tensor) -> list[list[float]]:
    entries = tower.entries.to_dense()
    rows = [own[0].tolist()]
    for item in range(N_ITEMS):
        row = torch.zeros(DIM, dtype=torch.float64, device=own.device)
        if len(own) > 1 and tower.known_items[item]:
            row = row + own[item + 1]
        elif len(own) > 1:
            known = [own[other + 1] for other in range(N_ITEMS) if tower.known_items[other]]
            row = row + sum(known) / len(known)
        for value in range(N_VALUES):
            row = row + entries[item, value] * tower.values.weight[value]
        if tower.project is not None:
            for column in range(WIDTH):
                row = row + tower.dense[item, column] * tower.project.weight[:, column]
        rows.append(row.tolist())
    return rows


@pytest.mark.parametrize("n_own", [N_ITEMS, 0])
@pytest.mark.parametrize("width", [WIDTH, 0])
def test_vectors_are_sums(n_own: int, width: int, device: torch.device) -> None:
    tower, vectors = made(device, width=width), own(device, n_own)
    tower.setup(torch.tensor([1, 0, 2, 1, 0, 1, 1]))
    wanted = torch.tensor(slowly(tower, vectors), device=device, dtype=torch.float64)
    torch.testing.assert_close(tower(vectors), wanted, rtol=1e-6, atol=1e-7)


def test_id_dropout_leaves_out_own_vectors_in_training_alone() -> None:
    tower, vectors = made(id_dropout=0.5), own()
    with refused("generator"):
        tower(vectors)
    draw = torch.Generator().manual_seed(0)
    features, full = tower.features() + vectors[1:].mean(0), tower.eval()(vectors)[1:]
    tower.train()
    left_out, n = 0, 200
    for _ in range(n):
        items = tower(vectors, draw)[1:]
        without = torch.isclose(items, features).all(1)
        assert torch.equal(items[~without], full[~without])
        left_out += int(without.sum())
    assert left_out / (n * N_ITEMS) == pytest.approx(0.5, abs=0.05)


def test_a_loss_scores_items_of_the_training_part_alone(device: torch.device) -> None:
    tower, vectors = made(device), own(device)
    table, targets = tower(vectors), torch.tensor([1, 3, 7], device=device)
    for same, given in zip(tower.of_candidates(table, targets), (table, targets), strict=True):
        assert same is given
    counts = tower.setup(torch.tensor([4, 0, 2, 1, 0, 1, 3]))
    assert counts.tolist() == [4, 2, 1, 1, 3]
    scored, places = tower.of_candidates(table, targets)
    assert torch.equal(scored, table[[0, 1, 3, 4, 6, 7]])
    assert torch.equal(scored[places], table[targets])
    assert tower.setup(torch.ones(N_ITEMS)).tolist() == [1] * N_ITEMS
    assert tower.of_candidates(table, targets)[0] is table
