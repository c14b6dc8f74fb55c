"""One recommender, many threads: each gets the answers that it would get alone."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from small_serving import recommender

from recgraph.models.base import Model
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import SASRec

N_THREADS = 8
N_USERS = 40


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(n_calls: int, call: Callable[[int], Any]) -> list[Any]:
    """``call(0), ..., call(n_calls - 1)``, by threads that begin together."""
    gate = threading.Barrier(N_THREADS)

    def some(thread: int) -> list[Any]:
        gate.wait()
        return [call(number) for number in range(thread, n_calls, N_THREADS)]

    with ThreadPoolExecutor(N_THREADS) as pool:
        parts = list(pool.map(some, range(N_THREADS)))
    return [parts[number % N_THREADS][number // N_THREADS] for number in range(n_calls)]


@pytest.mark.parametrize("make", [LightGCN, SASRec, EASE])
def test_threads_get_the_answers_of_one(make: Callable[[], Model]) -> None:
    served = recommender(make, 500)
    alone = [served.recommend(users=[user], k=10) for user in range(N_USERS)]
    served.refresh()
    found = in_threads(80, lambda n: served.recommend(users=[n % N_USERS], k=10))
    assert [n for n, frame in enumerate(found) if not frame.equals(alone[n % N_USERS])] == []
    again = pickle.loads(pickle.dumps(served))
    assert again.recommend(users=[3], k=10).equals(alone[3])


def test_threads_replace_the_catalogue_meanwhile() -> None:
    served = recommender(LightGCN, 200)
    lengths = (5, 6, 7)
    alone = {(u, k): served.recommend(users=[u], k=k) for u in range(N_USERS) for k in lengths}

    def call(number: int) -> bool:
        user, k = number % N_USERS, lengths[number % 7 % 3]
        if number % 11 == 0:
            served.refresh()
        return bool(served.recommend(users=[user], k=k).equals(alone[user, k]))

    assert all(in_threads(160, call))


def test_no_count_is_lost() -> None:
    served = recommender(LightGCN)
    in_threads(160, lambda n: served.recommend(users=[3, -1], k=3, allow=[1, 2, 3, 999], fallback="popularity"))
    assert served.counters == {"unknown_items": 160, "unknown_users": 160, "fallbacks": 160}
