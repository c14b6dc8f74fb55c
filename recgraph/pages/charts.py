"""Charts as inline SVG: axes, points with names, lines and bars; colours come from the page's style sheet.

Our own drawing, because a study of 40 trials with all its figures is a page of 30 KiB, follows the reader's light or
dark scheme and fits a phone. Optuna's plotly figures of the same study make 4.7 MiB (the plotly.js inside; 1.8 s to
import), ignore the scheme and need scripts; matplotlib's SVG has 19 KiB a figure (2.0 s to import), draws text as paths
and is white on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = [
    "Axis",
    "Box",
    "Chart",
    "Choices",
    "Figure",
    "Layout",
    "Line",
    "Mark",
    "Scale",
    "Spot",
    "along",
    "bars",
    "name_marks",
    "number",
]

#: part of an axis that is left free at each end
_MARGIN = 0.05


def number(value: float) -> str:
    """A value as short as it can be read."""
    if not math.isfinite(value):
        return f"{value}"
    if value == int(value) and abs(value) < 1e5:
        return f"{int(value)}"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


@dataclass(frozen=True)
class Scale:
    """A numeric axis.

    Attributes:
        low, high: its ends.
        log: whether equal factors are equal distances.
        whole: whether its ticks are whole numbers.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool = False, whole: bool = False) -> Scale:
        """An axis that shows all values, with some room around them."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        log = log and min(finite) > 0
        low, high = min(finite), max(finite)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * _MARGIN or abs(high) * _MARGIN or 0.5
        low, high = low - room, high + room
        return cls(10**low, 10**high, True) if log else cls(low, high, whole=whole)

    def place(self, value: Any) -> float:
        """Where a value lies, 0 to 1."""
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return (at - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each tick."""
        values = self._log_ticks() if self.log else self._steps()
        return [(self.place(value), number(value)) for value in values]

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        step = max(1, math.ceil(step)) if self.whole else step
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        factors = (1,) if high - low > 2 else (1, 3) if high - low > 1 else (1, 2, 5)
        powers = range(math.floor(low), math.ceil(high) + 1)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Choices:
    """An axis of choices, each at a place of its own."""

    values: tuple[Any, ...]

    def place(self, value: Any) -> float:
        """Where a choice lies, 0 to 1."""
        found = next(place for place, choice in enumerate(self.values) if repr(choice) == repr(value))
        return (found + 0.5) / len(self.values)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each choice; of many choices some have none."""
        every = math.ceil(len(self.values) / 8)
        shown = [(self.place(value), f"{value}") for value in self.values[::every]]
        return [(place, text if len(text) <= 12 else f"{text[:11]}…") for place, text in shown]


Axis = Scale | Choices


#: of a name, in units of the drawing; the width of a letter is that of a wide font
_LETTER, _HEIGHT, _GAP = 6.8, 11.0, 4.0
#: the distance of boxes along a line
_STEP = 5.0
#: letters of a name that are shown, and where there is no room for so many
_MOST = (24, 12)


class Box(NamedTuple):
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two have a point in common."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    def holds(self, other: Box) -> bool:
        """Whether another one lies inside."""
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


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


@dataclass(frozen=True)
class Layout:
    """The size of a drawing, the area of its points, and whether that has axes and a grid."""

    width: int
    height: int
    area: Box
    axes: bool = True


#: a chart is small, so that its text can be read on a phone; the coordinates of a map have no meaning of their own
AXES = Layout(420, 270, Box(58, 12, 410, 226))
MAP = Layout(640, 460, Box(14, 14, 626, 446), axes=False)
_BAR, _NAME = 24, 130
#: radius of a mark's circle by its first class
_RADII = {"best": 5.5, "front": 5.5, "ringed": 5.0, "plain": 3.0}


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        x, y: values of the axes.
        kind: classes of the style sheet, such as ``complete``, ``best`` or (on a map) ``ringed g0``.
        text: shown where the pointer rests.
        label: written into the mark, a character or two; its circle is larger then.
        name: written beside the mark where there is room; the first marks of a chart choose first.
        spread: of ``y`` to both sides, drawn as a whisker.
    """

    x: object
    y: float
    kind: str
    text: str
    label: str = ""
    name: str = ""
    spread: float = 0.0

    @property
    def radius(self) -> float:
        """Of its circle, in units of the drawing."""
        return 9.0 if self.label else _RADII.get(self.kind.split()[0], 3.5)

    def draw(self, x: float, y: float) -> str:
        """The mark at a place of the drawing."""
        circle = f'<circle class="{self.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{self.radius}">'
        at = f'x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle"'
        label = f'<text class="label" {at}>{escape(self.label)}</text>' if self.label else ""
        return f"{circle}<title>{escape(self.text)}</title></circle>{label}"


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        kind: classes of the style sheet.
        points: x and y of each.
        text: shown where the pointer rests.
    """

    kind: str
    points: Sequence[tuple[float, float]]
    text: str = ""


@dataclass
class Chart:
    """A chart of points and lines on two axes.

    Attributes:
        title: says what is shown, for those who cannot see it.
        x, y, x_name, y_name: the axes, and what they show.
        marks: the points; later ones lie on top.
        lines: the lines, which lie under the points.
        rug: places on the x axis where something is that has no y.
        layout: size and margins.
    """

    title: str
    x: Axis
    y: Axis
    x_name: str = ""
    y_name: str = ""
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    rug: Sequence[tuple[float, str]] = ()
    layout: Layout = AXES

    def __str__(self) -> str:
        area = self.layout.area
        parts = self._frame() if self.layout.axes else []
        drawn = [[(self._x(x), self._y(y)) for x, y in line.points] for line in self.lines]
        for line, points in zip(self.lines, drawn, strict=True):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            hint = f"<title>{escape(line.text)}</title>" if line.text else ""
            parts.append(f'<polyline class="{line.kind}" points="{path}">{hint}</polyline>')
        for at, text in self.rug:
            path = f'<path class="rug" d="M{self._x(at):.1f} {area.bottom}v-7">'
            parts.append(f"{path}<title>{escape(text)}</title></path>")
        spots = [self._spot(mark) for mark in self.marks]
        for spot in spots:
            if spot.spread:
                start = f"M{spot.x:.1f} {spot.y - spot.spread:.1f}"
                parts.append(f'<path class="whisker" d="{start}v{2 * spot.spread:.1f}"/>')
        parts.extend(mark.draw(spot.x, spot.y) for mark, spot in zip(self.marks, spots, strict=True))
        if any(spot.name for spot in spots):
            room = Box(area.left + 4, 0, self.layout.width, area.bottom)
            parts.extend(name_marks(spots, room, [box for points in drawn for box in along(points)]))
        return _svg(self.title, self.layout.width, self.layout.height, parts)

    def _spot(self, mark: Mark) -> Spot:
        y = self._y(mark.y)
        return Spot(self._x(mark.x), y, mark.radius, abs(y - self._y(mark.y + mark.spread)), mark.name)

    def _x(self, value: object) -> float:
        area = self.layout.area
        return area.left + self.x.place(value) * (area.right - area.left)

    def _y(self, value: object) -> float:
        area = self.layout.area
        return area.bottom - self.y.place(value) * (area.bottom - area.top)

    def _frame(self) -> list[str]:
        left, top, right, low = self.layout.area
        parts = []
        for place, text in self.y.ticks:
            y = low - place * (low - top)
            parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
        for place, text in self.x.ticks:
            x = left + place * (right - left)
            parts.append(f'<path class="grid" d="M{x:.1f} {top}V{low}"/>')
            parts.append(f'<text x="{x:.1f}" y="{low + 16}" text-anchor="middle">{escape(text)}</text>')
        parts.append(f'<path class="axis" d="M{left} {top}V{low}H{right}"/>')
        at = f'x="{(left + right) / 2}" y="{self.layout.height - 8}"'
        parts.append(f'<text class="name" {at} text-anchor="middle">{escape(self.x_name)}</text>')
        turned = f'transform="translate(13 {(low + top) / 2}) rotate(-90)"'
        parts.append(f'<text class="name" {turned} text-anchor="middle">{escape(self.y_name)}</text>')
        return parts


@dataclass(frozen=True)
class Figure:
    """A chart with its heading.

    Attributes:
        svg: empty where there is nothing to show.
        note: says what cannot be seen.
        key: class of the style sheet -> what is drawn so.
        group: the part of a page that it belongs to.
    """

    title: str
    svg: str
    note: str = ""
    key: tuple[tuple[str, str], ...] = ()
    group: str = ""


def bars(title: str, shares: Mapping[str, float]) -> str:
    """Horizontal bars of shares, 0 to 1, the longest over the whole width."""
    longest = max(shares.values(), default=0) or 1
    parts = []
    for row, (name, share) in enumerate(shares.items()):
        y, length = row * _BAR, share / longest * (AXES.width - _NAME - 52)
        parts.append(f'<text x="{_NAME - 6}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{_NAME}" y="{y + 4}" width="{length:.1f}" height="{_BAR - 8}" rx="2"/>')
        parts.append(f'<text x="{_NAME + length + 5:.1f}" y="{y + 16}">{number(round(share, 3))}</text>')
    return _svg(title, AXES.width, max(1, len(shares)) * _BAR + 4, parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"
