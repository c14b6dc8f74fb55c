"""The table of published rows of Gowalla beside ours is that of the records, and every gap has its cause."""

from __future__ import annotations

import pytest

from experiments.published_rows import (
    PAGE,
    ROWS,
    UNFINISHED,
    Row,
    ending,
    is_close,
    page,
    ratios,
    scores_of,
    sheet_of,
)


def test_the_page_has_what_the_records_have() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m experiments.published_rows"


def test_ours_learn_from_what_theirs_did() -> None:
    for board, fitted_on in (("published", "train+valid"), ("collaborative", "train")):
        for table in sheet_of(board).tables:
            assert (table.protocol["fitted_on"], table.protocol["history"]) == (fitted_on, "train+valid")
            assert table.n_users == 29858


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_a_gap_has_a_cause_and_nothing_else_has_one(row: Row) -> None:
    found = ratios(row, scores_of(sheet_of("published"), row.entry))
    is_gap = row.theirs is not None and (found is None or not is_close(found))
    assert bool(row.gap) == is_gap, "say why ours are not run or more than a hundredth below, and then alone"
    assert row.gap.startswith("not run") == (is_gap and found is None)
    how = ending(sheet_of("published"), row.entry)
    is_cut = how is not None and how.is_cut
    assert row.gap.startswith(UNFINISHED) == (is_gap and is_cut), "a training whose best epoch is its last was cut"
