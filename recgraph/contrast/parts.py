"""What the parts of a contrast share: their base, the rows that they are shown, what they give; and
the transforms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import config as configuration
from recgraph.config import Config, ConfigError, Search
from recgraph.ranks import Share
from recgraph.sparse.blocks import refuse_second_derivative, unit_length, work_type
from recgraph.sparse.device import full_precision
from recgraph.sparse.ragged import Ragged


class Component(nn.Module):
    """Base of weights, transforms, objectives and regularisers. A subclass sets ``Config``.

    Args:
        config: the settings as a value, or
        settings: the settings by name.
    """

    Config: ClassVar[type[configuration.Config]]

    def __init__(self, config: configuration.Config | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configuration.configure(self, self.Config, config, settings)


class Similarity(configuration.Config):
    """Dot product or cosine over a temperature. It shapes rows, never pairs, so that no N x M
    tensor is made.
    """

    similarity: Annotated[
        Literal["dot", "cosine"],
        Field(description="inner product of the embeddings, or of their directions"),
    ] = "dot"
    temperature: Annotated[
        float,
        Field(gt=0, description="what similarities are divided by"),
        Search(low=0.05, high=5, log=True),
    ] = 1.0

    def shape(
        self, anchors: Tensor, candidates: Tensor, temperatures: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """[N, D] and [M, D], the two sides whose inner products are the similarities.

        ``temperatures`` [M] are those of each candidate in place of the common one (MEOW's
        concentrations).
        """
        if self.similarity == "cosine":
            same = anchors is candidates
            anchors = unit_length(anchors)
            candidates = anchors if same else unit_length(candidates)
        if temperatures is not None:
            return anchors, candidates / temperatures[:, None]
        if self.temperature != 1:
            anchors = anchors * (1 / self.temperature)
        return anchors, candidates

    def over_cosines(self, temperatures: Tensor | None = None) -> float | None:
        """The temperature where the similarities of :meth:`shape` are cosines over one; None: they
        are not.
        """
        is_common = self.similarity == "cosine" and temperatures is None
        return self.temperature if is_common else None


@dataclass(frozen=True)
class Pairs:
    """A block of anchors against all candidates. A weight is never told which candidate is the
    positive.

    Attributes:
        anchor_ids: [n] int64, who the anchors are (node, user or target), as the caller of the term
            says; by default an embedding's row number.
        candidate_ids: [M] int64.
        anchors: [n, D], embeddings as the caller gave them: before similarity and temperature.
        candidates: [M, D].
        temperature: where the similarities are the cosines of these embeddings over it; None: they
            are others.
        similarities: [n, M], where they are at hand, in memory that is overwritten afterwards: read
            them by :meth:`cosines`, which copies. Gradients flow into them.
    """

    anchor_ids: Tensor
    candidate_ids: Tensor
    anchors: Tensor
    candidates: Tensor
    temperature: float | None = None
    similarities: Tensor | None = None

    def cosines(self) -> Tensor:
        """[n, M], of each anchor with each candidate, from similarities where these are cosines
        over a temperature.
        """
        if self.temperature is not None and self.similarities is not None:
            return self.similarities * self.temperature
        return unit_length(self.anchors) @ unit_length(self.candidates).t()

    def same(self) -> Tensor:
        """[n, M], in the type of the embeddings: 1 where both have the same id, else 0.

        Numbers, since a pass over all pairs with a mask of bool takes about six times as long.
        """
        found = self.anchors.new_empty(len(self.anchor_ids), len(self.candidate_ids))
        return torch.eq(self.anchor_ids[:, None], self.candidate_ids, out=found)

    def block(
        self, rows: slice, anchors: Tensor, candidates: Tensor, similarities: Tensor | None = None
    ) -> Pairs:
        """The pairs of some of the anchors, with these embeddings [n, D] and [M, D], and
        similarities [n, M].
        """
        of_rows = replace(
            self, anchor_ids=self.anchor_ids[rows], anchors=anchors, candidates=candidates
        )
        return replace(of_rows, similarities=similarities)


@dataclass(frozen=True)
class Views:
    """The two sides of a contrast.

    Attributes:
        a, b: [N, D] and [M, D].
        ids_a, ids_b: [N] and [M] int64, who the rows are, as weights read it and :class:`SupCon`.
        positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows of them
            where an anchor may have several; None: the row of the same number.
        temperatures: [M], one for each row of ``b``; None: the similarity's.
        generator: what candidates and transforms are drawn with; on any device.
        share: which of the anchors this rank computes, where several ranks contrast the same rows;
            None: all.
    """

    a: Tensor
    b: Tensor
    ids_a: Tensor
    ids_b: Tensor
    positives: Tensor | Ragged | None = None
    temperatures: Tensor | None = None
    generator: torch.Generator | None = None
    share: Share | None = None

    def check_paired(self) -> None:
        """Refuse views whose rows are not in pairs, or that have positives or temperatures of their
        own.
        """
        has_own = self.positives is not None or self.temperatures is not None
        if has_own or self.a.shape != self.b.shape:
            raise ValueError(
                f"b {list(self.b.shape)}: this objective needs rows in pairs; use 'info_nce'"
            )


@dataclass(frozen=True)
class Outcome:
    """A scalar loss, the number of anchors, and how many of them had no candidate (int64 scalar).

    With a share of the anchors it is of these; the mean over the ranks of the losses is that of all
    anchors.
    """

    loss: Tensor
    n_anchors: int
    left_out: Tensor

    @classmethod
    def of_all(cls, loss: Tensor, n_anchors: int) -> Outcome:
        """That of an objective which leaves no anchor out."""
        return cls(loss, n_anchors, torch.zeros((), dtype=torch.int64, device=loss.device))


class TransformConfig(Config):
    """Settings of a transform."""


class Transform(Component):
    """Base of all transforms. A subclass sets ``Config`` and fills :meth:`forward`."""

    Config: ClassVar[type[TransformConfig]] = TransformConfig

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        """The pairs of sides that are contrasted in the place of ``views.a`` [N, D] and ``views.b``
        [M, D], each with as many rows; the loss is the mean over them."""
        raise NotImplementedError


class Centre(Transform):
    """``a_i - mean(a)`` and ``b_j - mean(b)``: both sides get the same mean, 0.

    Sides that are encoded apart (users and items, two views of a graph) lie in cones of their own;
    the distance of their means is constant in all similarities of a side, and centring takes it
    out. Source: Fahim et al., "It's Not a Modality Gap: Characterizing and Addressing the
    Contrastive Gap", 2024, names the gap; centring as in Liang et al., "Mind the Gap", NeurIPS 2022
    (the sides are moved along the gap), here all of the way and within a batch.
    """

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        return [(views.a - views.a.mean(0), views.b - views.b.mean(0))]


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
            raise ConfigError(
                f"group_size = {size} must divide the width of the embeddings, {width}"
            )

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
        found: Tensor = (vectors / roots[:, None, :]) @ vectors.transpose(1, 2)
        return found.to(matrices.dtype)

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
