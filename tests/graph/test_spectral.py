"""Spectral coordinates against the eigenvectors of a dense matrix, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.spectral import coordinates


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped(n_groups: int = 4, each: int = 30, seed: int = 0) -> HeteroGraph:
    """Papers of groups whose authors and venues are mostly their own, authors of one paper alone,
    and a citation.
    """
    draw = generator(seed)
    group = torch.arange(n_groups * each) % n_groups
    paper = torch.arange(len(group)).repeat(3)
    author = group.repeat(3) + n_groups * torch.randint(10, (len(paper),), generator=draw)
    author = torch.where(torch.rand(len(paper), generator=draw) < 0.1, author.flip(0), author)
    alone = torch.arange(10)
    return HeteroGraph.from_edge_lists(
        # the last venue has no paper
        {
            "paper": len(group),
            "author": 10 * n_groups + 10,
            "venue": n_groups + 1,
        },
        {
            ("paper", "by", "author"): (
                torch.cat([paper, alone]),
                torch.cat([author, 10 * n_groups + alone]),
            ),
            ("paper", "at", "venue"): (torch.arange(len(group)), group),
            ("paper", "cites", "paper"): ([0, 1, 2], [4, 5, 6]),
        },
    )


def dense(graph: HeteroGraph) -> Tensor:
    """The joint adjacency, by its definition."""
    place, n = {}, 0
    for name in graph.node_types:
        place[name] = slice(n, n + graph.count(name))
        n += graph.count(name)
    total = torch.zeros(n, n, dtype=torch.float64)
    for a, relation, b in graph.edge_types:
        pattern = (graph.adjacency((a, relation, b)).to_dense() != 0).double()
        left, right = pattern.sum(1), pattern.sum(0)
        total[place[a], place[b]] += pattern / torch.sqrt(
            (left + left.mean())[:, None] * (right + right.mean())
        )
    total += total.T.clone()
    return total


def test_coordinates_span_the_leading_eigenvectors() -> None:
    graph, dim = grouped(), 8
    found = coordinates(graph, dim, generator())
    x = torch.cat([found[name] * scale for name, scale in _scales(graph, found).items()]).double()
    basis = torch.linalg.qr(x).Q
    _, vectors = torch.linalg.eigh(dense(graph))
    # how much of each of the four groups' eigenvectors lies within the coordinates
    assert float((basis.T @ vectors[:, -4:]).square().sum(0).min()) > 0.999


def _scales(graph: HeteroGraph, found: dict[str, Tensor]) -> dict[str, float]:
    """Type -> the factor that takes its coordinates back to one orthonormal block, by least
    squares.
    """
    grams = torch.stack(
        [(found[name].double().T @ found[name].double()).flatten() for name in graph.node_types], 1
    )
    whole = torch.eye(found["paper"].shape[1], dtype=torch.float64).flatten()
    squares = torch.linalg.lstsq(grams, whole[:, None]).solution.flatten()
    return dict(zip(graph.node_types, squares.clamp(min=0).sqrt().tolist(), strict=True))


def test_the_order_of_a_file_does_not_matter() -> None:
    graph = grouped()
    orders = {
        name: torch.randperm(graph.count(name), generator=generator(3)) for name in graph.node_types
    }
    # axes are drawn: what is compared is which papers lie near to one another
    here, there = (
        torch.nn.functional.normalize(coordinates(one, 4, generator())["paper"], dim=1)
        for one in (graph, graph.permuted(orders))
    )
    expected = here[orders["paper"]]
    difference = (expected @ expected.T - there @ there.T).abs().mean()
    assert float(difference) < 0.1 < float((here @ here.T - there @ there.T).abs().mean())
