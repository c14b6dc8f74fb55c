"""AutoTCL's augmentation against loops, its draws, its loss, and MCLRec trained with it on states and on tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.augment.parametric import AutoTCL
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

D = 6
SMALL: dict[str, Any] = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 8}


def made(level: str, **settings: Any) -> AutoTCL:
    torch.manual_seed(0)
    augmenter = AutoTCL(D, level=level, **settings).double()  # type: ignore[arg-type]
    torch.nn.init.normal_(augmenter.informs.weight)
    return augmenter


def rows() -> Ragged:
    values = torch.randn(10, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Ragged.from_lengths(values, torch.tensor([3, 1, 0, 6]))


def drawn(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """What a call draws: uniform numbers for the mask, then the noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.randn((shape[0], D), generator=generator)


def slow(augmenter: AutoTCL, x: Tensor, read: Tensor, u: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """One row."""
    inner = F.gelu(augmenter.reads.weight @ read + augmenter.reads.bias)
    logits = augmenter.informs.weight @ inner + augmenter.informs.bias
    scale = 2 / (1 + torch.exp(-(augmenter.scales.weight @ inner + augmenter.scales.bias)))
    mask = 1 / (1 + torch.exp(-(logits + torch.log(u / (1 - u))) / augmenter.temperature))
    mask = (mask > 0.5).double()
    size = (x.square().sum() / D).sqrt()
    return mask * scale * x + (1 - mask) * augmenter.noise * size * e, 1 / (1 + torch.exp(-logits))


def test_states_equal_a_loop() -> None:
    augmenter, hidden = made("states", noise=0.5), rows().values
    found, probability = augmenter.change(hidden, torch.Generator().manual_seed(3))
    uniform, noise = drawn((10, D), 3)
    for row in range(10):
        view, p = slow(augmenter, hidden[row], hidden[row], uniform[row].double(), noise[row].double())
        torch.testing.assert_close(found[row], view)
        torch.testing.assert_close(probability[row], p)
    assert 0 < float((probability > 0.5).double().mean()) < 1


def test_tokens_equal_a_loop_over_items_and_their_neighbours() -> None:
    augmenter, given = made("tokens"), rows()
    found, probability = augmenter.change_rows(given, torch.Generator().manual_seed(3))
    uniform, noise = drawn((10, 1), 3)
    nothing, place = torch.zeros(D, dtype=torch.float64), 0
    for row in torch.split(given.values, given.lengths.tolist()):
        for at, x in enumerate(row):
            before = row[at - 1] if at else nothing
            after = row[at + 1] if at + 1 < len(row) else nothing
            read = torch.cat([before, x, after])
            view, p = slow(augmenter, x, read, uniform[place].double(), noise[place].double())
            torch.testing.assert_close(found[place], view)
            torch.testing.assert_close(probability[place], p)
            place += 1


def test_gradients_of_a_soft_mask() -> None:
    augmenter, x = made("states", hard=False), rows().values.requires_grad_()
    changed = augmenter.change(x, torch.Generator().manual_seed(1))[0]
    expected = torch.autograd.grad(changed.square().sum(), augmenter.informs.bias)[0]
    with torch.no_grad():
        step = 1e-6
        values = []
        for sign in (1, -1):
            augmenter.informs.bias[0] += sign * step
            values.append(augmenter.change(x, torch.Generator().manual_seed(1))[0].square().sum())
            augmenter.informs.bias[0] -= sign * step
    torch.testing.assert_close(expected[0], (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-7)


def test_a_hard_mask_has_the_gradient_of_what_it_was() -> None:
    hard, soft, x = made("states", noise=0.0), made("states", noise=0.0, hard=False), rows().values
    (of_hard,) = torch.autograd.grad(hard.change(x, torch.Generator().manual_seed(1))[0].sum(), hard.informs.bias)
    (of_soft,) = torch.autograd.grad(soft.change(x, torch.Generator().manual_seed(1))[0].sum(), soft.informs.bias)
    torch.testing.assert_close(of_hard, of_soft)


def test_what_informs_can_be_recovered() -> None:
    augmenter, x = made("states"), rows().values
    changed = augmenter.change(x, torch.Generator().manual_seed(1))[0]
    inner = F.gelu(augmenter.reads(x))
    scale = 2 * torch.sigmoid(augmenter.scales(inner))
    kept = (changed / scale - x).abs() < 1e-12
    assert 0.2 < float(kept.double().mean()) < 1


def test_the_loss_equals_a_loop() -> None:
    augmenter, given = made("tokens", share=0.3, share_weight=2.0, consistency_weight=0.5), rows()
    hidden, view = given.values[:4].clone().requires_grad_(), F.normalize(given.values[4:8], dim=1)
    p = torch.rand(10, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = sum(((h / h.norm() - v) ** 2).sum() for h, v in zip(hidden.detach(), view, strict=True)) / 4
    expected = expected + 2 * max(float(p.mean()) - 0.3, 0)
    steps = [abs(p[t] - p[t - 1]) for t in range(10) if t not in (0, 3, 4)]
    expected = expected + 0.5 * sum(steps) / len(steps)
    found = augmenter.loss(hidden, view, p, given)
    torch.testing.assert_close(found, torch.as_tensor(expected).squeeze())
    assert not found.requires_grad  # none into the original
    torch.testing.assert_close(
        augmenter.loss(hidden, view, p * 0), ((F.normalize(hidden, dim=1) - view) ** 2).sum() / 4
    )


def test_what_a_level_cannot_change_is_said() -> None:
    with pytest.raises(ValueError, match="level = 'tokens' changes the items"):
        made("tokens")(rows().values)
    with pytest.raises(ValueError, match="level = 'states' changes what is encoded"):
        made("states").change_rows(rows())
    with pytest.raises(ValueError, match="level = 'items' must be one of states, tokens"):
        made("items")
    with pytest.raises(ValueError, match=r"share = 1\.5 must be between 0 and 1"):
        made("states", share=1.5)
    with pytest.raises(ValueError, match=r"noise = -0\.5 must be between 0 and inf"):
        made("states", noise=-0.5)
    with pytest.raises(ValueError, match=r"temperature = 0 must be between 1e-06 and inf"):
        made("states", temperature=0)


def train() -> Part:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 10, (24,), generator=draw)
    return Part(Ragged.from_lengths(torch.randint(0, 20, (int(lengths.sum()),), generator=draw), lengths), 20)


@pytest.mark.parametrize("schedule", ["published", "paper", "joint"])
@pytest.mark.parametrize("level", ["states", "tokens"])
@pytest.mark.parametrize("gaps", [False, True])
def test_mclrec_trains_it_in_a_phase_of_its_own(level: str, schedule: str, gaps: bool) -> None:
    settings = {**SMALL, "augmenter": "autotcl", "augmenter_options": {"level": level}, "time_gaps": gaps}
    model = MCLRec(schedule_of_phases=schedule, **settings).build(Space(n_users=24, n_items=20), seed=0)
    part = train()
    part = Part(part.items, part.n_items, times=torch.arange(part.n_interactions))
    batch = next(iter(model.batches(part, 24, Generators(0)).epoch(0)))
    groups = model.parameter_groups()
    for phase in model.phases:
        assert ("aug" in phase.terms) == ("augmenters" in phase.groups)
        assert ("cl2" in phase.terms) == ("encoder" in phase.groups)
        with freeze_all_but(groups, phase.groups) as trainable:
            model.zero_grad()
            loss = total_loss(model(batch, tuple(phase.terms)), phase)
            loss.backward()
            assert torch.isfinite(loss)
            named = {id(parameter): name for name, parameter in model.named_parameters()}
            for parameter in trainable:
                assert parameter.grad is not None, named[id(parameter)]
                assert bool(parameter.grad.isfinite().all())


def test_the_own_phase_lowers_the_own_loss() -> None:
    settings = {**SMALL, "augmenter": "autotcl", "augmenter_options": {"share": 1.0}, "dropout": 0.0}
    model = MCLRec(attention_dropout=0.0, **settings).build(Space(n_users=24, n_items=20), seed=0)
    batch = next(iter(model.batches(train(), 24, Generators(0)).epoch(0)))
    optimiser = torch.optim.Adam(model.augmenters.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        (loss,) = model(batch, ("aug",)).values()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_draws_are_as_rare_as_their_probability_in_half_precision(dtype: torch.dtype) -> None:
    augmenter, x = AutoTCL(64, noise=0.0).to(dtype), torch.ones(2_000, 64, dtype=dtype)
    torch.nn.init.zeros_(augmenter.informs.weight)
    torch.nn.init.constant_(augmenter.informs.bias, -12.0)  # one in 160,000
    changed, _ = augmenter.change(x, torch.Generator().manual_seed(0))
    assert int((changed != 0).sum()) < 10
    torch.nn.init.constant_(augmenter.informs.bias, 0.7)
    torch.nn.init.zeros_(augmenter.scales.weight)
    torch.nn.init.zeros_(augmenter.scales.bias)
    kept = augmenter.change(x)[0].float()
    torch.testing.assert_close(kept, torch.ones_like(kept), rtol=0, atol=1e-6)  # a rounded mask of 1
