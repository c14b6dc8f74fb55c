"""Charts as SVG, names that cover no mark, and objects in a notebook: escaped, small, without test data."""

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
from recgraph.pages.charts import MAP, Chart, Line, Mark, Scale, bars
from recgraph.pages.labels import Box, Spot, along, name_marks


def test_a_chart_writes_names_and_whiskers() -> None:
    marks = [Mark(1, 0.5, "complete", "a", name="<a>", spread=0.1), Mark(2, 0.7, "front", "b", name="b")]
    text = str(Chart("t", Scale.of([1, 2]), Scale.of([0.4, 0.8]), "x", "y", marks, [Line("so-far", [(1, 0.5)])]))
    assert "&lt;a&gt;</text>" in text
    assert text.count('class="whisker"') == 1


def test_a_map_has_no_axes() -> None:
    marks = [Mark(0.0, 0.0, "plain g0", "a"), Mark(1.0, 1.0, "marked", "b", label="1")]
    text = str(Chart("t", Scale(0, 1), Scale(0, 1), marks=marks, layout=MAP))
    assert text.startswith('<svg viewBox="0 0 640 460" role="img" aria-label="t"><circle class="plain g0" cx="14.0"')
    assert 'cx="626.0" cy="14.0" r="9.0"' in text
    assert "axis" not in text


def test_small_bars_say_what_they_are() -> None:
    text = bars("a metric", {"head": 0.34567, "mixed": 0.0961, "tail": 0.00412, "cold": 0.00042, "none": 0.0})
    assert re.findall(r'<text x="[\d.]+" y="\d+">([^<]*)</text>', text) == ["0.346", "0.096", "0.0041", "4.2e-4", "0"]


ROOM = Box(58, 0, 420, 226)
SPOTS = st.builds(
    Spot,
    x=st.floats(58, 420),
    y=st.floats(0, 226),
    radius=st.sampled_from([3.5, 5.5]),
    spread=st.floats(0, 30),
    name=st.text("abc", max_size=40),
)


def drawn(texts: list[str]) -> list[tuple[str, Box]]:
    """Each name with what it covers, measured anew from the SVG."""
    found = []
    for text in texts:
        match = re.fullmatch(r'<text class="mark" x="([\d.-]+)" y="([\d.-]+)" text-anchor="(\w+)">(.*)</text>', text)
        assert match is not None
        x, y, width = float(match[1]), float(match[2]), 6.8 * len(match[4])
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[match[3]] * width
        found.append((match[4], Box(left, y - 8, left + width, y + 1)))
    return found


@given(st.lists(SPOTS, max_size=12))
def test_names_cover_no_other_name_no_mark_and_stay_inside(spots: list[Spot]) -> None:
    names = drawn(name_marks(spots, ROOM))
    assert len(names) <= sum(bool(spot.name) for spot in spots)
    for (_, box), (_, other) in combinations(names, 2):
        assert not box.meets(other)
    for _, box in names:
        assert box.left > ROOM.left - 0.1
        assert box.right < ROOM.right + 0.1
        assert not any(box.meets(spot.box) for spot in spots)


def test_a_lone_name_is_there_and_the_first_one_goes_first() -> None:
    one, other = Spot(200, 100, 3.5, 0, "one"), Spot(200, 100, 3.5, 0, "other" * 3)
    assert drawn(name_marks([one, other], ROOM))[0][0] == "one"
    assert drawn(name_marks([one], ROOM))[0][1].left > 200


def test_a_long_name_is_cut_more_where_there_is_no_room() -> None:
    wide, narrow = Box(0, 0, 420, 40), Box(180, 0, 300, 40)
    spot = Spot(200, 20, 3.5, 0, "abcdefghijklmnopqrstuvwxyz")
    assert [len(name) for room in (wide, narrow) for name, _ in drawn(name_marks([spot], room))] == [24, 12]


def test_names_avoid_lines() -> None:
    spot = Spot(200, 100, 3.5, 0, "one")
    ((_, box),) = drawn(name_marks([spot], ROOM, along([(200, 100), (400, 100)])))
    assert box.right < 200 or box.bottom < 99 or box.top > 101
    everywhere = [Box(0, 0, 420, 270)]
    assert len(name_marks([spot], ROOM, everywhere)) == 1


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
    text = pages.block(HOSTILE, {HOSTILE: HOSTILE, "none": None}, [pages.table(rows, HOSTILE)], HOSTILE)
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
