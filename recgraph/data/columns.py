"""Which columns of a log mean what."""

from __future__ import annotations

from recgraph.config import Config

__all__ = ["Columns"]


class Columns(Config):
    """The user's own names of the columns of a log."""

    user: str
    item: str
    timestamp: str | None = None
    rating: str | None = None
    weight: str | None = None

    def named(self) -> list[str]:
        """The names that are given, each once."""
        names = (self.user, self.item, self.timestamp, self.rating, self.weight)
        return list(dict.fromkeys(name for name in names if name is not None))
