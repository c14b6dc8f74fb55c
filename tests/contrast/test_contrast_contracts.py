"""What every weight, objective and regulariser that the registry finds must do."""

from __future__ import annotations

import math

import pytest
import torch
from derivatives import check_derivatives
from torch import Tensor

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.contrast.objectives import Objective, Similarity, Views
from recgraph.contrast.regularisers import Regulariser
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import About
from recgraph.contrast.weights import Pairs, Weight
from recgraph.rng import seeded_init

B, D = 9, 5
OBJECTIVES = registry.names("objective")
PAIRWISE = [name for name in OBJECTIVES if registry.load("objective", name).pairwise]
#: parts of their values pass no gradient: their own tests compare gradients with those of an oracle
STOPPED = {"simsiam", "swav"}


def with_setting(setting: str) -> list[str]:
    """The objectives that have a setting."""
    return [name for name in OBJECTIVES if setting in registry.settings_of(registry.load("objective", name))]


def views(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, n: int = B) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    a = torch.randn(n, D, generator=g, dtype=torch.float64)
    b = a + torch.randn(n, D, generator=g, dtype=torch.float64)
    a, b = (x.to(device=device, dtype=dtype).requires_grad_() for x in (a, b))
    return a, b


def check_gradients(value: Tensor, *inputs: Tensor) -> None:
    for grad, of in zip(torch.autograd.grad(value, inputs), inputs, strict=True):
        assert grad.shape == of.shape
        assert grad.dtype == of.dtype
        assert grad.isfinite().all()


@pytest.mark.parametrize("name", registry.names("weight"))
class TestWeight:
    def make(self, name: str) -> Weight:
        cls = registry.load("weight", name)
        weight: Weight = cls(**({"dim": D} if "dim" in cls.Config.model_fields else {}))
        weight.setup(About(torch.arange(2.0, B + 2), torch.arange(B) % 3))
        return weight

    def pairs(self, device: torch.device, rows: slice = slice(None), dtype: torch.dtype = torch.float64) -> Pairs:
        a, b = views(device, dtype)
        ids = torch.tensor([0, 1, 2, 3, 1, 5, 6, 2, 8], device=device)
        labels = (ids % 3).to(dtype)
        return Pairs(ids[rows], ids, a.detach()[rows], b.detach(), labels[rows], labels)

    def test_shape_and_type(self, name: str, device: torch.device) -> None:
        for dtype in (torch.float32, torch.float64):
            log_w = self.make(name).to(device).log_w(self.pairs(device, slice(2, 6), dtype))
            assert log_w.shape == (4, B)
            assert log_w.dtype == dtype
            assert log_w.device.type == device.type
            assert not log_w.isnan().any()
            assert (log_w < torch.inf).all()

    def test_rows_do_not_depend_on_the_block(self, name: str, device: torch.device) -> None:
        weight = self.make(name).to(device).double()
        whole = weight.log_w(self.pairs(device))
        parts = [weight.log_w(self.pairs(device, slice(i, i + 2))) for i in range(0, B, 2)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("objective", PAIRWISE)
    def test_in_every_objective(self, name: str, objective: str) -> None:
        a, b = views()
        with seeded_init(0):
            term = ContrastiveTerm(weight=self.make(name).double(), objective=objective, dim=D).double()
        ids = torch.tensor([0, 1, 2, 3, 1, 5, 6, 2, 8])
        labels = {"labels_a": ids % 3.0, "labels_b": ids % 3.0}
        if registry.load("weight", name).detached:
            check_gradients(term(a, b, ids, **labels), a, b)
            return
        check_derivatives(lambda a, b: term(a, b, ids, **labels), a, b)

    @pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {*PAIRWISE}))
    def test_refused_without_candidates(self, name: str, objective: str) -> None:
        with pytest.raises(ValueError, match="no candidates to weigh or to mix; use weight = None"):
            ContrastiveTerm(weight=self.make(name), objective=objective, dim=D)

    def test_settings_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match="unknown setting 'nonsense'"):
            registry.load("weight", name)(nonsense=1)


@pytest.mark.parametrize("name", OBJECTIVES)
class TestObjective:
    def make(self, name: str, **settings: object) -> Objective:
        with seeded_init(0):
            objective: Objective = ContrastiveTerm(objective=name, objective_settings=settings, dim=D).objective
        objective.setup(About(torch.arange(float(B))))
        return objective

    def value(self, objective: Objective, a: Tensor, b: Tensor, weight: Weight | None = None) -> Tensor:
        # rows that keep their ids and labels in whatever order they stand
        ids = a.detach()[:, 0].double().argsort().argsort()
        labels = ids % 3.0
        return objective(Views(a, b, ids, ids, labels_a=labels, labels_b=labels), Similarity(), weight).loss

    def test_scalar_with_gradients(self, name: str, device: torch.device) -> None:
        for dtype in (torch.float32, torch.float64):
            a, b = views(device, dtype)
            loss = self.value(self.make(name), a, b)
            assert loss.shape == ()
            assert loss.dtype == dtype
            check_gradients(loss, a, b)

    def test_derivatives(self, name: str) -> None:
        if name in STOPPED:
            pytest.skip("parts of the value pass no gradient")
        counts = [True, False] if name in with_setting("count_positive") else [None]
        for count in counts:
            objective = self.make(name, **({} if count is None else {"count_positive": count})).double()
            check_derivatives(lambda a, b, of=objective: self.value(of, a, b), *views())

    @pytest.mark.parametrize("block_rows", [1, 4, 100])
    def test_blocks_do_not_matter(self, name: str, block_rows: int) -> None:
        if name not in with_setting("block_rows"):
            pytest.skip("compares no rows")
        a, b = views()
        whole = self.value(self.make(name), a, b)
        blocked = self.value(self.make(name, block_rows=block_rows), a, b)
        torch.testing.assert_close(blocked, whole, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(torch.autograd.grad(blocked, (a, b)), torch.autograd.grad(whole, (a, b)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    def test_order_of_the_batch_does_not_matter(self, name: str) -> None:
        a, b = views()
        order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(self.value(self.make(name), a[order], b[order]), self.value(self.make(name), a, b))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        exact, half = views(device, torch.float32), views(device, dtype)
        with torch.autocast(device.type, dtype=dtype):
            loss = self.value(self.make(name), *half)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, self.value(self.make(name), *exact), rtol=0.05, atol=0.05)
        check_gradients(loss, *half)

    @pytest.mark.parametrize("similarity", ["dot", "cosine"])
    @pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 100.0])
    def test_rows_that_are_all_the_same(self, name: str, value: float, similarity: str) -> None:
        """Constant features: every candidate is as near as the positive, so that a softmax is the log of a count."""
        for dtype in (torch.float32, torch.float64):
            a, b = (torch.full((B, D), value, dtype=dtype, requires_grad=True) for _ in range(2))
            ids, shape = torch.arange(B), Similarity(similarity=similarity, temperature=0.1)  # type: ignore[arg-type]
            labels = ids % 3.0
            loss = self.make(name)(Views(a, b, ids, ids, labels_a=labels, labels_b=labels), shape, None).loss
            # similarities of D value^2 / .1 are rounded before they are taken from one another
            rounding = 4 * torch.finfo(dtype).eps * max(D * value**2, 1) / 0.1
            if name in PAIRWISE and name != "multihead":
                assert min(abs(loss.item() - math.log(n)) for n in (B - 1, B, 2 * B - 1)) < 1e-6 + rounding
            assert loss.isfinite()
            check_gradients(loss, a, b)

    @pytest.mark.parametrize("scale", [1e-3, 1e3])
    def test_no_overflow_in_float32(self, name: str, scale: float) -> None:
        a, b = views(dtype=torch.float32)
        loss = self.value(self.make(name), a * scale, b)
        exact = self.value(self.make(name), a.double() * scale, b.double())
        torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-4)
        check_gradients(loss, a, b)

    def test_nan_is_kept(self, name: str) -> None:
        for scale in (1.0, 1e4):
            a, b = (x.detach().clone() * scale for x in views())
            b[3, 1] = torch.nan
            assert self.value(self.make(name), a, b).isnan()

    def test_settings_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match="unknown setting 'nonsense'"):
            registry.load("objective", name)(nonsense=1)


@pytest.mark.parametrize("name", registry.names("regulariser"))
class TestRegulariser:
    def make(self, name: str) -> Regulariser:
        regulariser: Regulariser = registry.load("regulariser", name)()
        return regulariser

    def test_scalar_with_gradients(self, name: str, device: torch.device) -> None:
        for dtype in (torch.float32, torch.float64):
            a, b = views(device, dtype)
            value = self.make(name)(a, b)
            assert value.shape == ()
            assert value.dtype == dtype
            check_gradients(value, a, b)

    def test_derivatives(self, name: str) -> None:
        check_derivatives(self.make(name), *views())

    def test_measure_is_the_value_detached(self, name: str) -> None:
        a, b = views()
        measured = self.make(name).measure(a, b)
        assert not measured.requires_grad
        torch.testing.assert_close(measured, self.make(name)(a, b).detach())

    @pytest.mark.parametrize("value", [0.0, 1.0, 1e-30, 100.0])
    def test_rows_that_are_all_the_same(self, name: str, value: float) -> None:
        a, b = (torch.full((6, 3), value, requires_grad=True) for _ in range(2))
        made = self.make(name)(a, b)
        assert made.isfinite()
        check_gradients(made, a, b)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        exact, half = views(device, torch.float32), views(device, dtype)
        with torch.autocast(device.type, dtype=dtype):
            value = self.make(name)(*half)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, self.make(name)(*exact), rtol=0.05, atol=0.05)

    def test_one_pair(self, name: str) -> None:
        a, b = views(n=1)
        value = self.make(name)(a, b)
        assert value.isfinite()
        check_gradients(value, a, b)

    def test_shapes_are_checked(self, name: str) -> None:
        a, b = views()
        with pytest.raises(ValueError, match="one shape"):
            self.make(name)(a, b[:-1])
        with pytest.raises(ValueError, match="one shape"):
            self.make(name)(a[:0], b[:0])

    def test_settings_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match="unknown setting 'nonsense'"):
            registry.load("regulariser", name)(nonsense=1)
