"""What objects look like in a notebook: escaped, well formed, small, and without test data."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import polars as pl

import recgraph as rg
from recgraph import pages
from recgraph.data.split import without_test_data
from recgraph.graph.hetero import HeteroGraph

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
