"""Nodes that very many share: contexts and PathSim are exact below the caps, and linear above them."""

from __future__ import annotations

import pytest
import torch

from recgraph.graph import contexts as _context
from recgraph.graph.contexts import Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import path_counts
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, n_pairs
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


def test_contexts_where_no_two_ways_meet_are_exact_above_the_cap_too() -> None:
    steps = conferences()
    h = torch.rand(60, 3, dtype=torch.float64)
    torch.testing.assert_close(Walked(steps, 2).mean(h), composed_mean(steps, h), rtol=1e-12, atol=1e-12)


def test_contexts_over_a_hub_cost_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 600 authors reach all 600 papers through one venue."""
    one = torch.arange(600)
    edges = {("paper", "by", "author"): (one, one), ("paper", "at", "venue"): (one, one * 0)}
    graph = HeteroGraph.from_edge_lists({"author": 600, "paper": 600, "venue": 1}, edges)
    made = []
    monkeypatch.setattr(_context, "compose", lambda a, b, kind: made.append(compose(a, b, kind)) or made[-1])
    h = torch.rand(600, 3, dtype=torch.float64)
    for cap, most in ((None, 600 + 600), (100, 600)):
        made.clear()
        found = Walked(_ways(graph, "author-paper-venue-paper-author"), cap).mean(h)
        torch.testing.assert_close(found, h.mean(0).expand(600, 3), rtol=1e-12, atol=1e-12)
        assert sum(matrix.nnz for matrix in made) <= most
