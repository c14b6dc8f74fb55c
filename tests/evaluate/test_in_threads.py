"""Ranking in threads: the lists of one thread, bit for bit, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from fake_rankers import Vectors
from torch import Tensor, nn

from recgraph.data.batches import Query
from recgraph.data.part import Cases
from recgraph.evaluate import evaluate
from recgraph.evaluate.in_threads import in_threads
from recgraph.evaluate.ranking import GROUP, catalogue_for, rank, ranking_threads
from recgraph.models.base import Space
from recgraph.models.sequence.sasrec import SASRec
from recgraph.sparse.ragged import Ragged

N_ITEMS = 300


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def cases(n_users: int = 5 * GROUP + 7) -> Cases:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (n_users,), generator=draw)
    history = torch.randint(N_ITEMS, (int(lengths.sum()),), generator=draw)
    truth = torch.randint(N_ITEMS, (n_users, 1), generator=draw)
    ones = torch.ones(n_users, dtype=torch.int64)
    history_rows = Ragged.from_lengths(history, lengths)
    return Cases(torch.arange(n_users), history_rows, Ragged.from_lengths(truth.flatten(), ones), N_ITEMS)


class Watched(SASRec):
    """Notes in which thread, mode and number of torch's threads it is called."""

    def encode_users(self, query: Query) -> Tensor:
        self.calls.append((threading.current_thread().name, self.training, torch.get_num_threads()))
        assert not torch.is_grad_enabled()
        return super().encode_users(query)


def watched() -> Watched:
    model = Watched(hidden_dim=16, inner_dim=32)
    model.build(Space(n_users=0, n_items=N_ITEMS), 0)
    object.__setattr__(model, "calls", [])
    return model


def ranked(model: Watched, asked: Cases) -> tuple[Tensor, Tensor, Tensor]:
    model.calls.clear()
    catalogue = catalogue_for(model, N_ITEMS, 10)
    query = Query(asked.users, asked.history)
    batches = [*rank(model, catalogue, query, asked.history, ("exclude",))]
    lists = [batch.lists["exclude"] for batch in batches]
    index = torch.cat([batch.index for batch in batches])
    return index, torch.cat([one.items for one in lists]), torch.cat([one.scores for one in lists])


@pytest.mark.usefixtures("two_threads")
def test_the_lists_are_those_of_one_thread() -> None:
    model, asked = watched(), cases()
    model.train()
    in_two = ranked(model, asked)
    assert model.training  # as before
    names = {name for name, _, _ in model.calls}
    assert len(model.calls) == 6
    assert names <= {"recgraph-rank_0", "recgraph-rank_1"}
    assert {(training, n) for _, training, n in model.calls} == {(False, 1)}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    in_one = ranked(model, asked)
    assert {name for name, _, _ in model.calls} == {threading.main_thread().name}
    for ours, theirs in zip(in_two, in_one, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("two_threads")
def test_metrics_are_those_of_one_thread() -> None:
    model, asked = watched(), cases()
    first = [result.metrics for result in evaluate(model, asked, metrics=["ndcg", "auc"])]
    assert any(name.startswith("recgraph-rank") for name, _, _ in model.calls)
    torch.set_num_threads(1)
    assert [result.metrics for result in evaluate(model, asked, metrics=["ndcg", "auc"])] == first


@pytest.mark.usefixtures("two_threads")
def test_who_is_called_by_threads() -> None:
    """Models of the library, unless they say no; rankers of one's own are called one call at a time."""
    host = torch.device("cpu")
    assert ranking_threads(watched(), host) == 2
    assert ranking_threads(watched(), torch.device("meta")) == 1
    assert ranking_threads(Vectors(torch.ones(2, 3), torch.ones(4, 3)), host) == 1
    assert ranking_threads(nn.Linear(1, 1), host) == 1
    alone = watched()
    alone.ranks_in_threads = False  # type: ignore[misc]
    ranked(alone, cases())
    assert {name for name, _, _ in alone.calls} == {threading.main_thread().name}


@pytest.mark.usefixtures("two_threads")
def test_an_error_ends_it_and_no_thread_is_left() -> None:
    def fails(task: int) -> int:
        if task == 4:
            raise ValueError("four")
        return task * task

    assert [*in_threads(lambda task: task * task, range(20), 2)] == [task * task for task in range(20)]
    ranked = in_threads(fails, range(20), 2)
    assert [next(ranked) for _ in range(4)] == [0, 1, 4, 9]
    with pytest.raises(ValueError, match="four"):
        next(ranked)
    stopped = in_threads(lambda task: task, range(20), 2)
    assert next(stopped) == 0
    stopped.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("recgraph-rank")]
    assert torch.get_num_threads() == 2
