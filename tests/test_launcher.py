"""What a launcher's variables say of a process."""

from __future__ import annotations

import pytest
from refusing import refused

from recgraph.launcher import is_first_launched, is_launched, local_rank, refuse_launched


@pytest.mark.parametrize(
    ("variables", "launched", "first", "local"),
    [
        ({}, False, True, 0),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, False, True, 0),
        ({"WORLD_SIZE": "2"}, False, True, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True, True, 0),
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
    if launched:
        with refused("tune"):
            refuse_launched("tune", "start it without a launcher")
