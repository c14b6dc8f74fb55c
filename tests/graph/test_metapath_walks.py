"""Random walks and metapath2vec: edges are walked, each as likely; steps go down the loss; near nodes are near."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import propose
from recgraph.graph.route import parse
from recgraph.graph.walks import WalkConfig, _gradient, metapath2vec, random_walks
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.hero import HERO
from recgraph.sparse.csr import Csr


def test_walks_follow_edges_and_end_in_dead_ends() -> None:
    there = Csr.from_dense(torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 0]])).with_weights(None)
    back = there.t()
    starts = torch.arange(3).repeat(400)
    walks = random_walks([there, back], starts, 3, torch.Generator().manual_seed(0))
    assert walks.shape == (1200, 4)
    assert torch.equal(walks[:, 0], starts)
    for step, adj in enumerate((there, back, there)):
        here, after = walks[:, step], walks[:, step + 1]
        walked = after >= 0
        assert bool((adj.to_dense()[here[walked], after[walked]] > 0).all())
        assert bool(((adj.degrees[here.clamp(min=0)] == 0) | (here < 0))[~walked].all())
    first = torch.bincount(walks[starts == 0, 1], minlength=3)
    assert abs(int(first[0]) - int(first[1])) < 5 * 400**0.5
    none = Csr.from_dense(torch.zeros(3, 3)).with_weights(None)
    assert random_walks([none], torch.arange(3), 2, torch.Generator())[:, 1:].tolist() == [[-1, -1]] * 3


def test_the_gradient_is_that_of_the_loss() -> None:
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(9, 4, generator=draw, dtype=torch.float64).requires_grad_()
    near, drawn, of = torch.tensor([1, 2, 1]), torch.tensor([[3, 3], [0, 5], [6, 1]]), torch.tensor([0, 0, 2])

    def loss(v: Tensor) -> Tensor:
        total = v.new_zeros(())
        for x, y, others in zip(of, near, drawn, strict=True):
            total = total - F.logsigmoid(v[x] @ v[y]) - sum(F.logsigmoid(-v[x] @ v[n]) for n in others)
        return total

    (expected,) = torch.autograd.grad(loss(vectors), vectors)
    rows, got = _gradient(vectors.detach(), near, drawn, of)
    assert rows.tolist() == [0, 1, 2, 3, 5, 6]
    torch.testing.assert_close(got, expected[rows])
    assert not bool(expected[[4, 7, 8]].any())


@pytest.mark.parametrize("path", ["paper-author-paper", "paper>by>author<by<paper"])
def test_papers_that_share_authors_are_near(path: str) -> None:
    """Two groups of papers, each with authors of its own, of which every paper has two."""
    draw = torch.Generator().manual_seed(0)
    paper = torch.arange(40).repeat_interleave(2)
    author = torch.randint(5, (80,), generator=draw) + 5 * (paper % 2)
    graph = HeteroGraph.from_edge_lists({"paper": 40, "author": 10}, {("paper", "by", "author"): (paper, author)})
    config = WalkConfig(dim=8, epochs=20)
    routes = [parse(path, graph)]
    made = metapath2vec(graph, routes, config, torch.Generator().manual_seed(2))
    assert made.shape == (40, 8)
    assert torch.equal(made, metapath2vec(graph, routes, config, torch.Generator().manual_seed(2)))
    cosines = F.normalize(made) @ F.normalize(made).T
    same = torch.arange(40)[:, None] % 2 == torch.arange(40) % 2
    inside = cosines[same & ~torch.eye(40, dtype=torch.bool)].mean()
    assert float(inside - cosines[~same].mean()) > 0.3


def test_an_edge_of_weight_0_is_none() -> None:
    """For walks, proposals and HERO as for meta-paths."""
    edge_type = ("paper", "by", "author")
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randint(20, (90,), generator=generator), torch.randint(8, (90,), generator=generator)])
    weights = torch.randint(3, (90,), generator=generator).float()
    counts = {"paper": 20, "author": 8}
    weighted = HeteroGraph.from_edge_lists(counts, {edge_type: (pairs[0], pairs[1])}, weights={edge_type: weights})
    kept = pairs[:, weights != 0]
    bare = HeteroGraph.from_edge_lists(counts, {edge_type: (kept[0], kept[1])})
    routes = [parse("paper-author-paper", bare)]
    config = WalkConfig.of({"dim": 4, "per_node": 2, "length": 5, "epochs": 1})
    one, other = (metapath2vec(graph, routes, config, torch.Generator().manual_seed(1)) for graph in (weighted, bare))
    assert torch.equal(one, other)
    assert propose(weighted, "paper", 2) == propose(bare, "paper", 2)
    vectors = []
    for graph in (weighted, bare):
        model = HERO(metapaths=("paper-author-paper",), hidden_dim=4, rows="random").build(
            GraphSpace(n_users=0, n_items=20, graph=graph), seed=0
        )
        vectors.append(model.eval().embed().detach())
    assert torch.equal(*vectors)
