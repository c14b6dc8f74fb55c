"""HGMAE: attention, cosines of what is restored, masks and terms against obvious versions with dense matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_model import N_PAPERS, graph, of_nodes
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.encoders.graph_attention import GraphAttention, NodeNorm
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous import hgmae
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.hgmae import HGMAE, Masked, draw_masked, epochs_of, rate_at
from recgraph.models.heterogeneous.restoring import attribute_cosines, edge_cosines, lengths_of
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import compress_rows

PLAIN: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "position_dropout": 0.0, "n_neighbours": None}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attended(adj: Tensor, x: Tensor, layer: GraphAttention) -> Tensor:
    """Attention of a dense adjacency, node by node and head by head."""
    heads = []
    for weight, (of_self, of_other) in zip(layer.fc.weight.chunk(layer.att.shape[1]), layer.att.unbind(1), strict=True):
        h, rows = x @ weight.T, []
        for i in range(len(x)):
            near = adj[i].nonzero().flatten()
            shares = F.leaky_relu(h[i] @ of_self + h[near] @ of_other, layer.slope).softmax(0)
            rows.append(shares @ h[near])
        heads.append(torch.stack(rows))
    return torch.cat(heads, 1) + layer.bias


def layered(adjacencies: Sequence[Tensor], x: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
    """One :class:`HANLayer` of dense adjacencies."""
    parts = zip(layer.paths, layer.activations, adjacencies, strict=True)
    views = [activation(attended(adj, x, attention)) for attention, activation, adj in parts]
    own = layer.attention
    beta = torch.stack([own.att[0] @ torch.tanh(own.fc(z)).mean(0) for z in views]).softmax(0)
    return torch.einsum("p,pnd->nd", beta, torch.stack(views)), beta


def test_attention_of_several_heads() -> None:
    adj = Csr.from_dense((draw(9, 9) > 0.3).double()).with_diagonal(1.0)
    layer, x = GraphAttention(5, 6, 3, 0.0).double(), draw(9, 5, seed=1).requires_grad_()
    nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer(adj, x), attended(adj.to_dense(), x, layer))
    assert torch.autograd.gradcheck(lambda v: layer(adj, v), (x,))
    with pytest.raises(ValueError, match="n_heads = 4 must divide the width 6"):
        GraphAttention(5, 6, 4, 0.0)


def test_nodes_are_normalised_over_the_graph() -> None:
    x = draw(7, 3)
    layer = NodeNorm(3).double()
    expected = F.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x), expected)
    assert layer(x[:1]).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", ["dense", "sparse", "identity"])
def test_cosines_of_attributes(kind: str) -> None:
    z, decoder = draw(8, 3, seed=1).requires_grad_(), nn.Linear(3, 8 if kind == "identity" else 6).double()
    dense = torch.eye(8).double() if kind == "identity" else draw(8, 6, seed=2).clamp(min=0)
    if kind != "identity":
        dense[3] = 0  # a node without attributes
    x = None if kind == "identity" else Csr.from_dense(dense) if kind == "sparse" else dense
    lengths = lengths_of(x, 8, z)
    torch.testing.assert_close(lengths, dense.norm(dim=1))
    got, expected = attribute_cosines(z, decoder, x, lengths), torch.cosine_similarity(decoder(z), dense, 1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    leaves = (z, *decoder.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(v.square().sum(), leaves) for v in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("compressed", [False, True])
def test_cosines_of_edges(compressed: bool) -> None:
    n = 60
    groups = torch.arange(n) % 3
    dense = (groups[:, None] == groups).double() * 0.3 if compressed else draw(n, n).clamp(min=0)
    dense[5] = 0  # a node without edges
    adj = Csr.from_dense(dense)
    operator = compress_rows(adj) if compressed else adj
    assert isinstance(operator, Csr) is not compressed
    z, decoder = draw(n, 3, seed=1).requires_grad_(), nn.Linear(3, 40).double()
    y = decoder(z)
    got = edge_cosines(z, decoder, operator, lengths_of(adj, n, z))
    expected = torch.cosine_similarity(y @ y.T, dense, 1)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    leaves = (z, *decoder.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(v.square().sum(), leaves) for v in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_lengths_of_features_of_half_precision(sparse: bool) -> None:
    """Squares of 1e-4 are 0 in float16, and those of 300 infinite."""
    x = torch.tensor([[1e-4] * 50, [300.0] * 50]).half()
    found = lengths_of(Csr.from_dense(x) if sparse else x, 2, torch.empty(0))
    torch.testing.assert_close(found, x.float().norm(dim=1), rtol=1e-6, atol=0)


def test_masked_nodes() -> None:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(10)
    for _ in range(300):
        nodes, count, tokens, source = draw_masked(10, 0.75, 0.3, 0.2, generator)
        assert count == int(nodes.sum()) == 7
        assert int(tokens.sum()) == 7 - 2 - 1
        assert bool(nodes[tokens].all())
        changed = source != torch.arange(10)
        assert int(changed.sum()) <= 2
        assert bool((nodes & ~tokens)[changed].all())
        total += nodes
    assert float((total - 225).abs().max()) < 5 * (300 * 0.75 * 0.25) ** 0.5
    assert draw_masked(3, 0.0, 0.0, 0.0, generator).n_nodes == 1


def test_rates_of_epochs() -> None:
    assert [rate_at(0.4, epoch) for epoch in (0, 9)] == [0.4, 0.4]
    assert [round(rate_at((0.5, 0.1, 0.8), epoch), 6) for epoch in (0, 1, 3, 4, 99)] == [0.5, 0.6, 0.8, 0.8, 0.8]
    assert [round(rate_at((0.8, -0.2, 0.5), epoch), 6) for epoch in (0, 1, 2)] == [0.8, 0.6, 0.5]
    rates = (0.4, (0.5, 0.005, 0.8), (0.8, -0.2, 0.5), (0.5, -0.1, 0.8), (0.5, 0.0, 0.8), (0.5, 0.1, 0.5))
    assert [*map(epochs_of, rates)] == [0, 60, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_mask": (0.5, 0.1, 1.0)}, "the first and the last"),
        ({"replaced": 0.6, "unchanged": 0.4}, "leave no masked node without attributes"),
        ({"n_heads": 3}, "n_heads = 3 must divide hidden_dim = 64"),
        ({"walk_options": {"legnth": 3}}, "legnth"),
        ({"mini_batch": True}, "mini_batch"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HGMAE(**settings)


def test_neighbours_are_limited() -> None:
    adj = Csr.from_dense((draw(30, 30) > -0.3).double()).with_diagonal(1.0).with_weights(None)
    generator, total = torch.Generator().manual_seed(0), torch.zeros(30, 30)
    for _ in range(200):
        kept = hgmae._limited(adj, 6, generator)
        assert bool((kept.degrees == adj.degrees.clamp(max=6)).all())
        total += kept.to_dense()
    assert bool((total.diagonal() == 200).all())
    expected = (adj.to_dense() * (5 / (adj.degrees - 1)).clamp(max=1)[:, None] * 200).fill_diagonal_(200)
    assert float(((total - expected).abs() / expected.clamp(min=1).sqrt()).max()) < 5


def test_terms_are_those_of_dense_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    place = torch.randperm(N_PAPERS, generator=torch.Generator().manual_seed(4))
    masked = Masked(place < 12, 12, place < 7, torch.where(place == 8, 3, torch.arange(N_PAPERS)))
    positions = draw(N_PAPERS, 5, seed=7)
    monkeypatch.setattr(hgmae, "draw_masked", lambda *_: masked)
    monkeypatch.setattr(hgmae, "metapath2vec", lambda *_: positions)
    settings = {"edge_mask": 0.0, "walk_options": {"dim": 5}, "n_heads": 2, **PLAIN}
    model = of_nodes("hgmae", **settings).double().train()
    assert isinstance(model, HGMAE)
    nn.init.normal_(model.token)
    batch: GraphBatch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
    terms = model(batch, ["attributes", "edges", "positions"])

    x = graph().features("paper")
    assert isinstance(x, Tensor)
    x = (x / x.sum(1, keepdim=True)).double()  # of the card's precision
    whole = graph()
    counts = [
        (adj := whole.adjacency(edge_type).to_dense().double()) @ adj.T
        for edge_type in (("paper", "by", "author"), ("paper", "on", "subject"))
    ]
    seen = [(a > 0).double().fill_diagonal_(1) for a in counts]

    def encoded(h: Tensor) -> Tensor:
        for layer in model.encoder:
            h, _ = layered(seen, h, layer)
        return h

    own = model.type_layers[0].linear
    assert isinstance(own, nn.Linear)
    inside = torch.where(masked.tokens[:, None], model.token, x[masked.source] @ own.weight.T) + own.bias
    z = encoded(F.elu(inside))
    restored = model.restored(
        layered(seen, model.of_attributes(z).masked_fill(masked.nodes[:, None], 0), model.decoder)[0]
    )
    errors = (1 - torch.cosine_similarity(restored, x, 1))[masked.nodes] ** 2
    torch.testing.assert_close(terms["attributes"], errors.mean())

    decoded, beta = layered(seen, model.of_edges(encoded(F.elu(own(x)))), model.decoder)
    y = model.restored(decoded)
    of_paths = []
    for a in counts:
        root = a.sum(1).pow(-0.5).nan_to_num(posinf=0)
        of_paths.append(((1 - torch.cosine_similarity(y @ y.T, root[:, None] * a * root, 1)) ** 3).mean())
    torch.testing.assert_close(terms["edges"], beta @ torch.stack(of_paths))

    made = z
    for layer, activation in zip(model.predictor, [*model.predictor_activations, nn.Identity()], strict=True):
        made = activation(layer(made))  # type: ignore[operator]
    torch.testing.assert_close(terms["positions"], ((1 - torch.cosine_similarity(made, positions, 1)) ** 2).mean())
    torch.testing.assert_close(model.eval().embed(), encoded(F.elu(own(x))), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("paths", [("p-a-p", "p-s-p"), ("p-a-p",)])
def test_a_type_without_nodes_ends_walks(paths: tuple[str, ...]) -> None:
    some = torch.arange(6)
    edges = {("p", "by", "a"): (some[:0], some[:0]), ("p", "of", "s"): (some, some % 2)}
    graph = HeteroGraph.from_edge_lists({"p": 6, "a": 0, "s": 2}, edges, features={"p": torch.rand(6, 4)})
    run = rg.fit_graph(HGMAE(metapaths=paths, hidden_dim=8), graph, seed=0, max_epochs=2, progress=False)
    assert bool(torch.tensor(run.embeddings()["embedding"].to_list()).isfinite().all())


def test_walks_are_drawn_only_for_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hgmae, "metapath2vec", lambda *_: pytest.fail("walks are drawn"))
    model = of_nodes("hgmae", position_weight=0.0)
    (phase,) = model.phases
    assert set(phase.terms) == {"attributes", "edges"}
    model.train()(next(iter(model.batches(None, 1, Generators(0)).epoch(0))), phase.terms)
    assert sum(model.path_weights().values()) == pytest.approx(1)
