"""BSARec's filter: what it removes, what a place may know, and that padding does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.accelerated import accelerator_path
from recgraph.encoders.transformer import FilteredTransformer, low_pass
from recgraph.sparse.ragged import Ragged

LIKE = torch.zeros((), dtype=torch.float64)


def encoder(causal: bool, device: torch.device | str = "cpu", **settings: object) -> FilteredTransformer:
    torch.manual_seed(0)
    made = FilteredTransformer(8, 12, 0.0, 2, 2, 12, 0.0, causal=causal, **settings)
    return made.to(device).double().eval()


def table(device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)


@pytest.mark.parametrize("max_len", [11, 12])
@pytest.mark.parametrize("c", [0, 1, 5, 8, 30])
def test_low_pass_is_the_published_transform(max_len: int, c: int, device: torch.device) -> None:
    x = torch.randn(max_len, 3, dtype=torch.float64, device=device)
    frequencies = torch.fft.rfft(x, dim=0, norm="ortho")
    frequencies[c // 2 + 1 :] = 0
    expected = torch.fft.irfft(frequencies, n=max_len, dim=0, norm="ortho")
    torch.testing.assert_close(low_pass(max_len, c, False, x) @ x, expected, rtol=1e-12, atol=1e-12)
    if c >= max_len:
        torch.testing.assert_close(expected, x)


def test_the_causal_filter_is_the_filter_of_each_prefix() -> None:
    x = torch.randn(12, 3, dtype=torch.float64)
    made = low_pass(12, 5, True, x) @ x
    for end in range(1, 13):
        prefix = x.clone()
        prefix[end:] = 0
        torch.testing.assert_close(made[end - 1], (low_pass(12, 5, False, x) @ prefix)[end - 1], rtol=1e-12, atol=1e-12)


def test_no_later_item_reaches_an_earlier_state_of_the_causal_filter(device: torch.device) -> None:
    items, made = [3, 8, 2, 9, 4, 7, 1], {}
    for causal in (True, False):
        changed = []
        for last in (5, 20):
            rows = Ragged.from_lists([[*items, last]], device)
            changed.append(encoder(causal, device)(rows, table(device), last_only=False).detach())
        made[causal] = (changed[0] - changed[1]).abs().amax(1)
    assert float(made[True][:-1].max()) == 0
    assert float(made[True][-1]) > 1e-3
    # the published filter shows an inner place what comes later: all but the last state are no predictions
    assert float(made[False][:-1].min()) > 1e-6


def test_one_layer_is_the_same_function_of_the_last_place() -> None:
    rows = Ragged.from_lists([[1, 2, 3, 4, 5], [7], list(range(1, 13))])
    made = [FilteredTransformer(8, 12, n_layers=1, causal=causal).double().eval() for causal in (True, False)]
    made[1].load_state_dict(made[0].state_dict())
    torch.testing.assert_close(made[0](rows, table()), made[1](rows, table()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_longer_rows_beside_it_do_not_change_a_row(causal: bool) -> None:
    made, row = encoder(causal), [5, 9, 2, 6]
    alone = made(Ragged.from_lists([row]), table(), last_only=False)
    beside = made(Ragged.from_lists([[1, 2, 3, 4, 5], row, [8], list(range(1, 13))]), table(), last_only=False)
    torch.testing.assert_close(beside[5:9], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_the_last_place_alone_is_the_last_of_all(causal: bool) -> None:
    rows = Ragged.from_lists([[1, 0, 3], [0], [5, 6, 7, 8], [2, 3, 0], [4, 4, 4, 4, 4]])
    made = encoder(causal)
    every = made(rows, table(), last_only=False)
    torch.testing.assert_close(made(rows, table()), every[rows.offsets[1:] - 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "part"), [(0.0, "filter"), (1.0, "attention")])
def test_alpha_shares_between_the_two(alpha: float, part: str) -> None:
    made, rows = encoder(True, alpha=alpha), Ragged.from_lists([[1, 2, 3], [4, 5]])
    before = made(rows, table())
    names = ("filter_norm", "sqrt_beta") if part == "filter" else ("qkv", "out", "attention_norm")
    with torch.no_grad():
        for name, parameter in made.layers.named_parameters():
            if name.split(".")[1] in names:
                parameter.add_(torch.randn_like(parameter))
    torch.testing.assert_close(made(rows, table()), before, rtol=0, atol=0)


def test_a_filter_made_under_inference_mode_is_none_to_train_with() -> None:
    made, rows = encoder(causal=False), Ragged.from_lists([[1, 2, 3], [4]])
    with accelerator_path():
        with torch.inference_mode():
            before = made(rows, table())
        after = made(rows, table())
        after.sum().backward()
    torch.testing.assert_close(before, after)


def test_settings_out_of_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha = 1\.5 must be from 0 to 1"):
        encoder(causal=False, alpha=1.5)
    with pytest.raises(ValueError, match="c = -3 must be at least 0"):
        encoder(causal=False, c=-3)
