"""Charts as SVG."""

from __future__ import annotations

import re

from recgraph.pages.charts import Chart, Line, Mark, Scale, bars


def test_a_chart_writes_names_and_whiskers() -> None:
    marks = [Mark(1, 0.5, "complete", "a", name="<a>", spread=0.1), Mark(2, 0.7, "front", "b", name="b")]
    text = str(Chart("t", Scale.of([1, 2]), Scale.of([0.4, 0.8]), "x", "y", marks, [Line("so-far", [(1, 0.5)])]))
    assert "&lt;a&gt;</text>" in text
    assert text.count('class="whisker"') == 1


def test_small_bars_say_what_they_are() -> None:
    text = bars("a metric", {"head": 0.34567, "mixed": 0.0961, "tail": 0.00412, "cold": 0.00042, "none": 0.0})
    assert re.findall(r'<text x="[\d.]+" y="\d+">([^<]*)</text>', text) == ["0.346", "0.096", "0.0041", "4.2e-4", "0"]
