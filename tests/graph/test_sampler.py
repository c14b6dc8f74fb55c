"""The sampler of typed graphs against a slow walk, and what it keeps of features, weights and times."""

from __future__ import annotations

import pytest
import torch

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.sampler import NeighbourSampler

BY, CITES = ("paper", "by", "author"), ("paper", "cites", "paper")


def graph() -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    by = torch.randint(30, (90,), generator=draw), torch.randint(20, (90,), generator=draw)
    cites = torch.randint(30, (60,), generator=draw), torch.randint(30, (60,), generator=draw)
    return HeteroGraph.from_edge_lists(
        {"paper": 30, "author": 20, "subject": 3},
        {BY: by, CITES: cites},
        features={"paper": torch.rand(30, 4, generator=draw)},
        weights={BY: torch.rand(90, generator=draw)},
        times={CITES: torch.arange(60)},
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_full_fan_out_is_the_whole_neighbourhood() -> None:
    whole, seeds = graph(), torch.tensor([7, 2, 11])
    part = NeighbourSampler(whole, {BY: (None, None), CITES: (None,)}, direction="out")({"paper": seeds}, generator())
    edges = {
        name: {*zip(adj.rows.tolist(), adj.indices.tolist(), strict=True)}
        for name, adj in ((name, whole.adjacency(name)) for name in (BY, CITES))
    }
    cited = {c for p, c in edges[CITES] if p in seeds.tolist()}
    papers = {*seeds.tolist(), *cited}
    assert part.node_idx["paper"].tolist() == [*seeds.tolist(), *sorted(papers - {*seeds.tolist()})]
    assert part.node_idx["author"].tolist() == sorted({a for p, a in edges[BY] if p in papers})
    assert not part.node_idx["subject"].numel()
    for name, expected in (
        (BY, {(p, a) for p, a in edges[BY] if p in papers}),
        (CITES, {(p, c) for p, c in edges[CITES] if p in seeds.tolist()}),
    ):
        adj = part.graph.adjacency(name)
        rows, cols = part.node_idx[name[0]][adj.rows], part.node_idx[name[2]][adj.indices]
        assert {*zip(rows.tolist(), cols.tolist(), strict=True)} == expected


def test_edges_keep_their_weights_and_times() -> None:
    whole = graph()
    part = NeighbourSampler(whole, {BY: (2, 2), CITES: (2, 2)})({"paper": torch.tensor([3, 0])}, generator())
    torch.testing.assert_close(part.graph.features("paper"), whole.features("paper")[part.node_idx["paper"]])
    by, cites = part.graph.edges[BY], part.graph.edges[CITES]
    dense = whole.adjacency(BY).to_dense()
    once = by.adj.degrees.sum() > 0
    assert once
    for row, col, weight in zip(by.adj.rows.tolist(), by.adj.indices.tolist(), by.adj.weights.tolist(), strict=True):
        of_whole = dense[part.node_idx["paper"][row], part.node_idx["author"][col]]
        assert weight <= of_whole + 1e-6  # an edge may have a twin at its place that was not drawn
    known = dict.fromkeys(())
    adj = whole.adjacency(CITES)
    for place, time in enumerate(whole.edges[CITES].times.tolist()):
        known[time] = (int(adj.rows[place]), int(adj.indices[place]))
    for row, col, time in zip(cites.adj.rows.tolist(), cites.adj.indices.tolist(), cites.times.tolist(), strict=True):
        assert known[time] == (int(part.node_idx["paper"][row]), int(part.node_idx["paper"][col]))


@pytest.mark.parametrize("replace", [False, True])
def test_the_fan_out_is_kept_and_the_draw_follows_from_the_generator(replace: bool) -> None:
    sampler = NeighbourSampler(graph(), {BY: (2,)}, direction="out", replace=replace)
    seeds = {"paper": torch.arange(30)}
    first = sampler(seeds, generator(4))
    assert int(first.graph.adjacency(BY).degrees.max()) == 2
    again, other = sampler(seeds, generator(4)), sampler(seeds, generator(5))
    assert torch.equal(first.graph.adjacency(BY).indices, again.graph.adjacency(BY).indices)
    assert torch.equal(first.node_idx["author"], again.node_idx["author"])
    assert first.graph.hash != other.graph.hash
