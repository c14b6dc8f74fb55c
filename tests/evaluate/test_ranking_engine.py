"""The ranking engine against a full sort, and its independence of how the work is cut."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from fake_rankers import Scores
from refusing import refused
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.evaluate import topk
from recgraph.evaluate.ranking import GROUP, catalogue_for, rank
from recgraph.evaluate.topk import Catalogue, Lists, tie_order
from recgraph.models.base import Space
from recgraph.models.sequence.sasrec import SASRec
from recgraph.sparse.ragged import Ragged

BOTH = ("keep", "exclude")
N_ITEMS = 300


def oracle(
    scores: Tensor,
    seen: list[list[int]] | None,
    k: int,
    tie_seed: int = 0,
    allowed: Tensor | None = None,
):
    """Sort every row by (-score, place in the permutation); seen and disallowed items are taken out
    first.
    """
    n_items = scores.shape[1]
    place = np.empty(n_items, dtype=np.int64)
    place[tie_order(n_items, tie_seed).numpy()] = np.arange(n_items)
    lists = np.full((len(scores), k), -1)
    for row, values in enumerate(scores.numpy()):
        order = np.lexsort((place, -values))
        barred = set(seen[row]) if seen is not None else set()
        if allowed is not None:
            barred |= set(range(n_items)) - set(allowed.tolist())
        kept = [item for item in order if item not in barred][:k]
        lists[row, : len(kept)] = kept
    return torch.from_numpy(lists)


def random_seen(n_rows: int, n_items: int, most: int, seed: int = 0) -> list[list[int]]:
    """With repeats, and empty for some."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, n_items, rng.integers(0, most + 1)).tolist() for _ in range(n_rows)]


def scores_of(kind: str, n_rows: int, n_items: int) -> Tensor:
    generator = torch.Generator().manual_seed(n_items)
    scores = torch.randn(n_rows, n_items, generator=generator)
    if kind == "ties":
        return (scores * 3).round()
    if kind == "constant":
        return torch.zeros_like(scores)
    if kind.endswith("-inf"):
        share = 0.3 if kind == "some -inf" else 0.999
        scores[torch.rand(scores.shape, generator=generator) < share] = -torch.inf
    return scores


@pytest.mark.parametrize("n_items", [5, 65, 1000, 5000])
@pytest.mark.parametrize("kind", ["distinct", "ties", "constant", "some -inf", "mostly -inf"])
def test_equals_a_full_sort(n_items: int, kind: str, device: torch.device) -> None:
    scores, seen, k = scores_of(kind, 70, n_items), random_seen(70, n_items, 30), min(10, n_items)
    lists = Catalogue(n_items, k, device=device).rank(
        scores.to(device), Ragged.from_lists(seen).to(device), BOTH
    )
    for name, own in (("keep", None), ("exclude", seen)):
        expected = oracle(scores, own, k)
        assert torch.equal(lists[name].items.cpu(), expected)
        values = scores.gather(1, expected.clamp(min=0)).masked_fill(expected < 0, -torch.inf)
        assert torch.equal(lists[name].scores.cpu(), values)


@pytest.mark.parametrize("kind", ["distinct", "ties", "mostly -inf"])
@pytest.mark.parametrize("k", [12, 64, 65])
def test_blocks_merge_exactly(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for lists that end at the boundary of a run of 64 columns."""
    monkeypatch.setattr(topk, "CHUNK", 64)
    scores, seen = scores_of(kind, 30, 1000).double(), random_seen(30, 1000, 200)
    lists = Catalogue(1000, k, block_items=64, tie_seed=5).rank(
        scores, Ragged.from_lists(seen), BOTH
    )
    assert torch.equal(lists["keep"].items, oracle(scores, None, k, tie_seed=5))
    assert torch.equal(lists["exclude"].items, oracle(scores, seen, k, tie_seed=5))


def test_results_do_not_depend_on_blocks() -> None:
    generator = torch.Generator().manual_seed(3)
    users, items = (
        torch.randn(300, 24, generator=generator),
        torch.randn(5003, 24, generator=generator),
    )
    items[100:200] = items[300:400]
    history = Ragged.from_lists(random_seen(300, 5003, 60))

    def ranked(block_items: int | None) -> dict[str, Lists]:
        return Catalogue(5003, 20, item_vectors=items, block_items=block_items).rank(
            users, history, BOTH
        )

    whole = ranked(None)
    for block_items in (1, 2000, 4000):
        cut = ranked(block_items)
        for name in BOTH:
            assert torch.equal(whole[name].items, cut[name].items)
            assert torch.equal(whole[name].scores, cut[name].scores)
    # and they are those of a plain product, up to its rounding
    torch.testing.assert_close(whole["keep"].scores, (users @ items.T).topk(20).values)


def test_candidates_restrict_and_lists_may_be_short() -> None:
    scores, seen = scores_of("ties", 10, 300), [*random_seen(9, 300, 100), list(range(300))]
    allowed = torch.tensor([3, 7, 200, 299, 8, 8])
    lists = Catalogue(300, 10, candidates=allowed).rank(scores, Ragged.from_lists(seen), BOTH)
    assert torch.equal(lists["keep"].items, oracle(scores, None, 10, allowed=allowed))
    assert torch.equal(lists["exclude"].items, oracle(scores, seen, 10, allowed=allowed))
    assert (lists["keep"].items[:, 5:] == -1).all()
    assert (lists["exclude"].items[-1] == -1).all()


@pytest.mark.parametrize("where", [0, 4999])
@pytest.mark.parametrize("is_seen", [False, True])
@pytest.mark.parametrize("block_items", [None, 1000])
def test_nan_scores_name_the_user(where: int, is_seen: bool, block_items: int | None) -> None:
    scores = torch.zeros(80, 5000)
    scores[75, where] = torch.nan
    history = Ragged.from_lists([[where] if is_seen else [] for _ in range(80)])
    for conventions in (BOTH, ("exclude",), ("keep",)):
        catalogue = Catalogue(5000, 10, block_items=block_items)
        with refused("user index 75"):
            list(
                rank(
                    Scores(scores),
                    catalogue,
                    Query(torch.arange(80), history),
                    history,
                    conventions,
                )
            )


@pytest.mark.parametrize("with_vectors", [True, False])
def test_lists_of_another_length_from_the_same_vectors(with_vectors: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    items, users = torch.randn(1500, 8, generator=generator), torch.randn(5, 8, generator=generator)
    vectors, queries = (items, users) if with_vectors else (None, users @ items.T)
    catalogue = Catalogue(1500, 10, item_vectors=vectors)
    for k in (1, 700):
        shared = catalogue.for_length(k)
        assert shared is not None
        found = shared.rank(queries, None, ("keep",))["keep"]
        alone = Catalogue(1500, k, item_vectors=vectors).rank(queries, None, ("keep",))["keep"]
        assert torch.equal(found.items, alone.items)
        assert torch.equal(found.scores, alone.scores)
    assert catalogue.k == 10
    assert catalogue.for_length(1400) is None  # its tiles would be wider


class Watched(SASRec):
    """Notes in which thread, mode and number of torch's threads it is called."""

    def encode_users(self, query: Query) -> Tensor:
        self.calls.append((threading.current_thread().name, self.training, torch.get_num_threads()))
        assert not torch.is_grad_enabled()
        return super().encode_users(query)


def test_the_lists_are_those_of_one_thread() -> None:
    model = Watched(hidden_dim=16, encoder={"inner_dim": 32})
    model.build(Space(n_users=0, n_items=N_ITEMS), 0)
    object.__setattr__(model, "calls", [])
    draw = torch.Generator().manual_seed(0)
    n_users = 5 * GROUP + 7
    lengths = torch.randint(1, 12, (n_users,), generator=draw)
    history = Ragged.from_lengths(
        torch.randint(N_ITEMS, (int(lengths.sum()),), generator=draw), lengths
    )

    def ranked() -> tuple[Tensor, Tensor, Tensor]:
        model.calls.clear()
        catalogue = catalogue_for(model, N_ITEMS, 10)
        batches = [
            *rank(model, catalogue, Query(torch.arange(n_users), history), history, ("exclude",))
        ]
        lists = Lists.cat([batch.lists["exclude"] for batch in batches])
        return torch.cat([batch.index for batch in batches]), lists.items, lists.scores

    model.train()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    in_two = ranked()
    assert model.training  # as before
    assert len(model.calls) == 6
    assert {name for name, _, _ in model.calls} <= {"recgraph-rank_0", "recgraph-rank_1"}
    assert {(training, n) for _, training, n in model.calls} == {(False, 1)}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    in_one = ranked()
    torch.set_num_threads(before)
    assert model.training
    assert {(name, training) for name, training, _ in model.calls} == {
        (threading.main_thread().name, False)
    }
    for ours, theirs in zip(in_two, in_one, strict=True):
        assert torch.equal(ours, theirs)
