"""Ragged rows against the same thing done with lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgraph.sparse.ragged import Ragged, consecutive

Rows = list[list[int]]
ROWS = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=7)


def make(rows: Rows) -> Ragged:
    return Ragged.from_lists(rows)


def ints(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@given(ROWS)
def test_lists_round_trip(rows: Rows) -> None:
    ragged = make(rows)
    assert ragged.to_lists() == rows
    assert (len(ragged), ragged.n_rows) == (len(rows), len(rows))
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.rows.tolist() == [index for index, row in enumerate(rows) for _ in row]
    assert ragged.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert [ragged.row(index).tolist() for index in range(len(rows))] == rows


@given(ROWS, st.integers(0, 7))
def test_ends_and_repeats_of_rows(rows: Rows, n: int) -> None:
    made, every = make(rows), [*range(len(rows)), *range(len(rows))]
    assert made.last(n).to_lists() == [row[-n:] if n else [] for row in rows]
    assert made.first(made.lengths.clamp(max=n)).to_lists() == [row[:n] for row in rows]
    assert made.take(ints(every)).to_lists() == rows * 2


@given(ROWS.filter(bool), st.data())
def test_window(rows: Rows, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    starts = [data.draw(st.integers(0, len(rows[index]))) for index in chosen]
    lengths = [data.draw(st.integers(0, len(rows[index]) - start)) for index, start in zip(chosen, starts, strict=True)]
    wanted = [rows[index][start : start + length] for index, start, length in zip(chosen, starts, lengths, strict=True)]
    assert make(rows).window(ints(chosen), ints(starts), ints(lengths)).to_lists() == wanted


@given(ROWS, st.data())
def test_filter(rows: Rows, data: st.DataObject) -> None:
    keep = [[data.draw(st.booleans()) for _ in row] for row in rows]
    mask = torch.tensor([flag for row in keep for flag in row], dtype=torch.bool)
    wanted = [
        [value for value, flag in zip(row, flags, strict=True) if flag] for row, flags in zip(rows, keep, strict=True)
    ]
    made = make(rows)
    assert made.filter(mask).to_lists() == wanted
    assert "rows" not in vars(made)  # as large as the values; of a whole log it would stay


@given(ROWS, st.integers(-1, 0))
def test_padded_round_trip(rows: Rows, fill: int) -> None:
    ragged = make(rows)
    width = max((len(row) for row in rows), default=0)
    padded = ragged.to_padded(fill)
    assert padded.tolist() == [row + [fill] * (width - len(row)) for row in rows]
    assert Ragged.from_padded(padded, ragged.lengths).to_lists() == rows


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_cat(parts: list[Rows]) -> None:
    assert Ragged.cat([make(rows) for rows in parts]).to_lists() == [row for rows in parts for row in rows]


@given(ROWS)
def test_consecutive_numbers(rows: Rows) -> None:
    shape = make(rows)
    starts = torch.arange(shape.n_rows) * 3 - 4
    for total in (None, shape.values.numel()):
        found = consecutive(starts, shape.lengths, total)
        assert torch.equal(found.values, starts[shape.rows] + shape.positions)
        assert torch.equal(found.offsets, shape.offsets)


def test_values_with_features_keep_their_shape_and_gradient() -> None:
    values = torch.randn(5, 2, requires_grad=True)
    ragged = make([[0, 0], [], [0, 0, 0]]).with_values(values)
    padded = ragged.to_padded()
    assert padded.shape == (3, 3, 2)
    padded.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones(5, 2))
    assert torch.equal(ragged.last(1).values, values[[1, 4]])


def test_mirrored_rows_are_laid_out_without_a_read_of_the_device() -> None:
    """The device ``meta`` has no values: whoever reads one gets an error."""
    rows, more = make([[3, 1, 2], [], [5]]), make([[7, 7]])
    there = rows.mirrored("meta")
    assert there.values.is_meta
    assert there.offsets.is_meta
    assert (there.on_host.to_lists(), there.longest) == (rows.to_lists(), 3)
    assert there.with_values(there.values * 0.5).longest == 3
    together = Ragged.cat([there, more.mirrored("meta")])
    assert together.values.is_meta
    assert together.on_host.to_lists() == [*rows.to_lists(), *more.to_lists()]
    assert (there.rows.shape, there.positions.shape) == ((4,), (4,))
    with pytest.raises(NotImplementedError):
        _ = rows.to("meta").on_host
    assert rows.mirrored("cpu").on_host is not None
    assert make([]).longest == 0


def test_rows_that_are_moved_again_stay_mirrored() -> None:
    there = make([[3, 1, 2], []]).mirrored("meta")
    assert there.mirrored("meta").on_host.to_lists() == [[3, 1, 2], []]
    assert there.mirrored(torch.device("meta")).longest == 3
