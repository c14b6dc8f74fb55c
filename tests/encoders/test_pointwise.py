"""HSTU and FuXi-alpha: their equations, what a place may know, both layouts, second derivatives,
half precision.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pointwise_oracles import bucket, following, of_batch
from torch import Tensor

from recgraph.encoders.attention import N_SPANS, spans
from recgraph.encoders.pointwise import HSTU, FuXi, PointwiseEncoder
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged

ENCODERS = pytest.mark.parametrize("cls", [HSTU, FuXi])
#: rows of several lengths, with masked items: within, at the ends, at the start, alone
MASKED = [[1, 2, 3], [0, 5], [4, 0], [0], [1, 0, 2, 5, 6, 7], [9, 8, 7, 6, 5]]


def encoder(
    cls: type[PointwiseEncoder], device: torch.device | str = "cpu", **settings: Any
) -> PointwiseEncoder:
    torch.manual_seed(0)
    made = (
        cls(**{"hidden_dim": 8, "max_len": 6, "n_heads": 2, "dropout": 0.0, **settings})
        .to(device)
        .double()
        .eval()
    )
    with torch.no_grad():  # initial weights hardly move the states
        for name, parameter in made.layers.named_parameters():
            if "kvqu" in name or "bias" in name:
                parameter.mul_(20)
    return made


def table(device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(10, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        device
    )


def with_times(rows: Ragged, times: list[list[int | None]]) -> Ragged:
    """Tokens with their times and those of what follows, as :func:`recgraph.data.batches.with_gaps`
    writes them.
    """
    pairs = [pair for row in times for pair in zip(row, following(row), strict=True)]
    written = [[0 if time is None else time + (time >= 0) for time in pair] for pair in pairs]
    return rows.with_values(torch.cat([rows.values[:, None], torch.tensor(written)], 1))


@ENCODERS
@pytest.mark.parametrize("path", ["host", "accelerator"])
def test_the_states_with_times_are_those_of_the_equations(
    cls: type[PointwiseEncoder], path: str
) -> None:
    made, rows = encoder(cls, time_bias=True), Ragged.from_lists(MASKED)
    times = [
        [-5, 0, 1],
        [None, 3],
        [0, None],
        [None],
        [-(10**17), None, 10**9, 10**9, 7, 10**18],
        [9, 80, 7, 0, 5],
    ]
    expected = of_batch(made, rows.to_padded(), rows.lengths, table(), times)
    with accelerator_path() if path == "accelerator" else nullcontext():
        every = made(with_times(rows, times), table(), last_only=False)
        last = made(with_times(rows, times), table())
        unknown = made(rows, table())
        plain = encoder(cls)(rows, table(), last_only=False)
    torch.testing.assert_close(every, expected[rows.rows, rows.positions], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        last, expected[torch.arange(len(MASKED)), rows.lengths - 1], rtol=1e-12, atol=1e-12
    )
    expected = of_batch(encoder(cls), rows.to_padded(), rows.lengths, table())
    torch.testing.assert_close(plain, expected[rows.rows, rows.positions], rtol=1e-12, atol=1e-12)
    of_none = made(with_times(rows, [[None] * len(row) for row in MASKED]), table())
    torch.testing.assert_close(unknown, of_none, rtol=1e-12, atol=1e-12)
    assert float((unknown - last).detach().abs().max()) > 1e-3


def test_spans_are_cut_as_published() -> None:
    times = [0, 1, 2, 3, 59, 10**6, 10**12, 2**62, -(2**62)]
    written = torch.tensor([[time + (time >= 0) for time in times]])
    assert spans(written, written)[0].tolist() == [
        [bucket(one, other) for other in times] for one in times
    ]
    assert not spans(torch.zeros(1, 1, dtype=torch.int64), written).any()
    assert int(spans(written, written).max()) == N_SPANS - 1


def test_the_feed_forward_part_of_fuxi_is_as_wide_as_the_states_unless_set() -> None:
    for settings, width in (({"hidden_dim": 8}, 8), ({"hidden_dim": 8, "inner_dim": 20}, 20)):
        assert encoder(FuXi, **settings).layers[0].down.in_features == width
