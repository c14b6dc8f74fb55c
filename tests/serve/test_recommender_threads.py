"""One recommender, many threads: each gets the answers that it would get alone."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from small_serving import recommender
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.models.base import Model, Space
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


class Refreshing(Model):
    """Gets other weights, and :meth:`Recommender.refresh`, while a catalogue is made of the old ones."""

    meanwhile: Callable[[], Any] | None = None

    def _build(self, space: Space) -> None:
        self.table = torch.nn.Embedding(space.n_items, 8)

    def encode_users(self, query: Query) -> Tensor:
        return self.table(query.history.values[query.history.offsets[1:] - 1])

    def encode_items(self) -> Tensor:
        vectors = self.table.weight.detach().clone()
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            with torch.no_grad():
                self.table.weight.copy_(self.table.weight.flip(1).cumsum(0) % 1)
            meanwhile()
        return vectors


def test_what_was_made_of_old_weights_is_not_kept_after_a_refresh() -> None:
    model = Refreshing()
    served = recommender(lambda: model)
    model.meanwhile = served.refresh
    served.recommend(users=[3], k=5)
    after = served.recommend(users=[3], k=5)
    assert after.equals(served.refresh().recommend(users=[3], k=5))


def test_no_count_is_lost() -> None:
    served = recommender(LightGCN)
    in_threads(160, lambda n: served.recommend(users=[3, -1], k=3, allow=[1, 2, 3, 999], fallback="popularity"))
    assert served.counters == {"unknown_items": 160, "unknown_users": 160, "fallbacks": 160}
