"""Costs of records: the estimate of energy, and the cheapest entry that is nearly the best."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import fill, write_board

from recgraph.leaderboard import cheapest as finding
from recgraph.leaderboard.cheapest import cheapest
from recgraph.leaderboard.costs import COSTS, training_wh
from recgraph.leaderboard.rendering import markdown
from recgraph.leaderboard.sheet import Sheet, open_sheet


@pytest.fixture
def sheet(tmp_path: Path) -> Sheet:
    board = write_board(tmp_path)
    fill(board)
    return open_sheet(board, board.sheets[0])


def test_energy_is_that_of_the_core_and_of_the_memory() -> None:
    record = {"training": {"cpu_seconds": 7200.0}, "peak_memory_mb": 8192.0}
    # two hours at 10 W of a core and 3 W of 8 GiB
    assert training_wh(record) == pytest.approx(26.0)
    assert training_wh(record | {"device": "cpu"}) == pytest.approx(26.0)


def test_energy_of_an_accelerator_is_not_told_from_cpu_time() -> None:
    record = {"training": {"cpu_seconds": 7200.0}, "peak_memory_mb": 8192.0, "device": "cuda:0"}
    assert COSTS["training_wh"](record) is None


def test_energy_of_a_machine_without_an_accelerator_is_told_where_no_device_was_given() -> None:
    record = {"training": {"cpu_seconds": 7200.0}, "peak_memory_mb": 8192.0, "device": "auto"}
    assert training_wh(record | {"provenance": {"cuda": None}}) == pytest.approx(26.0)
    assert training_wh(record | {"provenance": {"cuda": "an accelerator"}}) is None


def _with_costs(sheet: Sheet, seconds: dict[str, float]) -> Sheet:
    for entry, spent in seconds.items():
        key = (entry, "", "", "", "training_cpu_seconds")
        number = sheet.numbers[key]
        sheet.numbers[key] = type(number)(dict.fromkeys(number.by_seed, spent))
    return sheet


@pytest.mark.parametrize(
    ("seconds", "near", "expected"),
    [
        ({"LightGCN": 50.0, "LightGCN, three layers": 200.0}, 0.01, "LightGCN"),
        ({"LightGCN": 200.0, "LightGCN, three layers": 50.0}, 0.01, "LightGCN, three layers"),
        ({"LightGCN": 50.0, "LightGCN, three layers": 200.0}, 0.0, "the best"),
        ({"LightGCN": 50.0, "Popularity": 1.0}, 0.99, "Popularity"),
    ],
)
def test_the_cheapest_is_sought_among_the_nearly_best(
    sheet: Sheet, seconds: dict[str, float], near: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "NEAR", near)
    found = cheapest(_with_costs(sheet, seconds))
    assert found is not None
    best = sheet.ranked(sheet.tables[0].title, sheet.tables[0].metrics[0])[0].name
    assert (found.best, found.entry) == (best, best if expected == "the best" else expected)
    assert found.entry in found.text
    assert found.text.replace("%", "") in markdown([sheet], "shop").replace("%", "").replace("\\", "")


def test_one_entry_has_nothing_to_be_cheaper_than(tmp_path: Path) -> None:
    board = write_board(tmp_path)
    assert cheapest(open_sheet(board, board.sheets[0])) is None
