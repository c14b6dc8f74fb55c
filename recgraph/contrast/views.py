"""What the parts of a contrastive term are shown: the rows of both sides, who they are and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Config, Search
from recgraph.ranks import Share
from recgraph.sparse.ragged import Ragged
from recgraph.unit_length import unit_length

__all__ = ["About", "Outcome", "Pairs", "Similarity", "SlowSides", "Views"]


class Similarity(Config):
    """Dot product or cosine over a temperature. It shapes rows, never pairs, so that no N x M tensor is made."""

    similarity: Annotated[
        Literal["dot", "cosine"], Field(description="inner product of the embeddings, or of their directions")
    ] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="what similarities are divided by"), Search(low=0.05, high=5, log=True)
    ] = 1.0

    def shape(self, anchors: Tensor, candidates: Tensor, temperatures: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two sides whose inner products are the similarities.

        Args:
            anchors: [N, D].
            candidates: [M, D].
            temperatures: [M], a temperature for each candidate in place of the common one (the concentrations
                of MEOW's prototypes).

        Returns:
            [N, D] and [M, D].
        """
        if self.similarity == "cosine":
            same = anchors is candidates
            anchors = unit_length(anchors)
            candidates = anchors if same else unit_length(candidates)
        if temperatures is not None:
            return anchors, candidates / temperatures[:, None]
        return (anchors if self.temperature == 1 else anchors * (1 / self.temperature)), candidates

    def over_cosines(self, temperatures: Tensor | None = None) -> float | None:
        """The temperature where the similarities of :meth:`shape` are cosines over one; None: they are not."""
        return self.temperature if self.similarity == "cosine" and temperatures is None else None


@dataclass(frozen=True)
class About:
    """What is known of the ids of a contrast before training, for parts that read it in their ``setup``.

    Attributes:
        counts: [n_ids] float, interactions of each id in the training part.
        categories: [n_ids] int64, the category of each id, -1 where there is none; None: there are no categories.
    """

    counts: Tensor
    categories: Tensor | None = None


@dataclass(frozen=True)
class Pairs:
    """A block of anchors against all candidates. A weight is never told which candidate is the positive.

    Attributes:
        anchor_ids: [n] int64, who the anchors are (node, user or target), as the caller of the term says; by
            default an embedding's row number.
        candidate_ids: [M] int64.
        anchors: [n, D], embeddings as the caller gave them: before similarity and temperature.
        candidates: [M, D].
        anchor_labels, candidate_labels: [n] and [M] float, a rating or an ordered label of each row, NaN where it is
            not known; None: there are none.
        labels_beside: [n] float, of the further candidates of ``log_w_beside``.
        temperature: where the similarities are the cosines of these embeddings over it; None: they are others (inner
            products, of mixed candidates, with a temperature for each candidate).
        similarities: [n, M], where they are at hand, in memory that is overwritten afterwards: read them by
            :meth:`cosines`, which copies. Gradients flow into them.
    """

    anchor_ids: Tensor
    candidate_ids: Tensor
    anchors: Tensor
    candidates: Tensor
    anchor_labels: Tensor | None = None
    candidate_labels: Tensor | None = None
    temperature: float | None = None
    similarities: Tensor | None = None
    labels_beside: Tensor | None = None

    def cosines(self) -> Tensor:
        """[n, M], of each anchor with each candidate, from similarities where these are cosines over a temperature."""
        if self.temperature is not None and self.similarities is not None:
            return self.similarities * self.temperature
        return unit_length(self.anchors) @ unit_length(self.candidates).t()

    def same(self) -> Tensor:
        """[n, M], in the type of the embeddings: 1 where both have the same id, else 0.

        Numbers, since a pass over all pairs with a mask of bool takes about six times as long.
        """
        found = self.anchors.new_empty(len(self.anchor_ids), len(self.candidate_ids))
        return torch.eq(self.anchor_ids[:, None], self.candidate_ids, out=found)

    def block(self, rows: slice, anchors: Tensor, candidates: Tensor, similarities: Tensor | None = None) -> Pairs:
        """The pairs of some of the anchors, with these embeddings [n, D] and [M, D], and similarities [n, M]."""
        labels = None if self.anchor_labels is None else self.anchor_labels[rows]
        return replace(
            self,
            anchor_ids=self.anchor_ids[rows],
            anchors=anchors,
            candidates=candidates,
            anchor_labels=labels,
            similarities=similarities,
        )


class SlowSides(NamedTuple):
    """Both sides of a contrast as a slow copy of the model encodes them, as the loss compares them; without gradient.

    Attributes:
        a: [N, D]; None: the objective reads the other one alone.
        b: [M, D].
    """

    a: Tensor | None
    b: Tensor

    def to(self, dtype: torch.dtype) -> SlowSides:
        """The same in a type."""
        return SlowSides(None if self.a is None else self.a.to(dtype), self.b.to(dtype))


@dataclass(frozen=True)
class Views:
    """The two sides of a contrast.

    Attributes:
        a, b: [N, D] and [M, D].
        ids_a, ids_b: [N] and [M] int64, who the rows are; weights alone look at them.
        positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows of them where an anchor may
            have several; None: the row of the same number.
        temperatures: [M], one for each row of ``b``; None: the similarity's.
        generator: what candidates, mixtures and transforms are drawn with; on any device.
        share: which of the anchors this rank computes, where several ranks contrast the same rows; None: all.
        labels_a, labels_b: [N] and [M] float, see :class:`Pairs`.
        further: further views [N, D] of the rows, in pairs with both sides, for an objective of three or more views.
        epoch: from 0; None where it is not known.
        mixture: a :class:`recgraph.contrast.mixtures.Mixture`, which makes candidates from candidates; None: they are
            taken as they are.
        again: whether the rows were contrasted before in this step, by another phase or in another pair of views: what
            keeps rows keeps those of the last time.
        slow: what an objective that reads them (:attr:`recgraph.contrast.objectives.Objective.reads_slow`) compares the
            sides with; None: with one another.
    """

    a: Tensor
    b: Tensor
    ids_a: Tensor
    ids_b: Tensor
    positives: Tensor | Ragged | None = None
    temperatures: Tensor | None = None
    generator: torch.Generator | None = None
    share: Share | None = None
    labels_a: Tensor | None = None
    labels_b: Tensor | None = None
    further: tuple[Tensor, ...] = ()
    epoch: int | None = None
    mixture: nn.Module | None = None
    again: bool = False
    slow: SlowSides | None = None

    @property
    def turned(self) -> Views:
        """The same with the sides exchanged.

        Raises:
            ValueError: the rows are not in pairs, so that a row of ``b`` may have no positive.
        """
        if self.positives is not None or self.temperatures is not None or len(self.a) != len(self.b):
            raise ValueError(
                f"a {list(self.a.shape)} and b {list(self.b.shape)} are not in pairs (a queue, all nodes as "
                "candidates, several positives or prototypes), so that rows of b cannot be anchors; an objective that "
                "turns its views says needs_pairs = True, and is then refused before training"
            )
        turned = replace(self, a=self.b, b=self.a, ids_a=self.ids_b, ids_b=self.ids_a)
        return replace(turned, labels_a=self.labels_b, labels_b=self.labels_a)


@dataclass(frozen=True)
class Outcome:
    """A scalar loss, the number of anchors, and how many of them had no candidate (int64 scalar).

    With a share of the anchors it is of these; the mean over the ranks of the losses is that of all anchors.
    """

    loss: Tensor
    n_anchors: int
    left_out: Tensor

    @classmethod
    def of_all(cls, loss: Tensor, n_anchors: int) -> Outcome:
        """That of an objective which leaves no anchor out."""
        return cls(loss, n_anchors, torch.zeros((), dtype=torch.int64, device=loss.device))
