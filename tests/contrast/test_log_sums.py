"""Sums over candidates, and what is composed of them: mixtures, transforms, further views, regularisers of a term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.contrast.blockwise import Candidates, NoCandidateError, contrast
from recgraph.contrast.log_sums import hardest, log_sums
from recgraph.contrast.mixtures import Mixed, Mixture, contrast_mixed
from recgraph.contrast.regularisers import Alignment, Uniformity
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import Pairs, Views
from recgraph.contrast.weights import Weight

N, M, D = 7, 11, 4


def sides(n: int = N, m: int = M, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return tuple(torch.randn(rows, D, generator=g, dtype=dtype).requires_grad_() for rows in (n, m))  # type: ignore


def barred_of(n: int = N, m: int = M) -> Tensor:
    return torch.stack([torch.arange(n) % m, (torch.arange(n) * 3 + 1) % m], 1)


class TestLogSums:
    @pytest.mark.parametrize("block_rows", [1, 3, None])
    @pytest.mark.parametrize("with_barred", [False, True])
    def test_it_is_the_sum(self, block_rows: int | None, with_barred: bool) -> None:
        x, y = sides()
        barred = barred_of() if with_barred else None
        slow = []
        for i in range(N):
            kept = [j for j in range(M) if barred is None or j not in barred[i].tolist()]
            slow.append(sum((x[i] @ y[j]).exp() for j in kept).log())
        ours = log_sums(x, y, barred, block_rows=block_rows)
        torch.testing.assert_close(ours, torch.stack(slow))
        upstream = torch.arange(1.0, N + 1, dtype=torch.float64)
        for got, wanted in zip(
            torch.autograd.grad(ours, (x, y), upstream),
            torch.autograd.grad(torch.stack(slow), (x, y), upstream),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted)

    @pytest.mark.parametrize("name", ["cluster", "learned", "self_mask"])
    def test_gradients_of_a_weight(self, name: str) -> None:
        x, y = sides()
        weight: Weight = registry.make("weight", name, dim=D).double()
        pairs = Pairs(torch.arange(N), torch.arange(M), x, y)
        parameters = list(weight.parameters())

        def value(x: Tensor, y: Tensor, *_: Tensor) -> Tensor:
            here = Pairs(pairs.anchor_ids, pairs.candidate_ids, x, y)
            return log_sums(x, y, barred_of(), weight, here, block_rows=3)

        assert torch.autograd.gradcheck(value, (x, y, *parameters))

    def test_an_anchor_without_candidates_passes_no_gradient(self) -> None:
        x, y = sides(2, 2)
        barred = torch.tensor([[0, 1], [0, 0]])
        sums = log_sums(x, y, barred)
        assert sums[0] == -math.inf
        of_x, of_y = torch.autograd.grad(sums[1], (x, y))
        assert of_x[0].eq(0).all()
        assert of_x.isfinite().all()
        assert of_y.isfinite().all()

    def test_types(self, device: torch.device) -> None:
        x, y = (one.detach().to(device, torch.bfloat16).requires_grad_() for one in sides())
        with torch.autocast(device.type, dtype=torch.bfloat16):
            sums = log_sums(x, y)
        assert sums.dtype == torch.float32
        for found in torch.autograd.grad(sums.sum(), (x, y)):
            assert found.dtype == torch.bfloat16

    def test_second_derivatives_are_refused(self) -> None:
        x, y = sides()
        with pytest.raises(RuntimeError, match="can be differentiated once"):
            torch.autograd.grad(log_sums(x, y).sum(), x, create_graph=True)


def test_hardest() -> None:
    x, y = sides()
    found = hardest(x, y, 3, barred_of(), block_rows=2)
    for i in range(N):
        kept = sorted(((x[i] @ y[j]).item(), j) for j in range(M) if j not in barred_of()[i].tolist())
        assert found[i].tolist() == [j for _, j in reversed(kept[-3:])]
    assert hardest(x, y, 50).shape == (N, M)


class Same(Mixture):
    """The candidates as they are."""

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        return Mixed(y)


class Beside(Mixture):
    """Two further candidates of each anchor, weighted, and a positive of its own."""

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        further = torch.stack([x.detach() + 1, x.detach() - y[:1]], 1)
        log_w = torch.tensor([0.5, -1.0], dtype=x.dtype).expand(len(x), 2)
        return Mixed(2 * y, y[candidates.positives] + 0.1, further, log_w)


@pytest.mark.parametrize("count_positive", [True, False])
@pytest.mark.parametrize("weigh_positive", [True, False])
@pytest.mark.parametrize("name", [None, "cluster", "learned"])
class TestContrastMixed:
    def test_candidates_as_they_are(self, count_positive: bool, weigh_positive: bool, name: str | None) -> None:
        x, y = sides()
        candidates = Candidates(torch.arange(N), torch.arange(N) + 2, count_positive, weigh_positive)
        weight = None if name is None else registry.make("weight", name, dim=D).double()
        pairs = None if name is None else Pairs(torch.arange(N), torch.arange(M), x, y)
        ours, left_out = contrast_mixed(x, Mixed(y), candidates, weight, pairs)
        theirs, wanted = contrast(x, y, candidates, weight, pairs)
        torch.testing.assert_close(ours, theirs)
        assert left_out == wanted
        leaves = (x, y, *(weight.parameters() if weight is not None else ()))
        for got, grad in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
            torch.testing.assert_close(got, grad)

    def test_further_candidates(self, count_positive: bool, weigh_positive: bool, name: str | None) -> None:
        x, y = sides()
        candidates = Candidates(torch.arange(N), None, count_positive, weigh_positive)
        weight = None if name is None else registry.make("weight", name, dim=D).double()
        pairs = None if name is None else Pairs(torch.arange(N), torch.arange(M), x, y)
        views = Views(x, y, torch.arange(N), torch.arange(M))
        mixed = Beside()(x, y, candidates, views)
        log_w = torch.zeros(N, M, dtype=x.dtype) if weight is None else weight.log_w(pairs)  # type: ignore[arg-type]
        slow = []
        for i in range(N):
            s_own = x[i] @ mixed.positive[i]  # type: ignore[index]
            total = sum((x[i] @ mixed.y[j] + log_w[i, j]).exp() for j in range(M) if j != i)
            for s in range(2):
                total = total + (x[i] @ mixed.further[i, s] + mixed.further_log_w[i, s]).exp()  # type: ignore[index]
            if count_positive:
                total = total + (s_own + (log_w[i, i] if weigh_positive else 0)).exp()
            slow.append(total.log() - s_own)
        ours, _ = contrast_mixed(x, mixed, candidates, weight, pairs, block_rows=2)
        torch.testing.assert_close(ours, torch.stack(slow).mean())


def test_a_contrast_without_any_candidate_is_refused() -> None:
    x, y = sides(1, 1)
    with pytest.raises(NoCandidateError, match="all 1 anchors"):
        contrast_mixed(x, Mixed(y), Candidates(torch.zeros(1, dtype=torch.int64), count_positive=False))


@pytest.mark.parametrize("count_positive", [True, False])
def test_nan_is_kept(count_positive: bool) -> None:
    x, y = (side.detach().clone() for side in sides())
    y[3, 1] = torch.nan
    loss, left_out = contrast_mixed(x, Mixed(y), Candidates(torch.arange(N), count_positive=count_positive))
    assert loss.isnan()
    assert left_out == 0


class TestTerm:
    @pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
    def test_a_mixture_that_changes_nothing(self, objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry._registered, ("mixture", "same"), Same)
        a, b = sides(N, N)
        plain = ContrastiveTerm(objective=objective, temperature=0.3, similarity="cosine")
        mixed = ContrastiveTerm(objective=objective, temperature=0.3, similarity="cosine", mixture="same")
        torch.testing.assert_close(mixed(a, b), plain(a, b))
        assert mixed.draws
        assert not plain.draws

    def test_drawn_candidates_are_not_mixed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry._registered, ("mixture", "same"), Same)
        with pytest.raises(ValueError, match="leave n_candidates out"):
            ContrastiveTerm(objective="info_nce", objective_settings={"n_candidates": 3}, mixture="same")

    def test_centring(self) -> None:
        a, b = sides(N, N)
        plain, centred = ContrastiveTerm(), ContrastiveTerm(transform="centre")
        torch.testing.assert_close(centred(a, b), plain(a - a.mean(0), b - b.mean(0)))
        torch.testing.assert_close(centred(a + 3, b - 2), centred(a, b))

    def test_further_views_are_contrasted_in_pairs(self) -> None:
        a, b = sides(N, N)
        c = a.detach() * 0.5 + 1
        term = ContrastiveTerm(similarity="cosine")
        wanted = (term(a, b) + term(a, c) + term(b, c)) / 3
        torch.testing.assert_close(term(a, b, further=[c]), wanted)
        with pytest.raises(ValueError, match="further views"):
            term(a, b, further=[c[1:]])

    def test_regularisers_are_added(self) -> None:
        a, b = sides(N, N)
        given = {"alignment": 0.5, "uniformity": {"coefficient": 2.0, "t": 3.0}}
        term, plain = ContrastiveTerm(regularisers=given), ContrastiveTerm()
        wanted = plain(a, b) + 0.5 * Alignment()(a, b) + 2 * Uniformity(t=3.0)(a, b)
        torch.testing.assert_close(term(a, b), wanted)
        chosen = torch.tensor([2, 0, 1, 3, 4, 5, 6])
        info = {"objective": "info_nce"}
        of_positives = ContrastiveTerm(**info, regularisers={"alignment": 1.0})(a, b, positives=chosen)
        wanted = ContrastiveTerm(**info)(a, b, positives=chosen) + Alignment()(a, b[chosen])
        torch.testing.assert_close(of_positives, wanted)

    def test_regularisers_have_coefficients_by_default(self) -> None:
        term = ContrastiveTerm(regularisers={"alignment": {"alpha": 3.0}, "margin": {}, "uniformity": 2})
        assert term.coefficients == {"alignment": 1.0, "margin": 0.1, "uniformity": 2.0}

    def test_labels_are_one_for_each_row(self) -> None:
        a, b = sides(N, N)
        with pytest.raises(ValueError, match=r"labels_a \[3\] must be \[7\]"):
            ContrastiveTerm()(a, b, labels_a=torch.zeros(3))
