"""Charts as SVG, names that cover no mark, and objects in a notebook: escaped, small, without test
data.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

import recgraph as rg
from recgraph import pages
from recgraph.data.split import without_test_data
from recgraph.graph.hetero import HeteroGraph
from recgraph.pages.charts import _AREA, WIDTH, Box, Chart, Line, Mark, Scale


def test_a_chart_writes_names_and_whiskers() -> None:
    marks = [
        Mark(1, 0.5, "complete", "a", name="<a>", spread=0.1),
        Mark(2, 0.7, "front", "b", name="b"),
    ]
    text = str(
        Chart(
            "t",
            Scale.of([1, 2]),
            Scale.of([0.4, 0.8]),
            "x",
            "y",
            marks,
            [Line("so-far", [(1, 0.5)])],
        )
    )
    assert "&lt;a&gt;</text>" in text
    assert text.count('class="whisker"') == 1


def named(marks: list[Mark]) -> list[tuple[str, Box]]:
    """Each name with what it covers, measured anew from the SVG; ``y`` counts from below, as in a
    chart.
    """
    x, y = Scale(_AREA.left, _AREA.right), Scale(_AREA.top, _AREA.bottom)
    text = str(Chart("t", x, y, marks=marks))
    found = []
    for at, low, anchor, name in re.findall(
        r'<text class="mark" x="(.*?)" y="(.*?)" text-anchor="(.*?)">(.*?)<', text
    ):
        width = 6.8 * len(name)
        left = float(at) - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
        found.append((name, Box(left, float(low) - 8, left + width, float(low) + 1)))
    return found


MARKS = st.builds(
    Mark,
    x=st.floats(58, 410),
    y=st.floats(12, 226),
    kind=st.sampled_from(["best", "plain"]),
    text=st.just(""),
    name=st.text("abc", max_size=40),
    spread=st.floats(0, 30),
)


@given(st.lists(MARKS, max_size=12))
def test_names_cover_no_other_name_no_mark_and_stay_inside(marks: list[Mark]) -> None:
    names = named(marks)
    assert len(names) <= sum(bool(mark.name) for mark in marks)
    for (_, box), (_, other) in combinations(names, 2):
        assert not box.overlaps(other)
    for _, box in names:
        assert _AREA.left < box.left < box.right < WIDTH + 0.1
        for mark in marks:
            reach = max(mark.radius, mark.spread) - 0.1
            y = _AREA.top + _AREA.bottom - mark.y
            own = Box(mark.x - mark.radius, y - reach, mark.x + mark.radius, y + reach)  # type: ignore[operator]
            assert not box.overlaps(own)


HOSTILE = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """The elements of a text, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag != "script"
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def html(value: Any) -> str:
    text: str = value._repr_html_()
    assert Tags(text).open == []
    assert len(text) < 20_000
    return text


def test_values_are_escaped_and_long_tables_are_cut() -> None:
    rows = [{HOSTILE: HOSTILE, "n": n} for n in range(1000)]
    text = pages.block(
        HOSTILE, {HOSTILE: HOSTILE, "none": None}, [pages.table(rows, HOSTILE)], HOSTILE
    )
    assert "<script" not in text
    assert "and 970 more" in text
    frame = pl.DataFrame({HOSTILE: ["a", "b"], "item": [HOSTILE, "y"]})
    assert "&lt;script&gt;" in html(rg.Interactions.from_frame(frame, user=HOSTILE, item="item"))


def test_objects_show_themselves_and_no_test_data() -> None:
    data = rg.load_dataset("synthetic")
    assert "<dt>users</dt><dd>600</dd>" in html(data)
    assert "<td>user</td><td>600</td>" in html(HeteroGraph.from_interactions(data))
    split = data.split("leave-one-out")
    run = rg.fit(rg.models.Popularity(), split.sealed(), seed=0)
    with without_test_data("objects are shown"):
        for value in (split, split.sealed(), run, run.recommender):
            html(value)
            repr(value)
    results = run.evaluate("valid")
    assert f"<td>{results['exclude']['ndcg@10']:.4f}</td>" in html(run)
    assert results["exclude"].hash in html(results)
