"""Names beside the marks of a chart, placed so that they cover no other name and no mark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from recgraph.pages import for_html as escape

#: width of a letter (of a wide font), height of a line and gap to the mark, in units of the drawing
_LETTER, _HEIGHT, _GAP = 6.8, 11.0, 4.0
#: distance between boxes along a line
_STEP = 5.0
#: the most letters of a name; the second where there is no room for the first
_MOST = (24, 12)


class Box(NamedTuple):
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


@dataclass(frozen=True)
class Spot:
    """A mark on the drawing: its position, its radius, half the height of its whisker, its name (may be empty)."""

    x: float
    y: float
    radius: float
    spread: float
    name: str

    @property
    def box(self) -> Box:
        """The area that no name may cover."""
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
    """The names as SVG. Names of earlier spots are placed first; a name without room is left out.

    Args:
        room: the area of the names.
        lines: boxes that a name covers only where nothing else is free.
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
    """The positions of a name, the best first: the name or its beginning, x and y, its anchor, the box it covers."""
    if not spot.name:
        return
    reach, beside = max(spot.radius, spot.spread), spot.radius + _GAP
    sides = [(dx, dy * _HEIGHT) for dy in (0.35, -0.5, 1.2) for dx in (beside, -beside)]
    # beside the mark, above and below it, then at its corners
    offsets = [*sides[:2], (0.0, -reach - _GAP), (0.0, reach + _HEIGHT), *sides[2::2], *sides[3::2]]
    for name in dict.fromkeys(_cut(spot.name, most) for most in _MOST):
        width = _LETTER * len(name)
        for dx, dy in offsets:
            x, y = spot.x + dx, spot.y + dy
            anchor, left = ("start", x) if dx > 0 else ("end", x - width) if dx < 0 else ("middle", x - width / 2)
            yield name, x, y, anchor, Box(left, y - _HEIGHT * 0.8, left + width, y + _HEIGHT * 0.2)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
