"""Contract of all transforms, and whitening and gates against slow oracles; both lines train with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.contrast.gates import Gate
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.transforms import Transform
from recgraph.contrast.views import About, Views
from recgraph.contrast.whitening import ShuffledGroupWhitening, inverse_root, whiten

N, D = 24, 8
CATEGORIES = torch.tensor([0, 1, 2, -1, 1])
NAMES = registry.names("transform")


def made(name: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> Transform:
    cls = registry.load("transform", name)
    torch.manual_seed(0)
    transform: Transform = cls(**({"dim": D} if "dim" in cls.Config.model_fields else {}))
    transform.setup(About(torch.ones(5), CATEGORIES))
    return transform.to(device, dtype)


def views(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64, n: int = N) -> Views:
    draw = torch.Generator().manual_seed(4)
    a = torch.randn(n, D, generator=draw, dtype=torch.float64) @ torch.randn(D, D, generator=draw, dtype=torch.float64)
    b = a + torch.randn(n, D, generator=draw, dtype=torch.float64)
    a, b = (x.to(device, dtype).requires_grad_() for x in (a, b))
    ids = (torch.arange(n) % 5).to(device)
    return Views(a, b, ids, ids, generator=torch.Generator(device).manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_of_sides_with_gradients(name: str, dtype: torch.dtype, device: torch.device) -> None:
    transform, given = made(name, device, dtype), views(device, dtype)
    pairs = transform(given)
    assert pairs
    total = torch.zeros((), device=device, dtype=dtype)
    for side in (side for pair in pairs for side in pair):
        assert side.shape == (N, D)
        assert side.dtype == dtype
        assert side.device.type == device.type
        total = total + (side * torch.arange(D, device=device).cos()).square().sum().sqrt()
    total.backward()
    for tensor in (given.a, given.b, *transform.parameters()):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_the_same_draws_for_the_same_generator(name: str) -> None:
    transform, given = made(name), views(n=4)
    rows = torch.arange(4)

    def term(a: Tensor, b: Tensor) -> Tensor:
        drawn = torch.Generator().manual_seed(1)
        pairs = transform(Views(a, b, rows, rows, generator=drawn))
        return torch.stack([side for pair in pairs for side in pair])

    assert torch.equal(term(given.a, given.b), term(given.a, given.b))
    assert torch.autograd.gradcheck(term, (given.a, given.b), fast_mode=True)
    before = torch.random.get_rng_state()
    term(given.a, given.b)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
def test_the_loss_is_the_mean_over_the_pairs(name: str, objective: str) -> None:
    given = views()
    options = {"dim": D} if "dim" in registry.load("transform", name).Config.model_fields else {}
    term = ContrastiveTerm(transform=name, transform_settings=options, objective=objective, temperature=0.5).double()
    term.setup(About(torch.ones(5), CATEGORIES))
    assert term.transform is not None
    loss = term(given.a, given.b, given.ids_a, given.ids_b, generator=torch.Generator().manual_seed(1))
    plain = ContrastiveTerm(objective=objective, temperature=0.5)
    pairs = term.transform(views())
    expected = torch.stack([plain(a, b) for a, b in pairs]).mean()
    torch.testing.assert_close(loss, expected)


# --- whitening --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_whitening_equals_a_loop_over_groups(size: int) -> None:
    x, order = views().a.detach(), [3, 0, 7, 2, 6, 1, 5, 4]
    found = whiten(x, torch.tensor(order), size, 1e-3)
    np.testing.assert_allclose(found.numpy(), slow_whitening(x.numpy(), order, size, 1e-3), rtol=1e-8, atol=1e-10)
    exact = whiten(x, torch.tensor(order), size, 1e-12)
    groups = exact[:, order].view(N, -1, size)
    for group in groups.unbind(1):
        torch.testing.assert_close(group.T @ group / N, torch.eye(size, dtype=x.dtype), atol=1e-6, rtol=0)


def test_as_many_positives_as_shuffles() -> None:
    given = views()
    pairs = ShuffledGroupWhitening(n_positives=3, group_size=2)(given)
    drawn = torch.Generator().manual_seed(1)
    orders = [torch.randperm(D, generator=drawn) for _ in range(4)]
    assert len(pairs) == 3
    for (a, b), order in zip(pairs, orders[1:], strict=True):
        torch.testing.assert_close(a, whiten(given.a, orders[0], 2, 1e-4))
        torch.testing.assert_close(b, whiten(given.b, order, 2, 1e-4))


def test_the_inverse_root_has_gradients_where_eigenvalues_meet() -> None:
    equal = (2 * torch.eye(3, dtype=torch.float64)).expand(2, 3, 3).clone().requires_grad_()

    def root(matrices: Tensor) -> Tensor:
        return inverse_root((matrices + matrices.transpose(1, 2)) / 2)

    assert torch.autograd.gradcheck(root, equal)
    torch.testing.assert_close(root(equal) @ root(equal), torch.eye(3, dtype=torch.float64).expand(2, 3, 3) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_alike_or_few_whiten_to_finite_numbers(dtype: torch.dtype) -> None:
    for x in (torch.ones(5, D, dtype=dtype), torch.randn(2, D, dtype=dtype), torch.zeros(1, D, dtype=dtype)):
        x.requires_grad_()
        out = whiten(x, torch.arange(D), 4, 1e-4)
        (out * torch.arange(D)).sum().backward()
        assert bool(out.isfinite().all())
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())


def test_what_whitening_needs_is_said() -> None:
    given = views()
    with pytest.raises(ValueError, match="group_size = 3 must divide the width of the embeddings, 8"):
        ShuffledGroupWhitening(group_size=3)(given)
    with pytest.raises(ValueError, match="give a generator"):
        ShuffledGroupWhitening()(Views(given.a, given.b, given.ids_a, given.ids_b))


# --- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [True, False])
def test_gated_similarities_equal_a_loop_over_pairs(unit: bool) -> None:
    torch.manual_seed(0)
    gate = Gate(dim=D, unit=unit).double()
    gate.setup(About(torch.ones(5), CATEGORIES))
    given = views()
    ((a, b),) = gate(given)
    found = a @ b.T
    for i in range(0, N, 5):
        for j in range(0, N, 7):
            gates = []
            for row in (i, j):
                vector = gate.category_embedding.weight[int(CATEGORIES[row % 5]) + 1]
                gates.append(torch.sigmoid(gate.out(F.relu(gate.inner(vector)))))
            x, y = given.a[i], given.b[j]
            if unit:
                x, y = x / x.norm(), y / y.norm()
            torch.testing.assert_close(found[i, j], sum(gates[0][d] * gates[1][d] * x[d] * y[d] for d in range(D)))
    assert float(gate.gates(torch.arange(5)).detach().min()) > 0.9


def test_autocast_rounds_no_gate() -> None:
    torch.manual_seed(0)
    gate = Gate(dim=D)
    gate.setup(About(torch.ones(5), CATEGORIES))
    given = views()
    given = replace(given, a=given.a.float(), b=given.b.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gate(given)[0]
    for ours, expected in zip(found, gate(given)[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_what_gates_need_is_said() -> None:
    with pytest.raises(ValueError, match=r"needs categories: .*item_features"):
        Gate(dim=D).setup(About(torch.ones(5)))
    with pytest.raises(ValueError, match=r"n_categories = 2 is less than the 3 categories .*'n_categories': 3"):
        Gate(dim=D, n_categories=2).setup(About(torch.ones(5), CATEGORIES))
    with pytest.raises(ValueError, match=r"call setup\(about\)"):
        Gate(dim=D).gates(torch.arange(2))
