"""What every weight, objective, transform and regulariser that the registry finds must do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.contrast.objectives import Objective, Similarity, Views
from recgraph.contrast.parts import Transform
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Pairs, Weight
from recgraph.rng import seeded_init

B, D = 9, 8
OBJECTIVES = registry.names("objective")


def views(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, n: int = B
) -> tuple[Tensor, Tensor]:
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
        return weight

    def pairs(
        self, device: torch.device, rows: slice = slice(None), dtype: torch.dtype = torch.float64
    ) -> Pairs:
        a, b = views(device, dtype)
        ids = torch.tensor([0, 1, 2, 3, 1, 5, 6, 2, 8], device=device)
        return Pairs(ids[rows], ids, a.detach()[rows], b.detach())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_type(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        log_w = self.make(name).to(device).log_w(self.pairs(device, slice(2, 6), dtype))
        assert (log_w.shape, log_w.dtype, log_w.device.type) == ((4, B), dtype, device.type)
        assert not log_w.isnan().any()
        assert (log_w < torch.inf).all()

    def test_rows_do_not_depend_on_the_block(self, name: str, device: torch.device) -> None:
        weight = self.make(name).to(device).double()
        whole = weight.log_w(self.pairs(device))
        parts = [weight.log_w(self.pairs(device, slice(i, i + 2))) for i in range(0, B, 2)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)

    def test_one_more_candidate_counts_as_one_of_them(
        self, name: str, device: torch.device
    ) -> None:
        pairs = self.pairs(device)
        weight = self.make(name).to(device).double()
        beside = weight.log_w_beside(pairs, pairs.candidate_ids, pairs.candidates)
        torch.testing.assert_close(beside, weight.log_w(pairs).diagonal(), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("objective", ["info_nce", "debiased_nt_xent"])
    def test_derivatives(self, name: str, objective: str) -> None:
        with seeded_init(0):
            term = ContrastiveTerm(
                weight=self.make(name).double(), objective=objective, dim=D
            ).double()
        ids = torch.tensor([0, 1, 2, 3, 1, 5, 6, 2, 8])
        assert torch.autograd.gradcheck(lambda a, b: term(a, b, ids), views(), fast_mode=True)


@pytest.mark.parametrize("name", OBJECTIVES)
class TestObjective:
    def make(self, name: str, **settings: object) -> Objective:
        with seeded_init(0):
            objective: Objective = ContrastiveTerm(
                objective={"name": name, **settings}, dim=D
            ).objective
        return objective

    def value(
        self, objective: Objective, a: Tensor, b: Tensor, weight: Weight | None = None
    ) -> Tensor:
        # rows keep their ids in whatever order they stand
        ids = a.detach()[:, 0].double().argsort().argsort()
        loss: Tensor = objective(Views(a, b, ids, ids), Similarity(), weight).loss
        return loss

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_scalar_with_gradients(
        self, name: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        a, b = views(device, dtype)
        loss = self.value(self.make(name), a, b)
        assert (loss.shape, loss.dtype) == ((), dtype)
        check_gradients(loss, a, b)

    def test_derivatives(self, name: str) -> None:
        assert torch.autograd.gradcheck(
            lambda a, b: self.value(self.make(name).double(), a, b), views(), fast_mode=True
        )

    def test_blocks_do_not_matter(self, name: str) -> None:
        if name == "barlowtwins":
            pytest.skip("compares no rows")
        a, b = views()
        losses = [self.value(self.make(name, block_rows=rows), a, b) for rows in (4, None)]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(
            *(torch.autograd.grad(loss, (a, b)) for loss in losses), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)

    def test_half_precision(self, name: str, device: torch.device) -> None:
        exact, half = views(device, torch.float32), views(device, torch.bfloat16)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = self.value(self.make(name), *half)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(
                loss, self.value(self.make(name), *exact), rtol=0.05, atol=0.05
            )
        check_gradients(loss, *half)

    @pytest.mark.parametrize("value", [0.0, 100.0])
    def test_rows_that_are_all_the_same(self, name: str, value: float) -> None:
        a, b = (torch.full((B, D), value, requires_grad=True) for _ in range(2))
        ids, shape = torch.arange(B), Similarity(similarity="cosine", temperature=0.1)
        loss = self.make(name)(Views(a, b, ids, ids), shape, None).loss
        assert loss.isfinite()
        check_gradients(loss, a, b)

    def test_no_overflow_in_float32(self, name: str) -> None:
        (a, b), scale = views(dtype=torch.float32), 1e3
        loss = self.value(self.make(name), a * scale, b)
        exact = self.value(self.make(name), a.double() * scale, b.double())
        torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=1e-4)
        check_gradients(loss, a, b)

    def test_nan_is_kept(self, name: str) -> None:
        a, b = (x.detach().clone() for x in views())
        b[3, 1] = torch.nan
        assert self.value(self.make(name), a, b).isnan()


@pytest.mark.parametrize("name", registry.names("transform"))
class TestTransform:
    def made(self, name: str) -> Transform:
        transform: Transform = registry.load("transform", name)()
        return transform

    def sides(self, name: str, a: Tensor, b: Tensor, device: torch.device | str = "cpu") -> Tensor:
        ids = torch.arange(len(a), device=device)
        pairs = self.made(name)(
            Views(a, b, ids, ids, generator=torch.Generator(device).manual_seed(1))
        )
        return torch.stack([side for pair in pairs for side in pair])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_pairs_of_sides(self, name: str, dtype: torch.dtype, device: torch.device) -> None:
        a, b = views(device, dtype)
        sides = self.sides(name, a, b, device)
        assert (sides.shape[1:], sides.dtype, sides.device.type) == ((B, D), dtype, device.type)
        check_gradients((sides * torch.arange(D, device=device).cos()).square().sum().sqrt(), a, b)

    def test_derivatives_and_the_same_draws_for_the_same_generator(self, name: str) -> None:
        given = views(n=4)
        before = torch.random.get_rng_state()
        assert torch.equal(self.sides(name, *given), self.sides(name, *given))
        assert torch.equal(before, torch.random.get_rng_state())
        assert torch.autograd.gradcheck(lambda a, b: self.sides(name, a, b), given, fast_mode=True)

    @pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
    def test_the_loss_is_the_mean_over_the_pairs(self, name: str, objective: str) -> None:
        a, b = views()
        term = ContrastiveTerm(transform=name, objective=objective, temperature=0.5)
        plain = ContrastiveTerm(objective=objective, temperature=0.5)
        sides = self.sides(name, a, b)
        expected = torch.stack(
            [plain(x, y) for x, y in zip(sides[::2], sides[1::2], strict=True)]
        ).mean()
        torch.testing.assert_close(term(a, b, generator=torch.Generator().manual_seed(1)), expected)


@pytest.mark.parametrize("name", registry.names("regulariser"))
class TestRegulariser:
    def value(self, name: str, a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = registry.load("regulariser", name)()(a, b)
        return found

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_scalar_with_gradients(
        self, name: str, dtype: torch.dtype, device: torch.device
    ) -> None:
        a, b = views(device, dtype)
        value = self.value(name, a, b)
        assert (value.shape, value.dtype) == ((), dtype)
        check_gradients(value, a, b)

    def test_derivatives(self, name: str) -> None:
        assert torch.autograd.gradcheck(
            registry.load("regulariser", name)(), views(), fast_mode=True
        )

    @pytest.mark.parametrize("value", [0.0, 100.0])
    def test_rows_that_are_all_the_same(self, name: str, value: float) -> None:
        a, b = (torch.full((6, 3), value, requires_grad=True) for _ in range(2))
        made = self.value(name, a, b)
        assert made.isfinite()
        check_gradients(made, a, b)

    def test_half_precision(self, name: str, device: torch.device) -> None:
        exact, half = views(device, torch.float32), views(device, torch.bfloat16)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            value = self.value(name, *half)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, self.value(name, *exact), rtol=0.05, atol=0.05)

    def test_one_pair(self, name: str) -> None:
        a, b = views(n=1)
        value = self.value(name, a, b)
        assert value.isfinite()
        check_gradients(value, a, b)
