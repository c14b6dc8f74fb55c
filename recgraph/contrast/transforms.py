"""Transforms: what is done to both sides of a contrast before their similarity."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recgraph.config import Config
from recgraph.contrast.part import Part
from recgraph.contrast.views import Views

__all__ = ["Centre", "Transform", "TransformConfig"]


class TransformConfig(Config):
    """Settings of a transform."""


class Transform(Part):
    """Base of all transforms. A subclass sets ``Config`` and fills :meth:`forward`."""

    Config: ClassVar[type[TransformConfig]] = TransformConfig

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        """The pairs of sides that are contrasted in the place of ``views.a`` [N, D] and ``views.b`` [M, D].

        The loss is the mean over them; each has as many rows as before.
        """
        raise TypeError(f"{type(self).__name__} must define forward(views)")


class Centre(Transform):
    """``a_i - mean(a)`` and ``b_j - mean(b)``: both sides get the same mean, 0.

    Sides that are encoded apart (users and items, two views of a graph) lie in cones of their own; the distance of
    their means is constant in all similarities of a side, and centring takes it out. Source: Fahim et al., "It's Not a
    Modality Gap: Characterizing and Addressing the Contrastive Gap", 2024, names the gap; centring as in Liang et
    al., "Mind the Gap", NeurIPS 2022 (the sides are moved along the gap), here all of the way and within
    a batch.
    """

    def forward(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        return [(views.a - views.a.mean(0), views.b - views.b.mean(0))]
