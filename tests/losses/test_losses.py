"""Next-item losses: the contract of the kind, and each against an obvious dense version."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.losses.base import Sampler
from recgraph.losses.pairwise import BCE
from recgraph.losses.softmax import FullSoftmax, SampledSoftmax

NAMES = registry.names("loss")
N_ITEMS, D, T = 23, 5, 17


def case(
    dtype: torch.dtype = torch.float64, scale: float = 1.0, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(T, D, generator=g, dtype=torch.float64) * scale
    table = torch.randn(N_ITEMS + 1, D, generator=g, dtype=torch.float64)
    targets = torch.randint(1, N_ITEMS + 1, (T,), generator=g).to(device)
    hidden, table = (x.to(device=device, dtype=dtype).requires_grad_() for x in (hidden, table))
    return hidden, targets, table


def stream(seed: int = 5, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(seed)


def grads(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def make(self, name: str, **settings: Any) -> Any:
        loss = registry.load("loss", name)(**settings)
        loss.setup(torch.arange(N_ITEMS))
        return loss

    def test_scalar_with_gradients(self, name: str, device: torch.device) -> None:
        hidden, targets, table = case(torch.float32, device=device)
        loss = self.make(name).to(device)(hidden, targets, table, stream(device=device))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.device.type == device.type
        for grad, of in zip(grads(loss, hidden, table), (hidden, table), strict=True):
            assert grad.shape == of.shape
            assert grad.dtype == of.dtype
            assert grad.isfinite().all()
            assert grad.abs().sum() > 0

    def test_gradcheck(self, name: str) -> None:
        hidden, targets, table = case()
        loss = self.make(name)
        assert torch.autograd.gradcheck(
            lambda h, w: loss(h, targets, w, stream()), (hidden, table), fast_mode=True
        )

    def test_mean_over_targets(self, name: str) -> None:
        hidden, targets, table = case()
        twice = torch.cat([hidden, hidden]), torch.cat([targets, targets])
        loss = self.make(name)
        if not loss.draws:
            torch.testing.assert_close(loss(*twice, table), loss(hidden, targets, table))
        grad = grads(3 * loss(hidden, targets, table, stream()), table)[0]
        torch.testing.assert_close(
            grad, 3 * grads(loss(hidden, targets, table, stream()), table)[0]
        )

    def test_weights_are_of_targets(self, name: str) -> None:
        """Against each target alone; a step's negatives are the same."""
        hidden, targets, table = case()
        loss = self.make(name, **({"shared": True} if name in {"bce", "bpr", "ccl"} else {}))
        weights = torch.rand(T, generator=stream(), dtype=torch.float64)
        value = loss(hidden, targets, table, stream(), weights=weights)
        each = torch.stack(
            [loss(hidden[t : t + 1], targets[t : t + 1], table, stream()) for t in range(T)]
        )
        torch.testing.assert_close(value, (weights * each).mean())
        for made, wanted in zip(
            grads(value, hidden, table), grads((weights * each).mean(), hidden, table), strict=True
        ):
            torch.testing.assert_close(made, wanted)

    def test_same_generator_same_loss(self, name: str) -> None:
        inputs, loss, before = case(), self.make(name), torch.get_rng_state()
        assert loss(*inputs, stream()) == loss(*inputs, stream())
        assert torch.equal(before, torch.get_rng_state())
        if loss.draws:
            assert loss(*inputs, stream(1)) != loss(*inputs, stream(2))

    def test_half_precision_inputs(self, name: str, device: torch.device) -> None:
        exact, half = case(torch.float32, device=device), case(torch.bfloat16, device=device)
        loss = self.make(name).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            for inputs in (half, (half[0], *exact[1:])):
                value = loss(*inputs, stream(device=device))
                assert value.dtype == torch.float32
                torch.testing.assert_close(
                    value, loss(*exact, stream(device=device)), rtol=0.05, atol=0.05
                )
                assert grads(value, inputs[0])[0].dtype == torch.bfloat16


SIMILARITIES = [{}, {"similarity": "cosine", "temperature": 0.05}, {"temperature": 0.5}]


def similarities(
    hidden: Tensor, rows: Tensor, similarity: str = "dot", temperature: float = 1.0
) -> Tensor:
    if similarity == "cosine":
        hidden, rows = (x / x.norm(dim=1, keepdim=True) for x in (hidden, rows))
    return hidden @ rows.T / temperature


@pytest.mark.parametrize("scale", [1.0, 1e4])  # the last one overflows exp without its maximum
@pytest.mark.parametrize("pad_candidate", [True, False])
@pytest.mark.parametrize("block_rows", [None, 4])
@pytest.mark.parametrize("settings", SIMILARITIES)
def test_full_softmax_is_cross_entropy(
    settings: dict[str, Any], block_rows: int | None, pad_candidate: bool, scale: float
) -> None:
    hidden, targets, table = case(scale=scale)
    loss = FullSoftmax(block_rows=block_rows, pad_candidate=pad_candidate, **settings)
    value, first = loss(hidden, targets, table), 0 if pad_candidate else 1
    expected = F.cross_entropy(similarities(hidden, table, **settings)[:, first:], targets - first)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        grads(value, hidden, table), grads(expected, hidden, table), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    lengths = loss.as_scored(table).norm(dim=1)
    torch.testing.assert_close(
        lengths, torch.ones_like(lengths) if loss.cosine else table.norm(dim=1)
    )


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("power", [0.0, 0.75])
@pytest.mark.parametrize("log_q", [True, False])
@pytest.mark.parametrize("block_rows", [None, 5])
@pytest.mark.parametrize("settings", SIMILARITIES)
@pytest.mark.parametrize(("count", "in_batch"), [(40, False), (9, False), (40, True), (0, True)])
def test_sampled_softmax_is_dense(
    count: int,
    in_batch: bool,
    settings: dict[str, Any],
    block_rows: int | None,
    log_q: bool,
    power: float,
    scale: float,
) -> None:
    hidden, targets, table = case(scale=scale)
    counts = torch.arange(1, N_ITEMS + 1, dtype=torch.float64)
    loss = SampledSoftmax(
        n_negatives=count,
        log_q=log_q,
        popularity_power=power,
        block_rows=block_rows,
        in_batch=in_batch,
        **settings,
    )
    loss.setup(counts)
    value = loss(hidden, targets, table, stream())
    drawn = loss.sampler.draw((count,), N_ITEMS, stream(), torch.device("cpu"))
    expected_times = count * counts**power / (counts**power).sum()
    if in_batch:
        drawn, expected_times = (
            torch.cat([drawn, targets]),
            expected_times + T * counts / counts.sum(),
        )
    s, rows = similarities(hidden, table, **settings), []
    for i, target in enumerate(targets):
        others = [s[i, j] - expected_times[j - 1].log() * log_q for j in drawn if j != target]
        rows.append(torch.stack([s[i, target], *others]).logsumexp(0) - s[i, target])
    expected = torch.stack(rows).mean()
    # the corrections are held in float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(
        grads(value, hidden, table), grads(expected, hidden, table), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["bpr", "bce"])
@pytest.mark.parametrize("count", [1, 30])
def test_pairwise_is_dense(name: str, count: int) -> None:
    hidden, targets, table = case()
    loss = registry.load("loss", name)(n_negatives=count)
    drawn = loss.sampler.draw((T, count), N_ITEMS, stream(), torch.device("cpu"))
    rows = []
    for h, y, negatives in zip(hidden, targets, drawn, strict=True):
        positive = h @ table[y]
        own = [h @ table[j] for j in negatives if j != y]
        if name == "bpr":
            rows.append(sum(-F.logsigmoid(positive - s) for s in own) / max(len(own), 1))
        else:
            rows.append(
                (-F.logsigmoid(positive) - sum(F.logsigmoid(-s) for s in own)) / (1 + count)
            )
    expected = sum(rows) / T
    torch.testing.assert_close(loss(hidden, targets, table, stream()), expected)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_gbce_by_the_paper(t: float) -> None:
    hidden, targets, table = case()
    count = 4
    loss = BCE(n_negatives=count, calibration=t)
    alpha = count / (N_ITEMS - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    plain, positive = (
        BCE(n_negatives=count)(hidden, targets, table, stream()),
        (hidden * table[targets]).sum(1),
    )
    change = -((beta - 1) * positive.sigmoid().log()).mean() / (1 + count)
    torch.testing.assert_close(loss(hidden, targets, table, stream()), plain + change)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_sampler_frequencies(power: float) -> None:
    counts = torch.tensor([0, 5, 0, 1, 20, 0])
    sampler = Sampler(power)
    sampler.setup(counts)
    tokens = sampler.draw((40_000,), 6, stream(), torch.device("cpu"))
    expected = (
        torch.where(counts > 0, counts.double() ** power, 0) if power else torch.ones(6).double()
    )
    expected = expected / expected.sum()
    found = torch.bincount(tokens, minlength=7)[1:].double() / 40_000
    assert (found - expected).abs().max() < 0.01
    assert found[expected == 0].sum() == 0
    present = torch.arange(1, 7)[expected > 0]
    torch.testing.assert_close(sampler.log_q(present, 6).double().exp(), expected[present - 1])
