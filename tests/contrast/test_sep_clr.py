"""SepCLR against loops over rows, and who is a target."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
import torch.nn.functional as F
from test_non_contrastive import B, D, two
from torch import Tensor

from recgraph.accelerated import accelerator_path
from recgraph.contrast.separation import SepCLR
from recgraph.contrast.views import About, Similarity, Views

COUNTS = torch.tensor([1.0, 5.0, 2.0, 9.0, 4.0, 3.0, 7.0])
ABOUT = About(COUNTS, torch.tensor([0, 1, 2, 1, 0, -1, 2]))


def views(a: Tensor, b: Tensor) -> Views:
    ids = torch.arange(len(a))
    return Views(a, b, ids, ids)


def expected(a: Tensor, b: Tensor, targets: list[int], tau: float, weights: tuple[float, float, float]) -> Tensor:
    """The sums of the authors' code, a pair at a time."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (-(x - y).square().sum() / (2 * tau)).exp()

    def align(x: list[Tensor], y: list[Tensor]) -> Tensor:
        return torch.stack([(p - q).square().sum() for p, q in zip(x, y, strict=True)]).mean() / (2 * tau)

    def uniform(rows: list[Tensor]) -> Tensor:
        return torch.stack([kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]).mean().log()

    half = D // 2
    c = [[F.normalize(row[:half], dim=0) for row in side] for side in (a, b)]
    s = [[row[half:] for row in side] for side in (a, b)]
    chosen = [[side[i] for i in targets] for side in s]
    rest = [side[i] for side in s for i in range(len(a)) if i not in targets]
    zero = torch.zeros(D - half, dtype=a.dtype)
    both_c, both_s = [*c[0], *c[1]], [*s[0], *s[1]]
    joint = [
        torch.stack([kernel(both_c[i], both_c[j]) * kernel(both_s[i], both_s[j]) for j in range(len(both_c))])
        .mean()
        .log()
        for i in range(len(both_c))
    ]
    loss = align(c[0], c[1]) + uniform(both_c)
    loss = loss + weights[0] * (align(*chosen) + uniform([*chosen[0], *chosen[1], zero]))
    loss = loss + weights[1] * torch.stack([row.square().sum() for row in rest]).mean()
    return loss + weights[2] * torch.stack(joint).mean()


@pytest.mark.parametrize("path", [nullcontext, accelerator_path])
@pytest.mark.parametrize("length", [1.0, 40.0])
@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize(
    ("settings", "targets"),
    [({}, [1, 3, 6]), ({"least_count": 7}, [3, 6]), ({"target_by": "category", "categories": (2,)}, [2, 6])],
)
def test_value_and_gradients_are_those_of_a_loop(
    settings: dict[str, object],
    targets: list[int],
    block_rows: int | None,
    length: float,
    path: Callable[[], AbstractContextManager[None]],
) -> None:
    """Of salient parts so long that kernels leave the range of numbers, too."""
    objective = SepCLR(**settings, salient=2.0, background=3.0, independence=0.7, bandwidth=0.8, block_rows=block_rows)
    objective.setup(ABOUT)
    a, b = ((length * x).requires_grad_() for x in two())
    with path():
        loss = objective(views(a, b), Similarity(), None).loss
        found = torch.autograd.grad(loss, (a, b))
    wanted = expected(a, b, targets, 0.8, (2.0, 3.0, 0.7))
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(found, torch.autograd.grad(wanted, (a, b)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("least", [1, 100])
def test_a_batch_of_one_group_leaves_the_terms_of_the_other_out(least: int) -> None:
    objective = SepCLR(least_count=least)
    objective.setup(ABOUT)
    for n in (1, B):
        for path in (nullcontext, accelerator_path):
            a, b = (x.requires_grad_() for x in two(n))
            with path():
                loss = objective(views(a, b), Similarity(), None).loss
                assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(loss, (a, b)))
    # shapes do not follow from the groups: an accelerator does not make the host wait
    a, b = (x.to("meta") for x in two())
    ids = torch.arange(len(a), device="meta")
    assert objective(Views(a, b, ids, ids), Similarity(), None).loss.shape == ()


def test_what_cannot_be_told_apart_is_refused() -> None:
    a, b = two()
    with pytest.raises(ValueError, match=r"setup\(about\)"):
        SepCLR()(views(a, b), Similarity(), None)
    with pytest.raises(ValueError, match="needs categories"):
        SepCLR(target_by="category")
    with pytest.raises(ValueError, match="nothing here has categories"):
        SepCLR(target_by="category", categories=(1,)).setup(About(COUNTS))
    whole = SepCLR(salient_share=0.99)
    whole.setup(ABOUT)
    with pytest.raises(ValueError, match="leaves no common part"):
        whole(views(a, b), Similarity(), None)
