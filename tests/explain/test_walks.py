"""Paths counted, compared and named, beside walking them one by one."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import pytest
import torch
from refusing import refused
from small_graph import chance, every_path, random_graph, small_graph

from recgraph.explain.paths import Walks

PATHS = [
    "item-genre-item",
    "item-user-item",
    "user-item-user",
    "user-user",
    "user>friend>user<friend<user",
    "user-item-genre-item-user",
    "user>friend>user>friend>user<friend<user",
]


def reached(walks: Walks, starts: list[int]) -> dict[tuple[int, int], tuple[float, float]]:
    found = {}
    for part in walks.reach(torch.tensor(starts)):
        for start, end, similarity, count in zip(*(column.tolist() for column in part), strict=True):
            assert (starts[start], end) not in found
            found[starts[start], end] = count, similarity
    return found


def test_by_hand() -> None:
    """Item 1 has the genres 0 and 1, as item 2; item 0 has the genre 0 alone."""
    found = reached(Walks("item-genre-item", small_graph()), [0, 1])
    assert found[1, 2] == (2, 2 * 2 / (2 + 2))
    assert found[0, 2] == found[0, 1] == (1, pytest.approx(2 * 1 / (1 + 2)))
    assert set(found) == {(0, 1), (0, 2), (1, 0), (1, 2), (1, 3), (1, 4)}
    # a friendship that stands twice is one path; weights of edges are not read
    assert reached(Walks("user-user", small_graph()), [0]) == {(0, 3): (1, 1.0)}
    assert reached(Walks("item-user-item", small_graph()), [0])[0, 2] == (1, pytest.approx(2 / (2 + 2)))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(2))
def test_counts_and_similarities_are_those_of_all_paths(path: str, seed: int) -> None:
    graph = random_graph(seed)
    walks = Walks(path, graph)
    n = graph.count(walks.types[0])
    counts = Counter((start, nodes[-1]) for start in range(n) for nodes in every_path(graph, path, start))
    out, into = Counter[int](), Counter[int]()
    for (start, end), count in counts.items():
        out[start] += count
        into[end] += count
    starts = [3, 0, 5]
    found = reached(walks, starts)
    wanted = {key for key in counts if key[0] in starts and key[0] != key[1]}
    assert set(found) == wanted
    for (a, b), (count, similarity) in found.items():
        assert count == counts[a, b]
        if walks.round_trip:
            assert similarity == pytest.approx(2 * count / (counts[a, a] + counts[b, b]))
        else:
            assert similarity == pytest.approx(count / sqrt(out[a] * into[b]))
        assert 0 < similarity <= 1 + 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_the_best_paths_are_the_likeliest_of_all(path: str) -> None:
    graph = random_graph(1)
    walks = Walks(path, graph)
    starts = [0, 3, 7]
    for end in range(graph.count(walks.types[-1])):
        for start, found in zip(starts, walks.best_paths(torch.tensor(starts), end, 3), strict=True):
            every = [nodes for nodes in every_path(graph, path, start) if nodes[-1] == end]
            chances = sorted((chance(graph, path, nodes) for nodes in every), reverse=True)
            assert len(set(found)) == len(found) == min(3, len(every))
            assert set(found) <= set(every)
            assert [chance(graph, path, nodes) for nodes in found] == pytest.approx(chances[:3])


@pytest.mark.parametrize("path", ["genre-user", "item-actor-item", "user-item"])
def test_a_path_that_cannot_be_followed(path: str) -> None:
    with refused(path.rpartition("-")[0].rpartition("-")[2] or "path"):
        Walks(path, small_graph())
