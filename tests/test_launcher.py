"""What a launcher's variables say of a process."""

from __future__ import annotations

import pytest
from refusing import refused

from recgraph.ranks import is_first, launched_rank, local_rank, refuse_launched


@pytest.mark.parametrize(
    ("variables", "rank", "local"),
    [
        ({}, None, 0),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None, 0),
        ({"WORLD_SIZE": "2"}, None, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 0, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, 3, 1),
    ],
)
def test_a_process_knows_its_place_from_the_variables(
    variables: dict[str, str], rank: int | None, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank(), is_first(), local_rank()) == (rank, rank in (None, 0), local)
    if rank is not None:
        with refused("tune"):
            refuse_launched("tune", "start it without a launcher")
