"""One recommender, many threads: each gets the answers that it would get alone."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.interactions import Interactions
from recgraph.evaluate.topk import Catalogue
from recgraph.models.base import Model, Space, TrainableModel
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.ann import AnnIndex
from recgraph.serve.recommender import Recommender

N_THREADS = 8
N_USERS = 60


@pytest.fixture(autouse=True)
def frequent_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def log(n_items: int) -> Interactions:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"user": user, "item": item, "timestamp": n}
        for user in range(N_USERS)
        for n, item in enumerate(torch.randperm(n_items, generator=generator)[:40].tolist())
    ]
    return Interactions.from_frame(pl.DataFrame(rows), user="user", item="item", timestamp="timestamp")


def serve(model: Model, n_items: int) -> Recommender:
    data = log(n_items)
    split = data.split("leave-one-out")
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    if isinstance(model, EASE):
        model.fit(split.train)
    elif isinstance(model, TrainableModel):
        model.setup(split.train)
    return Recommender.for_split(model, split)


def in_threads(n_calls: int, call: Callable[[int], Any]) -> list[Any]:
    """``call(0), ..., call(n_calls - 1)``, by threads that begin together."""
    gate = threading.Barrier(N_THREADS)

    def some(thread: int) -> list[Any]:
        gate.wait()
        return [call(number) for number in range(thread, n_calls, N_THREADS)]

    with ThreadPoolExecutor(N_THREADS) as pool:
        parts = list(pool.map(some, range(N_THREADS)))
    return [parts[number % N_THREADS][number // N_THREADS] for number in range(n_calls)]


@pytest.mark.parametrize("with_vectors", [True, False])
def test_a_catalogue_ranks_for_many_threads(with_vectors: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(3000, 16, generator=generator)
    users = torch.randn(50, 3, 16, generator=generator)
    queries = users if with_vectors else users @ items.T
    catalogue = Catalogue(3000, 10, item_vectors=items if with_vectors else None, block_items=1024)
    alone = [catalogue.rank(query, None, ("keep",))["keep"] for query in queries]
    found = in_threads(2000, lambda n: catalogue.rank(queries[n % 50], None, ("keep",))["keep"])
    wrong = [
        n
        for n, lists in enumerate(found)
        if not torch.equal(lists.items, alone[n % 50].items) or not torch.equal(lists.scores, alone[n % 50].scores)
    ]
    assert not wrong


@pytest.mark.parametrize("make", [LightGCN, SASRec, EASE])
def test_threads_get_the_answers_of_one(make: Callable[[], Model]) -> None:
    served = serve(make(), 1000)
    alone = [served.recommend(users=[user], k=10) for user in range(N_USERS)]
    served.refresh()
    found = in_threads(300, lambda n: served.recommend(users=[n % N_USERS], k=10))
    assert [n for n, frame in enumerate(found) if not frame.equals(alone[n % N_USERS])] == []


def test_threads_replace_the_catalogue_meanwhile() -> None:
    served = serve(LightGCN(), 500)
    lengths = (5, 6, 7)
    alone = {(u, k): served.recommend(users=[u], k=k) for u in range(N_USERS) for k in lengths}

    def call(number: int) -> bool:
        user, k = number % N_USERS, lengths[number % 7 % 3]
        if number % 11 == 0:
            served.refresh()
        return bool(served.recommend(users=[user], k=k).equals(alone[user, k]))

    assert all(in_threads(300, call))


def test_threads_switch_the_index_on_and_off_meanwhile() -> None:
    pytest.importorskip("faiss")
    served = serve(LightGCN(), 500)
    index = AnnIndex.build(served.model, "Flat")
    alone = [served.recommend(users=[user], k=5).drop("score") for user in range(N_USERS)]

    def call(number: int) -> bool:
        if number % 3 == 0:
            served.use_ann(index)
        elif number % 3 == 1:
            served.refresh()
        user = number % N_USERS
        return bool(served.recommend(users=[user], k=5).drop("score").equals(alone[user]))

    assert all(in_threads(300, call))


class Refreshing(TrainableModel):
    """Gets other weights, and :meth:`Recommender.refresh`, while a catalogue is made of the old ones."""

    meanwhile: Callable[[], Any] | None = None

    def _build(self, space: Space) -> None:
        self.table = torch.nn.Embedding(space.n_items, 8)

    def setup(self, train: Any) -> None:
        """There is nothing to show."""

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
    served = serve(model, 100)
    model.meanwhile = served.refresh
    served.recommend(users=[3], k=5)
    after = served.recommend(users=[3], k=5)
    assert after.equals(served.refresh().recommend(users=[3], k=5))


@pytest.mark.parametrize("make", [LightGCN, SASRec, EASE])
def test_inference_mode_of_one_thread_does_not_matter_to_others(make: Callable[[], Model]) -> None:
    served = serve(make(), 100)
    with torch.inference_mode():
        answer = served.recommend(users=[3], k=5)
    assert served.recommend(users=[3], k=5).equals(answer)


def test_no_count_is_lost() -> None:
    served = serve(LightGCN(), 100)
    in_threads(240, lambda n: served.recommend(users=[3, -1], k=3, allow=[1, 2, 3, 999], fallback="popularity"))
    assert served.counters == {"unknown_items": 240, "unknown_users": 240, "fallbacks": 240}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda served: pickle.loads(pickle.dumps(served))])
def test_a_recommender_that_has_served_can_be_copied(copied: Callable[[Recommender], Recommender]) -> None:
    served = serve(LightGCN(), 100)
    answer = served.recommend(users=[3], k=5)
    assert copied(served).recommend(users=[3], k=5).equals(answer)
