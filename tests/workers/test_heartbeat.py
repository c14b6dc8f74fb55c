"""Heartbeats, and processes by which others see that one has expired."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from recgraph.workers.heartbeat import Expiry, Heartbeat, OwnershipLost
from recgraph.workers.process import Process, this_process


def test_heartbeats_are_renewed_until_others_have_taken_over() -> None:
    written: list[dict[str, Any]] = []

    def write(values: dict[str, Any]) -> None:
        if len(written) == 3:
            raise OwnershipLost
        written.append(values)
        if len(written) == 2:
            raise OSError("the storage is away")

    with Heartbeat(write, 0.01) as heartbeat:
        until = time.monotonic() + 120
        while not heartbeat.is_lost and time.monotonic() < until:
            time.sleep(0.01)
    assert heartbeat.is_lost
    assert [values["beat"] for values in written] == [0, 1, 2]
    assert Process.of(written[0]) == this_process()


def test_a_heartbeat_expires_with_its_process_or_after_the_grace_period() -> None:
    now = [0.0]
    expiry = Expiry(60, lambda: now[0])
    here = this_process().to_dict()
    elsewhere = {**here, "host": "elsewhere"}
    assert not expiry.has_expired("here", here)
    assert not expiry.has_expired("elsewhere", elsewhere)
    now[0] = 100
    assert not expiry.has_expired("here", here)
    assert expiry.has_expired("elsewhere", elsewhere)
    assert not expiry.has_expired("elsewhere", {**elsewhere, "beat": 1})


def test_a_heartbeat_of_this_process_expires_with_its_block() -> None:
    written: list[dict[str, Any]] = []
    with Heartbeat(written.append, 0.01):
        assert not Expiry(0.05).has_expired("mine", written[-1])
    assert Expiry(0.05).has_expired("mine", written[-1])

    def fail(values: dict[str, Any]) -> None:
        written.append(values)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        Heartbeat(fail)
    assert Expiry(0.05).has_expired("mine", written[-1])


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    there = Process.find(child.pid)
    assert there is not None
    assert not there.is_gone
    # the number was given to a later process
    assert replace(there, started="another").is_gone
    assert replace(there, started=f"{int(there.started) + 1000}").is_gone
    child.kill()
    while not there.is_gone:  # at once, although nobody has waited for it
        time.sleep(0.01)
    child.communicate()
    assert there.is_gone
    assert Process.find(child.pid) is None
    assert not replace(there, host="elsewhere").is_gone
