"""What a mask keeps of rows, block by block, against Python's own lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recgraph.data import masks
from recgraph.data.masks import kept, kept_rows
from recgraph.sparse.ragged import Ragged


@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_rows_keep_what_the_mask_says(monkeypatch: pytest.MonkeyPatch, block: int, share: float) -> None:
    monkeypatch.setattr(masks, "_BLOCK", block)
    draw = np.random.default_rng(0)
    lengths = [0, 0, 5, 1, 0, 7, 3, 0]
    rows = [draw.integers(0, 100, length).tolist() for length in lengths]
    keeps = [(draw.random(length) < share).tolist() for length in lengths]
    mask = torch.tensor([keep for row in keeps for keep in row], dtype=torch.bool)
    wanted = [
        [v for v, keep in zip(row, keep_row, strict=True) if keep] for row, keep_row in zip(rows, keeps, strict=True)
    ]
    found = kept_rows(Ragged.from_lists(rows), mask)
    assert found.to_lists() == wanted
    assert kept(torch.arange(16.0), mask).tolist() == [float(place) for place in np.flatnonzero(mask.numpy())]


def test_rows_without_entries_stay() -> None:
    empty = Ragged(torch.empty(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    assert kept_rows(empty, torch.empty(0, dtype=torch.bool)).lengths.tolist() == [0, 0, 0]
