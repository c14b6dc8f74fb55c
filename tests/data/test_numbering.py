"""Numbers in the order of first appearance, against a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recgraph.data import numbering
from recgraph.data.numbering import Numbers, number_integers, number_keys

ALL = 2**64 - 1


@pytest.fixture(params=["one part", "many parts"])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many parts":
        monkeypatch.setattr(numbering, "_PART", 50)
        monkeypatch.setattr(numbering, "_PARTS", 16)
        monkeypatch.setattr(numbering, "_BLOCK", 64)


def check(found: Numbers, values: list[Any]) -> None:
    places: dict[Any, int] = {}
    assert found.codes.tolist() == [places.setdefault(value, len(places)) for value in values]
    assert found.codes.dtype == np.int32
    assert found.first.tolist() == [values.index(value) for value in places]


def keys_of(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint64]:
    """A key for each value, of which the high ``bits`` alone differ, or the low ones where it is negative."""
    drawn = np.random.default_rng(3).integers(0, ALL, int(values.max()) + 1, dtype=np.uint64, endpoint=True)
    return (drawn >> np.uint64(64 + bits) if bits < 0 else drawn >> np.uint64(64 - bits) << np.uint64(64 - bits))[
        values
    ]


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("bits", [64, 40, 9, 4, -9, -56])
@pytest.mark.parametrize("rows", [1, 2, 3, 64, 65, 1000])
def test_keys(rows: int, bits: int) -> None:
    keys = keys_of(np.random.default_rng(rows).integers(0, max(rows // 3, 1), rows), bits)
    check(number_keys(keys), keys.tolist())


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("bits", [64, 4, 1])
def test_keys_with_checks(bits: int) -> None:
    values = np.random.default_rng(0).integers(0, 300, 1000)
    keys, checks = keys_of(values, bits), (values % 7).astype(np.uint32)
    check(number_keys(keys, checks), list(zip(keys.tolist(), checks.tolist(), strict=True)))


@pytest.mark.usefixtures("_parts")
def test_a_value_that_nearly_all_rows_have() -> None:
    keys = keys_of(np.where(np.arange(1000) % 50, 7, np.arange(1000)), 64)
    check(number_keys(keys), keys.tolist())


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize(
    ("low", "step", "dtype"),
    [
        (0, 1, np.int64),
        (-100, 1, np.int8),
        (-(2**63), 1, np.int64),
        (-(2**63), 2**55, np.int64),
        (2**64 - 300, 1, np.uint64),
        (0, 2**56, np.uint64),
        (-5, 10**9, np.int64),
    ],
)
def test_integers(low: int, step: int, dtype: npt.DTypeLike) -> None:
    drawn = np.random.default_rng(0).integers(0, 200, 1000).tolist()
    values = np.array([low + step * number for number in drawn], dtype=dtype)
    check(number_integers(values), values.tolist())


def test_no_rows() -> None:
    check(number_integers(np.empty(0, np.int32)), [])
    check(number_keys(np.empty(0, np.uint64), np.empty(0, np.uint32)), [])
