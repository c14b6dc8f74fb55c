"""Charts as inline SVG: axes, points and lines; colours come from the page's style sheet.

Our own drawing, because a page with all its figures then has some 30 KiB, follows the reader's
light or dark scheme and fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recgraph.pages import for_html as escape

#: fraction of an axis that is left free at each end
_MARGIN = 0.05
#: a factor between the curves of two terms beyond which their axis is logarithmic
_FAR = 50


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
    """A numeric axis with its ends; ``log``: equal factors are equal distances; ``whole``: so are
    its ticks.
    """

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


class Box(NamedTuple):
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    def holds(self, other: Box) -> bool:
        across = self.left <= other.left and other.right <= self.right
        return across and self.top <= other.top and other.bottom <= self.bottom


#: the size of a chart, small, so that its text can be read on a phone, and the area of its points
_WIDTH, _HEIGHT, _AREA = 420, 270, Box(58, 12, 410, 226)
#: of a name beside a mark: width of a letter (of a wide font), height, gap to the mark, and the
#: most letters
_LETTER, _TALL, _GAP, _LONGEST = 6.8, 11.0, 4.0, 24
#: radius of a mark's circle by its first class
_RADII = {"best": 5.5, "front": 5.5}


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        x, y: values of the axes.
        kind: classes of the style sheet, such as ``complete`` or ``best``.
        text: the tooltip.
        name: beside the mark where there is room; earlier marks of a chart go first.
        spread: half the height of a whisker, in units of ``y``.
    """

    x: object
    y: float
    kind: str
    text: str
    name: str = ""
    spread: float = 0.0

    @property
    def radius(self) -> float:
        """Of the circle, in units of the drawing."""
        return _RADII.get(self.kind.split()[0], 3.5)

    def draw(self, x: float, y: float) -> str:
        """The mark as SVG, at a position of the drawing."""
        circle = f'<circle class="{self.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{self.radius}">'
        return f"{circle}<title>{escape(self.text)}</title></circle>"


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
    """

    title: str
    x: Scale
    y: Scale
    x_name: str = ""
    y_name: str = ""
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()

    def __str__(self) -> str:
        parts = self._frame()
        for line in self.lines:
            path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in line.points)
            hint = f"<title>{escape(line.text)}</title>" if line.text else ""
            parts.append(f'<polyline class="{line.kind}" points="{path}">{hint}</polyline>')
        spots = [(self._x(mark.x), self._y(mark.y)) for mark in self.marks]
        spreads = [
            abs(y - self._y(mark.y + mark.spread))
            for mark, (_, y) in zip(self.marks, spots, strict=True)
        ]
        for (x, y), spread in zip(spots, spreads, strict=True):
            if spread:
                parts.append(
                    f'<path class="whisker" d="M{x:.1f} {y - spread:.1f}v{2 * spread:.1f}"/>'
                )
        parts.extend(mark.draw(*spot) for mark, spot in zip(self.marks, spots, strict=True))
        parts.extend(self._names(spots, spreads))
        return _svg(self.title, _WIDTH, _HEIGHT, parts)

    def _names(self, spots: Sequence[tuple[float, float]], spreads: Sequence[float]) -> list[str]:
        """Names beside their marks, which cover no mark and no other name; one without room is left
        out.
        """
        drawn, room = [], Box(_AREA.left + 4, 0, _WIDTH, _AREA.bottom)
        reaches = [
            max(mark.radius, spread) for mark, spread in zip(self.marks, spreads, strict=True)
        ]
        taken = [
            Box(x - mark.radius, y - reach, x + mark.radius, y + reach)
            for mark, (x, y), reach in zip(self.marks, spots, reaches, strict=True)
        ]
        for mark, (x, y), reach in zip(self.marks, spots, reaches, strict=True):
            name = mark.name if len(mark.name) <= _LONGEST else f"{mark.name[: _LONGEST - 1]}…"
            width, beside = _LETTER * len(name), mark.radius + _GAP
            right, left = ("start", x + beside, 0.0), ("end", x - beside, -width)
            middle = ("middle", x, -width / 2)
            heights = [
                (right, 0.35),
                (left, 0.35),
                (middle, -(reach + _GAP) / _TALL),
                (middle, reach / _TALL + 1),
            ]
            heights += [(side, height) for height in (-0.5, 1.2) for side in (right, left)]
            for (anchor, at, shift), height in heights if name else ():
                low = y + height * _TALL
                box = Box(at + shift, low - _TALL * 0.8, at + shift + width, low + _TALL * 0.2)
                if room.holds(box) and not any(box.overlaps(other) for other in taken):
                    taken.append(box)
                    place = f'x="{at:.1f}" y="{low:.1f}" text-anchor="{anchor}"'
                    drawn.append(f'<text class="mark" {place}>{escape(name)}</text>')
                    break
        return drawn

    def _x(self, value: object) -> float:
        return _AREA.left + self.x.place(value) * (_AREA.right - _AREA.left)

    def _y(self, value: object) -> float:
        return _AREA.bottom - self.y.place(value) * (_AREA.bottom - _AREA.top)

    def _frame(self) -> list[str]:
        left, top, right, low = _AREA
        parts = []
        for place, text in self.y.ticks:
            y = low - place * (low - top)
            parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
            parts.append(
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            )
        for place, text in self.x.ticks:
            x = left + place * (right - left)
            parts.append(f'<path class="grid" d="M{x:.1f} {top}V{low}"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{low + 16}" text-anchor="middle">{escape(text)}</text>'
            )
        parts.append(f'<path class="axis" d="M{left} {top}V{low}H{right}"/>')
        at = f'x="{(left + right) / 2}" y="{_HEIGHT - 8}"'
        parts.append(f'<text class="name" {at} text-anchor="middle">{escape(self.x_name)}</text>')
        turned = f'transform="translate(13 {(low + top) / 2}) rotate(-90)"'
        parts.append(
            f'<text class="name" {turned} text-anchor="middle">{escape(self.y_name)}</text>'
        )
        return parts


@dataclass(frozen=True)
class Figure:
    """A chart with its heading.

    Attributes:
        note: says what cannot be seen.
        key: class of the style sheet -> what is drawn so.
    """

    title: str
    svg: str
    note: str = ""
    key: tuple[tuple[str, str], ...] = ()


def curve(
    title: str, history: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None
) -> Figure:
    """Lines of some columns of the history, by epoch, with a mark at the best one of the first."""
    series = {name: [(row["epoch"], row[name]) for row in history if name in row] for name in names}
    drawn = [value for points in series.values() for _, value in points]
    far = len(names) > 1 and min(drawn) > 0 and min(drawn) * _FAR < max(drawn)
    # a line of one point cannot be seen
    alone = [
        (number, points[0])
        for number, points in enumerate(series.values(), start=1)
        if len(points) == 1
    ]
    marks, note = (
        [Mark(*point, kind=f"s{number}", text=f"{point[1]:.4f}") for number, point in alone],
        "",
    )
    if found := [value for epoch, value in series[names[0]] if epoch == best]:
        note = f"best: {found[0]:.4f} at epoch {best}"
        marks.append(Mark(best, found[0], "best", f"epoch {best}: {found[0]:.4f}"))
    chart = Chart(
        title,
        Scale.of([row["epoch"] for row in history], whole=True),
        Scale.of(drawn, log=far),
        "epoch",
        title.split(" on ")[0].lower() if len(names) > 1 else names[0],
        marks,
        [
            Line(f"s{number}", points, name)
            for number, (name, points) in enumerate(series.items(), start=1)
        ],
    )
    key = (
        tuple((f"s{number}", name) for number, name in enumerate(names, start=1))
        if len(names) > 1
        else ()
    )
    return Figure(title, f"{chart}", note, key)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"
