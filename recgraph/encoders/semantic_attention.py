"""Attention over views of the same nodes: one weight a view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recgraph.encoders._generator import dropout_generator
from recgraph.rng import dropout


class SemanticAttention(nn.Module):
    """``sum_p beta_p Z_p`` with ``beta = softmax_p(a . mean over nodes of tanh(W z_p + b))``.

    Source: Wang et al., "Heterogeneous Graph Attention Network" (HAN), WWW 2019, equations 7 to 9; HeCo and MEOW
    use it.

    Args:
        dim: D, width of the embeddings.
        inner_dim: width of W's output; default D.
        dropout: of the entries of ``a`` (HeCo).

    Attributes:
        last: [P], the weights of the last call, detached: which view counts how much.
    """

    def __init__(self, dim: int, inner_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        inner_dim = inner_dim or dim
        self.dropout = dropout
        self.fc = nn.Linear(dim, inner_dim)
        self.att = nn.Parameter(torch.empty(1, inner_dim))
        nn.init.xavier_normal_(self.fc.weight, gain=1.414)
        nn.init.xavier_normal_(self.att, gain=1.414)
        self.last: Tensor | None = None

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """Combine.

        Args:
            views: P tensors [N, D], P >= 1.
            generator: draws dropout; required in training mode where dropout is above 0.

        Returns:
            [N, D].
        """
        if not views:
            raise ValueError("views = () must hold at least one tensor [N, D]")
        generator = dropout_generator(self, self.dropout, generator)
        a = dropout(self.att, self.dropout, generator)[0]
        scores = torch.stack([torch.tanh(self.fc(z)).mean(0) @ a for z in views])
        beta = torch.softmax(scores, 0)
        self.last = beta.detach()
        return _weighted_sum(views, beta)


class ViewWeights(nn.Module):
    """``sum_p beta_p Z_p`` with ``beta`` the softmax of one learned number a view, equal at the start.

    Unlike :class:`SemanticAttention` it does not look at the nodes: it costs nothing beside the sum.

    Args:
        n_views: P.

    Attributes:
        last: [P], the weights of the last call, detached.
    """

    def __init__(self, n_views: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_views))
        self.last: Tensor | None = None

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """[N, D] of P tensors [N, D]; the generator is not read."""
        beta = torch.softmax(self.logits, 0)
        self.last = beta.detach()
        return _weighted_sum(views, beta)


def _weighted_sum(views: Sequence[Tensor], beta: Tensor) -> Tensor:
    total = views[0] * beta[0]
    for weight, z in zip(beta[1:], views[1:], strict=True):
        total = torch.addcmul(total, z, weight)
    return total
