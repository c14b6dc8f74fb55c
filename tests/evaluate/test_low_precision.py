"""Low precision lists what float32 lists, and knows where it could not."""

from __future__ import annotations

import pytest
import torch

from recgraph.evaluate.low_precision import LowPrecision
from recgraph.evaluate.topk import Catalogue
from recgraph.sparse.ragged import Ragged

BOTH = ("keep", "exclude")


def vectors(n: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def both(users: torch.Tensor, items: torch.Tensor, k: int, **options):
    seen = Ragged.from_lengths(
        torch.randint(0, len(items), (9 * len(users),), generator=torch.Generator().manual_seed(7)),
        torch.full((len(users),), 9),
    ).to(items.device)
    low = LowPrecision(len(items), k, item_vectors=items, **options)
    options = {name: value for name, value in options.items() if name in ("candidates", "block_items", "tie_seed")}
    exact = Catalogue(len(items), k, item_vectors=items, **options)
    return low, low.rank(users, seen, BOTH), exact.rank(users, seen, BOTH)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("block_items", [None, 1000])
def test_equals_float32(precision: str, block_items: int | None, device: torch.device) -> None:
    users, items = vectors(300, 32, 0).to(device), vectors(6000, 32, 1).to(device)
    low, found, exact = both(users, items, 20, precision=precision, block_items=block_items, tie_seed=3)
    for name in BOTH:
        assert torch.equal(found[name].items, exact[name].items)
        torch.testing.assert_close(found[name].scores, exact[name].scores)
    assert low.n_ranked == 300
    # the margin suffices: few users are ranked twice
    assert low.n_fallbacks < 45


def test_a_margin_that_is_too_small_is_noticed() -> None:
    users, items = vectors(300, 32, 0), vectors(6000, 32, 1)
    low, found, exact = both(users, items, 20, precision="bfloat16", margin=1)
    assert low.n_fallbacks > 250
    assert all(torch.equal(found[name].items, exact[name].items) for name in BOTH)
    # without the check the lists would be wrong
    _, columns = low._scan.rank_tile(users[:100].bfloat16(), None, ("keep",))["keep"]
    assert not torch.equal(low.order[columns[:, :20]].sort(1).values, exact["keep"].items[:100].sort(1).values)


@pytest.mark.parametrize("kind", ["twins", "huge", "tiny", "zero", "integers"])
def test_hard_numbers(kind: str) -> None:
    users, items = vectors(140, 16, 2), vectors(2000, 16, 3)
    if kind == "twins":
        items[1000:] = items[:1000]
    elif kind == "huge":
        items = items * 1e6
    elif kind == "tiny":
        items = items * 1e-9
    elif kind == "zero":
        items = torch.zeros_like(items)
    else:
        users, items = users.round(), items.round()
    for precision in ("bfloat16", "float16"):
        low, found, exact = both(users, items, 10, precision=precision)
        assert all(torch.equal(found[name].items, exact[name].items) for name in BOTH)
        # bfloat16 has the range of float32
        assert low.n_fallbacks > 0 or (kind in ("huge", "tiny") and precision == "bfloat16")


def test_few_candidates_and_short_lists() -> None:
    users, items = vectors(50, 16, 4), vectors(500, 16, 5)
    allowed = torch.tensor([3, 8, 77, 400])
    _, found, exact = both(users, items, 10, precision="bfloat16", candidates=allowed)
    assert all(torch.equal(found[name].items, exact[name].items) for name in BOTH)
    assert (found["keep"].items[:, 4:] == -1).all()


def test_nan_is_an_error() -> None:
    users, items = vectors(50, 16, 4), vectors(500, 16, 5)
    users[7, 3] = torch.nan
    with pytest.raises(ValueError, match="row 7 with NaN"):
        LowPrecision(500, 10, item_vectors=items, precision="float16").rank(users, None, ("keep",))


@pytest.mark.parametrize(("options", "message"), [({"precision": "int8"}, "int8"), ({"margin": 0}, "margin = 0")])
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowPrecision(10, 3, item_vectors=torch.zeros(10, 4), **{"precision": "float16", **options})
