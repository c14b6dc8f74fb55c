"""Weights, transforms, augmentations and encoders outside the library against loops, and every idea in a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F

import recgraph as rg
from recgraph import registry
from recgraph.contrast.objectives import Views
from recgraph.contrast.weights import Pairs
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged

Idea = Callable[[str], ModuleType]
N, M, D = 5, 8, 4


def pairs() -> Pairs:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, D, generator=draw, dtype=torch.float64) for rows in (N, M))
    ids = torch.arange(M) % 6
    return Pairs(ids[:N], ids, a, b)


def test_propensity(idea: Idea) -> None:
    of, weight = pairs(), idea("propensity").Propensity(power=1.0, clip=6.0)
    weight.counts = torch.tensor([30, 1, 0, 10, 15, 3])
    v = [min(30 / max(float(weight.counts[j]), 1), 6.0) for j in of.candidate_ids]
    expected = torch.tensor([one / (sum(v) / M) for one in v], dtype=torch.float64)
    torch.testing.assert_close(weight.log_w(of).exp(), expected.expand(N, M))
    torch.testing.assert_close(weight.log_w_beside(of, of.candidate_ids[:N], of.candidates[:N]).exp(), expected[:N])


def test_false_negatives(idea: Idea) -> None:
    of, weight = pairs(), idea("propensity").FalseNegative(threshold=0.1)
    for i in range(N):
        for j in range(M):
            cosine = float(F.cosine_similarity(of.anchors[i], of.candidates[j], dim=0))
            w = 0.0 if of.anchor_ids[i] == of.candidate_ids[j] else 1 - min(max((cosine - 0.1) / 0.9, 0), 1)
            assert float(weight.log_w(of).exp()[i, j]) == pytest.approx(w)


def test_same_cluster(idea: Idea) -> None:
    of, weight = pairs(), idea("same_cluster").SameCluster()
    clusters = torch.stack([torch.arange(6) % 2, torch.arange(6) % 3])
    weight.prepare(lambda: clusters)
    expected = [[float(all(row[i] == row[j] for row in clusters)) for j in of.candidate_ids] for i in of.anchor_ids]
    torch.testing.assert_close(weight.log_w(of).exp(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(weight.factor(of), torch.tensor(expected, dtype=torch.float64))
    beside = weight.log_w_beside(of, of.candidate_ids[:N], of.candidates[:N]).exp()
    torch.testing.assert_close(beside, torch.ones(N, dtype=torch.float64))


def test_category_gates(idea: Idea) -> None:
    torch.manual_seed(0)
    gate, of = idea("category_gates").CategoryGate(dim=D).double(), pairs()
    gate.categories = torch.tensor([0, 1, 2, -1, 1, 0])
    ((a, b),) = gate(Views(of.anchors, of.candidates, of.anchor_ids, of.candidate_ids))
    for i in range(N):
        for j in range(M):
            gates = []
            for one in (of.anchor_ids[i], of.candidate_ids[j]):
                vector = gate.category_embedding.weight[int(gate.categories[one]) + 1]
                gates.append(torch.sigmoid(gate.out(F.relu(gate.inner(vector)))))
            x, y = of.anchors[i] / of.anchors[i].norm(), of.candidates[j] / of.candidates[j].norm()
            torch.testing.assert_close(a[i] @ b[j], sum(gates[0][d] * gates[1][d] * x[d] * y[d] for d in range(D)))


def test_the_gap_of_two_sides(idea: Idea) -> None:
    module, of = idea("gap"), pairs()
    x, y = (F.normalize(side, dim=1).tolist() for side in (of.anchors, of.candidates))
    centres = [[sum(column) / len(side) for column in zip(*side, strict=True)] for side in (x, y)]
    squared = sum((p - q) ** 2 for p, q in zip(*centres, strict=True))
    assert float(module.MeanGap()(of.anchors, of.candidates)) == pytest.approx(squared)
    assert module.gap(of.anchors, of.candidates).distance == pytest.approx(math.sqrt(squared))
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 200, D, generator=draw, dtype=torch.float64)
    assert module.gap(a, b).separability == pytest.approx(0.5, abs=0.08)
    assert module.gap(a - 12 * torch.eye(D)[0], b + 12 * torch.eye(D)[0]).separability == 1
    classes = torch.tensor([0, 1, 0, -1, 1, 0, 2, 1])
    cosines = [
        float(torch.tensor(y[i]) @ torch.tensor(y[j]))
        for i in range(M) for j in range(M) if i != j and classes[i] == classes[j] >= 0
    ]  # fmt: skip
    assert module.tolerance(of.candidates, classes) == pytest.approx(sum(cosines) / len(cosines), rel=1e-5)


def test_autotcl(idea: Idea) -> None:
    """Without a draw the mask is p, rounded: what is kept is scaled, the rest is 0; the loss written out."""
    torch.manual_seed(0)
    augmenter, x = idea("autotcl").AutoTCL(D, share=0.2, share_weight=2.0).double(), pairs().anchors
    z = augmenter(x)
    inner = F.gelu(augmenter.reads(x))
    p, g = torch.sigmoid(augmenter.informs(inner)), 2 * torch.sigmoid(augmenter.scales(inner))
    v = g * (p > 0.5) * x
    torch.testing.assert_close(z, F.normalize(v, dim=1))
    relevance = (F.normalize(x, dim=1) - F.normalize(v, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(augmenter.loss(), relevance + 2 * torch.relu(p.mean() - 0.2))
    one, again, other = (augmenter(x, None, torch.Generator().manual_seed(k)) for k in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_popularity_swap(idea: Idea) -> None:
    module = idea("popularity_swap")
    counts = torch.tensor([1, 1, 2, 8, 8, 20])
    expected = [
        math.floor(3 * (sum(c for c in counts if c < own) + sum(c for c in counts if c == own) / 2) / 40)
        for own in counts
    ]
    assert module.popularity_groups(counts, 3).tolist() == expected
    # of two places the heavier one is drawn in proportion to its weight
    rows = Ragged.from_lists([[1, 2]] * 4000)
    chosen = module.choose_by_weight(
        rows, torch.tensor([1.0, 3.0]).repeat(4000), torch.ones(4000).long(), torch.Generator().manual_seed(0)
    )
    assert float(chosen[1::2].float().mean()) == pytest.approx(0.75, abs=0.03)
    log = Ragged.from_lists([[user % 6, (user + 1) % 6, 5] for user in range(30)])
    swap = module.PopularitySwap(ratio=0.5, n_groups=2)
    swap.setup(Part(log, 6))
    tokens = log.with_values(log.values + 1)
    swapped = swap(tokens, torch.Generator().manual_seed(1))
    groups, moved = module.popularity_groups(Part(log, 6).item_counts(), 2), swapped.values != tokens.values
    assert bool(moved.any())
    assert bool((groups[swapped.values[moved] - 1] != groups[tokens.values[moved] - 1]).all())


@pytest.mark.parametrize("routed", [False, True])
def test_experts(routed: bool, idea: Idea) -> None:
    module = idea("experts")
    torch.manual_seed(0)
    encoder = module.ExpertTransformer(hidden_dim=8, max_len=5, n_layers=1, inner_dim=6, n_heads=2).double().eval()
    expert_of = None if routed else torch.tensor([0, 1, 2, 1, 0, 2])
    (layer,) = encoder.layers
    layer.set_experts(3, expert_of)
    encoder.double()
    x, tokens = torch.randn(6, 8, dtype=torch.float64), torch.arange(6)
    found = layer._mixture(x, tokens, None)
    for i in range(6):
        p = torch.softmax(layer.router(x[i]), 0) if routed else torch.ones(3, dtype=torch.float64)
        e = int(p.argmax()) if routed else int(expert_of[i])  # type: ignore[index]
        inner = F.gelu(layer.up_e[e] @ x[i] + layer.up_bias[e])
        out = p[e] * (layer.down_e[e] @ inner + layer.down_bias[e])
        torch.testing.assert_close(found[i], layer.norm(x[i] + out))
    p, route = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([0, 0, 1])
    # the last place does not count: f = (1, 0), P = (.65, .35)
    assert float(module.balance(p, route, torch.tensor([1.0, 1.0, 0.0]))) == pytest.approx(2 * 0.65)


ITEMS = pl.DataFrame({"item": range(20), "genre": [["a", "b", "c"][i % 3] for i in range(20)]})
_OF_CATEGORIES = {"item_features": ("genre",)}
#: file -> the model that trains with it, and its settings
TRAININGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    **{
        name: [("cl4srec", {"objective": name}), ("simgcl", {"objective": name})]
        for name in ("swav", "vicreg", "mochi", "feature_transformation", "multi_head")
    },
    "autotcl": [("autotcl_rec", {})],
    "category_gates": [("gated_cl4srec", _OF_CATEGORIES)],
    "common_salient": [("common_salient_cl4srec", {})],
    "experts": [("expert_sasrec", {}), ("expert_sasrec", {"routing": "category", **_OF_CATEGORIES})],
    "gap": [("cl4srec", {"regularisers": {"mean_gap": 0.1}})],
    "near_far_labels": [("near_far_cl4srec", {})],
    "popularity_swap": [("cl4srec", {"augmentations": ("crop", "popularity_swap")})],
    "propensity": [("propensity_cl4srec", {}), ("simgcl", {"weight": "false_negative"})],
    "same_cluster": [("cl4srec", {"weight": "same_cluster", "weight_options": {"n_clusters": (2,)}})],
    "simsiam": [("cl4srec", {"objective": "simsiam"}), ("byol", {"target_momentum": 0.5})],
    "supremix": [("supremix_cl4srec", {})],
    "symile": [("symile_cl4srec", {})],
    "temperature_schedule": [("cl4srec", {"objective": "scheduled_nt_xent"})],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_it_trains(name: str, idea: Idea) -> None:
    idea(name)
    rows = [(u, (u * 3 + k * (1 + u % 4)) % 20, u * 10 + k, 1 + (u + k) % 5) for u in range(30) for k in range(8)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")
    log = rg.load_data(frame).with_features(item_features=ITEMS)
    for model, settings in TRAININGS[name]:
        small = {"hidden_dim": 8, "max_len": 8, "n_layers": 1, "inner_dim": 8, "n_heads": 1}
        cls = registry.load("model", model)
        own = {key: value for key, value in small.items() if key in cls.Config.model_fields}
        run = rg.fit(cls(**own, **settings), log.split("leave-one-out"), seed=0, max_epochs=2, device="cpu")
        assert all(math.isfinite(value) for value in run.history[-1].values() if isinstance(value, float))
