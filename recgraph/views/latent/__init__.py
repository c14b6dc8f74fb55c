"""Latent augmenters: learned views of a user's vector, one file each (kind ``augmenter``)."""

from recgraph.views.latent.base import Augmenter

__all__ = ["Augmenter"]
