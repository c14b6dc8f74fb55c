"""Contrastive terms and regularisers against dense oracles."""

from __future__ import annotations

import itertools
import math
from typing import Any

import contrast_oracles as dense
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import blocks
from recgraph.config import ConfigError
from recgraph.contrast.objectives import NTXent
from recgraph.contrast.regularisers import Alignment, Margin, Uniformity
from recgraph.contrast.term import ContrastiveTerm, TermConfig
from recgraph.contrast.views import Similarity, Views
from recgraph.sparse.ragged import Ragged

N, D = 8, 5
FLAGS = [(True, False), (True, True), (False, False)]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def agree(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Values and gradients to 1e-10."""
    close(ours, theirs)
    for mine, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        close(mine, other)


def views(n: int = N, m: int | None = None) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    b = torch.randn(m or n, D, generator=g, dtype=torch.float64)
    return a.requires_grad_(), b.requires_grad_()


def log_weights(n: int, m: int, holes: bool = True) -> Tensor:
    g = torch.Generator().manual_seed(2)
    log_w = torch.randn(n, m, generator=g, dtype=torch.float64)
    if holes:
        log_w[torch.rand(n, m, generator=g) < 0.4] = -math.inf
        log_w[2] = -math.inf  # an anchor without candidates
    return log_w


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rows a block."""
    monkeypatch.setattr(blocks, "BYTES_HOST", 0)
    monkeypatch.setattr(blocks, "FEWEST_ROWS", 3)


def settings(flags: tuple[bool, bool], block_rows: int | None) -> dict[str, Any]:
    return {"count_positive": flags[0], "weigh_positive": flags[1], "block_rows": block_rows}


@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_info_nce_is_dense(similarity: str, weighted: bool, flags: tuple[bool, bool], block_rows: int | None) -> None:
    a, b = views()
    log_w = log_weights(N, N) if weighted else None
    term = ContrastiveTerm(
        similarity=similarity,
        temperature=0.3,
        objective="info_nce",
        objective_settings=settings(flags, block_rows),
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


@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_nt_xent_is_dense(weighted: bool, flags: tuple[bool, bool], block_rows: int | None) -> None:
    a, b = views()
    log_w = log_weights(2 * N, 2 * N) if weighted else None
    term = ContrastiveTerm(
        temperature=0.5,
        objective_settings=settings(flags, block_rows),
        weight=None if log_w is None else dense.Dense(log_w),
    )
    root = math.sqrt(0.5)
    expected, _ = dense.nt_xent(a / root, b / root, log_w, count_positive=flags[0], weigh_positive=flags[1])
    agree(term(a, b, torch.arange(N), torch.arange(N, 2 * N)), expected, a, b)


def test_both_directions() -> None:
    a, b = views()
    one = ContrastiveTerm(objective="info_nce")
    both = ContrastiveTerm(objective="info_nce", objective_settings={"both_directions": True})
    agree(both(a, b), (one(a, b) + one(b, a)) / 2, a, b)
    assert both.outcome is not None
    assert both.outcome.n_anchors == 2 * N
    with pytest.raises(ValueError, match="both_directions"):
        both(a, b, positives=torch.arange(N))


def test_prototypes() -> None:
    """Fewer candidates than anchors, a temperature for each (MEOW's ProtoNCE)."""
    a, c = views(8, 3)
    phi, cluster = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1])
    term = ContrastiveTerm(objective="info_nce")
    agree(term(a, c, positives=cluster, temperatures=phi), F.cross_entropy(a @ c.T / phi, cluster), a, c)


@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("kind", ["info_nce", "nt_xent"])
def test_learned_weight(kind: str, flags: tuple[bool, bool], block_rows: int | None) -> None:
    """Gradients reach the embeddings through the weight, and its parameters."""
    a, b = views()
    g = torch.Generator().manual_seed(3)
    shapes = [(4, D), (4,), (1, 4), (1,)]
    w, c, v, bias = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in shapes)
    weight = dense.SigmoidMLP((w, c), (v, bias))
    term = ContrastiveTerm(objective=kind, weight=weight, objective_settings=settings(flags, block_rows))
    flag = {"count_positive": flags[0], "weigh_positive": flags[1]}

    def log_w(x: Tensor, y: Tensor) -> Tensor:
        return weight.log_w(dense.Pairs(torch.arange(len(x)), torch.arange(len(y)), x, y))

    if kind == "info_nce":
        expected, _ = dense.objective(a @ b.T, torch.arange(N), log_w(a, b), **flag)
    else:
        z = torch.cat([a, b])
        expected, _ = dense.nt_xent(a, b, log_w(z, z), **flag)
    agree(term(a, b), expected, a, b, *weight.parameters())


def test_frozen_parts_get_no_gradient() -> None:
    a, b = views()
    weight = dense.Dense(log_weights(N, N, holes=False).requires_grad_())
    term = ContrastiveTerm(objective="info_nce", weight=weight)
    term(a.detach(), b).backward()
    assert weight.table.grad is not None
    expected, weight.table.grad = weight.table.grad, None
    term(a, b.detach()).backward()
    torch.testing.assert_close(weight.table.grad, expected)
    weight.table.requires_grad_(False)
    weight.table.grad = None
    term(a, b).backward()
    assert weight.table.grad is None
    with torch.no_grad():
        assert not term(a, b).requires_grad
    assert not term(a.detach(), b.detach()).requires_grad


def test_gradients_scale_and_accumulate() -> None:
    a, b = views()
    term = ContrastiveTerm()
    loss = term(a, b)
    once = torch.autograd.grad(loss, a, retain_graph=True)[0]
    close(torch.autograd.grad(loss * -3, a)[0], -3 * once)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(term(a, b), a, create_graph=True)


@pytest.mark.parametrize("name", ["self_mask", "same_target"])
def test_same_ids_do_not_compete(name: str) -> None:
    a, b = views()
    ids = torch.tensor([0, 1, 1, 2, 3, 3, 3, 4])
    both = torch.cat([ids, ids])
    same = both[:, None] == both
    log_w = torch.where(same, -math.inf, 0.0).double()
    expected, left_out = dense.nt_xent(a, b, log_w)
    agree(ContrastiveTerm(weight=name)(a, b, ids), expected, a, b)
    assert left_out == 0  # the positive is the objective's matter
    # the default ids: the mask changes nothing in NT-Xent
    close(ContrastiveTerm(weight=name)(a, b), ContrastiveTerm()(a, b))


def test_no_candidate_at_all() -> None:
    a, b = views()
    ids = torch.zeros(N, dtype=torch.int64)
    term = ContrastiveTerm(weight="self_mask", objective_settings={"count_positive": False})
    with pytest.raises(ValueError, match="all 16 anchors have only candidates of weight 0"):
        term(a, b, ids)
    # one sample, as the last batch of an epoch may have, has no other row to be contrasted with
    for objective in ("info_nce", "nt_xent"):
        alone = ContrastiveTerm(objective=objective, objective_settings={"count_positive": False})
        loss = alone(a[:1], b[:1])
        loss.backward()
        assert loss == 0
    assert ContrastiveTerm()(a[:1], b[:1]).abs() < 1e-12


def test_no_more_than_a_block_is_resident() -> None:
    sizes = []

    class Spy(dense.Weight):
        def log_w(self, pairs: dense.Pairs) -> Tensor:
            sizes.append((len(pairs.anchors), len(pairs.candidates)))
            return pairs.anchors @ pairs.candidates.T

    a, b = views()
    ContrastiveTerm(weight=Spy(), objective="info_nce", objective_settings={"block_rows": 3})(a, b).backward()
    # nothing is computed again in backward
    assert sizes == [(3, N), (3, N), (2, N)]


def test_a_weight_of_the_wrong_shape() -> None:
    class Wrong(dense.Weight):
        def log_w(self, pairs: dense.Pairs) -> Tensor:
            return pairs.anchors.sum(1)

    with pytest.raises(ValueError, match=r"Wrong.log_w returned \[16\]; it must be \[16, 16\]"):
        ContrastiveTerm(weight=Wrong())(*views())


def test_term_from_configuration() -> None:
    config = TermConfig.of(
        similarity="cosine", temperature=0.2, objective="InfoNCE", objective_settings={"both_directions": True}
    )
    a, b = views()
    by_name = ContrastiveTerm(
        similarity="cosine", temperature=0.2, objective="info_nce", objective_settings={"both_directions": True}
    )
    assert ContrastiveTerm(config)(a, b) == by_name(a, b)


def test_refusals() -> None:
    a, b = views()
    with pytest.raises(ValueError, match="weight 'nope' does not exist"):
        ContrastiveTerm(weight="nope")
    with pytest.raises(ValueError, match="objective 'nope' does not exist"):
        ContrastiveTerm(objective="nope")
    with pytest.raises(ConfigError, match="temperature = 0"):
        ContrastiveTerm(temperature=0)
    with pytest.raises(ConfigError, match="unknown setting 'temprature'; did you mean temperature"):
        ContrastiveTerm(temprature=1)
    with pytest.raises(ValueError, match="not both"):
        ContrastiveTerm(TermConfig(), weight="self_mask")
    with pytest.raises(ValueError, match=r"ids_a \[3\] must be \[8\]"):
        ContrastiveTerm()(a, b, torch.arange(3))
    with pytest.raises(ValueError, match="neither empty"):
        ContrastiveTerm()(a[:0], b[:0])
    with pytest.raises(ValueError, match="give positives"):
        ContrastiveTerm(objective="info_nce")(a, b[:-1])
    with pytest.raises(ValueError, match="one shape"):
        ContrastiveTerm()(a, b[:-1])
    ids = torch.arange(8)
    with pytest.raises(ValueError, match=r"not in pairs .* an objective that turns its views says needs_pairs = True"):
        _ = Views(a, b, ids, ids, positives=ids).turned
    with pytest.raises(ValueError, match="NTXent has one positive for each anchor, and this contrast has several"):
        NTXent().softmax(Views(a, b, ids, ids, positives=Ragged.from_lists([[0, 1]] * 8)), Similarity(), None)


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize("alike", [0.0, 3.0])
def test_margin_is_dense(scope: str, alike: float, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    a, b = views()
    b = (b + alike * a).detach().requires_grad_()  # positives below and above the greatest negative
    agree(Margin(temperature=0.7, scope=scope)(a, b), dense.margin(a, b, 0.7, scope), a, b)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_dense(t: float, monkeypatch: pytest.MonkeyPatch) -> None:
    small_blocks(monkeypatch)
    a, b = views()
    agree(Uniformity(t=t)(a, b), dense.uniformity(a, b, t), a, b)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_dense(alpha: float) -> None:
    a, b = views()
    x, y = F.normalize(a, dim=1), F.normalize(b, dim=1)
    agree(Alignment(alpha=alpha)(a, b), (x - y).norm(dim=1).pow(alpha).mean(), a, b)
    assert Alignment(alpha=alpha)(a, a) < 1e-10


def test_collapse_and_spread() -> None:
    """Uniformity is 0 where all rows are the same, and least for opposite ones."""
    same = torch.ones(4, D)
    assert Uniformity()(same, same).abs() < 1e-5
    spread = torch.tensor([list(signs) for signs in itertools.product((-1.0, 1.0), repeat=2)])
    assert Uniformity()(spread, spread) < -3


def test_a_row_without_a_positive_is_refused() -> None:
    a, b = views()
    positives = Ragged.from_lists([[0], [], *([i] for i in range(2, N))])
    with pytest.raises(ValueError, match="positives: row 1 of a has none"):
        ContrastiveTerm(objective="info_nce")(a, b, positives=positives)


def test_a_regulariser_is_there_once() -> None:
    with pytest.raises(ValueError, match="'alignment' is there twice, in different spellings"):
        ContrastiveTerm(regularisers={"alignment": 0.2, "Alignment": 0.2})


@pytest.mark.parametrize("objective", ["debiased_info_nce", "debiased_nt_xent"])
@pytest.mark.parametrize("other", [{"mixture": "mochi"}, {"objective_settings": {"n_candidates": 4}}])
def test_an_objective_of_all_candidates_as_they_are_is_refused_others(objective: str, other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"objective = '{objective}' takes all candidates as they are"):
        ContrastiveTerm(objective=objective, **other)
