"""Augmentations: random changes of sequences and graphs, and learned ones of encoded sequences (``latent``)."""

from __future__ import annotations

from recgraph.augment.sequence import AugmentationConfig, SequenceAugmentation, TwoViews

__all__ = ["AugmentationConfig", "SequenceAugmentation", "TwoViews"]
