"""HeCo: the loss with several positives, attention and sampling of neighbours, against obvious versions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.contrast.term import ContrastiveTerm
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous import neighbours
from recgraph.models.heterogeneous.heco import HeCo, _neighbours, _positives
from recgraph.models.heterogeneous.neighbours import NeighbourAttention, sample_neighbours
from recgraph.rng import Generators
from recgraph.sparse import pair_products
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adjacency(n: int, m: int, share: float, seed: int = 0) -> Csr:
    return Csr.from_dense((draw(n, m, seed=seed) > share).double()).with_weights(None)


@pytest.mark.parametrize("scale", [1.0, 60.0])
@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize("few", [0, 1000])  # products in blocks, and gathered
def test_several_positives(scale: float, block_rows: int | None, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_products, "_FEW", few)
    a, b = (scale * draw(12, 5)).requires_grad_(), draw(12, 5, seed=1).requires_grad_()
    positives = adjacency(12, 12, 1.0).with_diagonal(1.0)
    term = ContrastiveTerm(
        temperature=0.5, objective="info_nce", objective_settings={"block_rows": block_rows}, similarity="dot"
    )
    loss = term(a, b, positives=Ragged(positives.indices, positives.indptr))
    s = a @ b.T / 0.5
    mask = positives.to_dense() == 0
    oracle = (s.logsumexp(1) - s.masked_fill(mask, -torch.inf).logsumexp(1)).mean()
    torch.testing.assert_close(loss, oracle, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(oracle, (a, b)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("n_candidates", [None, 11])
def test_anchors_without_candidates_are_left_out_of_both_parts(n_candidates: int | None) -> None:
    a, b = draw(12, 5).requires_grad_(), draw(12, 5, seed=1).requires_grad_()
    ids, ids_all = torch.arange(12), torch.full((12,), 99)
    ids[:3] = 99  # all candidates are the node itself to these
    positives = adjacency(12, 12, 1.0).with_diagonal(1.0)
    settings = {"count_positive": False, "n_candidates": n_candidates, "if_none": "zero"}
    term = ContrastiveTerm(
        temperature=0.5, objective="info_nce", objective_settings=settings, similarity="dot", weight="self_mask"
    )
    how = {"positives": Ragged(positives.indices, positives.indptr), "generator": torch.Generator().manual_seed(0)}
    loss = term(a, b, ids, ids_all, **how)
    grad_a, _ = torch.autograd.grad(loss, (a, b))
    assert not bool(grad_a[:3].any())
    if n_candidates is None:
        s = a @ b.T / 0.5
        others = s.masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf).logsumexp(1)
        own = s.masked_fill(positives.to_dense() == 0, -torch.inf).logsumexp(1)
        torch.testing.assert_close(loss, (others - own)[3:].mean())
    assert float(term(a, b, ids_all, ids_all, **how).detach()) == 0


def test_neighbour_attention() -> None:
    adj = adjacency(9, 7, 0.5)
    adj = adj.select(adj.rows != 4)
    layer, h, other = NeighbourAttention(3, 0.0).double(), draw(9, 3), draw(7, 3, seed=1)
    got = layer(h, other, adj, None)
    for i in range(9):
        near = adj.indices[adj.indptr[i] : adj.indptr[i + 1]]
        if not len(near):
            assert not bool(got[i].any())
            continue
        both = torch.cat([h[i].expand(len(near), -1), other[near]], 1)
        alpha = F.leaky_relu(both @ layer.att.reshape(-1), 0.01).softmax(0)
        torch.testing.assert_close(got[i], alpha @ other[near])
    assert torch.autograd.gradcheck(lambda x, y: layer(x, y, adj, None), (h.requires_grad_(), other.requires_grad_()))


def test_neighbour_attention_begins_as_wide_as_published() -> None:
    # Xavier, gain 1.414, of one row of 2 D entries
    with torch.random.fork_rng():
        torch.manual_seed(0)
        att = NeighbourAttention(20_000, 0.0).att.detach()
    assert att.shape == (2, 20_000)
    assert float(att.std() / (1.414 * (2 / 40_001) ** 0.5)) == pytest.approx(1, abs=0.02)


def test_sampled_neighbours() -> None:
    adj = adjacency(40, 12, 0.3)
    adj = adj.select(adj.rows != 3)
    sampled = sample_neighbours(adj, 4, torch.Generator().manual_seed(0))
    dense, counts = adj.to_dense(), sampled.to_dense()
    assert bool((dense[counts > 0] > 0).all())
    degrees = adj.degrees
    assert torch.equal(sampled.degrees, torch.where(degrees > 0, 4, 0))
    assert float(counts[degrees >= 4].max()) == 1
    # uniform: over many draws every neighbour comes equally often
    generator, total = torch.Generator().manual_seed(1), torch.zeros(40, 12)
    for _ in range(400):
        total += sample_neighbours(adj, 4, generator).to_dense()
    expected = dense * (4 / degrees.clamp(min=1))[:, None] * 400
    assert float(((total - expected).abs() / expected.clamp(min=1).sqrt()).max()) < 5


def _by_sorting_all(adj: Csr, n: int, generator: torch.Generator) -> Csr:
    """What sample_neighbours draws, by an order of all entries."""
    degrees = adj.degrees
    keys = torch.rand(adj.nnz, generator=generator)
    order = torch.argsort(adj.rows + keys.to(torch.float64), stable=True)
    place = torch.arange(adj.nnz) - adj.indptr[:-1][adj.rows]
    first = order[(place < n) & (degrees >= n)[adj.rows]]
    short = torch.nonzero((degrees < n) & (degrees > 0)).squeeze(1)
    draws = torch.rand(short.numel(), n, generator=generator)
    again = adj.indptr[short, None] + (draws * degrees[short, None]).long().clamp(max=degrees[short, None] - 1)
    entries = torch.cat([first, again.view(-1)])
    return Csr.from_coo(adj.rows[entries], adj.indices[entries], shape=adj.shape)


@pytest.mark.parametrize("n", [1, 3, 7, 50])
@pytest.mark.parametrize("slope", [3, 1, 0])
def test_sampled_neighbours_equal_those_of_a_full_sort(n: int, slope: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_SLOPE", slope)  # 1: some rows lack small keys; 0: nearly all do
    monkeypatch.setattr(neighbours, "_MORE", 10 if slope == 3 else 0)
    draw = torch.Generator().manual_seed(n)
    shares = torch.rand(60, 1, generator=draw) ** 3
    adj = Csr.from_dense((torch.rand(60, 900, generator=draw) < shares).float()).with_weights(None)
    for seed in range(5):
        made, expected = (f(adj, n, torch.Generator().manual_seed(seed)) for f in (sample_neighbours, _by_sorting_all))
        assert torch.equal(made.indptr, expected.indptr)
        assert torch.equal(made.indices, expected.indices)


def test_sampling_neighbours_sorts_no_more_of_a_hub_than_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    n_sorted: list[int] = []
    argsort = torch.argsort
    monkeypatch.setattr(torch, "argsort", lambda x, **how: (n_sorted.append(x.numel()), argsort(x, **how))[1])
    for width in (1_000, 8_000):
        adj = Csr.from_dense(torch.ones(20, width)).with_weights(None)
        n_sorted.clear()
        sample_neighbours(adj, 7, torch.Generator().manual_seed(0))
        assert sum(n_sorted) < 20 * (2 * (3 * 7 + 10) + 7)


def test_positives_are_those_that_short_rows_and_several_paths_lead_to() -> None:
    one, two = adjacency(8, 8, 0.2), adjacency(8, 8, 0.2, seed=2)
    positives = _positives([one, two], 3).to_dense()
    assert bool((positives.diagonal() == 1).all())
    shares = [matrix.to_dense() / matrix.to_dense().sum(1, keepdim=True).clamp(min=1) for matrix in (one, two)]
    joined = (shares[0] + shares[1]).fill_diagonal_(0)
    for i in range(8):
        chosen = [j for j in range(8) if j != i and positives[i, j]]
        assert len(chosen) == min(2, int((joined[i] > 0).sum()))
        rest = [float(joined[i, j]) for j in range(8) if j != i and j not in chosen]
        assert min([float(joined[i, j]) for j in chosen], default=9) >= max(rest)


def test_positives_that_paths_lead_to_equally_often() -> None:
    alike = Csr.from_dense(torch.ones(5, 5)).with_weights(None)
    assert _positives([alike], 3).take_rows(torch.tensor([0])).indices.tolist() == [0, 3, 4]
    order = torch.tensor([4, 1, 3, 0, 2])
    rows = [_positives([alike], 3, order).take_rows(torch.tensor([i])).indices.tolist() for i in (0, 1)]
    assert rows == [[0, 2, 4], [0, 1, 2]]


@pytest.mark.parametrize("has_features", [False, True])
def test_settings_follow_what_is_published_for_targets_without_features(has_features: bool) -> None:
    writers = torch.arange(400), torch.arange(400) % 8
    graph = HeteroGraph.from_edge_lists({"film": 400, "writer": 8}, {("film", "by", "writer"): writers})
    graph = graph.with_features({"film": torch.ones(400, 2) if has_features else None})
    settings = {"metapaths": ("film-writer-film",), "hidden_dim": 2}
    model = HeCo(**settings).build(graph)
    assert model.contrast.config.temperature == (0.8 if has_features else 0.5)
    assert model.type_layers[0].dropout == (0.2 if has_features else 0.1)
    assert model.neighbour_attention[0].dropout == (0.5 if has_features else 0.3)
    assert model._inputs.positives.degrees.unique().tolist() == [5 if has_features else 10]
    given = HeCo(**settings, temperature=0.7, dropout=0.0, attention_dropout=0.2, n_positives=3).build(graph)
    assert given.contrast.config.temperature == 0.7
    assert given.type_layers[0].dropout == 0
    assert given._inputs.positives.degrees.unique().tolist() == [3]
    one_hot = HeCo(**settings, features={"film": "one-hot"}).build(graph)
    assert one_hot.contrast.config.temperature == 0.5


def shop() -> HeteroGraph:
    """Two relations to items, one within users."""
    edges = {
        ("user", "views", "item"): ([0, 0], [0, 1]),
        ("user", "buys", "item"): ([0, 1, 2], [1, 1, 2]),
        ("user", "friend", "user"): ([0], [1]),
    }
    return HeteroGraph.from_edge_lists({"user": 3, "item": 3}, edges)


def test_neighbours_are_those_of_every_relation() -> None:
    found = _neighbours(shop(), "user")
    assert {name: adj.weights for name, adj in found.items()} == {"item": None, "user": None}
    assert found["item"].to_dense().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert found["user"].to_dense().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_neighbours_are_counted_for_each_type() -> None:
    paths = ("user>buys>item<buys<user",)
    assert HeCo(metapaths=paths, n_neighbours=2).build(shop()).n_neighbours == (2, 2)
    assert HeCo(metapaths=paths, n_neighbours=(1, 3)).build(shop()).n_neighbours == (1, 3)
    with pytest.raises(ValueError, match=r"n_neighbours = \(1,\) has 1 values; give one, or one for each of item, us"):
        HeCo(metapaths=paths, n_neighbours=(1,)).build(shop())
    for wrong in (0, -2, (3, 0)):
        with pytest.raises(ConfigError, match="n_neighbours"):
            HeCo(metapaths=paths, n_neighbours=wrong)


def test_embeddings_have_the_one_width() -> None:
    with pytest.raises(ConfigError, match="embedding_dim = 16 must be hidden_dim = 64"):
        HeCo(embedding_dim=16)
    assert HeCo(embedding_dim=16, hidden_dim=16).embedding_dim == 16


def test_the_contrast_is_configuration() -> None:
    paths = ("user>buys>item<buys<user",)
    assert not {"objective", "similarity", "weight", "weight_options", "objective_options"} & set(
        HeCo().config.identity()
    )
    for settings in (
        {"weight": "learned"},
        {"weight": "cluster", "weight_options": {"n_clusters": (2,)}},
        {"objective": "nt_xent", "n_positives": 1, "similarity": "dot"},
        {"objective": "debiased_info_nce", "n_positives": 1},
    ):
        model = HeCo(metapaths=paths, hidden_dim=8, **settings).build(shop()).train()
        batch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
        loss = model(batch, ["info"])["info"]
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.project.parameters())
        learned = [p.grad for p in model.contrast.parameters()]
        assert bool(learned) == (settings.get("weight") == "learned")
        assert all(grad is not None for grad in learned)
    with pytest.raises(ValueError, match="objective = 'nt_xent' has one positive for each anchor; use n_positives = 1"):
        HeCo(metapaths=paths, objective="nt_xent").build(shop())


@pytest.mark.parametrize("objective", ["nt_xent", "barlow_twins", "info_nce"])
def test_a_contrast_of_both_sides_is_made_once(objective: str) -> None:
    """The loss of the views in turn is the same, and a queue would mix the sides."""
    settings = {"hidden_dim": 8, "n_positives": 1, "objective": objective}
    model = HeCo(metapaths=("user>buys>item<buys<user",), **settings).build(shop()).train()
    given: list[tuple[Tensor, Tensor]] = []
    model.contrast.register_forward_pre_hook(lambda _, views: given.append((views[0], views[1])))
    batch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
    assert model(batch, ["info"])["info"].isfinite()
    assert len(given) == (2 if objective == "info_nce" else 1)
    if objective != "info_nce":
        a, b = given[0]
        torch.testing.assert_close(model.contrast.eval()(b, a), model.contrast(a, b))
