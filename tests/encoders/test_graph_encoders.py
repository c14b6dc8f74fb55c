"""Encoders of graphs: equal to dense computations, and to the published code of MEOW."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusing import refused
from torch import Tensor

from recgraph.encoders.graph import GCN, Propagation, SemanticAttention
from recgraph.graph.contexts import Layered
from recgraph.sparse.csr import Csr

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def load(step: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"meow_step_{step}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


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
    scores = [(torch.tanh(z @ attention.fc.weight.T + attention.fc.bias) @ attention.att[0]).mean() for z in views]
    beta = torch.stack(scores).softmax(0)
    torch.testing.assert_close(attention(views), sum(b * z for b, z in zip(beta, views, strict=True)))
    assert attention.last is not None
    torch.testing.assert_close(attention.last, beta.detach())


@pytest.mark.parametrize("step", ["a", "b"])
def test_published(step: str) -> None:
    golden = load(step)
    w1, w2 = (golden[f"model.Encoder.gc{k}.weight"] for k in (1, 2))
    gcn = GCN(w1.shape[0], w1.shape[1], w2.shape[1], 0.0).double().eval()
    slope = golden["model.Encoder.gc1.act.weight"]
    gcn.load_state_dict({"weights.0": w1, "weights.1": w2, "activations.0.weight": slope})
    attention = SemanticAttention(w2.shape[1]).double()
    attention.load_state_dict({name: golden[f"model.att.{name}"] for name in ("att", "fc.weight", "fc.bias")})
    views = [
        F.normalize(gcn(Csr.from_dense(golden[f"{kind}norm_{path}"]), golden[f"context_{path}{end}"]), dim=1)
        for path in ("pap", "psp")
        for kind, end in (("", ""), ("masked_", "_masked"))
    ]
    close(attention(views), golden["z_fine"])


@pytest.mark.parametrize("encoder", ["gcn", "attention"])
def test_dropout_needs_a_generator_and_is_repeated_by_it(encoder: str, device: torch.device) -> None:
    adj, x = graph(device)
    gcn, attention = (
        GCN(6, 5, 4, dropout=0.5).to(device).double(),
        SemanticAttention(6, dropout=0.5).to(device).double(),
    )

    def run(generator: torch.Generator | None = None) -> Tensor:
        if encoder == "gcn":
            return gcn(Csr.from_dense(adj), x, generator)  # type: ignore[no-any-return]
        return attention([x, 3 * x], generator)  # type: ignore[no-any-return]

    with refused("generator"):
        run()
    one, two, other = (run(torch.Generator(device).manual_seed(seed)) for seed in (1, 1, 4))
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    gcn.eval()
    attention.eval()
    assert torch.equal(run(), run(torch.Generator(device)))


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
