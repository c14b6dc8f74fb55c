"""Where the processes that a launcher has started find one another: a store at rank 0, or at the launcher.

Python's sockets try the address first: for a wrong one the store would print frames of C++.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

from recgraph.launcher import LauncherError, Meeting, meeting

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["store_of_all"]

_POLL = 0.1
#: seconds that the name of a machine has to become known, and the host of the store to tell that not all have come
_TO_RESOLVE, _TO_READ = 60.0, 1.0


def store_of_all(seconds: float) -> tuple[Store, Meeting]:
    """The store of all ranks, once all have come to it, and which of them this one is.

    Args:
        seconds: how long to wait for the others.

    Raises:
        LauncherError: a variable of the launcher is wrong, no machine has that name, or its port is taken.
        TimeoutError: not all came in time; says how many did.
        ConnectionError: the store is gone meanwhile.
    """
    here = meeting()
    # under torchrun its agent holds the store
    is_host = here.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    _reach(here, is_host, seconds)
    wait, where = timedelta(seconds=seconds), "127.0.0.1" if is_host else here.host
    try:
        tcp = dist.TCPStore(  # type: ignore[attr-defined]
            where, here.port, here.n_ranks, is_host, wait, wait_for_workers=False, multi_tenant=True
        )
    except dist.DistNetworkError as error:
        why = str(error).splitlines()[0]
        raise LauncherError(f"MASTER_PORT = '{here.port}' of {here.host}: {why}; give another port") from error
    # the processes of a launcher that started them again leave those before them alone
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    store: Store = dist.PrefixStore(f"recgraph/{attempt}", tcp)  # type: ignore[attr-defined]
    try:
        n_came = _came(store, here, is_host, seconds)
    except dist.DistError as error:
        raise ConnectionError(f"the store at {here.host}:{here.port} is gone, and rank 0 with it: {error}") from error
    if n_came < here.n_ranks:
        raise TimeoutError(_late(here, f"{n_came} of {here.n_ranks} ranks came", seconds))
    return store, here


def _late(here: Meeting, what: str, seconds: float) -> str:
    return (
        f"{what} to {here.host}:{here.port} (MASTER_ADDR, MASTER_PORT) within {seconds:g} s (RECGRAPH_RANKS_TIMEOUT); "
        f"WORLD_SIZE = {here.n_ranks}: start that many processes, with the same address and port"
    )


def _reach(here: Meeting, is_host: bool, seconds: float) -> None:
    """Wait until the machine's name is known, and on others than the host of the store until its port is open."""
    began = time.monotonic()
    while True:
        try:
            if is_host:
                socket.getaddrinfo(here.host, here.port)
            else:
                socket.create_connection((here.host, here.port), timeout=min(seconds, 5.0)).close()
            return
        except (socket.gaierror, UnicodeError) as error:
            if time.monotonic() - began >= min(seconds, _TO_RESOLVE):
                why = getattr(error, "strerror", None) or "no such name"
                raise LauncherError(f"MASTER_ADDR = {here.host!r}: {why}; give the name of rank 0's machine") from error
        except OSError as error:
            if time.monotonic() - began >= seconds:
                raise TimeoutError(_late(here, "rank 0 did not come", seconds)) from error
        time.sleep(_POLL)


def _came(store: Store, here: Meeting, is_host: bool, seconds: float) -> int:
    """How many ranks have come: all, or those that have when the host of the store, or this rank, gives up."""
    keys = [f"came/{rank}" for rank in range(here.n_ranks)]
    store.set(keys[here.rank], "")
    end = time.monotonic() + seconds
    while not store.check(keys):
        if time.monotonic() >= end or store.check(["given up"]):
            n_came = sum(store.check([key]) for key in keys)
            if is_host and n_came > 1:
                store.set("given up", "")
                time.sleep(_TO_READ)
            return n_came
        time.sleep(_POLL)
    return here.n_ranks
