"""Charts of runs: what they show, that they stand alone, and what they read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusing import refused

import recgraph as rg
from recgraph.data.split import Split


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        return rg.load_dataset("synthetic").split("leave-one-out")


@pytest.fixture(scope="module")
def run(split: Split) -> rg.Run:
    model = rg.models.MCLRec(hidden_dim=8, encoder={"n_heads": 1})
    return rg.fit(model, split, seed=0, max_epochs=4, batch_size=256, learning_rate=0.01)


@pytest.mark.parametrize("kind", ["curves", "groups"])
def test_a_file_stands_alone(kind: Any, run: rg.Run, tmp_path: Path) -> None:
    other = rg.Run(run.model, run.split, run.record.model_copy(deep=True))
    other.record.data.dataset = "<script>alert(1)</script>"
    drawn = other.plot(kind)
    svg = drawn.save(tmp_path / "new" / "a.svg").read_text()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    for text in (svg, drawn.save(tmp_path / "a.html").read_text(), drawn._repr_html_()):
        assert "<svg" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "<script" not in text
    with refused(".svg"):
        drawn.save(tmp_path / "a.png")


def test_curves_show_the_history_and_the_best_epoch(run: rg.Run) -> None:
    drawn = run.plot()
    loss, metric = drawn.figures
    assert (loss.title, metric.title) == ("Loss", "ndcg@10 on valid")
    assert [name for _, name in loss.key] == ["loss", "rec", "cl1", "cl2", "reg"]
    # heights on the chart are linear in the values
    values = [row["ndcg@10"] for row in run.history]
    found = re.search(r'<polyline class="s1" points="([^"]*)"', metric.svg)
    assert found is not None
    points = [tuple(map(float, point.split(","))) for point in found[1].split()]
    slope, offset = np.polyfit(values, [y for _, y in points], 1)
    assert np.allclose(np.array(values) * slope + offset, [y for _, y in points], atol=0.11)
    best = re.search(r'<circle class="best" cx="([\d.]+)" cy="([\d.]+)"', metric.svg)
    assert best is not None
    assert (float(best[1]), float(best[2])) == points[run.record.best_epoch - 1]  # type: ignore[operator]
    assert [row["ndcg@10"] for row in drawn.rows] == values


def test_groups_are_those_of_the_evaluation(run: rg.Run) -> None:
    drawn = run.plot("groups", metric="NDCG@10")
    overall = run.evaluate("valid", metrics=["ndcg"], cutoffs=(10,))["exclude"]["ndcg@10"]
    for title in {row["groups"] for row in drawn.rows}:
        rows = [row for row in drawn.rows if row["groups"] == title]
        assert sum(row["users"] * row["ndcg@10"] for row in rows) / 600 == pytest.approx(overall)


def test_only_the_test_part_unseals_and_no_result_is_replaced(split: Split) -> None:
    run = rg.fit(rg.models.Popularity(), split, seed=0)
    run.evaluate("valid")
    before = run.record.results
    run.plot("groups")
    assert run.record.unsealed == []
    run.plot("groups", part="test")
    assert run.record.unsealed == ["plot popularity on test"]
    assert run.record.results == before
    with refused("learning curve"):
        run.plot()
    last = rg.fit(rg.models.Popularity(), split, seed=0, fit_on="train+valid")
    with refused("'valid'"):
        last.plot("groups")
