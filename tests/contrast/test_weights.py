"""Weights and prototypes: equal to dense oracles and to the published code."""

from __future__ import annotations

import math

import contrast_oracles as dense
import pytest
import torch
import torch.nn.functional as F
from contrast_oracles import agree
from published import golden_of
from torch import Tensor

from recgraph.contrast import weights
from recgraph.contrast.clustering import Clustering, concentration, kmeans, nearest
from recgraph.contrast.prototypes import proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster, Hardness, Learned, Pairs, Weight


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def info(
    weight: Weight, block_rows: int | None = None, tau: float = 0.5, **flags: bool
) -> ContrastiveTerm:
    return ContrastiveTerm(
        temperature=tau,
        objective={"name": "info_nce", "block_rows": block_rows, **flags},
        weight=weight,
    )


class TestCluster:
    @pytest.mark.parametrize("block_rows", [1, 7, None])
    def test_the_loss_equals_the_dense_one(self, block_rows: int | None) -> None:
        a, b = draw(30, 6).requires_grad_(), draw(30, 6, seed=1).requires_grad_()
        clusters = torch.randint(4, (2, 30), generator=torch.Generator().manual_seed(2))
        weight = Cluster()
        weight.prepare(lambda: clusters)
        loss = info(weight, block_rows, count_positive=False)(a, b)
        log_w = (2 - (clusters[:, :, None] == clusters[:, None]).sum(0)).double().log()
        oracle, _ = dense.objective(a @ b.T / 0.5, torch.arange(30), log_w, count_positive=False)
        agree(loss, oracle, a, b)

    def test_each_granularity_is_clustered_with_a_seed_of_its_own(self) -> None:
        x, ids = draw(40, 6), torch.arange(40)
        units = F.normalize(x, dim=1)
        found = [
            kmeans(units, 4, seed=seed, iterations=3, restarts=1).assignments for seed in range(3)
        ]
        assert not torch.equal(found[0], found[1])
        shared = sum((one[:, None] == one).long() for one in found)
        w = Cluster(n_clusters=(4, 4, 4), iterations=3).log_w(Pairs(ids, ids, x, x)).exp()
        torch.testing.assert_close(w, (3 - shared).double())


class TestLearned:
    @pytest.mark.parametrize("normalise", [False, True])
    @pytest.mark.parametrize("block_rows", [5, None])
    def test_equals_the_obvious_form(self, normalise: bool, block_rows: int | None) -> None:
        a, b = draw(70, 6).requires_grad_(), draw(70, 6, seed=1).requires_grad_()
        weight = Learned(dim=6, inner_dim=4, normalise=normalise).double()
        loss = info(weight, block_rows, weigh_positive=True)(a, b)
        hidden = torch.tanh(weight.first(a[:, None] + b))
        w = torch.sigmoid(weight.second(hidden))[..., 0]
        if normalise:
            w = w / w.mean(1, keepdim=True)
        oracle = ((w * torch.exp(a @ b.T / 0.5)).sum(1).log() - (a * b).sum(1) / 0.5).mean()
        agree(loss, oracle, a, b, *weight.parameters())

    def test_no_tensor_of_pairs_and_units_is_kept(self) -> None:
        saved: list[int] = []
        x = draw(50, 5).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (saved.append(t.numel()), t)[1], lambda t: t
        ):
            Learned(dim=5).double().log_w(Pairs(torch.arange(50), torch.arange(50), x, x))
        assert max(saved) <= 50 * 50

    @pytest.mark.parametrize("step", ["a", "b"])
    def test_published(self, step: str) -> None:
        golden = golden_of(f"meow_step_{step}")
        anchors, candidates = golden["ada_z_fine_projected"], golden["ada_z_coarse"]
        weight = Learned(dim=anchors.shape[1]).double()
        names = {
            "first.weight": "0.weight",
            "first.bias": "0.bias",
            "second.weight": "2.weight",
            "second.bias": "2.bias",
        }
        weight.load_state_dict(
            {ours: golden[f"ada.MLP.{theirs}"] for ours, theirs in names.items()}
        )
        ids = torch.arange(len(anchors))
        close(weight.log_w(Pairs(ids, ids, anchors, candidates)).exp(), golden["ada_weight_soft"])
        loss = info(weight, 7, float(golden["tau"]), weigh_positive=True)(anchors, candidates)
        close(loss, golden["ada_loss"])
        loss.backward()
        assert weight.first.weight.grad is not None
        close(weight.first.weight.grad, golden["ada_grad_mlp0"])


@pytest.mark.parametrize("step", ["a", "b"])
def test_published_prototypes(step: str) -> None:
    golden = golden_of(f"meow_step_{step}")
    z, tau = golden["z_fine_projected"], float(golden["tau"])
    clusterings = []
    for t in (0, 1):
        raw = golden[f"centroid_raw_{t}"]
        clustering = Clustering(nearest(z, raw)[1], raw, 0.0)
        assert torch.equal(clustering.assignments, golden[f"cluster_{t}"])
        close(concentration(z, clustering, tau), golden[f"density_{t}"])
        clusterings.append(clustering)
    loss = proto_nce(
        ContrastiveTerm(objective="info_nce"),
        golden["z_coarse"],
        prototypes_of(clusterings, z, tau),
    )
    # the authors' mean over N where the formula has one over prototypes
    constant = sum(math.log(len(z) / len(clustering.centroids)) for clustering in clusterings) / 2
    close(loss + constant, golden["loss_proto"])
    weight = Cluster()
    weight.prepare(lambda: torch.stack([clustering.assignments for clustering in clusterings]))
    ids = torch.arange(len(z))
    torch.testing.assert_close(weight.log_w(Pairs(ids, ids, z, z)).exp(), golden["weight_hard"])
    close(info(weight, tau=tau, count_positive=False)(golden["z_coarse"], z), golden["loss_info"])


N, M, D = 6, 11, 4


def pairs() -> Pairs:
    draw = torch.Generator().manual_seed(5)
    a, b = (
        torch.randn(N, D, generator=draw, dtype=torch.float64),
        torch.randn(M, D, generator=draw, dtype=torch.float64),
    )
    ids = torch.arange(M)
    ids[7] = 2  # a second row of an anchor's id
    return Pairs(ids[:N], ids, a, b)


def slow(of: Pairs, beta: float, hardest: float) -> Tensor:
    """The weights, a pair at a time."""
    w = torch.zeros(len(of.anchors), len(of.candidates), dtype=torch.float64)
    for i, x in enumerate(of.anchors):
        cosines = [float(x @ y / (x.norm() * y.norm())) for y in of.candidates]
        among = [j for j in range(len(cosines)) if of.candidate_ids[j] != of.anchor_ids[i]]
        kept = sorted(among, key=lambda j: -cosines[j])[: math.ceil(hardest * len(among))]
        mean = sum(math.exp(beta * cosines[j]) for j in kept) / max(len(kept), 1)
        for j, c in enumerate(cosines):
            if of.candidate_ids[j] == of.anchor_ids[i]:
                w[i, j] = 1
            elif j in kept:
                w[i, j] = math.exp(beta * c) / mean
    return w


@pytest.mark.parametrize(("beta", "hardest"), [(1.5, 1.0), (0.0, 0.3), (2.0, 0.5)])
def test_hardness(beta: float, hardest: float) -> None:
    of = pairs()
    weight = Hardness(beta=beta, hardest=hardest)
    torch.testing.assert_close(
        weight.log_w(of).exp(), slow(of, beta, hardest), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hardest", [1e-3, 0.5])
@pytest.mark.parametrize("waits", [True, False])  # an accelerator is not asked whether it is done
def test_the_hardest_are_those_of_a_sorted_row(
    waits: bool, hardest: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ties and a row of zeros, too: where the last counts, all that are equal to it do."""
    monkeypatch.setattr(weights, "is_accelerated", lambda x: not waits)
    draw = torch.Generator().manual_seed(3)
    a, b = (torch.randn(n, 8, generator=draw, dtype=torch.float64).to(dtype) for n in (40, 500))
    a[3], b[100:200], b[300:] = 0, b[7], b[300:].round()
    ids = torch.arange(500)
    of = Pairs(ids[:40] % 7, ids % 11, a, b)
    weight = Hardness(beta=0.0, hardest=hardest)
    log_w, beside = weight.log_w(of), weight.log_w_beside(of, ids[:40] + 20, b[100:140])
    c, same_mask = of.cosines(), of.same() > 0
    for i, row in enumerate(c):
        among = row[~same_mask[i]].sort(descending=True).values
        least = among[math.ceil(hardest * len(among)) - 1]
        slack = 16 * torch.finfo(dtype).eps
        weighed_mask = log_w[i][~same_mask[i]] > -math.inf
        assert bool(weighed_mask[row[~same_mask[i]] >= least].all())
        assert not bool(weighed_mask[row[~same_mask[i]] < least - slack].any())
        own = torch.nn.functional.cosine_similarity(a[i], b[100 + i], dim=0)
        assert bool(beside[i] > -math.inf) == bool(own >= least - slack)


# Weights given without logarithm: the same loss and gradients as by their logarithm


def by_logarithm(self: Weight, pairs: Pairs) -> None:
    """In the place of ``factor``: the weights are not at hand."""


@pytest.mark.parametrize("scale", [1.0, 60.0])  # within the range of exp, and beyond it
@pytest.mark.parametrize("positive", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("cls", [Cluster, Learned])
def test_factor(
    cls: type[Weight], positive: tuple[bool, bool], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(30, 5, generator=draw, dtype=torch.float64).mul_(scale).requires_grad_()
        for _ in range(2)
    )
    torch.manual_seed(0)
    weight = Cluster() if cls is Cluster else Learned(dim=5).double()
    clusters = torch.stack([torch.randint(k, (30,), generator=draw) for k in (3, 6)])
    clusters[:, :4] = 0  # rows without each other as candidates
    weight.prepare(lambda: clusters)
    settings = {"count_positive": positive[0], "weigh_positive": positive[1], "block_rows": 7}
    ids, leaves = torch.arange(30), (a, b, *weight.parameters())

    def run() -> list[Tensor]:
        term = ContrastiveTerm(
            temperature=0.7, objective={"name": "nt_xent", **settings}, weight=weight
        )
        loss = term(a, b, ids, ids)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    found = run()
    monkeypatch.setattr(cls, "factor", by_logarithm)
    for ours, theirs in zip(found, run(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


class Gate(Weight):
    """Weights of which some are 0 and the others learn."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def factor(self, pairs: Pairs) -> Tensor:
        open_mask = (pairs.anchor_ids[:, None] + pairs.candidate_ids) % 3 > 0
        return torch.sigmoid(self.slope * pairs.cosines()) * open_mask


def test_a_weight_of_0_passes_no_gradient() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(9, 5, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    weight, ids = Gate(), torch.arange(9)
    settings = {"weigh_positive": True, "block_rows": 4}
    term = ContrastiveTerm(
        similarity="cosine",
        temperature=0.5,
        objective={"name": "info_nce", **settings},
        weight=weight,
    )
    x, y = (torch.nn.functional.normalize(side, dim=1) for side in (a, b))
    s = x @ y.t() / 0.5
    total = (weight.factor(Pairs(ids, ids, a, b)) * s.exp()).sum(1)
    agree(term(a, b, ids, ids), (total.log() - s.diagonal()).mean(), a, b, weight.slope)
