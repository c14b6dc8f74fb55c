"""Contract of all latent augmenters, the published MLP's numbers, and the attention against a
loop.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.augment.latent import MLP, Attention, Augmenter, Conv, Variant, attend_rows
from recgraph.sparse.ragged import Ragged

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
DIM = 16
CASES = [(name, variant) for name in registry.names("augmenter") for variant in get_args(Variant)]


def _made(name: str, variant: Variant, device: torch.device | str = "cpu") -> Augmenter:
    torch.manual_seed(0)
    made: Augmenter = registry.load("augmenter", name)(DIM, variant=variant)
    return made.to(device, torch.float64)


def _inputs(device: torch.device | str = "cpu") -> tuple[Tensor, Ragged]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(DIM, DIM, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 6, (DIM,), generator=generator)
    values = torch.randn(int(lengths.sum()), DIM, generator=generator, dtype=torch.float64)
    return hidden.to(device), Ragged.from_lengths(values, lengths).to(device)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_contract(name: str, variant: Variant, device: torch.device) -> None:
    augmenter = _made(name, variant, device)
    hidden, states = _inputs(device)
    out = augmenter(hidden.requires_grad_(), states)
    assert out.shape == hidden.shape
    assert out.device.type == device.type
    torch.testing.assert_close(out.norm(dim=1), torch.ones_like(out[:, 0]))
    out.square().mul(torch.arange(DIM, device=device)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in augmenter.parameters())
    assert any(bool(p.grad.any()) for p in augmenter.parameters() if p.grad is not None)
    assert hidden.grad is not None


@pytest.mark.parametrize("name", registry.names("augmenter"))
def test_row_variant_is_independent_of_the_batch(name: str, device: torch.device) -> None:
    augmenter = _made(name, "row", device)
    hidden, states = _inputs(device)
    rows = torch.tensor([3, 0, 7], device=device)
    torch.testing.assert_close(
        augmenter(hidden[rows], states.take(rows)), augmenter(hidden, states)[rows]
    )


@pytest.mark.parametrize("step", ["a", "b"])
def test_mlp_has_the_published_numbers(step: str, device: torch.device) -> None:
    golden = np.load(GOLDEN / f"mclrec_step_{step}.npz")
    for prefix, given, expected in (("aug1.", "z1", "v1"), ("aug2.", "z2", "v2")):
        state = {
            k.removeprefix(prefix): torch.from_numpy(golden[k])
            for k in golden
            if k.startswith(prefix)
        }
        augmenter = MLP(golden[given].shape[1]).double()
        augmenter.load_state_dict(state)
        out = augmenter.to(device)(torch.from_numpy(golden[given]).to(device))
        np.testing.assert_allclose(
            out.detach().cpu().numpy(), golden[expected], rtol=1e-8, atol=1e-12
        )


def test_attention_of_rows_equals_a_loop() -> None:
    query, keys = _inputs()
    values = keys.values.flip(0)
    made = attend_rows(query, keys, values)
    for row in range(DIM):
        start, end = int(keys.offsets[row]), int(keys.offsets[row + 1])
        weight = torch.softmax(keys.values[start:end] @ query[row] / math.sqrt(DIM), 0)
        torch.testing.assert_close(made[row], weight @ values[start:end])


def test_published_attention_is_across_the_batch() -> None:
    augmenter = _made("attention", "published")
    assert isinstance(augmenter, Attention)
    hidden, _ = _inputs()
    weight = torch.softmax(augmenter.query(hidden) @ augmenter.key(hidden).T / math.sqrt(DIM), 1)
    torch.testing.assert_close(
        augmenter(hidden), F.normalize(F.gelu(weight @ augmenter.value(hidden)), dim=1)
    )


def test_published_convolution_takes_the_batch_as_channels() -> None:
    augmenter = _made("conv", "published")
    assert isinstance(augmenter, Conv)
    hidden, _ = _inputs()
    padded = F.pad(hidden, (1, 1))
    weight, bias = augmenter.conv.weight, augmenter.conv.bias
    assert bias is not None
    mixed = sum(weight[:, :, k] @ padded[:, k : k + DIM] for k in range(3)) + bias[:, None]
    torch.testing.assert_close(augmenter(hidden), F.normalize(F.gelu(mixed), dim=1))
    assert augmenter.batch_size == DIM
