"""Charts as inline SVG: axes, points, lines and bars; colours come from the page's style sheet.

Our own drawing, because a page with all its figures then has some 30 KiB, follows the reader's light or dark scheme and
fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recgraph.pages import for_html as escape
from recgraph.pages.labels import Box, Spot, along, name_marks

#: fraction of an axis that is left free at each end
_MARGIN = 0.05


def number(value: float) -> str:
    """A value as short text."""
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
    """A numeric axis with its ends; ``log``: equal factors are equal distances; ``whole``: so are its ticks."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @classmethod
    def of(cls, values: Sequence[float], log: bool = False, whole: bool = False) -> Scale:
        """An axis that shows all finite values with a margin."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        log = log and min(finite) > 0
        low, high = min(finite), max(finite)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * _MARGIN or abs(high) * _MARGIN or 0.5
        low, high = low - room, high + room
        return cls(10**low, 10**high, True) if log else cls(low, high, whole=whole)

    def place(self, value: Any) -> float:
        """The position of a value, 0 to 1."""
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return (at - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Position and text of each tick."""
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
        text: the tooltip.
        label: one or two characters inside the mark, whose circle is then larger.
        name: beside the mark where there is room; earlier marks of a chart go first.
        spread: half the height of a whisker, in units of ``y``.
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
        """Of the circle, in units of the drawing."""
        return 9.0 if self.label else _RADII.get(self.kind.split()[0], 3.5)

    def draw(self, x: float, y: float) -> str:
        """The mark as SVG, at a position of the drawing."""
        circle = f'<circle class="{self.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{self.radius}">'
        at = f'x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle"'
        label = f'<text class="label" {at}>{escape(self.label)}</text>' if self.label else ""
        return f"{circle}<title>{escape(self.text)}</title></circle>{label}"


@dataclass(frozen=True)
class Line:
    """A line of a chart: its classes of the style sheet, x and y of its points, its tooltip."""

    kind: str
    points: Sequence[tuple[float, float]]
    text: str = ""


@dataclass
class Chart:
    """A chart of points and lines on two axes.

    Attributes:
        title: the text for screen readers.
        x, y, x_name, y_name: the axes and their names.
        marks: the points; later ones are drawn on top.
        lines: drawn under the points.
        layout: size and margins.
    """

    title: str
    x: Scale
    y: Scale
    x_name: str = ""
    y_name: str = ""
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    layout: Layout = AXES

    def __str__(self) -> str:
        area = self.layout.area
        parts = self._frame() if self.layout.axes else []
        drawn = [[(self._x(x), self._y(y)) for x, y in line.points] for line in self.lines]
        for line, points in zip(self.lines, drawn, strict=True):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            hint = f"<title>{escape(line.text)}</title>" if line.text else ""
            parts.append(f'<polyline class="{line.kind}" points="{path}">{hint}</polyline>')
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
        # a small share is not 0
        text = number(round(share, 3) if abs(share) >= 0.01 else float(f"{share:.2g}"))
        parts.append(f'<text x="{_NAME + length + 5:.1f}" y="{y + 16}">{text}</text>')
    return _svg(title, AXES.width, max(1, len(shares)) * _BAR + 4, parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"
