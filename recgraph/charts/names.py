"""Names beside the marks of a chart: each where it covers nothing, or not at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

__all__ = ["Box", "Spot", "along", "name_marks"]

#: of a name, in units of the drawing; the width of a letter is that of a wide font
_LETTER, _HEIGHT, _GAP = 6.8, 11.0, 4.0
#: the distance of boxes along a line
_STEP = 5.0
#: letters of a name that are shown, and where there is no room for so many
_MOST = (24, 12)


@dataclass(frozen=True)
class Box:
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two have a point in common."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether another one lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True)
class Spot:
    """A mark on the drawing: its place, its radius, half the height of its whisker, its name (may be empty)."""

    x: float
    y: float
    radius: float
    spread: float
    name: str

    @property
    def box(self) -> Box:
        """What must not be covered."""
        reach = max(self.radius, self.spread)
        return Box(self.x - self.radius, self.y - reach, self.x + self.radius, self.y + reach)


def along(points: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Boxes that cover a line."""
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(1, math.ceil(max(abs(to_x - x), abs(to_y - y)) / _STEP))
        for step in range(steps + 1):
            at_x, at_y = x + (to_x - x) * step / steps, y + (to_y - y) * step / steps
            yield Box(at_x - 1, at_y - 1, at_x + 1, at_y + 1)


def name_marks(spots: Sequence[Spot], room: Box, lines: Iterable[Box] = ()) -> list[str]:
    """The names as SVG. Those of earlier spots are placed first; a name for which there is no room is left out.

    Args:
        room: where names may be.
        lines: what they cover only where there is no other place.
    """
    taken, thin = [spot.box for spot in spots], list(lines)
    drawn = []
    for spot in spots:
        free = [place for place in _places(spot) if room.holds(place[-1]) and not _meets(place[-1], taken)]
        chosen = next((place for place in free if not _meets(place[-1], thin)), free[0] if free else None)
        if chosen is not None:
            name, x, y, anchor, box = chosen
            taken.append(box)
            drawn.append(f'<text class="mark" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(name)}</text>')
    return drawn


def _meets(box: Box, others: Iterable[Box]) -> bool:
    return any(box.meets(other) for other in others)


def _places(spot: Spot) -> Iterator[tuple[str, float, float, str, Box]]:
    """How a name may be written, the best first: the name or its beginning, x and y, its anchor, what it covers."""
    if not spot.name:
        return
    reach, beside, low = max(spot.radius, spot.spread), spot.radius + _GAP, _HEIGHT * 0.35
    for name in dict.fromkeys(_cut(spot.name, most) for most in _MOST):
        width = _LETTER * len(name)
        for x, y, anchor in (
            (spot.x + beside, spot.y + low, "start"),
            (spot.x - beside, spot.y + low, "end"),
            (spot.x, spot.y - reach - _GAP, "middle"),
            (spot.x, spot.y + reach + _HEIGHT, "middle"),
            (spot.x + beside, spot.y - _HEIGHT * 0.5, "start"),
            (spot.x + beside, spot.y + _HEIGHT * 1.2, "start"),
            (spot.x - beside, spot.y - _HEIGHT * 0.5, "end"),
            (spot.x - beside, spot.y + _HEIGHT * 1.2, "end"),
        ):
            left = x - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
            yield name, x, y, anchor, Box(left, y - _HEIGHT * 0.8, left + width, y + _HEIGHT * 0.2)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
