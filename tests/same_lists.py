"""Lists that come about in two ways, such as in other batches, processes or numbers of threads:
their scores may differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest


def assert_same_list(
    found: Sequence[tuple[Any, float]], expected: Sequence[tuple[Any, float]], atol: float = 1e-6
) -> None:
    """The same list of (item, score) up to rounding; items of equal scores may change places.

    The error of a score, a sum of products, grows with the size of its summands: ``atol`` is about
    1e-6 of these.
    """
    scores = [score for _, score in expected]
    assert [score for _, score in found] == pytest.approx(scores, rel=1e-5, abs=atol)
    score_of = dict(expected)
    for item, score in found:
        # an item that the other list has not is equal to the last one of it
        assert score == pytest.approx(score_of.get(item, scores[-1]), rel=1e-5, abs=atol), item


def assert_same_lists(found: pl.DataFrame, expected: pl.DataFrame, atol: float = 1e-6) -> None:
    """The same for frames of lists, whose columns begin with the one that a list is for (a user, an
    item), the item and the score.
    """
    assert found.schema == expected.schema
    label, item = expected.columns[:2]
    assert found.select(label, "rank").equals(expected.select(label, "rank"))
    for (value,), part in expected.group_by(label):
        own = found.filter(pl.col(label) == value)
        assert_same_list(
            list(own.select(item, "score").iter_rows()),
            list(part.select(item, "score").iter_rows()),
            atol,
        )
