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
from recgraph.config import Config, Search
from recgraph.ranks import Share
from recgraph.sparse.blocks import unit_length
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
        ids_a, ids_b: [N] and [M] int64, who the rows are, as weights read it.
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
