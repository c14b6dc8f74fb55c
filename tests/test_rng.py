"""Randomness: reproducible streams, their state, and dropout's distribution and gradient."""

from __future__ import annotations

import math

import pytest
import torch

from recgraph.ranks import Ranks
from recgraph.rng import Generators, derive, dropout, seeded_init


def draw(generator: torch.Generator, n: int = 8) -> torch.Tensor:
    return torch.rand(n, generator=generator, device=generator.device)


def test_derive_is_fixed_for_all_time() -> None:
    # a changed value would change every recorded run
    assert derive(7, "dropout") == 73442665498095197
    assert derive(7) != derive(8)
    assert derive(7, "a", "b") != derive(7, "ab")
    assert derive(7, "epoch", 1) == derive(7, "epoch", "1")
    assert all(0 <= derive(seed) < 2**63 for seed in range(200))


def test_streams_do_not_depend_on_one_another(device: torch.device) -> None:
    first, second = Generators(3, device), Generators(3, device)
    draw(second["other"], 100)
    assert torch.equal(draw(first["views"]), draw(second["views"]))
    assert not torch.equal(draw(first["views"]), draw(first["other"]))
    assert not torch.equal(
        draw(Generators(4, device)["views"]), draw(Generators(3, device)["views"])
    )


def test_a_stream_of_another_kind_of_device_begins_again() -> None:
    generators = Generators(3)
    assert generators.load_state_dict({"views": torch.zeros(16, dtype=torch.uint8)}) == ["views"]
    assert torch.equal(draw(generators["views"]), draw(Generators(3)["views"]))


def test_state_round_trip(device: torch.device) -> None:
    generators = Generators(5, device)
    draw(generators["dropout"], 11)
    draw(generators["views"], 3)
    state = {name: value.clone() for name, value in generators.state_dict().items()}
    wanted = {name: draw(generators[name]) for name in ("dropout", "views")}
    restored = Generators(5, device)
    restored.load_state_dict(state)
    assert all(torch.equal(draw(restored[name]), values) for name, values in wanted.items())


def test_ranks_share_streams_and_have_their_own() -> None:
    alone = Generators(5)
    assert alone.of_rank("dropout") is alone["dropout"]
    first, second = (Generators(5, ranks=Ranks(index, 2)) for index in range(2))
    assert torch.equal(draw(first["views"]), draw(second["views"]))
    drawn = [draw(one.of_rank("dropout")).tolist() for one in (first, second)]
    assert len({tuple(values) for values in (*drawn, draw(alone["dropout"]).tolist())}) == 3
    assert set(first.state_dict()) == {"views", "dropout@rank 0"}


def test_a_ranks_own_streams_go_on() -> None:
    one, same, new = (Generators(5, ranks=Ranks(index, 2)) for index in (1, 1, 0))
    stream = same.of_rank("dropout")
    draw(one.of_rank("dropout"))
    for each in (same, new):
        each.load_state_dict(one.state_dict())
    assert same.of_rank("dropout") is stream
    assert torch.equal(draw(stream), draw(one.of_rank("dropout")))
    assert torch.equal(
        draw(new.of_rank("dropout")), draw(Generators(5, ranks=Ranks(0, 2)).of_rank("dropout"))
    )


def test_seeded_init_restores_the_global_generator() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    with seeded_init(9):
        first = torch.nn.Linear(3, 3).weight
    assert torch.equal(torch.rand(3), wanted)
    with seeded_init(9):
        assert torch.equal(torch.nn.Linear(3, 3).weight, first)
    with seeded_init(9, "other"):
        assert not torch.equal(torch.nn.Linear(3, 3).weight, first)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9, 0.999])
def test_dropout_distribution(device: torch.device, p: float) -> None:
    n = 400_000
    x = torch.ones(n, device=device)
    kept = dropout(x, p, Generators(1, device)["dropout"])
    rate = min(round(p * 256), 255) / 256  # what the docstring promises
    zeros = int((kept == 0).sum())
    assert abs(zeros - n * rate) < 5 * math.sqrt(n * rate * (1 - rate))
    survivors = kept[kept != 0]
    torch.testing.assert_close(survivors, torch.full_like(survivors, 1 / (1 - rate)))


def test_dropout_gradient_is_the_mask(device: torch.device) -> None:
    x = torch.randn(1000, 3, device=device, requires_grad=True)
    y = dropout(x, 0.25, Generators(3, device)["dropout"])
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)
    assert x.grad.unique().tolist() == pytest.approx([0, 4 / 3])
