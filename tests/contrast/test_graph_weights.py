"""The graph line's weights and prototypes: equal to dense oracles and to the published code."""

from __future__ import annotations

import math
from pathlib import Path

import contrast_oracles as dense
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.contrast import weights as cluster
from recgraph.contrast.clustering import Clustering, assign, concentration, kmeans
from recgraph.contrast.prototypes import Prototypes, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster, Learned, Pairs

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def info(weight: Cluster | Learned, block_rows: int | None = None, **flags: bool) -> ContrastiveTerm:
    settings = {"block_rows": block_rows, **flags}
    return ContrastiveTerm(temperature=0.5, objective="info_nce", objective_settings=settings, weight=weight)


class TestCluster:
    @pytest.mark.parametrize("n_clusterings", [1, 2, 3])
    def test_equals_the_definition(self, n_clusterings: int) -> None:
        ids = torch.tensor([4, 1, 0, 5, 3])
        clusters = torch.randint(3, (n_clusterings, 6), generator=torch.Generator().manual_seed(1))
        weight = Cluster()
        weight.set_assignments(clusters)
        log_w = weight.log_w(Pairs(ids[:3], ids, draw(3, 4), draw(5, 4)))
        for i in range(3):
            for j in range(5):
                shared = sum(int(c[ids[i]] == c[ids[j]]) for c in clusters)
                w = n_clusterings - shared
                assert float(log_w[i, j]) == pytest.approx(math.log(w) if w else -math.inf)

    @pytest.mark.parametrize("block_rows", [1, 7, None])
    def test_the_loss_equals_the_dense_one(self, block_rows: int | None) -> None:
        a, b = draw(30, 6).requires_grad_(), draw(30, 6, seed=1).requires_grad_()
        clusters = torch.randint(4, (2, 30), generator=torch.Generator().manual_seed(2))
        weight = Cluster()
        weight.set_assignments(clusters)
        loss = info(weight, block_rows, count_positive=False)(a, b)
        log_w = (2 - (clusters[:, :, None] == clusters[:, None]).sum(0)).double().log()
        oracle, _ = dense.objective(a @ b.T / 0.5, torch.arange(30), log_w, count_positive=False)
        torch.testing.assert_close(loss, oracle, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(torch.autograd.grad(loss, (a, b)), torch.autograd.grad(oracle, (a, b)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)

    def test_without_assignments_it_clusters_the_candidates(self) -> None:
        centres = 10 * torch.eye(3, dtype=torch.float64)
        x = centres.repeat(4, 1) + 0.1 * draw(12, 3)
        log_w = Cluster(n_clusters=(3,)).log_w(Pairs(torch.arange(12), torch.arange(12), x, x))
        same = torch.arange(12)[:, None] % 3 == torch.arange(12) % 3
        assert torch.equal(log_w == -math.inf, same)

    def test_shape_is_checked(self) -> None:
        with pytest.raises(ValueError, match=r"must be \[T, N\]"):
            Cluster().set_assignments(torch.zeros(4))


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
        torch.testing.assert_close(loss, oracle, rtol=1e-10, atol=1e-10)
        leaves = (a, b, *weight.parameters())
        ours, theirs = torch.autograd.grad(loss, leaves), torch.autograd.grad(oracle, leaves)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)

    def test_gradcheck(self) -> None:
        weight = Learned(dim=3, inner_dim=2).double()
        ids = torch.arange(40)

        def log_w(a: Tensor, b: Tensor, *_: Tensor) -> Tensor:
            return weight.log_w(Pairs(ids, ids[:6], a, b))

        leaves = (draw(40, 3).requires_grad_(), draw(6, 3, seed=1).requires_grad_(), *weight.parameters())
        assert torch.autograd.gradcheck(log_w, leaves)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [1e-3, 1.0, 6.0, 40.0, 1e4])
    def test_hidden_units_of_any_size(self, size: float, dtype: torch.dtype) -> None:
        """Small ones, and those for which an exponential would leave the range of numbers."""
        weight = Learned(dim=5, inner_dim=7).double()
        a, b = (size * draw(75, 5)).requires_grad_(), (size * draw(12, 5, seed=1)).requires_grad_()
        oracle = F.logsigmoid(weight.second(torch.tanh(weight.first(a[:, None] + b)))[..., 0])
        direction = draw(75, 12, seed=2)
        leaves = (a, b, *weight.parameters())
        theirs = torch.autograd.grad((oracle * direction).sum(), leaves)
        single = Learned(dim=5, inner_dim=7).to(dtype)
        single.load_state_dict(weight.state_dict())
        x, y = (t.detach().to(dtype).requires_grad_() for t in (a, b))
        log_w = single.log_w(Pairs(torch.arange(75), torch.arange(12), x, y))
        ours = torch.autograd.grad((log_w * direction.to(dtype)).sum(), (x, y, *single.parameters()))
        eps = 1e-10 if dtype == torch.float64 else max(2e-4, 1e-6 * size)
        for mine, other in zip((log_w, *ours), (oracle, *theirs), strict=True):
            torch.testing.assert_close(mine.double(), other, rtol=eps, atol=eps * float(other.detach().abs().max()))

    def test_a_mean_of_one(self) -> None:
        x = draw(9, 5)
        log_w = Learned(dim=5, normalise=True).double().log_w(Pairs(torch.arange(9), torch.arange(9), x, x))
        torch.testing.assert_close(log_w.exp().mean(1), torch.ones(9, dtype=torch.float64))

    def test_width_is_checked(self) -> None:
        x = draw(3, 5)
        with pytest.raises(ValueError, match="dim=5"):
            Learned(dim=4).double().log_w(Pairs(torch.arange(3), torch.arange(3), x, x))

    def test_no_tensor_of_pairs_and_units_is_kept(self) -> None:
        saved: list[int] = []
        x = draw(50, 5).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.numel()), t)[1], lambda t: t):
            Learned(dim=5).double().log_w(Pairs(torch.arange(50), torch.arange(50), x, x))
        assert max(saved) <= 50 * 50

    @pytest.mark.parametrize("step", ["a", "b"])
    def test_published(self, step: str) -> None:
        golden = load(f"meow_step_{step}")
        anchors, candidates = golden["ada_z_fine_projected"], golden["ada_z_coarse"]
        weight = Learned(dim=anchors.shape[1]).double()
        names = {
            "first.weight": "0.weight",
            "first.bias": "0.bias",
            "second.weight": "2.weight",
            "second.bias": "2.bias",
        }
        weight.load_state_dict({ours: golden[f"ada.MLP.{theirs}"] for ours, theirs in names.items()})
        ids = torch.arange(len(anchors))
        close(weight.log_w(Pairs(ids, ids, anchors, candidates)).exp(), golden["ada_weight_soft"])
        settings = {"weigh_positive": True, "block_rows": 7}
        tau = float(golden["tau"])
        term = ContrastiveTerm(temperature=tau, objective="info_nce", objective_settings=settings, weight=weight)
        loss = term(anchors, candidates)
        close(loss, golden["ada_loss"])
        loss.backward()
        assert weight.first.weight.grad is not None
        close(weight.first.weight.grad, golden["ada_grad_mlp0"])


@pytest.mark.parametrize("step", ["a", "b"])
def test_published_prototypes(step: str) -> None:
    golden = load(f"meow_step_{step}")
    z, tau = golden["z_fine_projected"], float(golden["tau"])
    clusterings = []
    for t in (0, 1):
        raw = golden[f"centroid_raw_{t}"]
        clustering = Clustering(assign(z, raw), raw, 0.0)
        assert torch.equal(clustering.assignments, golden[f"cluster_{t}"])
        close(concentration(z, clustering, tau), golden[f"density_{t}"])
        clusterings.append(clustering)
    loss = proto_nce(ContrastiveTerm(objective="info_nce"), golden["z_coarse"], prototypes_of(clusterings, z, tau))
    # the authors' mean over N where the formula has one over prototypes
    constant = sum(math.log(len(z) / len(clustering.centroids)) for clustering in clusterings) / 2
    close(loss + constant, golden["loss_proto"])
    weight = Cluster()
    weight.set_assignments(torch.stack([clustering.assignments for clustering in clusterings]))
    ids = torch.arange(len(z))
    torch.testing.assert_close(weight.log_w(Pairs(ids, ids, z, z)).exp(), golden["weight_hard"])
    close(info_of(weight, tau)(golden["z_coarse"], z), golden["loss_info"])


def info_of(weight: Cluster, tau: float) -> ContrastiveTerm:
    settings = {"count_positive": False}
    return ContrastiveTerm(temperature=tau, objective="info_nce", objective_settings=settings, weight=weight)


@pytest.mark.parametrize("tau", [1.0, 1e-4])  # weights as factors, and as logarithms
def test_candidates_are_clustered_once_for_all_blocks(tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(cluster, "kmeans", lambda x, k, **settings: (made.append(k), kmeans(x, k, **settings))[1])
    a, b = draw(30, 5), draw(30, 5, seed=1)
    losses = []
    for block_rows in (None, 7):
        term = ContrastiveTerm(
            temperature=tau,
            objective="info_nce",
            objective_settings={"block_rows": block_rows},
            weight=Cluster(n_clusters=(3, 6)),
        )
        losses.append(term(a, b.requires_grad_()))
        assert made == [3, 6]
        made.clear()
    close(losses[1], losses[0])


class TestKMeans:
    def blobs(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        labels = torch.arange(60) % 4
        x = F.normalize(3 * torch.eye(4, 8, dtype=torch.float64)[labels] + 0.2 * draw(60, 8), dim=1)
        return x.to(device), labels.to(device)

    @pytest.mark.parametrize("method", ["published", "scikit-learn"])
    def test_finds_blobs(self, method: str, device: torch.device) -> None:
        x, labels = self.blobs(device)
        found = kmeans(x, 4, method=method, restarts=10)
        pairs = torch.unique(torch.stack([labels, found.assignments]), dim=1)
        assert pairs.shape[1] == 4
        for c in range(4):
            torch.testing.assert_close(found.centroids[c], x[found.assignments == c].mean(0))

    @pytest.mark.parametrize("method", ["published", "scikit-learn"])
    def test_the_seed_decides(self, method: str) -> None:
        x = draw(80, 5)
        one, two, other = (kmeans(x, 9, seed=seed, method=method, iterations=3) for seed in (1, 1, 2))
        assert torch.equal(one.assignments, two.assignments)
        assert not torch.equal(one.assignments, other.assignments)

    def test_every_restart_can_only_help(self) -> None:
        x = F.normalize(draw(100, 5), dim=1)
        values = [kmeans(x, 10, restarts=n).objective for n in (1, 2, 5, 20)]
        assert values == sorted(values)

    def test_assignments_are_those_of_the_centroids(self) -> None:
        x = F.normalize(draw(100, 5), dim=1)
        for iterations in (1, 20):
            found = kmeans(x, 10, iterations=iterations)
            assert torch.equal(found.assignments, assign(x, found.centroids))

    def test_an_empty_cluster_is_filled(self) -> None:
        x, _ = self.blobs()
        start = torch.cat([x[:3], -100 * x[:1]])
        assert torch.bincount(kmeans(x, 4, start=start).assignments, minlength=4).min() > 0

    def test_warm_start(self) -> None:
        x, _ = self.blobs()
        cold, warm = Prototypes(n_clusters=(4, 6)), Prototypes(8, n_clusters=(4, 6), warm_start=True).double()
        first = warm(x)
        for ours, theirs in zip(first, cold(x), strict=True):
            assert torch.equal(ours.assignments, theirs.assignments)
        for ours, again in zip(warm(x), first, strict=True):
            assert torch.equal(ours.assignments, again.assignments)
        assert set(warm.state_dict()) == {"last_0", "last_1"}

    @pytest.mark.parametrize("method", ["published", "scikit-learn"])
    def test_half_precision_is_clustered_in_float32(self, method: str) -> None:
        x = self.blobs()[0].bfloat16()
        with torch.autocast(x.device.type, torch.bfloat16):
            found = kmeans(x, 4, method=method, restarts=10)
            phi = concentration(x, found, 0.5)
        exact = kmeans(x.float(), 4, method=method, restarts=10)
        assert torch.equal(found.assignments, exact.assignments)
        assert torch.equal(found.centroids, exact.centroids)
        assert torch.equal(phi, concentration(x.float(), exact, 0.5))

    def test_small_batches_have_fewer_clusters(self) -> None:
        assert [len(c.centroids) for c in Prototypes(n_clusters=(3, 50))(draw(7, 4))] == [3, 7]

    def test_arguments_are_checked(self) -> None:
        with pytest.raises(ValueError, match="k = 8"):
            kmeans(draw(7, 4), 8)
        with pytest.raises(ValueError, match=r"must be \[2, 4\]"):
            kmeans(draw(7, 4), 2, start=draw(2, 3))
        with pytest.raises(ValueError, match="needs dim"):
            Prototypes(warm_start=True)


def test_concentration_of_singletons_and_right_angles() -> None:
    x = F.normalize(draw(20, 4), dim=1)
    found = kmeans(x, 12)
    phi = concentration(x, found, 0.7)
    assert float(phi.mean()) == pytest.approx(0.7)
    singles = torch.bincount(found.assignments, minlength=12) < 2
    assert bool((phi[singles] == phi.max()).all())
    crossed = Clustering(torch.tensor([0, 0]), torch.tensor([[0.0, 1.0]]), 0.0)
    assert concentration(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), crossed, 0.3).tolist() == pytest.approx([0.3])
