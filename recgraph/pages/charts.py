"""Charts as inline SVG: axes, points and lines; colours come from the page's style sheet.

Our own drawing, because a page with all its figures then has some 30 KiB, follows the reader's
light or dark scheme and fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
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
        finite = list(filter(math.isfinite, values))
        low = min(finite, default=0.0)
        high = max(finite, default=1.0)
        if log and low > 0:
            low, high = _with_margin(math.log10(low), math.log10(high))
            return cls(10**low, 10**high, log=True)
        low, high = _with_margin(low, high)
        return cls(low, high, whole=whole)

    def place(self, value: Any) -> float:
        """The position of a value, 0 to 1."""
        if not self.log:
            return (float(value) - self.low) / (self.high - self.low)
        low = math.log10(self.low)
        return (math.log10(float(value)) - low) / (math.log10(self.high) - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Position and text of each tick."""
        values = self._log_ticks() if self.log else self._steps()
        return [(self.place(value), number(value)) for value in values]

    def _steps(self) -> list[float]:
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
        if self.whole:
            step = max(1, math.ceil(step))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]

    def _log_ticks(self) -> list[float]:
        low, high = math.log10(self.low), math.log10(self.high)
        factors = [1, 2, 5]
        if high - low > 1:
            factors = [1, 3]
        if high - low > 2:
            factors = [1]
        powers = range(math.floor(low), math.ceil(high) + 1)
        values = [factor * 10.0**power for power, factor in product(powers, factors)]
        return [value for value in values if self.low <= value <= self.high]


def _with_margin(low: float, high: float) -> tuple[float, float]:
    """Both ends further out; of one value alone the margin is a share of it."""
    room = (high - low or abs(high) or 10.0) * _MARGIN
    return low - room, high + room


class Box(NamedTuple):
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return min(width, height) > 0

    def holds(self, other: Box) -> bool:
        across = self.left <= other.left <= other.right <= self.right
        return across and self.top <= other.top <= other.bottom <= self.bottom


#: the size of a chart, small, so that its text can be read on a phone, and the area of its points
WIDTH, HEIGHT, _AREA = 420, 270, Box(58, 12, 410, 226)
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


class _Place(NamedTuple):
    """Where a mark is in the drawing; ``spread``: half the height of its whisker there."""

    mark: Mark
    x: float
    y: float
    spread: float

    @property
    def reach(self) -> float:
        """How far it goes up and down."""
        return max(self.mark.radius, self.spread)

    @property
    def box(self) -> Box:
        radius = self.mark.radius
        return Box(self.x - radius, self.y - self.reach, self.x + radius, self.y + self.reach)

    @property
    def name(self) -> str:
        """As it is drawn: a long one is cut."""
        name = self.mark.name
        if len(name) > _LONGEST:
            return f"{name[: _LONGEST - 1]}…"
        return name

    def name_places(self) -> list[tuple[str, float, float, Box]]:
        """Where the name may be, the best place first: its anchor, x and y, and what it covers."""
        width = _LETTER * len(self.name)
        aside = self.mark.radius + _GAP
        right = ("start", self.x + aside, 0.0)
        left = ("end", self.x - aside, -width)
        middle = ("middle", self.x, -width / 2)
        # y in heights of a line, from the mark on
        lines = [
            (right, 0.35),
            (left, 0.35),
            (middle, -(self.reach + _GAP) / _TALL),
            (middle, self.reach / _TALL + 1),
            (right, -0.5),
            (left, -0.5),
            (right, 1.2),
            (left, 1.2),
        ]
        places = []
        for (anchor, x, shift), height in lines:
            y = self.y + height * _TALL
            box = Box(x + shift, y - _TALL * 0.8, x + shift + width, y + _TALL * 0.2)
            places.append((anchor, x, y, box))
        return places


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
        places = [self._place(mark) for mark in self.marks]
        for place in places:
            if place.spread:
                start = f"M{place.x:.1f} {place.y - place.spread:.1f}"
                parts.append(f'<path class="whisker" d="{start}v{2 * place.spread:.1f}"/>')
        parts += [place.mark.draw(place.x, place.y) for place in places]
        parts += _names(places)
        return _svg(self.title, WIDTH, HEIGHT, parts)

    def _place(self, mark: Mark) -> _Place:
        y = self._y(mark.y)
        return _Place(mark, self._x(mark.x), y, abs(y - self._y(mark.y + mark.spread)))

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
        at = f'x="{(left + right) / 2}" y="{HEIGHT - 8}"'
        parts.append(f'<text class="name" {at} text-anchor="middle">{escape(self.x_name)}</text>')
        turned = f'transform="translate(13 {(low + top) / 2}) rotate(-90)"'
        parts.append(
            f'<text class="name" {turned} text-anchor="middle">{escape(self.y_name)}</text>'
        )
        return parts


def _names(places: Sequence[_Place]) -> list[str]:
    """Names beside their marks, which cover no mark and no other name; one without room is left
    out.
    """
    drawn = []
    room = Box(_AREA.left + 4, 0, WIDTH, _AREA.bottom)
    taken = [place.box for place in places]
    for place in filter(attrgetter("name"), places):
        for anchor, x, y, box in place.name_places():
            if room.holds(box) and not any(map(box.overlaps, taken)):
                taken.append(box)
                at = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
                drawn.append(f'<text class="mark" {at}>{escape(place.name)}</text>')
                break
    return drawn


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
    lines = []
    marks = []
    for place, name in enumerate(names, start=1):
        points = [(row["epoch"], row[name]) for row in history if name in row]
        lines.append(Line(f"s{place}", points, name))
        if len(points) == 1:  # a line of one point cannot be seen
            epoch, value = points[0]
            marks.append(Mark(epoch, value, f"s{place}", f"{value:.4f}"))
    note = ""
    by_epoch = dict(lines[0].points)
    if best in by_epoch:
        note = f"best: {by_epoch[best]:.4f} at epoch {best}"
        marks.append(Mark(best, by_epoch[best], "best", f"epoch {best}: {by_epoch[best]:.4f}"))
    values = [value for line in lines for _, value in line.points]
    label = names[0]
    key: tuple[tuple[str, str], ...] = ()
    is_far = False
    if len(names) > 1:
        label = title.split(" on ")[0].lower()
        key = tuple((line.kind, line.text) for line in lines)
        is_far = 0 < min(values) * _FAR < max(values)
    chart = Chart(
        title,
        x=Scale.of([row["epoch"] for row in history], whole=True),
        y=Scale.of(values, log=is_far),
        x_name="epoch",
        y_name=label,
        marks=marks,
        lines=lines,
    )
    return Figure(title, str(chart), note, key)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"
