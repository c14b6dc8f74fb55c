"""MEOW, AdaMEOW and HeCo: the golden steps of the published code, views and weights, attention and
positives.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.heco import (
    HeCo,
    NeighbourAttention,
    _positives,
    sample_neighbours,
)
from recgraph.models.heterogeneous.meow import MEOW, MetaPathModel
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.meow_reference import CHECKS  # noqa: E402
from experiments.reference import GOLDEN, read  # noqa: E402


def test_a_path_and_its_twin_share_the_dropout_of_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MEOW(**SETTINGS, dropout=0.5).build(small(), seed=0).train()
    inputs, widths = model._step_inputs(None), {"paper": 40, "author": 30, "subject": 5}
    hidden = {name: torch.full((n, 8), float(name != "paper")) for name, n in widths.items()}
    whole = [
        model.views._context(number, path, hidden, {}) for number, path in enumerate(inputs.paths)
    ]
    seen: list[Tensor] = []
    monkeypatch.setattr(model.views, "_path", lambda adj, x, *_: (seen.append(x), x)[1])
    model.views._views(inputs, hidden, hidden["paper"], torch.Generator().manual_seed(0))
    for context, of_path, of_twin in zip(whole, seen[::2], seen[1::2], strict=True):
        assert torch.equal(of_path, of_twin)
        assert torch.equal(of_path[of_path != 0], 2 * context[of_path != 0])


@pytest.mark.parametrize("step", ["a", "b"])
@pytest.mark.parametrize("check", CHECKS)
def test_golden_steps(check: str, step: str) -> None:
    """Graph, contexts, views, losses and gradients equal those of the published code."""
    golden = read(GOLDEN / f"meow_step_{step}.npz")
    for name, value in CHECKS[check](golden).items():
        torch.testing.assert_close(value, golden[name], rtol=1e-8, atol=1e-12)


def small(**features: Tensor | None) -> HeteroGraph:
    """A graph of 40 papers, 30 authors and 5 subjects, authors without features."""
    draw = torch.Generator().manual_seed(0)
    writes = torch.randint(30, (90,), generator=draw)
    pairs = {
        ("paper", "by", "author"): (torch.arange(90) % 40, writes),
        ("paper", "on", "subject"): (torch.arange(40), torch.randint(5, (40,), generator=draw)),
    }
    x = {"paper": torch.rand(40, 12, generator=draw), "subject": torch.rand(5, 3, generator=draw)}
    return HeteroGraph.from_edge_lists({"paper": 40, "author": 30, "subject": 5}, pairs, features=x)


PATHS = ("paper-author-paper", "paper-subject-paper")
SETTINGS: dict[str, Any] = {"metapaths": PATHS, "hidden_dim": 8, "paths": {"top_k": (4, 6)}}


def train(model: MetaPathModel, steps: int = 12, rate: float = 5e-3) -> list[float]:
    generators, losses = Generators(3), []
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for number in range(steps):
        batch = next(iter(model.batches(None, 1, generators).epoch(number)))
        terms = model(batch, list(model.phases[0].terms))
        loss = torch.stack([terms[name] * w for name, w in model.phases[0].terms.items()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_masks_are_drawn_once_by_the_seed() -> None:
    drawn = [MEOW(**SETTINGS).build(small(), seed=seed)._inputs for seed in (1, 1, 2)]
    for part in (lambda inputs: inputs.masked, lambda inputs: inputs.paths[0].masked.to_dense()):
        first, again, other = map(part, drawn)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_the_factorised_form_equals_the_composed_one() -> None:
    settings, latent = {"metapaths": PATHS, "hidden_dim": 8}, {"kind": "latent"}
    one, two = (
        MEOW(**settings, twins=latent, paths={"form": form}).build(small()).double().eval()
        for form in ("composed", "factorised")
    )
    # adjacencies are normalised in float32
    torch.testing.assert_close(one.embed(), two.embed(), rtol=1e-5, atol=1e-7)
    drop = {"augmentations": [{"name": "edge_drop", "ratio": 0.5}]}
    train(MEOW(**settings, twins=drop, paths={"form": "factorised"}).build(small()), 2)


# HeCo: the loss with several positives, attention and sampling of neighbours, against obvious
# versions


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def adjacency(n: int, m: int, share: float, seed: int = 0) -> Csr:
    return Csr.from_dense((draw(n, m, seed=seed) > share).double()).with_weights(None)


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
    assert torch.autograd.gradcheck(
        lambda x, y: layer(x, y, adj, None), (h.requires_grad_(), other.requires_grad_())
    )


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


def test_positives_are_those_that_short_rows_and_several_paths_lead_to() -> None:
    one, two = adjacency(8, 8, 0.2), adjacency(8, 8, 0.2, seed=2)
    positives = _positives([one, two], 3).to_dense()
    assert bool((positives.diagonal() == 1).all())
    shares = [
        matrix.to_dense() / matrix.to_dense().sum(1, keepdim=True).clamp(min=1)
        for matrix in (one, two)
    ]
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
    rows = [
        _positives([alike], 3, order).take_rows(torch.tensor([i])).indices.tolist() for i in (0, 1)
    ]
    assert rows == [[0, 2, 4], [0, 1, 2]]


@pytest.mark.parametrize("has_features", [False, True])
def test_settings_follow_what_is_published_for_targets_without_features(has_features: bool) -> None:
    writers = torch.arange(400), torch.arange(400) % 8
    graph = HeteroGraph.from_edge_lists(
        {"film": 400, "writer": 8}, {("film", "by", "writer"): writers}
    )
    graph = graph.with_features({"film": torch.ones(400, 2) if has_features else None})
    settings = {"metapaths": ("film-writer-film",), "hidden_dim": 2}
    model = HeCo(**settings).build(graph)
    assert model.contrast.config.temperature == (0.8 if has_features else 0.5)
    assert model.type_layers[0].dropout == (0.2 if has_features else 0.1)
    assert model.neighbour_attention[0].dropout == (0.5 if has_features else 0.3)
    assert model._inputs.positives.degrees.unique().tolist() == [5 if has_features else 10]
    given = HeCo(
        **settings, contrast={"temperature": 0.7}, dropout=0.0, attention_dropout=0.2, n_positives=3
    ).build(graph)
    assert given.contrast.config.temperature == 0.7
    assert given.type_layers[0].dropout == 0
    assert given._inputs.positives.degrees.unique().tolist() == [3]
    one_hot = HeCo(**settings, features={"film": "one-hot"}).build(graph)
    assert one_hot.contrast.config.temperature == 0.5
