"""Encoders of graphs: equal to dense computations, and to the published code of MEOW."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from published import golden_of
from torch import Tensor

from recgraph.encoders.graph import GCN, LightGCN, Propagation, SemanticAttention, mean
from recgraph.graph.contexts import Layered
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import presence
from recgraph.sparse.ragged import Ragged


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def graph(device: torch.device | str = "cpu", n: int = 20) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    adj = torch.rand(n, n, generator=draw, dtype=torch.float64)
    adj = torch.where(adj > 0.8, adj, 0)
    return adj.to(device), torch.randn(n, 6, generator=draw, dtype=torch.float64).to(device)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("norm", ["joint", "none"])
def test_gcn_equals_the_dense_one(n_layers: int, norm: str, device: torch.device) -> None:
    adj, x = graph(device)
    encoder = GCN(6, 5, 4, 0.0, n_layers=n_layers, norm=norm).to(device).double().eval()
    expected = x
    for layer, weight in enumerate(encoder.weights):
        expected = adj @ (expected @ weight)
        if layer < n_layers - 1:
            expected = F.prelu(expected, encoder.activations[layer].weight)
    if norm == "joint":
        expected = (expected - expected.mean()) / (expected.var(correction=0) + 1e-5).sqrt()
    got = encoder(Csr.from_dense(adj), x)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    leaves, pull = list(encoder.parameters()), torch.randn_like(got)
    ours, theirs = (torch.autograd.grad((z * pull).sum(), leaves) for z in (got, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_semantic_attention_equals_its_definition(device: torch.device) -> None:
    _, x = graph(device)
    views = [x, x.flip(0), x * 2]
    attention = SemanticAttention(6, inner_dim=3).to(device).double()
    scores = [
        (torch.tanh(z @ attention.fc.weight.T + attention.fc.bias) @ attention.att[0]).mean()
        for z in views
    ]
    beta = torch.stack(scores).softmax(0)
    torch.testing.assert_close(
        attention(views), sum(b * z for b, z in zip(beta, views, strict=True))
    )
    assert attention.last is not None
    torch.testing.assert_close(attention.last, beta.detach())


@pytest.mark.parametrize("step", ["a", "b"])
def test_published(step: str) -> None:
    golden = golden_of(f"meow_step_{step}")
    w1, w2 = (golden[f"model.Encoder.gc{k}.weight"] for k in (1, 2))
    gcn = GCN(w1.shape[0], w1.shape[1], w2.shape[1], 0.0).double().eval()
    slope = golden["model.Encoder.gc1.act.weight"]
    gcn.load_state_dict({"weights.0": w1, "weights.1": w2, "activations.0.weight": slope})
    attention = SemanticAttention(w2.shape[1]).double()
    attention.load_state_dict(
        {name: golden[f"model.att.{name}"] for name in ("att", "fc.weight", "fc.bias")}
    )
    views = [
        F.normalize(
            gcn(Csr.from_dense(golden[f"{kind}norm_{path}"]), golden[f"context_{path}{end}"]), dim=1
        )
        for path in ("pap", "psp")
        for kind, end in (("", ""), ("masked_", "_masked"))
    ]
    close(attention(views), golden["z_fine"])


@pytest.mark.parametrize("layered", [False, True])
def test_of_several_operators_the_mean_is_used(layered: bool) -> None:
    adj, x = graph()
    several, mean = [adj, adj.T, adj.relu() ** 2], (adj + adj.T + adj.relu() ** 2) / 3
    encoder = GCN(6, 5, 4, 0.0, norm="none").double().eval()
    given: list[Csr | Layered] = [Csr.from_dense(each) for each in several]
    torch.testing.assert_close(Propagation()(given, x), mean @ x)
    if layered:
        given = [Layered((each, each)) for each in given]
    expected = mean @ (encoder.activations[0](mean @ x @ encoder.weights[0])) @ encoder.weights[1]
    torch.testing.assert_close(encoder(given, x), expected)


# LightGCN's propagation: against PyG, against dense matrices, on subgraphs


N_USERS, N_ITEMS, D = 12, 17, 6


def rows(seed: int = 0) -> Ragged:
    """Users of 0 to 9 items; the last item has no user."""
    g = torch.Generator().manual_seed(seed)
    lengths = [0, 1, *torch.randint(2, 10, (N_USERS - 2,), generator=g).tolist()]
    return Ragged.from_lists(
        [torch.randperm(N_ITEMS - 1, generator=g)[:n].sort().values.tolist() for n in lengths]
    )


def dense(edges: Ragged, keep_mask: Tensor | None = None) -> Tensor:
    """D^-1/2 A D^-1/2, written out."""
    keep = torch.ones(edges.values.numel(), dtype=torch.bool) if keep_mask is None else keep_mask
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    a[edges.rows[keep], N_USERS + edges.values[keep]] = 1
    a += a.T.clone()
    root = a.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * a * root


def connected(n_layers: int = 3, device: torch.device | None = None) -> LightGCN:
    encoder = LightGCN(N_USERS, N_ITEMS, n_layers).to(device)
    encoder.connect(presence(rows(), N_ITEMS))
    return encoder


def vectors(dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N_USERS + N_ITEMS, D, generator=g, dtype=torch.float64)
    return x.to(device, dtype).requires_grad_()


def test_values_and_gradients_equal_a_dense_oracle(device: torch.device) -> None:
    x, a = vectors(device=device), dense(rows()).to(device)
    oracle = (
        sum(
            (torch.linalg.matrix_power(a, k) for k in range(1, 4)), torch.eye(len(a), device=device)
        )
        / 4
    )
    pull = torch.linspace(-1, 2, x.numel(), dtype=torch.float64, device=device).view_as(x)
    out = connected(device=device)(x)
    torch.testing.assert_close(out, oracle.to(x.dtype) @ x, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(out, x, pull)
    torch.testing.assert_close(grad, oracle.to(x.dtype).T @ pull, rtol=1e-12, atol=1e-12)


def test_a_subgraph_is_normalised_by_its_own_degrees() -> None:
    encoder, edges = connected(), rows()
    keep_mask = torch.rand(encoder.edges.nnz, generator=torch.Generator().manual_seed(2)) > 0.4
    made = encoder.subgraph(encoder.edges.select(keep_mask), torch.float64)
    torch.testing.assert_close(made.to_dense(), dense(edges, keep_mask), rtol=1e-12, atol=1e-12)
    # as Csr wants them: columns ascending within a row
    inner = made.rows[1:] == made.rows[:-1]
    assert bool((made.indices[1:] > made.indices[:-1])[inner].all())
    whole = encoder.subgraph(encoder.edges, torch.float64)
    torch.testing.assert_close(whole.to_dense(), encoder.adjacency(torch.float64).to_dense())


def test_layers_of_their_own_adjacencies_and_noise() -> None:
    encoder, edges, x = connected(2), rows(), vectors()
    g = torch.Generator().manual_seed(2)
    masks = [torch.rand(encoder.edges.nnz, generator=g) > 0.5 for _ in range(2)]
    adjacencies = [encoder.subgraph(encoder.edges.select(mask), x.dtype) for mask in masks]
    layers = encoder.layers(x, adjacencies, perturb=lambda h: h.add_(h.sign()))
    first = dense(edges, masks[0]) @ x
    first = first + first.sign()
    second = dense(edges, masks[1]) @ first
    second = second + second.sign()
    for layer, expected in zip(layers, (x, first, second), strict=True):
        torch.testing.assert_close(layer, expected)
    pull = torch.ones_like(x)
    (grad,) = torch.autograd.grad(mean(layers), x, pull)
    (expected_grad,) = torch.autograd.grad((x + first + second) / 3, x, pull)
    torch.testing.assert_close(grad, expected_grad)


def test_the_graph_is_part_of_the_state() -> None:
    encoder, x = connected(), vectors()
    state = safetensors.torch.load(safetensors.torch.save(encoder.state_dict()))
    other = LightGCN(N_USERS, N_ITEMS, 3)
    # without edges the other layers are 0
    torch.testing.assert_close(other(x), x / 4)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), encoder(x))
    other.connect(presence(Ragged.from_lists([[] for _ in range(N_USERS)]), N_ITEMS))
    torch.testing.assert_close(other(x), x / 4)
