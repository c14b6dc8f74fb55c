"""Worker processes of the test that runs now: other tests may have workers of the same kind at the same time."""

from __future__ import annotations

import os

import psutil

#: a variable that workers get from the process that starts them, on a cluster too; the fixture ``own_workers`` sets it
OF_TEST = "RECGRAPH_OF_TEST"


def workers_of_test(module: str) -> list[psutil.Process]:
    """The running processes that work by a module and were started by the present test (fixture ``own_workers``)."""
    return [
        each
        for each in psutil.process_iter(["cmdline", "environ", "status"])
        if (each.info["cmdline"] or [""])[-1] == module
        and (each.info["environ"] or {}).get(OF_TEST) == os.environ[OF_TEST]
        and each.info["status"] != psutil.STATUS_ZOMBIE
    ]
