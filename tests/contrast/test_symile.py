"""Symile against a loop over anchors and candidates."""

from __future__ import annotations

from math import prod

import pytest
import torch
import torch.nn.functional as F
from test_non_contrastive import B, D, two
from torch import Tensor

from recgraph.contrast.joint import Symile
from recgraph.contrast.objectives import InfoNCE, Similarity, Views


def views(sides: list[Tensor], seed: int | None = None) -> Views:
    ids = torch.arange(len(sides[0]))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return Views(sides[0], sides[1], ids, ids, further=tuple(sides[2:]), generator=generator)


def loop(sides: list[Tensor], similarity: Similarity, seed: int) -> Tensor:
    """Every sum of products one by one, with the orders that the generator gives."""
    draw = torch.Generator().manual_seed(seed)
    units = [F.normalize(x, dim=1) for x in sides] if similarity.similarity == "cosine" else sides
    n, losses = len(sides[0]), []
    for m, anchor in enumerate(units):
        orders = {k: torch.randperm(n, generator=draw) for k in range(len(units)) if k != m}
        for i in range(n):
            scores = []
            for j in range(n):
                rows = {k: i if j == i else int(order[j]) for k, order in orders.items()}
                products = [anchor[i, d] * prod(units[k][row, d] for k, row in rows.items()) for d in range(D)]
                scores.append(sum(products) / similarity.temperature)
            losses.append(torch.stack(scores).logsumexp(0) - scores[i])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ["dot", "cosine"])
@pytest.mark.parametrize("n_views", [3, 4])
def test_value_and_gradients_are_those_of_a_loop(kind: str, n_views: int) -> None:
    similarity = Similarity(similarity=kind, temperature=0.2)
    sides = [two(5, seed=k)[0].requires_grad_() for k in range(n_views)]
    expected = loop(sides, similarity, 7)
    for block_rows in (None, 2):
        outcome = Symile(block_rows=block_rows)(views(sides, 7), similarity, None)
        torch.testing.assert_close(outcome.loss, expected, rtol=1e-12, atol=1e-12)
        ours, theirs = (torch.autograd.grad(x, sides, retain_graph=True) for x in (outcome.loss, expected))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert outcome.n_anchors == 5 * n_views


def test_of_two_views_it_is_info_nce_in_both_directions() -> None:
    similarity = Similarity(similarity="cosine", temperature=0.3)
    of_two = views([*two()])
    both = InfoNCE(both_directions=True)(of_two, similarity, None)
    torch.testing.assert_close(Symile()(of_two, similarity, None).loss, both.loss, rtol=1e-12, atol=1e-12)


def test_a_single_row_has_nothing_to_be_told_from() -> None:
    sides = [two(1, seed=k)[0].requires_grad_() for k in range(3)]
    loss = Symile()(views(sides, 0), Similarity(), None).loss
    assert float(loss.detach()) == 0
    assert not any(bool(grad.any()) for grad in torch.autograd.grad(loss, sides))


def test_three_views_need_a_generator() -> None:
    sides = [two(B, seed=k)[0] for k in range(3)]
    with pytest.raises(ValueError, match="symile of 3 views draws their orders"):
        Symile()(views(sides), Similarity(), None)
