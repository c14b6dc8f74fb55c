"""Charts as inline SVG; their colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from recgraph.charts.axes import Axis, number
from recgraph.charts.names import Box, Spot, along, name_marks

__all__ = ["Chart", "Line", "Mark", "bars"]

#: in units of the drawing: small, so that its text can be read on a phone
WIDTH, HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 12, 44
_BAR, _NAME = 24, 130


@dataclass(frozen=True)
class Mark:
    """A point of a chart.

    Attributes:
        x, y: values of the axes.
        kind: class of the style sheet: ``complete``, ``pruned``, ``front``, ``best``, ``default``.
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
        return 9.0 if self.label else 5.5 if self.kind in ("best", "front") else 3.5

    def draw(self, x: float, y: float) -> str:
        """The mark at a place of the drawing."""
        circle = f'<circle class="{self.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{self.radius}">'
        said = f"{circle}<title>{escape(self.text)}</title></circle>"
        if not self.label:
            return said
        return f'{said}<text class="label" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle">{escape(self.label)}</text>'


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
        x, y: the axes.
        x_name, y_name: what they show.
        marks: the points; later ones lie on top.
        lines: the lines, which lie under the points.
        rug: places on the x axis where something is that has no y.
    """

    title: str
    x: Axis
    y: Axis
    x_name: str
    y_name: str
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    rug: Sequence[tuple[float, str]] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [*self._frame()]
        drawn = [[(self._x(x), self._y(y)) for x, y in line.points] for line in self.lines]
        for line, points in zip(self.lines, drawn, strict=True):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            said = f"<title>{escape(line.text)}</title>" if line.text else ""
            parts.append(f'<polyline class="{line.kind}" points="{path}">{said}</polyline>')
        for at, text in self.rug:
            x, low = self._x(at), HEIGHT - _BOTTOM
            parts.append(f'<path class="rug" d="M{x:.1f} {low}v-7"><title>{escape(text)}</title></path>')
        spots = [self._spot(mark) for mark in self.marks]
        parts.extend(
            f'<path class="whisker" d="M{spot.x:.1f} {spot.y - spot.spread:.1f}v{2 * spot.spread:.1f}"/>'
            for spot in spots
            if spot.spread
        )
        parts.extend(mark.draw(spot.x, spot.y) for mark, spot in zip(self.marks, spots, strict=True))
        if any(spot.name for spot in spots):
            room = Box(_LEFT + 4, 0, WIDTH, HEIGHT - _BOTTOM)
            parts.extend(name_marks(spots, room, [box for points in drawn for box in along(points)]))
        return _svg(self.title, HEIGHT, parts)

    def _spot(self, mark: Mark) -> Spot:
        y = self._y(mark.y)
        return Spot(self._x(mark.x), y, mark.radius, abs(y - self._y(mark.y + mark.spread)), mark.name)

    def _x(self, value: object) -> float:
        return _LEFT + self.x.place(value) * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: object) -> float:
        return HEIGHT - _BOTTOM - self.y.place(value) * (HEIGHT - _TOP - _BOTTOM)

    def _frame(self) -> list[str]:
        low, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        parts = []
        for place, text in self.y.ticks:
            y = low - place * (low - _TOP)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
        for place, text in self.x.ticks:
            x = _LEFT + place * (right - _LEFT)
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{low}"/>')
            parts.append(f'<text x="{x:.1f}" y="{low + 16}" text-anchor="middle">{escape(text)}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{low}H{right}"/>')
        middle = (_LEFT + right) / 2
        parts.append(
            f'<text class="name" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_name)}</text>'
        )
        turned = f'transform="translate(13 {(low + _TOP) / 2}) rotate(-90)"'
        parts.append(f'<text class="name" {turned} text-anchor="middle">{escape(self.y_name)}</text>')
        return parts


def bars(title: str, shares: Mapping[str, float]) -> str:
    """Horizontal bars of shares, 0 to 1, the longest over the whole width."""
    longest = max(shares.values(), default=0) or 1
    parts = []
    for row, (name, share) in enumerate(shares.items()):
        y, length = row * _BAR, share / longest * (WIDTH - _NAME - 52)
        parts.append(f'<text x="{_NAME - 6}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="bar" x="{_NAME}" y="{y + 4}" width="{length:.1f}" height="{_BAR - 8}" rx="2"/>')
        parts.append(f'<text x="{_NAME + length + 5:.1f}" y="{y + 16}">{number(round(share, 3))}</text>')
    return _svg(title, max(1, len(shares)) * _BAR + 4, parts)


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
