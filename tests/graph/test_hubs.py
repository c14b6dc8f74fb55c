"""Nodes that very many share: contexts and PathSim are exact below the caps, and linear above them."""

from __future__ import annotations

import warnings

import pytest
import torch

from recgraph.graph import contexts as _context
from recgraph.graph.contexts import Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import path_counts
from recgraph.rng import derive
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, n_pairs
from recgraph.sparse.select import split_hubs
from recgraph.sparse.spmm import spmm


def conferences() -> tuple[Csr, ...]:
    """Authors to papers, to conferences, to papers: each paper of its own author, 30 at one, 10 at another."""
    one = torch.arange(60)
    at = torch.arange(40), (torch.arange(40) >= 30).long()
    edges = {("paper", "by", "author"): (one, one), ("paper", "at", "conf"): at}
    graph = HeteroGraph.from_edge_lists({"author": 60, "paper": 60, "conf": 2}, edges)
    return _ways(graph, "author-paper-conf-paper-author")


def _ways(graph: HeteroGraph, path: str) -> tuple[Csr, ...]:
    return tuple(step.matrix(graph).with_weights(None) for step in MetaPath(path).route(graph)[:-1])


def composed_mean(steps: tuple[Csr, ...], h: torch.Tensor) -> torch.Tensor:
    """The mean over the distinct nodes that the composed matrix has."""
    reached = steps[0].pattern()
    for step in steps[1:]:
        reached = compose(reached, step, "binary")
    return spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)


def test_contexts_that_are_never_made_have_blocks_of_what_they_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    walked, sizes, reach = Walked(conferences()), [], Walked._reach
    h = torch.rand(60, 3, dtype=torch.float64)

    def counted(self: Walked, before: Csr) -> Csr:
        found = reach(self, before)
        sizes.append((found.shape[0], found.nnz))
        return found

    monkeypatch.setattr(Walked, "_reach", counted)
    whole = walked.mean(h)
    assert torch.equal(whole, composed_mean(walked.steps, h))
    # one row for the authors of each conference, and one for those of none
    assert sizes == [(3, 30 + 10)]
    sizes.clear()
    for held, reached, largest in ((60, 30, 30), (60, 5, 30), (7, 5, 30)):
        monkeypatch.setattr(_context, "_MAX_HELD", held)
        monkeypatch.setattr(_context, "_MAX_REACHED", reached)
        assert torch.equal(walked.mean(h), whole)
        assert max(n for _, n in sizes) == largest
        assert all(rows == 1 or n <= reached for rows, n in sizes)
        # both conferences at once, or blocks of 7 authors, of which one has authors of both
        assert sum(n for _, n in sizes) == 30 + 10 if held == 60 else sum(n for _, n in sizes) >= 4 * 30 + 10
        sizes.clear()


def test_contexts_below_the_cap_are_exact_and_others_count_ways() -> None:
    draw = torch.Generator().manual_seed(0)
    edges = {
        ("paper", "by", "author"): (torch.arange(90) % 40, torch.randint(30, (90,), generator=draw)),
        ("paper", "on", "subject"): (torch.randint(40, (60,), generator=draw), torch.randint(6, (60,), generator=draw)),
    }
    graph = HeteroGraph.from_edge_lists({"paper": 40, "author": 30, "subject": 6}, edges)
    h = torch.rand(40, 3, dtype=torch.float64)
    steps = _ways(graph, "author-paper-subject-paper-author")
    exact = composed_mean(steps, h)
    middle = compose(steps[0].pattern(), steps[1], "binary")
    ways = n_pairs(middle, steps[2])
    for cap in (39, 30, 20, 10):
        # few enough papers, or few enough ways
        below = ways <= cap
        assert 0 < int(below.sum()) < len(below)
        found = Walked(steps, cap).mean(h)
        assert torch.equal(found[below], exact[below])
        # a repeated edge is one way
        last = steps[2].pattern()
        by_way = spmm(middle, spmm(last, h)) / n_pairs(middle, last).clamp(min=1)[:, None]
        torch.testing.assert_close(found[~below], by_way[~below], rtol=1e-12, atol=1e-12)
    for cap in (40, None):
        assert torch.equal(Walked(steps, cap).mean(h), exact)
    # cut at the first step already: the way to the subjects is counted, too
    first = n_pairs(steps[0].pattern(), steps[1]) > 1
    all_ways = spmm(steps[0].pattern(), spmm(steps[1].pattern(), spmm(steps[2].pattern(), h)))
    n_ways = path_counts([step.pattern() for step in steps])
    expected = all_ways / n_ways.clamp(min=1)[:, None]
    torch.testing.assert_close(Walked(steps, 1).mean(h)[first], expected[first], rtol=1e-12, atol=1e-12)


def shopping(weighted: bool = False) -> HeteroGraph:
    """300 users of nine items: item 7 has all of them, item 2 has 40, the others few; some view it, too."""
    draw = torch.Generator().manual_seed(1)
    few = torch.randperm(300, generator=draw)[:60]
    users = torch.cat([torch.arange(300), torch.arange(40) * 7, few])
    items = torch.cat([torch.full((300,), 7), torch.full((40,), 2), torch.arange(60) % 9])
    pairs = torch.unique(torch.stack([users, items]), dim=1)
    views = torch.randint(300, (90,), generator=draw), torch.where(torch.arange(90) < 70, 7, 1)
    edges = {("user", "has", "item"): (pairs[0], pairs[1]), ("item", "seen", "user"): (views[1], views[0])}
    weights = {("user", "has", "item"): torch.rand(pairs.shape[1], generator=draw, dtype=torch.float64) + 0.5}
    return HeteroGraph.from_edge_lists({"user": 300, "item": 9}, edges, weights=weights if weighted else None)


BOUGHT, SEEN = "user>has>item<has<user", "user>has>item>seen>user"


@pytest.mark.parametrize("path", [BOUGHT, SEEN])
@pytest.mark.parametrize("settings", [{}, {"counts": "binary", "weights": False}])
def test_pathsim_below_the_cap_is_exact(path: str, settings: dict[str, object]) -> None:
    graph = shopping(weighted=True)
    exact = MetaPath(path, top_k=9, hub_cap=None, **settings).adjacency(graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = MetaPath(path, top_k=9, hub_cap=300, **settings).adjacency(graph)
    assert torch.equal(found.indptr, exact.indptr)
    assert torch.equal(found.indices, exact.indices)
    assert found.weights is exact.weights or torch.equal(found.weights, exact.weights)


@pytest.mark.parametrize("path", [BOUGHT, SEEN])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_divided_hub_relates_a_node_to_its_group_alone(path: str, weighted: bool) -> None:
    """Counts over other items are exact, and over the hub a pair has the exact one or none."""
    graph = shopping(weighted)
    left, right = (step.matrix(graph).coalesce() for step in MetaPath(path).route(graph))
    draw = torch.Generator().manual_seed(0)
    assert split_hubs(left, right, 300, draw) == (left, right)
    split, back = split_hubs(left, right, 50, draw)
    assert back.degrees.max() <= 50
    assert (back is split.t()) == (right is left.t()) == (path == BOUGHT)
    n_groups = -(-int(right.degrees[7]) // 50)
    assert split.shape == (300, 8 + n_groups)
    assert int(n_pairs(split, back).sum()) <= 50 * left.nnz
    # each entry is there once, with its weight
    assert torch.equal(split.degrees, left.degrees)
    torch.testing.assert_close(split.values(torch.float64).sum(), left.values(torch.float64).sum())
    a, b = left.to_dense().double(), right.to_dense().double()
    found, exact, by_hub = split.to_dense().double() @ back.to_dense().double(), a @ b, a[:, 7:8] @ b[7:8]
    through = found - (exact - by_hub)
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert bool((torch.isclose(through, by_hub, **close) | torch.isclose(through, through * 0, **close)).all())
    torch.testing.assert_close(found.diagonal(), exact.diagonal())
    if path == BOUGHT:
        torch.testing.assert_close(found, found.t())


def test_pathsim_names_the_hubs_that_it_divides() -> None:
    path = MetaPath("user>has>item<has<user", top_k=3, hub_cap=39)
    with pytest.warns(UserWarning, match="hub_cap"):
        found = path.adjacency(shopping())
    with pytest.warns(UserWarning, match="hub_cap"):
        again = path.adjacency(shopping())
    assert torch.equal(found.indices, again.indices)
    assert torch.equal(found.weights, again.weights)
    left = shopping().adjacency(("user", "has", "item"))
    split, back = split_hubs(left, left.t(), 39, torch.Generator().manual_seed(derive(0, "hubs")))
    dense = split.to_dense() @ back.to_dense()
    rows, columns = found.rows, found.indices
    torch.testing.assert_close(found.weights, dense[rows, columns])
