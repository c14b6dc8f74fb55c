"""Contrastive terms and regularisers against dense oracles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import contrast_oracles as dense
import pytest
import torch
import torch.nn.functional as F
from contrast_oracles import agree
from published import golden_of
from refusing import refused
from torch import Tensor

from recgraph import contrast
from recgraph.contrast.blockwise import NoCandidateError
from recgraph.contrast.regularisers import Alignment, CrossUniformity, Margin, Uniformity
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.contrast.weights import Hardness, Pairs
from recgraph.ranks import Ranks, Share
from recgraph.registry import import_file
from recgraph.sparse import blocks
from recgraph.sparse.ragged import Ragged

ROOT = Path(__file__).resolve().parents[2]
N, D = 8, 5
FLAGS = [(True, False), (True, True), (False, False)]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def views(n: int = N, m: int | None = None, seed: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    b = torch.randn(m or n, D, generator=g, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def log_weights(n: int, m: int) -> Tensor:
    g = torch.Generator().manual_seed(2)
    log_w = torch.randn(n, m, generator=g, dtype=torch.float64)
    log_w[torch.rand(n, m, generator=g) < 0.4] = -math.inf
    log_w[2] = -math.inf  # an anchor without candidates
    return log_w


def settings(flags: tuple[bool, bool], block_rows: int | None) -> dict[str, Any]:
    return {"count_positive": flags[0], "weigh_positive": flags[1], "block_rows": block_rows}


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize(
    ("similarity", "weighted"), [("dot", True), ("cosine", True), ("cosine", False)]
)
def test_info_nce_is_dense(similarity: str, weighted: bool, flags: tuple[bool, bool]) -> None:
    (a, b), block_rows = views(), 3
    log_w = log_weights(N, N) if weighted else None
    term = ContrastiveTerm(
        similarity=similarity,
        temperature=0.3,
        objective={"name": "info_nce", **settings(flags, block_rows)},
        weight=None if log_w is None else dense.Dense(log_w),
    )
    x, y = (F.normalize(a, dim=1), F.normalize(b, dim=1)) if similarity == "cosine" else (a, b)
    expected, left_out = dense.objective(
        x @ y.T / 0.3, torch.arange(N), log_w, count_positive=flags[0], weigh_positive=flags[1]
    )
    agree(term(a, b), expected, a, b)
    assert term.outcome is not None
    assert (term.outcome.n_anchors, int(term.outcome.left_out)) == (N, left_out)
    assert left_out == (1 if weighted and flags != (True, False) else 0)


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nt_xent_is_dense(weighted: bool, flags: tuple[bool, bool]) -> None:
    (a, b), block_rows = views(), 3
    log_w = log_weights(2 * N, 2 * N) if weighted else None
    term = ContrastiveTerm(
        temperature=0.5,
        objective=settings(flags, block_rows),
        weight=None if log_w is None else dense.Dense(log_w),
    )
    root = math.sqrt(0.5)
    expected, _ = dense.nt_xent(
        a / root, b / root, log_w, count_positive=flags[0], weigh_positive=flags[1]
    )
    agree(term(a, b, torch.arange(N), torch.arange(N, 2 * N)), expected, a, b)


def test_prototypes() -> None:
    """Fewer candidates than anchors, a temperature for each (MEOW's ProtoNCE)."""
    a, c = views(8, 3)
    phi, cluster = (
        torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64),
        torch.tensor([0, 1, 2, 2, 1, 0, 0, 1]),
    )
    term = ContrastiveTerm(objective="info_nce")
    agree(
        term(a, c, positives=cluster, temperatures=phi),
        F.cross_entropy(a @ c.T / phi, cluster),
        a,
        c,
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_several_positives(weighted: bool) -> None:
    """HeCo's, a row at a time; an anchor that has no candidate is in neither of the two means."""
    a, b = views()
    rows = [[i, (i + 2) % N] for i in range(N)]
    log_w = log_weights(N, N) if weighted else torch.zeros(N, N, dtype=torch.float64)
    given = {"objective": {"name": "info_nce", "weigh_positive": True}, "temperature": 0.5}
    term = ContrastiveTerm(**given, weight=dense.Dense(log_w) if weighted else None)
    s, losses = a @ b.T / 0.5, []
    for i, own in enumerate(rows):
        if bool((log_w[i] > -math.inf).any()):
            losses.append((s[i] + log_w[i]).logsumexp(0) - s[i][own].logsumexp(0))
    agree(term(a, b, positives=Ragged.from_lists(rows)), torch.stack(losses).mean(), a, b)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_an_id_are_positives_of_one_another(
    weighted: bool, block_rows: int | None, similarity: str
) -> None:
    """SupCon's equation 2, a positive at a time; an anchor whose candidates have weight 0 is left
    out.
    """
    import_file(ROOT / "experiments" / "ideas" / "sup_con.py")
    a, b = views()
    ids, table = torch.tensor([3, 5, 3, 0, 5, 3, 7, 2]), log_weights(N, N)
    objective = {"name": "sup_con", "block_rows": block_rows, "count_positive": not weighted}
    weight = dense.Dense(table) if weighted else None
    term = ContrastiveTerm(
        objective=objective, similarity=similarity, temperature=0.5, weight=weight
    )
    z, owners, losses = torch.cat([a, b]), torch.cat([ids, ids]), []
    x = F.normalize(z, dim=1) if similarity == "cosine" else z
    s = x @ x.T / 0.5
    log_w = table[owners][:, owners] if weighted else torch.zeros_like(s)
    for i, own in enumerate(owners):
        partner = (i + N) % (2 * N)
        candidates = [j for j in range(2 * N) if j != i and not (weighted and j == partner)]
        addends = (s[i] + log_w[i])[candidates]
        if bool((addends > -math.inf).any()):
            positives = [j for j in range(2 * N) if j != i and owners[j] == own]
            losses.append(torch.stack([addends.logsumexp(0) - s[i, p] for p in positives]).mean())
    agree(term(a, b, ids, ids), torch.stack(losses).mean(), a, b)
    assert term.outcome is not None
    assert int(term.outcome.left_out) == 2 * N - len(losses) == 2 * weighted


def test_no_candidate_at_all() -> None:
    a, b = views()
    ids = torch.zeros(N, dtype=torch.int64)
    given = {"weight": "self_mask", "objective": {"count_positive": False}}
    with refused("weight", by=NoCandidateError):
        ContrastiveTerm(**given)(a, b, ids)
    assert ContrastiveTerm(**given, if_none="zero")(a, b, ids) == 0
    # one sample, as the last batch of an epoch may have, has no other row to be contrasted with
    for objective in ("info_nce", "nt_xent"):
        loss = ContrastiveTerm(objective={"name": objective, "count_positive": False})(a[:1], b[:1])
        loss.backward()
        assert loss == 0


def test_no_more_than_a_block_is_resident() -> None:
    sizes = []

    class Spy(dense.Weight):
        def log_w(self, pairs: Pairs) -> Tensor:
            sizes.append((len(pairs.anchors), len(pairs.candidates)))
            return pairs.anchors @ pairs.candidates.T

    a, b = views()
    ContrastiveTerm(weight=Spy(), objective={"name": "info_nce", "block_rows": 3})(a, b).backward()
    # nothing is computed again in backward
    assert sizes == [(3, N), (3, N), (2, N)]


def test_a_term_from_a_configuration_and_its_refusals() -> None:
    given = {"similarity": "cosine", "temperature": 0.2}
    a, b = views()
    made = [contrast.InfoNCE(count_positive=False), {"name": "InfoNCE", "count_positive": False}]
    first, second = (ContrastiveTerm(Contrast.of(given, objective=each))(a, b) for each in made)
    assert first == second == ContrastiveTerm(**given, objective=made[0])(a, b)
    for name, value in (("weight", "nope"), ("objective", "nope"), ("temperature", 0)):
        with refused(name):
            ContrastiveTerm(**{name: value})
    with refused("positives"):
        ContrastiveTerm(objective="info_nce")(a, b[:-1])
    for change in (
        {"b": b[:-1]},
        {"positives": torch.arange(N)},
        {"positives": Ragged.from_lists([[0, 1]] * N)},
    ):
        with refused("pairs"):
            ContrastiveTerm()(**{"a": a, "b": b, **change})


def slow_debiased(a: Tensor, b: Tensor, tau: float, tau_plus: float, beta: float | None) -> Tensor:
    """The loss of the authors' code, of stacked views, an anchor at a time; with beta that of hard
    negatives.
    """
    z, n, losses = F.normalize(torch.cat([a, b]), dim=1), len(a), []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = (z[i] @ z[partner] / tau).exp()
        negative = torch.stack(
            [(z[i] @ z[j] / tau).exp() for j in range(2 * n) if j not in (i, partner)]
        )
        total, count = negative.sum(), 2 * n - 2
        if beta is not None:
            importance = (beta * negative.log()).exp()
            total = (importance * negative).sum() / importance.mean()
        ng = (-tau_plus * count * positive + total) / (1 - tau_plus)
        ng = torch.clamp(ng, min=count * math.exp(-1 / tau))
        losses.append(-(positive / (positive + ng)).log())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("beta", [None, 0.7])
# the last one leaves less than the least for some anchors
@pytest.mark.parametrize("tau_plus", [0.0, 0.1, 0.6])
def test_debiased_nt_xent_as_published(tau_plus: float, beta: float | None) -> None:
    a, b = views(6)
    given: dict[str, Any] = {"objective": {"name": "debiased_nt_xent", "tau_plus": tau_plus}}
    weight = None if beta is None else Hardness(beta=beta / 0.5)
    term = ContrastiveTerm(similarity="cosine", temperature=0.5, weight=weight, **given)
    agree(term(a, b), slow_debiased(a, b, 0.5, tau_plus, beta), a, b)


@pytest.mark.parametrize("flags", FLAGS)
def test_debiased_info_nce_is_info_nce_without_bias(flags: tuple[bool, bool]) -> None:
    (a, b), own, weight = views(), settings(flags, None), dense.Dense(log_weights(N, N))
    plain = ContrastiveTerm(objective={"name": "info_nce", **own}, weight=weight)
    other = ContrastiveTerm(
        objective={"name": "debiased_info_nce", **own, "tau_plus": 0.0}, weight=weight
    )
    agree(other(a, b), plain(a, b), a, b)


def test_a_weight_that_the_objective_does_not_read_is_not_in_the_record() -> None:
    unread = Contrast(objective="barlow_twins", weight="hardness")
    assert unread == Contrast(objective="barlow_twins")
    assert unread.model_dump()["weight"] is None
    assert Contrast(objective="info_nce", weight="hardness").weight is not None


def test_barlow_twins_is_a_loop_over_correlations() -> None:
    a, b = views()
    expected = 0.0
    for d in range(D):
        for e in range(D):
            x, y = a[:, d].tolist(), b[:, e].tolist()
            mean_x, mean_y = sum(x) / N, sum(y) / N
            variances = (
                sum((v - mean) ** 2 for v in side) / N + 1e-5
                for side, mean in ((x, mean_x), (y, mean_y))
            )
            c = (
                sum((p - mean_x) * (q - mean_y) for p, q in zip(x, y, strict=True))
                / N
                / math.sqrt(math.prod(variances))
            )
            expected += (1 - c) ** 2 if d == e else 0.03 * c**2
    term = ContrastiveTerm(objective={"name": "barlow_twins", "redundancy": 0.03})
    assert float(term(a, b).detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [None, "learned"])
@pytest.mark.parametrize(
    ("objective", "own"),
    [
        ("nt_xent", {}),
        ("info_nce", {}),
        ("info_nce", {"count_positive": False}),
        ("info_nce", {"weigh_positive": True}),
        ("nt_xent", {"count_positive": False, "n_candidates": 2}),
    ],
)
def test_ranks_divide_the_anchors(objective: str, own: dict[str, Any], weight: str | None) -> None:
    """The mean of the losses and gradients of ranks is that of one process."""
    count = 3
    torch.manual_seed(0)
    term = ContrastiveTerm(
        objective={"name": objective, **own}, weight=weight, dim=D, temperature=0.7
    ).double()
    ids = torch.arange(N) % 4

    def outcome(share: Share | None) -> list[Tensor]:
        a, b = views()
        loss = term(a, b, ids, ids, share=share, generator=torch.Generator().manual_seed(3))
        assert term.outcome is not None
        return [
            loss.detach(),
            *torch.autograd.grad(loss, (a, b)),
            torch.tensor(term.outcome.n_anchors),
        ]

    *whole, n_anchors = outcome(None)
    found = [outcome(Ranks(rank, count).share_of_batch(N)) for rank in range(count)]
    for number, wanted in enumerate(whole):
        torch.testing.assert_close(
            torch.stack([of_rank[number] for of_rank in found]).mean(0), wanted
        )
    # where an anchor may have no candidate, the mean is over an unknown number of them: each rank
    # computes all
    fully = own.get("count_positive", True) and not (
        weight is not None and own.get("weigh_positive", False)
    )
    divides = fully or (weight is None and "n_candidates" not in own)
    assert sum(int(of_rank[-1]) for of_rank in found) == int(n_anchors) * (1 if divides else count)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a block."""
    monkeypatch.setattr(blocks, "BYTES_HOST", 0)
    monkeypatch.setattr(blocks, "FEWEST_ROWS", 3)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize("alike", [0.0, 3.0])
def test_margin_is_dense(scope: str, alike: float) -> None:
    a, b = views()
    b = (b + alike * a).detach().requires_grad_()  # positives below and above the greatest negative
    agree(Margin(temperature=0.7, scope=scope)(a, b), dense.margin(a, b, 0.7, scope), a, b)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_dense(t: float) -> None:
    a, b = views()
    agree(Uniformity(t=t)(a, b), dense.uniformity(a, b, t), a, b)
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    pairs = [
        (-t * (x[i] - y[j]).square().sum()).exp() for i in range(N) for j in range(N) if i != j
    ]
    agree(CrossUniformity(t=t)(a, b), torch.stack(pairs).mean().log(), a, b)


def test_alignment_is_dense() -> None:
    a, b = views()
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    agree(Alignment()(a, b), (x - y).norm(dim=1).pow(2).mean(), a, b)


def test_regularisers_are_added() -> None:
    a, b = views()
    given = [
        {"name": "alignment", "coefficient": 0.5},
        {"name": "uniformity", "coefficient": 2.0, "t": 3.0},
        "margin",
    ]
    term, plain = ContrastiveTerm(regularisers=given), ContrastiveTerm()
    wanted = (
        plain(a, b) + 0.5 * Alignment()(a, b) + 2 * Uniformity(t=3.0)(a, b) + 0.1 * Margin()(a, b)
    )
    close(term(a, b), wanted)
    chosen = torch.arange(N).flip(0)
    of_positives = ContrastiveTerm(objective="info_nce", regularisers=["alignment"])(
        a, b, positives=chosen
    )
    close(
        of_positives,
        ContrastiveTerm(objective="info_nce")(a, b, positives=chosen) + Alignment()(a, b[chosen]),
    )


# Agreement with what the published code of MCLRec computes from the same embeddings


def close_to_published(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("step", ["a", "b"])
def test_mclrec(step: str) -> None:
    golden = golden_of(f"mclrec_step_{step}")
    h1, h2, z1, z2 = (golden[name] for name in ("z1", "z2", "v1", "v2"))
    tau = float(golden["tau"])
    close_to_published(ContrastiveTerm(temperature=tau)(h1, h2), golden["nce_dot"])
    close_to_published(
        ContrastiveTerm(temperature=tau, similarity="cosine")(h1, h2), golden["nce_cos"]
    )
    pairs = [(z1, z2), (h1, z2), (h2, z1)]
    plain = ContrastiveTerm()
    cl2 = torch.stack([plain(a, b) for a, b in pairs]).sum()
    close_to_published(cl2, golden["meta_loss_no_reg"])
    margin = Margin(temperature=tau)
    close_to_published(margin(h1, z2), golden["reg_z1_v2"])
    reg = 0.1 * torch.stack([margin(a, b) for a, b in pairs]).sum()
    close_to_published(reg, golden["reg_all"])
    close_to_published(cl2 + reg, golden["meta_loss"])
