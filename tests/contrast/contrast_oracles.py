"""Slow and obvious versions of the contrastive core, and weights that tests alone need."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.contrast.weights import Pairs, Weight


def agree(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Values and gradients to 1e-10."""
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, other in zip(
        *(torch.autograd.grad(loss, inputs) for loss in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


class Dense(Weight):
    """Log-weights from a table, looked up by id."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=table.requires_grad)

    def log_w(self, pairs: Pairs) -> Tensor:
        return self.table[pairs.anchor_ids][:, pairs.candidate_ids]


def objective(
    s: Tensor,
    positives: Tensor,
    log_w: Tensor | None = None,
    excluded: Tensor | None = None,
    count_positive: bool = True,
    weigh_positive: bool = False,
) -> tuple[Tensor, int]:
    """The one objective, a row at a time: the mean loss and how many rows had no candidate."""
    losses = []
    for i, row in enumerate(s):
        terms = []
        for j in range(len(row)):
            is_positive = j == positives[i]
            if (excluded is not None and j == excluded[i]) or (is_positive and not count_positive):
                continue
            weighed = log_w is not None and (not is_positive or weigh_positive)
            terms.append(row[j] + log_w[i, j] if weighed else row[j])
        terms = [term for term in terms if term > -math.inf]
        if terms:
            losses.append(torch.stack(terms).logsumexp(0) - row[positives[i]])
    return sum(losses) / len(losses), len(s) - len(losses)


def nt_xent(a: Tensor, b: Tensor, log_w: Tensor | None = None, **flags: Any) -> tuple[Tensor, int]:
    z = torch.cat([a, b])
    own = torch.arange(len(z))
    return objective(z @ z.T, (own + len(a)) % len(z), log_w, own, **flags)


def margin(a: Tensor, b: Tensor, temperature: float = 1.0, scope: str = "row") -> Tensor:
    z = torch.cat([a, b])
    s, n = z @ z.T / temperature, len(a)
    p, rows = [], []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        p.append(s[i, partner])
        rows.append(torch.stack([s[i, j] for j in range(2 * n) if j not in (i, partner)]))
    positive, negative = torch.stack(p), torch.stack(rows)
    least, greatest = positive, negative.max(1).values
    if scope == "batch":
        least, greatest = positive.min().expand(2 * n), negative.max().expand(2 * n)
    lo, hi = torch.minimum(least, greatest), torch.maximum(least, greatest)
    return torch.relu(positive - lo).mean() + torch.relu(hi[:, None] - negative).mean()


def uniformity(a: Tensor, b: Tensor, t: float = 2.0) -> Tensor:
    values = []
    for x in (F.normalize(a, dim=1), F.normalize(b, dim=1)):
        pairs = [(x[i] - x[j]).square().sum() for i in range(len(x)) for j in range(i)]
        values.append(torch.stack(pairs).mul(-t).exp().mean().log())
    return (values[0] + values[1]) / 2
