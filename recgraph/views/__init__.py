"""Views: random variations of a user's sequence, one file each; learned ones of its vector in ``latent``."""

from recgraph.views._two_views import TwoViews
from recgraph.views.base import SequenceView, ViewConfig

__all__ = ["SequenceView", "TwoViews", "ViewConfig"]
