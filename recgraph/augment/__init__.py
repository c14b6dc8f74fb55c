"""Views: random variations of a user's sequence, one file each; learned ones of its vector in ``latent``."""

from __future__ import annotations

from recgraph.augment.sequence import SequenceView, TwoViews, ViewConfig

__all__ = ["SequenceView", "TwoViews", "ViewConfig"]
