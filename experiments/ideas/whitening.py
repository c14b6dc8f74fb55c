"""Whitening of the rows before they are compared, as in WhitenedCSE.

recgraph train cl4srec ... --import experiments/ideas/whitening.py --set contrast.transform=shuffled_group_whitening
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import ConfigError, Search
from recgraph.contrast.parts import Transform, TransformConfig, Views
from recgraph.sparse.blocks import refuse_second_derivative, work_type
from recgraph.sparse.device import full_precision


class ShuffledGroupWhiteningConfig(TransformConfig):
    group_size: Annotated[
        int,
        Field(ge=1, description="dimensions that are whitened together; divides the width"),
        Search(choices=(2, 4, 8, 16)),
    ] = 8
    n_positives: Annotated[
        int,
        Field(ge=1, description="whitenings of the second side, each a positive of its own"),
        Search(1, 4),
    ] = 2
    eps: Annotated[
        float,
        Field(gt=0, description="added to variances, as a share of the group's mean variance"),
        Search(1e-6, 1e-2, log=True),
    ] = 1e-4


@rg.register("transform")
class ShuffledGroupWhitening(Transform):
    """Both sides whitened in random groups of ``group_size`` dimensions: as many positives as there
    are shuffles.

    With P a random permutation of the D dimensions, cut into groups, and X a group's columns,
    centred over the rows, ``W(X) = X (X^T X / N + eps v I)^(-1/2)``, v the mean variance of the
    group, undone by P^-1. The pairs are ``(W_0(a), W_k(b))``, k = 1 ... ``n_positives``, each W
    with a permutation of its own; the loss is the mean over k. ZCA keeps each dimension as near as
    can be to what it was.

    Source: Zhuo et al., WhitenedCSE: Whitening-based Contrastive Learning of Sentence Embeddings
    (ACL 2023). Departures: ``eps`` (published: none, groups of 6 of 768 dimensions); the positives
    are shuffles of one view (published: each of a dropout view of its own) and their losses are
    averaged (published: summed); no linear layer and tanh follow. Gradients are exact where
    eigenvalues meet, as those of an eigendecomposition are not.
    """

    Config = ShuffledGroupWhiteningConfig

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        generator, size, width = views.generator, self.config.group_size, views.a.shape[1]
        assert generator is not None, "shuffled group whitening draws: give the term a generator"
        if width % size:
            raise ConfigError(f"group_size = {size} must divide the embeddings' width, {width}")

        def shuffled(side: Tensor) -> Tensor:
            order = torch.randperm(width, generator=generator, device=generator.device)
            return _whiten(side, order.to(side.device), size, self.config.eps)

        first = shuffled(views.a)
        return [(first, shuffled(views.b)) for _ in range(self.config.n_positives)]


def _whiten(x: Tensor, order: Tensor, group_size: int, eps: float) -> Tensor:
    """[N, D] whitened over its rows by groups of dimensions, in float32 or wider.

    Args:
        order: [D] int64, a permutation; the first ``group_size`` of it are the first group.
        eps: share of the mean variance that is added to all variances.
    """
    with full_precision(x):
        shuffled = x.to(work_type(x)).index_select(1, order)
        grouped = shuffled.view(len(x), -1, group_size).transpose(0, 1)
        centred = grouped - grouped.mean(1, keepdim=True)
        covariance = centred.transpose(1, 2) @ centred / centred.shape[1]
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
        # rows that are all alike have no variance: they become zeros
        ridge = eps * variance + torch.finfo(variance.dtype).tiny ** 0.5
        covariance = covariance + torch.diag_embed(ridge[:, None].expand(-1, group_size))
        whitened = centred @ _InverseRoot.apply(covariance)  # type: ignore[no-untyped-call]
        out: Tensor = whitened.transpose(0, 1).flatten(1).index_select(1, torch.argsort(order))
    return out


class _InverseRoot(torch.autograd.Function):
    """``M^(-1/2)`` of symmetric positive definite matrices [G, d, d], differentiable once.

    With M = U diag(l) U^T the derivative is ``U (F * (U^T dM U)) U^T``, ``F_ij`` the divided
    difference of l^(-1/2), ``-1 / (sqrt(l_i l_j) (sqrt l_i + sqrt l_j))``, which is finite where
    two eigenvalues are equal.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        # eigenvalues that differ by a large factor keep their small ones in float64 alone
        values, vectors = torch.linalg.eigh(matrices.double())
        roots = values.clamp(min=torch.finfo(matrices.dtype).tiny).sqrt()
        ctx.save_for_backward(roots, vectors)
        inverse_root: Tensor = (vectors / roots[:, None, :]) @ vectors.transpose(1, 2)
        return inverse_root.to(matrices.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        refuse_second_derivative("the whitening")
        roots, vectors = ctx.saved_tensors
        grad = grads[0].to(vectors.dtype)
        inner = vectors.transpose(1, 2) @ ((grad + grad.transpose(1, 2)) / 2) @ vectors
        left, right = roots[:, :, None], roots[:, None, :]
        inner = -inner / (left * right * (left + right))
        out: Tensor = vectors @ inner @ vectors.transpose(1, 2)
        return out.to(grads[0].dtype)
