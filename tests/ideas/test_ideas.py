"""Every idea of experiments/ideas against a slow oracle, loaded as ``--import`` does it, and in a
short training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F
from refusing import refused
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.contrast.objectives import Views
from recgraph.contrast.parts import Pairs
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.evaluate.rerank import Cosine, Reranking, pick, reranker_of
from recgraph.explain.attribution import Subject
from recgraph.explain.explanation import Attributed, Faithfulness, Item, MethodAttribution, Node
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Model, Space
from recgraph.registry import import_file
from recgraph.rng import seeded_init
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.ragged import Ragged

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "ideas"
Idea = Callable[[str], ModuleType]
B, N, M, D = 7, 5, 8, 4


@pytest.fixture(scope="session")
def idea() -> Idea:
    """The module of an idea by its name."""
    return lambda name: import_file(FOLDER / f"{name}.py")


# -- objectives


def views(n: int = B) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    b = a + 0.5 * torch.randn(n, D, generator=g, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def term(
    objective: str, temperature: float = 0.5, similarity: str = "cosine", **settings: Any
) -> ContrastiveTerm:
    chosen = {"name": objective, **settings}
    with seeded_init(0):
        return ContrastiveTerm(
            objective=chosen, temperature=temperature, similarity=similarity, dim=D
        ).double()


def draw(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def agree(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_swav(idea: Idea) -> None:
    """Codes by the rounds of the authors' code, an entry at a time."""
    idea("swav")
    (a, b), own = views(), term("swav", 0.1, n_prototypes=3, epsilon=0.3, frozen_steps=0)
    c = F.normalize(own.objective.directions, dim=1)  # type: ignore[arg-type]
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    expected = []
    for side, other in ((x, y), (y, x)):
        q = (other.detach() @ c.detach().T / 0.3).exp()
        for _ in range(3):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        s = side @ c.T / 0.1
        expected.append(
            torch.stack([s[i].logsumexp(0) - (q[i] * s[i]).sum() for i in range(B)]).mean()
        )
    agree(own(a, b), (expected[0] + expected[1]) / 2, a, b, own.objective.directions)  # type: ignore[arg-type]


def test_simsiam(idea: Idea) -> None:
    idea("simsiam")
    (a, b), own = views(), term("simsiam")
    h = own.objective.predictor
    losses = [
        F.cosine_similarity(h(p)[i], q[i].detach(), dim=0)
        for p, q in ((a, b), (b, a))
        for i in range(B)  # type: ignore[operator]
    ]
    agree(own(a, b), -torch.stack(losses).mean(), a, b)


@pytest.mark.parametrize("deviation", [1.0, None])
def test_vicreg(deviation: float | None, idea: Idea) -> None:
    idea("vicreg")
    (a, b), gamma = views(), 1 / math.sqrt(D) if deviation is None else deviation
    s = sum((a[i, d] - b[i, d]) ** 2 for i in range(B) for d in range(D)) / (B * D)
    v = c = torch.zeros((), dtype=torch.float64)
    for x in (a, b):
        for d, e in np.ndindex(D, D):
            cov = sum((x[i, d] - x[:, d].mean()) * (x[i, e] - x[:, e].mean()) for i in range(B)) / (
                B - 1
            )
            v = v + (F.relu(gamma - (cov + 1e-4).sqrt()) / D if d == e else 0)
            c = c + (cov**2 / D if d != e else 0)
    agree(term("vicreg", deviation=deviation)(a, b), 25 * s + 25 * v / 2 + c, a, b)


@pytest.mark.parametrize("n_views", [2, 3])
def test_symile(n_views: int, idea: Idea) -> None:
    symile, (a, b) = idea("symile").symile, views()
    sides = [a, b, (a * b).detach() + 1][:n_views]
    found, order = symile(sides, 0.2, draw()), draw()
    z, losses = [F.normalize(x, dim=1) for x in sides], []
    for m in range(n_views):
        others = [z[k] for k in range(n_views) if k != m]
        if n_views > 2:
            others = [x[torch.randperm(B, generator=order)] for x in others]
        for i in range(B):
            own = math.prod(x[i] for x in z).sum() / 0.2  # type: ignore[union-attr]
            rest = [
                (z[m][i] * math.prod(x[j] for x in others)).sum() / 0.2 for j in range(B) if j != i
            ]
            losses.append(torch.stack([own, *rest]).logsumexp(0) - own)
    agree(found, torch.stack(losses).mean(), a, b)


def test_mochi(idea: Idea) -> None:
    """The mixtures lie where they should, and the loss has them beside the candidates, without a
    gradient of theirs.
    """
    idea("mochi")
    (a, b), own = views(), term("mochi", hardest=3, of_candidates=4, with_anchor=2)
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    mixed = own.objective.mixtures(x.detach(), y.detach(), 3, torch.arange(B)[:, None], draw())  # type: ignore[operator]
    torch.testing.assert_close(mixed.norm(dim=2), torch.ones(B, 6, dtype=torch.float64))
    for i in range(B):
        hard = sorted(
            (j for j in range(B) if j != i), key=lambda j, i=i: -float((x[i] @ y[j]).detach())
        )[:3]  # type: ignore[misc]
        for each in mixed[i, :4]:  # in the plane, and between, two of the three
            pairs = [(j, k) for j in hard for k in hard if j < k]
            parts = [torch.linalg.lstsq(y[[j, k]].detach().T, each[:, None]) for j, k in pairs]
            exact = [p.solution for p, (j, k) in zip(parts, pairs, strict=True)
                     if torch.allclose(y[[j, k]].detach().T @ p.solution, each[:, None])]  # fmt: skip
            assert any(bool((one > -1e-9).all()) for one in exact)
    s = x @ y.T
    total = torch.cat([s, torch.einsum("nd,nsd->ns", x, mixed)], 1)
    agree(own(a, b, generator=draw()), (total.logsumexp(1) - s.diagonal()).mean(), a, b)


def test_feature_transformation(idea: Idea) -> None:
    module = idea("feature_transformation")
    (a, b), own, order = views(), term("feature_transformation"), draw()
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    along, share = 1 + module._beta(2.0, B, order, x), module._beta(1.6, B, order, y)
    permuted = torch.randperm(B, generator=order)
    q, losses = F.normalize(a, dim=1), []
    for i in range(B):
        lam = along[i]
        own_s = ((lam * q[i] + (1 - lam) * y[i]) @ (lam * y[i] + (1 - lam) * q[i])) / 0.5
        others = [j for j in range(B) if i not in (j, int(permuted[j]))]
        rows = [x[i] @ (share[j] * y[j] + (1 - share[j]) * y[permuted[j]]) for j in others]
        losses.append(torch.stack([own_s, *rows]).logsumexp(0) - own_s)
    agree(own(a, b, generator=draw()), torch.stack(losses).mean(), a, b)


def test_near_and_far_labels(idea: Idea) -> None:
    idea("near_far_labels")
    (a, b), own = views(), term("near_far_labels", window=0.5, near=-0.1, push=0.3, rarity=0.5)
    own.objective.labels = torch.tensor([1.0, 1, 2, 3, 4, 4, 5])
    z = F.normalize(torch.cat([a, b]), dim=1)
    y = torch.cat([own.objective.labels] * 2).double()
    y = y / y.std(correction=0)
    n, weights, losses = 2 * B, [], []
    for i in range(n):
        positive = [j for j in range(n) if j != i and abs(y[i] - y[j]) <= 0.5]
        negative = [
            j for j in range(n) if abs(y[i] - y[j]) > 0.5 and float((z[i] @ z[j]).detach()) >= -0.1
        ]
        weights.append((len(positive) + 1) ** -0.5)
        losses.append((i, positive, negative))
    mean, found = sum(weights) / n, []
    for (i, positive, negative), weight in zip(losses, weights, strict=True):
        eta = weight / mean
        if positive and negative:
            near = [(z[i] @ z[j] / 0.5).exp() for j in positive]
            far = [
                eta * math.exp(0.3 * abs(y[i] - y[j])) * (z[i] @ z[j] / 0.5).exp() for j in negative
            ]
            found.append(
                eta * -sum((one / (sum(near) + sum(far))).log() for one in near) / len(near)
            )
    agree(own(a, b), torch.stack(found).sum() / n, a, b)


def test_supremix(idea: Idea) -> None:
    """Written out with the draws of the objective; a mixed positive has the anchor's label."""
    module = idea("supremix")
    (a, b), labels = views(), torch.tensor([1.0, 1, 2, 3, 3, 4, 5], dtype=torch.float64)
    own = term("supremix", n_negatives=2, positive_share=0.0, max_share=0.4)
    own.objective.labels = labels
    x, y = F.normalize(a, dim=1) / 0.5, F.normalize(b, dim=1)
    share = 0.4 * torch.rand(B, 2, generator=draw(), dtype=torch.float64)
    deviation, losses = labels.std(correction=0), []
    for i in range(B):
        rows = [x[i] @ y[i]]
        others = [j for j in range(B) if labels[j] != labels[i]]
        rows += [x[i] @ y[j] + ((labels[i] - labels[j]).abs() / deviation).log() for j in others]
        hard = sorted(others, key=lambda j, i=i: -float((x[i] @ y[j]).detach()))[:2]  # type: ignore[misc]
        for k, j in enumerate(hard):
            mixture = F.normalize(
                share[i, k] * F.normalize(a, dim=1)[i] + (1 - share[i, k]) * y[j], dim=0
            )
            rows.append(
                x[i] @ mixture
                + ((1 - share[i, k]) * (labels[i] - labels[j]).abs() / deviation).log()
            )
        losses.append(torch.stack(rows).logsumexp(0) - rows[0])
    agree(own(a, b, generator=draw()), torch.stack(losses).mean(), a, b)
    one, other = F.normalize(a[:1], dim=1), F.normalize(b[:1], dim=1)
    mixed = module._mixed(
        torch.tensor([0.3], dtype=torch.float64), one, other, torch.tensor([2.0]).double()
    )
    torch.testing.assert_close(mixed, 2 * F.normalize(0.3 * one + 0.7 * other, dim=1))


def test_multi_head(idea: Idea) -> None:
    idea("multi_head")
    (a, b), own = views(), term("multi_head", n_heads=2, likelihood=0.3)
    for layer in own.objective.temperatures:  # type: ignore[union-attr]
        torch.nn.init.normal_(layer.weight, generator=draw())
    losses = []
    for head, layer in zip(own.objective.heads, own.objective.temperatures, strict=True):  # type: ignore[arg-type]
        z = torch.cat([F.normalize(head(x), dim=1) for x in (a, b)])
        tau = torch.exp(math.log(0.5) + math.log(4) * torch.tanh(layer(z))[:, 0])
        for i in range(2 * B):
            p = (i + B) % (2 * B)
            s = torch.stack(
                [z[i] @ z[j] / (tau[i] * tau[j]).sqrt() for j in range(2 * B) if j != i]
            )
            pair = (tau[i] * tau[p]).sqrt()
            losses.append(
                s.logsumexp(0) - z[i] @ z[p] / pair + 0.3 * ((1 - z[i] @ z[p]) / pair + pair.log())
            )
    agree(own(a, b), torch.stack(losses).mean(), a, b)


def test_common_and_salient(idea: Idea) -> None:
    idea("common_salient")
    (a, b), own = (
        views(),
        term("common_salient", salient=2.0, background=3.0, independence=4.0, bandwidth=0.7),
    )
    own.objective.targets = torch.arange(B) % 2 == 0
    rows = torch.cat([a, b])
    c, s, is_target = (
        F.normalize(rows[:, :2], dim=1),
        rows[:, 2:],
        [i % B % 2 == 0 for i in range(2 * B)],
    )

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (-(x - y).square().sum() / 1.4).exp()

    def uniformity(points: list[Tensor]) -> Tensor:
        pairs = [
            k(points[i], points[j])
            for i in range(len(points))
            for j in range(len(points))
            if i != j
        ]
        return torch.stack(pairs).mean().log()

    def alignment(x: Tensor, of: list[int]) -> Tensor:
        return torch.stack([(x[i] - x[i + B]).square().sum() / 1.4 for i in of]).mean()

    targets = [i for i in range(B) if i % 2 == 0]
    salient = [s[i] for i in range(2 * B) if is_target[i]] + [torch.zeros(2, dtype=torch.float64)]
    background = torch.stack([s[i].square().sum() for i in range(2 * B) if not is_target[i]]).mean()
    every = range(2 * B)
    joint = [
        torch.stack([k(c[i], c[j]) * k(s[i], s[j]) for j in every]).mean().log() for i in every
    ]
    expected = alignment(c, list(range(B))) + uniformity(list(c))
    expected = expected + 2 * (alignment(s, targets) + uniformity(salient)) + 3 * background
    agree(own(a, b), expected + 4 * torch.stack(joint).mean(), a, b)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("linear", (1.0, 0.775, 0.1)), ("cosine", (1.0, 0.55, 1.0))]
)
def test_temperature_schedule(schedule: str, expected: tuple[float, ...], idea: Idea) -> None:
    """At steps 0, a quarter of the period, and the period; the module counts its steps."""
    idea("temperature_schedule")
    (a, b), own = (
        views(),
        term("scheduled_nt_xent", 1.0, schedule=schedule, temperature_end=0.1, n_steps=8),
    )
    found = [own(a, b) for _ in range(9)]
    for step, tau in zip((0, 2, 8), expected, strict=True):
        torch.testing.assert_close(found[step], term("nt_xent", tau)(a, b))


# -- weights, transforms, augmentations, encoders


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
    torch.testing.assert_close(
        weight.log_w_beside(of, of.candidate_ids[:N], of.candidates[:N]).exp(), expected[:N]
    )


def test_false_negatives(idea: Idea) -> None:
    of, weight = pairs(), idea("propensity").FalseNegative(threshold=0.1)
    for i, j in np.ndindex(N, M):
        cosine = float(F.cosine_similarity(of.anchors[i], of.candidates[j], dim=0))
        w = (
            0.0
            if of.anchor_ids[i] == of.candidate_ids[j]
            else 1 - min(max((cosine - 0.1) / 0.9, 0), 1)
        )
        assert float(weight.log_w(of).exp()[i, j]) == pytest.approx(w)


def test_same_cluster(idea: Idea) -> None:
    of, weight = pairs(), idea("same_cluster").SameCluster()
    clusters = torch.stack([torch.arange(6) % 2, torch.arange(6) % 3])
    weight.prepare(lambda: clusters)
    expected = [
        [float(all(row[i] == row[j] for row in clusters)) for j in of.candidate_ids]
        for i in of.anchor_ids
    ]
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
            torch.testing.assert_close(
                a[i] @ b[j], sum(gates[0][d] * gates[1][d] * x[d] * y[d] for d in range(D))
            )


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
    assert module.tolerance(of.candidates, classes) == pytest.approx(
        sum(cosines) / len(cosines), rel=1e-5
    )


def test_autotcl(idea: Idea) -> None:
    """Without a draw the mask is p, rounded: what is kept is scaled, the rest is 0; the loss
    written out.
    """
    torch.manual_seed(0)
    augmenter, x = idea("autotcl").AutoTCL(D, share=0.2, share_weight=2.0).double(), pairs().anchors
    z = augmenter(x)
    inner = F.gelu(augmenter.reads(x))
    p, g = torch.sigmoid(augmenter.informs(inner)), 2 * torch.sigmoid(augmenter.scales(inner))
    v = g * (p > 0.5) * x
    torch.testing.assert_close(z, F.normalize(v, dim=1))
    relevance = (F.normalize(x, dim=1) - F.normalize(v, dim=1)).square().sum(1).mean()
    torch.testing.assert_close(augmenter.loss(), relevance + 2 * torch.relu(p.mean() - 0.2))


def test_popularity_swap(idea: Idea) -> None:
    module = idea("popularity_swap")
    counts = torch.tensor([1, 1, 2, 8, 8, 20])
    expected = [
        math.floor(
            3 * (sum(c for c in counts if c < own) + sum(c for c in counts if c == own) / 2) / 40
        )
        for own in counts
    ]
    assert module.popularity_groups(counts, 3).tolist() == expected
    # of two places the heavier one is drawn in proportion to its weight
    rows = Ragged.from_lists([[1, 2]] * 4000)
    chosen = module.choose_by_weight(
        rows,
        torch.tensor([1.0, 3.0]).repeat(4000),
        torch.ones(4000).long(),
        torch.Generator().manual_seed(0),
    )
    assert float(chosen[1::2].float().mean()) == pytest.approx(0.75, abs=0.03)
    log = Ragged.from_lists([[user % 6, (user + 1) % 6, 5] for user in range(30)])
    swap = module.PopularitySwap(ratio=0.5, n_groups=2)
    swap.setup(Part(log, 6))
    tokens = log.with_values(log.values + 1)
    swapped = swap(tokens, torch.Generator().manual_seed(1))
    groups, moved = (
        module.popularity_groups(Part(log, 6).item_counts(), 2),
        swapped.values != tokens.values,
    )
    assert bool(moved.any())
    assert bool((groups[swapped.values[moved] - 1] != groups[tokens.values[moved] - 1]).all())


@pytest.mark.parametrize("routed", [False, True])
def test_experts(routed: bool, idea: Idea) -> None:
    module = idea("experts")
    torch.manual_seed(0)
    sizes = {"hidden_dim": 8, "max_len": 5, "n_layers": 1, "inner_dim": 6, "n_heads": 2}
    encoder = module.ExpertTransformer(dropout=0.0, **sizes).double().eval()
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
_OF_CATEGORIES = {"items": {"features": ("genre",)}}
#: file -> the model that trains with it, and its settings
TRAININGS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    **{
        name: [
            ("cl4srec", {"contrast": {"objective": name}}),
            ("simgcl", {"contrast": {"objective": name}}),
        ]
        for name in ("swav", "vicreg", "mochi", "feature_transformation", "multi_head")
    },
    "autotcl": [("autotcl_rec", {})],
    "category_gates": [("gated_cl4srec", _OF_CATEGORIES)],
    "common_salient": [("common_salient_cl4srec", {})],
    "experts": [
        ("expert_sasrec", {}),
        ("expert_sasrec", {"routing": "category", **_OF_CATEGORIES}),
    ],
    "gap": [
        ("cl4srec", {"contrast": {"regularisers": ({"name": "mean_gap", "coefficient": 0.1},)}})
    ],
    "near_far_labels": [("near_far_cl4srec", {})],
    "popularity_swap": [("cl4srec", {"augmentations": ("crop", "popularity_swap")})],
    "propensity": [
        ("propensity_cl4srec", {}),
        ("simgcl", {"contrast": {"weight": "false_negative"}}),
    ],
    "same_cluster": [
        ("cl4srec", {"contrast": {"weight": {"name": "same_cluster", "n_clusters": (2,)}}})
    ],
    "simsiam": [
        ("cl4srec", {"contrast": {"objective": "simsiam"}}),
        ("byol", {"target_momentum": 0.5}),
    ],
    "supremix": [("supremix_cl4srec", {})],
    "symile": [("symile_cl4srec", {})],
    "temperature_schedule": [("cl4srec", {"contrast": {"objective": "scheduled_nt_xent"}})],
}


@pytest.mark.parametrize("name", TRAININGS)
def test_it_trains(name: str, idea: Idea) -> None:
    idea(name)
    rows = [
        (u, (u * 3 + k * (1 + u % 4)) % 20, u * 10 + k, 1 + (u + k) % 5)
        for u in range(30)
        for k in range(8)
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")
    log = rg.load_data(frame).with_features(item_features=ITEMS)
    for model, settings in TRAININGS[name]:
        layers = {"n_layers": 1, "inner_dim": 8, "n_heads": 1}
        small = {"hidden_dim": 8, "max_len": 8, "n_layers": 1, "encoder": layers}
        cls = registry.load("model", model)
        own = {key: value for key, value in small.items() if key in cls.Config.model_fields}
        run = rg.fit(
            cls(**own, **settings), log.split("leave-one-out"), seed=0, max_epochs=2, device="cpu"
        )
        assert all(
            math.isfinite(value) for value in run.history[-1].values() if isinstance(value, float)
        )


# -- models

SHORT = {"seed": 0, "device": "cpu", "batch_size": 512, "max_epochs": 2, "metric": "last"}


def split() -> Any:
    return rg.load_dataset("synthetic").split("leave-one-out")


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_the_teachers_scores_are_learned_for_its_candidates(idea: Idea) -> None:
    module = idea("distillation")
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax([x / 2 for x in t]), softmax([x / 2 for x in s])
        expected += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 3
    assert float(module.distil_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)

    run = rg.fit(rg.registry.load("model", "distilled_lightgcn")(hidden_dim=8), split(), **SHORT)
    assert run.history[1]["distil"] < run.history[0]["distil"]
    model, (teacher_model, rows) = run.model, run.model._taught
    items, scores = model.candidates(torch.tensor([4]), draw)
    every = teacher_model.score(
        rg.data.batches.Query(torch.tensor([4]), rows.take(torch.tensor([4])))
    )[0]
    assert scores[0].tolist() == every[items[0]].tolist()
    assert set(items[0, :64].tolist()) == set(every.topk(64).indices.tolist())


def test_stages_contrast_within_earlier_clusters(idea: Idea) -> None:
    weight = idea("multistage").EarlierClusters()
    weight.clusters = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    ids, rows = torch.arange(4), torch.zeros(4, 2)
    found = weight.log_w(Pairs(ids, ids, rows, rows))
    for i in range(4):
        for j in range(4):
            is_near = all(of[i] == of[j] for of in weight.clusters.tolist())
            assert float(found[i, j]) == (0 if is_near else -math.inf)

    model = rg.registry.load("model", "multistage_simgcl")(
        hidden_dim=8, stage_epochs=1, stage_clusters=3
    )
    model = rg.fit(model, split(), **SHORT).model
    assert int(model.stage) == 1
    assert model.eval().nodes().shape[1] == 16
    first = torch.split(model.clusters[0], [model.space.n_users, model.space.n_items])
    assert [len(of.unique()) for of in first] == [3, 3]
    assert torch.equal(model.of_stage(1).contrast_items.weight.clusters[0], first[1])
    assert model.of_stage(0).contrast_items.weight is None


def test_pseudo_labels_are_drawn_and_count_by_their_confidence(idea: Idea, tmp_path: Path) -> None:
    module, draw, tau = idea("pseudo_labels"), torch.Generator().manual_seed(1), 0.3
    f, c, w = (unit_length(torch.randn(n, 4, generator=draw)) for n in (6, 6, 3))
    labels, uniform = torch.tensor([0, -1, 2, -1, -1, 0]), torch.rand(6, generator=draw)
    p, q = ([softmax([float(x @ k) / tau for k in w]) for x in view] for view in (f, c))
    labelled, others = [], []
    for i in range(6):
        if labels[i] >= 0:
            labelled.append(-math.log(p[i][labels[i]]))
            continue
        vote = max((j for j in range(6) if j != i), key=lambda j: float(c[i] @ c[j] + f[i] @ f[j]))
        drawn = next(k for k in range(3) if sum(p[i][: k + 1]) >= float(uniform[i]))
        agreed = sum(a * b for a, b in zip(p[i], p[vote], strict=True))
        others.append(-math.log(agreed) - max(p[i]) * math.log(q[i][drawn]))
    means = [sum(row[k] for row in p) / 6 for k in range(3)]
    expected = sum(labelled) / 3 + sum(others) / 3 + sum(m * math.log(3 * m) for m in means)
    assert float(module.pseudo_loss(f, c, w, labels, tau, uniform)) == pytest.approx(
        expected, rel=1e-4
    )

    ends = torch.arange(40) % 20, torch.randint(6, (40,), generator=draw)
    graph = HeteroGraph.from_edge_lists(
        {"paper": 20, "author": 6}, {("paper", "by", "author"): ends}
    )
    np.save(tmp_path / "labels.npy", np.where(np.arange(20) < 8, np.arange(20) % 2, -1))
    settings: dict[str, Any] = {
        "metapaths": ("paper-author-paper",),
        "hidden_dim": 8,
        "n_classes": 2,
    }
    settings["prototypes"] = {"n_clusters": (3,)}
    model = rg.registry.load("model", "pseudo_labelled_meow")(
        known=f"{tmp_path / 'labels.npy'}", **settings
    )
    run = rg.fit_graph(model, graph, seed=0, max_epochs=3, device="cpu")
    assert bool(model.begun)
    assert {"info", "proto", "pseudo"} <= run.history[0].keys()


@pytest.mark.parametrize(
    ("k", "decay", "near", "power"), [(40, 0.7, 0.5, 0.5), (5, 0.83, 0.9, 0.31)]
)
def test_stan_reads_the_nearest_of_others(
    k: int, decay: float, near: float, power: float, idea: Idea
) -> None:
    module, drawn = idea("stan"), np.random.default_rng(0)
    # with repeats, some empty
    rows = [drawn.integers(0, 13, drawn.integers(0, 12)).tolist() for _ in range(90)]
    train, users, expected = rows[:40], torch.tensor([*range(40), *[-1] * 50]), torch.zeros(90, 14)
    for user, history, scores in zip(users.tolist(), rows, expected, strict=True):
        found = []
        for other, row in enumerate(train):
            place = {item: at for at, item in enumerate(row)}
            shared = [(age, item) for age, item in enumerate(reversed(history)) if item in place]
            if other != user and shared:
                similar = sum(decay**age for age, _ in shared) / len(place) ** power
                found.append((-similar, other, place, place[shared[0][1]]))
        for similar, _, place, at in sorted(found, key=lambda one: (round(one[0], 12), one[1]))[:k]:
            for item, where in place.items():
                scores[item] -= similar * near ** abs(where - at)
    stan = module.STAN(k=k, decay=decay, distance_decay=near, length_power=power)
    stan.build(Space(n_users=40, n_items=14)).fit(Part(Ragged.from_lists(train), 14))
    torch.testing.assert_close(stan.score(Query(users, Ragged.from_lists(rows))), expected)


# -- re-rankers and explanations


def test_lists_of_contrastive_search_are_those_of_mmr_of_probabilities(idea: Idea) -> None:
    """Which has its oracle in tests/evaluate/test_rerank.py."""
    idea("contrastive_search")
    draw, settings = torch.Generator().manual_seed(0), {"strength": 0.6, "pool": 15}
    vectors = torch.randn(40, 8, generator=draw)
    scores, items = (3 * torch.randn(12, 40, generator=draw)).double().sort(1, descending=True)
    asked = [
        {"name": "contrastive_search", **settings},
        {"name": "mmr", "relevance": "probability", **settings},
    ]
    ours, mmr = (
        pick(items, scores, 7, reranking=Reranking(reranker_of(one), Cosine(vectors)))[0]
        for one in asked
    )
    assert torch.equal(ours, mmr)


N_ITEMS, HISTORY, TARGET = 30, [3, 17, 5, 22, 9, 11], 20


@pytest.fixture(scope="module")
def model() -> Model:
    made = rg.models.SASRec(hidden_dim=8, max_len=6, encoder={"n_layers": 2, "inner_dim": 16})
    made.build(Space(n_users=2, n_items=N_ITEMS), seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
    return made.double().eval()


def log_probabilities(model: Model, history: list[int]) -> Tensor:
    """[n_items] of a history, by the model's own ranking."""
    with torch.no_grad():
        return torch.log_softmax(
            model.score(Query(torch.tensor([-1]), Ragged.from_lists([history])))[0], 0
        )


def test_reagent_one_draw_at_a_time(model: Model, idea: Idea) -> None:
    """By the model's own ranking of one replaced history after the other, and with the same
    draws.
    """
    module, n = idea("reagent"), len(HISTORY)
    settings = {
        "n_similar": 4,
        "round_size": 3,
        "max_rounds": 3,
        "n_kept": 2,
        "top_k": 12,
        "ratio": 0.5,
    }
    method = registry.make("attribution", {"name": "reagent", **settings})
    query = Query(torch.tensor([0]), Ragged.from_lists([HISTORY]))
    subject = Subject(model, query, torch.tensor([TARGET]))
    found = method.attribute(subject, torch.Generator().manual_seed(8))[0]
    similar = module.similar_items(subject, 4)
    g = torch.Generator().manual_seed(8)

    def replaced(mask: Tensor) -> list[list[int]]:
        draws = torch.rand(mask.shape, generator=g, dtype=torch.float64)
        return [
            [
                int(similar[p, int(4 * draws[row, p])]) if mask[row, p] else HISTORY[p]
                for p in range(n)
            ]
            for row in range(len(mask))
        ]

    importance = [0.0] * n
    before = math.exp(float(log_probabilities(model, HISTORY)[TARGET]))
    for _ in range(3):
        order = torch.rand(3, n, generator=g).argsort(1)
        mask = torch.zeros(3, n, dtype=torch.bool)
        for row in range(3):
            mask[row, order[row, : round(0.5 * n)]] = True
        for row, variant in enumerate(replaced(mask)):
            after = math.exp(float(log_probabilities(model, variant)[TARGET]))
            odds = min(max((1 + (before - after) / max(before, after)) / 2, 1e-3), 1 - 1e-3)
            for place in range(n):
                importance[place] += (1 if mask[row, place] else -1) * math.log(odds / (1 - odds))
        kept = sorted(range(n), key=lambda place: (-importance[place], place))[:2]
        (variant,) = replaced(torch.tensor([[place not in kept for place in range(n)]]))
        scores = log_probabilities(model, variant)
        if sum(float(score) > float(scores[TARGET]) for score in scores) < 12:
            break
    assert torch.allclose(found, torch.softmax(torch.tensor(importance, dtype=torch.float64), 0))


@pytest.mark.parametrize("values", [(3.0, -1.0, 1.0, 0.5), (-1.0, -2.0), (1.0, 1.0, 1.0, 1.0, 1.0)])
def test_every_claim_of_the_words_is_one_of_the_table(
    values: tuple[float, ...], idea: Idea
) -> None:
    words, n = idea("attribution_words"), len(values)
    order = tuple(sorted(range(n), key=lambda place: (-values[place], -place)))
    none = Faithfulness(0, 0)
    methods = tuple(MethodAttribution(name, values, order, none) for name in ("leave_one_out", "b"))
    events = tuple(Node("item", place, f"Event {place}") for place in range(n))
    pairs = (("leave_one_out", "b", 0.5),)
    text = words.sentence_of(
        Attributed(Item(7, "Film"), "score", 1.0, events, 0, methods, pairs, none), 2, 40, 10
    )
    assert "rank correlation 0.50" in text
    above = sum(value for value in values if value > 0)
    if not above:
        assert "nothing in the history speaks for Film" in text
        return
    n_half = next(
        k for k in range(1, n + 1) if sum(values[p] for p in order[:k]) >= 0.5 * above - 1e-9
    )
    share = sum(values[place] for place in order[: min(n_half, 3)]) / above
    assert f"{share:.0%}" in text
    assert f"{n_half} of {n}" in text
    assert [f"Event {place}" for place in order[: min(n_half, 3)]] == re.findall(r"Event \d", text)
    assert "from rank 2 to 40" in text


# -- whitening


def wide_views() -> Views:
    draw = torch.Generator().manual_seed(4)
    mixing = torch.randn(8, 8, generator=draw, dtype=torch.float64)
    a = torch.randn(24, 8, generator=draw, dtype=torch.float64) @ mixing
    b = a + torch.randn(24, 8, generator=draw, dtype=torch.float64)
    ids = torch.arange(24)
    return Views(a, b, ids, ids, generator=torch.Generator().manual_seed(1))


def slow_whitening(x: np.ndarray, order: list[int], size: int, eps: float) -> np.ndarray:
    out = np.zeros_like(x)
    for start in range(0, len(order), size):
        columns = order[start : start + size]
        group = x[:, columns] - x[:, columns].mean(0)
        covariance = np.zeros((size, size))
        for row in group:
            covariance += np.outer(row, row) / len(group)
        covariance += eps * np.trace(covariance) / size * np.eye(size)
        values, vectors = np.linalg.eigh(covariance)
        out[:, columns] = group @ vectors @ np.diag(values**-0.5) @ vectors.T
    return out


@pytest.mark.parametrize("size", [1, 2, 8])
def test_whitening_equals_a_loop_over_groups(size: int, idea: Idea) -> None:
    x, order = wide_views().a, [3, 0, 7, 2, 6, 1, 5, 4]
    whitened = idea("whitening")._whiten(x, torch.tensor(order), size, 1e-3)
    np.testing.assert_allclose(
        whitened.numpy(), slow_whitening(x.numpy(), order, size, 1e-3), rtol=1e-8, atol=1e-10
    )


def test_as_many_positives_as_shuffles(idea: Idea) -> None:
    given, module = wide_views(), idea("whitening")
    whiten = module._whiten
    pairs = module.ShuffledGroupWhitening(n_positives=3, group_size=2)(given)
    drawn = torch.Generator().manual_seed(1)
    orders = [torch.randperm(8, generator=drawn) for _ in range(4)]
    for (a, b), order in zip(pairs, orders[1:], strict=True):
        torch.testing.assert_close(a, whiten(given.a, orders[0], 2, 1e-4))
        torch.testing.assert_close(b, whiten(given.b, order, 2, 1e-4))
    with refused("group_size"):
        module.ShuffledGroupWhitening(group_size=3)(given)


def test_the_inverse_root_has_gradients_where_eigenvalues_meet(idea: Idea) -> None:
    equal = (2 * torch.eye(3, dtype=torch.float64)).expand(2, 3, 3).clone().requires_grad_()

    def root(matrices: Tensor) -> Tensor:
        return idea("whitening")._InverseRoot.apply((matrices + matrices.transpose(1, 2)) / 2)

    assert torch.autograd.gradcheck(root, equal)
    torch.testing.assert_close(
        root(equal) @ root(equal), torch.eye(3, dtype=torch.float64).expand(2, 3, 3) / 2
    )


@pytest.mark.parametrize("n", [5, 2, 1])
def test_rows_that_are_alike_or_few_whiten_to_finite_numbers(n: int, idea: Idea) -> None:
    x = torch.ones(n, 8, requires_grad=True)
    out = idea("whitening")._whiten(x, torch.arange(8), 4, 1e-4)
    (out * torch.arange(8)).sum().backward()
    assert bool(out.isfinite().all())
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
