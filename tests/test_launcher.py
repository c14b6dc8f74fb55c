"""What a launcher's variables say of a process."""

from __future__ import annotations

import pytest

import recgraph as rg
from recgraph.launcher import is_first_launched, is_launched, local_rank


@pytest.mark.parametrize(
    ("variables", "launched", "first", "local"),
    [
        ({}, False, True, 0),
        ({"WORLD_SIZE": "", "RANK": "0"}, False, True, 0),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, False, True, 0),
        ({"WORLD_SIZE": "2"}, False, True, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True, True, 0),
        ({"WORLD_SIZE": "2", "RANK": "1"}, True, False, 0),
        ({"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}, True, False, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, True, False, 1),
    ],
)
def test_a_process_knows_its_place_from_the_variables(
    variables: dict[str, str], launched: bool, first: bool, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (is_launched(), is_first_launched(), local_rank()) == (launched, first, local)


def test_a_board_is_not_run_by_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers would take themselves for processes of the launcher; of a study see ``test_ranks_alike``."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"leaderboard.run runs in one process, and a launcher has started 2"):
        rg.leaderboard.run("quick")
