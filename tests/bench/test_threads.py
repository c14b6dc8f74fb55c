"""The bench of threads: what it measures of a process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from experiments.bench.threads import POOLED, WORKLOADS, cpu_of_threads


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="CPU times of threads are read from /proc")
def test_the_time_of_each_thread_is_its_own() -> None:
    used, stop = {}, threading.Event()

    def work() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.2:
            pass
        used[str(threading.get_native_id())] = time.thread_time()
        stop.wait()

    before = cpu_of_threads()
    worker = threading.Thread(target=work)
    worker.start()
    while not used:
        time.sleep(0.01)
    after = cpu_of_threads()
    stop.set()
    worker.join()
    (name, seconds), *_ = used.items()
    assert name not in before
    assert after[name] == pytest.approx(seconds, abs=0.05)
    assert after[str(os.getpid())] - before[str(os.getpid())] < 0.2


def test_workloads_have_names() -> None:
    assert set(POOLED) < set(WORKLOADS)
