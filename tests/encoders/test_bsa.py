"""BSARec's filter: what it removes, what a place may know, and that padding does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph.encoders.transformer import BSA, low_pass
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged

LIKE = torch.zeros((), dtype=torch.float64)


def encoder(causal: bool, device: torch.device | str = "cpu", **settings: object) -> BSA:
    torch.manual_seed(0)
    made = BSA(8, 12, 0.0, causal, 2, 2, 12, 0.0, **settings)
    return made.to(device).double().eval()


def table(device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)


@pytest.mark.parametrize("max_len", [11, 12])
@pytest.mark.parametrize("c", [0, 5, 30])
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


def test_a_filter_made_under_inference_mode_is_none_to_train_with() -> None:
    made, rows = encoder(causal=False), Ragged.from_lists([[1, 2, 3], [4]])
    with accelerator_path():
        with torch.inference_mode():
            before = made(rows, table())
        after = made(rows, table())
        after.sum().backward()
    torch.testing.assert_close(before, after)
