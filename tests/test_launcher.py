"""What a launcher's variables say of a process."""

from __future__ import annotations

import re
import socket
import time

import pytest
from launched import free_port

import recgraph as rg
from recgraph.launcher import LauncherError, is_first_launched, is_launched, local_rank
from recgraph.ranks import connect

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "launched", "first", "local"),
    [
        ({}, False, True, 0),
        ({"WORLD_SIZE": "", "RANK": "0"}, False, True, 0),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, False, True, 0),
        ({"WORLD_SIZE": "2"}, False, True, 0),
        ({"WORLD_SIZE": "two"}, False, True, 0),
        ({"RANK": "captain"}, False, True, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True, True, 0),
        ({"WORLD_SIZE": "2", "RANK": "1"}, True, False, 0),
        ({"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "0"}, True, False, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, True, False, 1),
    ],
)
def test_a_process_knows_its_place_from_the_variables(
    variables: dict[str, str], launched: bool, first: bool, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    assert (is_launched(), is_first_launched(), local_rank()) == (launched, first, local)


TWO = {
    **{"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
    "RECGRAPH_RANKS_TIMEOUT": "0.2",
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"RANK": "x"}, "RANK = 'x' must be a whole number, as launchers set it; unset it where nobody launched"),
        ({"RANK": "-1"}, "RANK = '-1' must be a whole number"),
        ({"RANK": "2"}, "RANK = '2' must be below WORLD_SIZE = 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE = 'two' must be a whole number"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set, and WORLD_SIZE = 2: give all ranks the name of rank 0's"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set, and WORLD_SIZE = 2: give all ranks a free port there"),
        ({"MASTER_PORT": "abc"}, "MASTER_PORT = 'abc' must be a whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT = '70000' must be a port, from 1 to 65535"),
        ({"MASTER_ADDR": "nowhere.invalid"}, "MASTER_ADDR = 'nowhere.invalid': Name or service not known; give the"),
        ({"MASTER_ADDR": "nowhere.invalid", "RANK": "1"}, "MASTER_ADDR = 'nowhere.invalid': Name or service not"),
    ],
)
def test_an_error_names_the_variable_of_the_launcher(
    wrong: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    set_variables(monkeypatch, {**TWO, **wrong})
    with pytest.raises(LauncherError, match=re.escape(message)):
        connect()


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        set_variables(monkeypatch, {**TWO, "MASTER_PORT": str(port)})
        with pytest.raises(LauncherError, match=f"MASTER_PORT = '{port}' .* address already in use; give another port"):
            connect()


@pytest.mark.parametrize(("rank", "what"), [(0, "1 of 2 ranks came"), (1, "rank 0 did not come")])
def test_others_that_never_come_are_missed_in_a_sentence(
    rank: int, what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    port, began = free_port(), time.monotonic()
    set_variables(monkeypatch, {**TWO, "RANK": str(rank), "MASTER_PORT": str(port)})
    with pytest.raises(TimeoutError) as raised:
        connect()
    assert str(raised.value) == (
        f"{what} to 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT) within 0.2 s (RECGRAPH_RANKS_TIMEOUT); WORLD_SIZE = 2: "
        "start that many processes, with the same address and port"
    )
    assert capfd.readouterr() == ("", ""), "no frames of C++"
    assert time.monotonic() - began < 5


def test_a_board_is_not_run_by_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers would take themselves for processes of the launcher; of a study see ``test_ranks_alike``."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"leaderboard.run runs in one process, and a launcher has started 2"):
        rg.leaderboard.run("quick")
