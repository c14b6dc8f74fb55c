"""The pictures and tables of growth: what they show, and that the page has what was measured."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from experiments.bench import growth, growth_plot, log_growth
from experiments.marked import marked


def lines_of(stage: str, exponent: float, peak_mb: float = 100.0) -> list[dict[str, object]]:
    return [
        {
            "bench": "growth",
            "stage": stage,
            "size": size,
            "unit": "interactions",
            "cpu_s": size**exponent / 1e6,
            "peak_mb": peak_mb * size / 1e6,
        }
        for size in (1_000_000, 10_000_000)
    ]


def test_a_picture_for_each_module() -> None:
    names = [stage.name for stage in log_growth.stages()]
    lines = [*lines_of(names[1], 1.0), *lines_of(names[0], 1.2), *lines_of("of no module", 1.0)]
    fitted = growth_plot.of_modules(lines)
    assert {module: [fit.stage for fit in fits] for module, fits in fitted.items()} == {"log": names[:2]}
    drawn = growth_plot.picture(fitted["log"])
    ET.fromstring(drawn)
    assert f"<title>{names[1]}: 1.00</title>" in drawn
    assert f"<title>{names[0]}: {10**0.2:.2f}</title>" in drawn
    assert drawn.count("Peak memory of a unit") >= 1


def test_memory_too_small_to_say_is_not_drawn() -> None:
    name = log_growth.stages()[0].name
    fitted = growth_plot.of_modules(lines_of(name, 1.0, peak_mb=0.1))
    assert "Peak memory" not in growth_plot.picture(fitted["log"])


def test_tables_go_between_the_markers() -> None:
    page = "before\n<!-- growth: begin -->\nold \\1\n<!-- growth: end -->\nafter\n"
    made = marked(page, "growth", "| new \\1 |")
    assert made == "before\n<!-- growth: begin -->\n\n| new \\1 |\n\n<!-- growth: end -->\nafter\n"
    assert marked(made, "growth", "| new \\1 |") == made
    with pytest.raises(ValueError, match="no markers"):
        marked("before", "growth", "new")


def test_the_page_has_what_was_measured() -> None:
    lines = growth.read(growth_plot.LINES)
    fitted = growth_plot.of_modules(lines)
    page = growth_plot.PAGE.read_text(encoding="utf-8")
    assert marked(page, "growth", growth_plot.sections(fitted)) == page
    shown = re.findall(r"pictures/(scale-\w+)\.svg", page)
    assert shown == [f"scale-{name}" for name in fitted]
    for name, fits in fitted.items():
        picture = growth_plot.PICTURES / f"scale-{name}.svg"
        assert picture.read_text(encoding="utf-8") == f"{growth_plot.picture(fits)}\n"


def test_no_line_of_what_was_measured_is_there_twice() -> None:
    keys = [growth.key(line) for line in growth.read(growth_plot.LINES)]
    assert len(keys) == len(set(keys))
