"""Charts of runs: what they show, that they stand alone, and what they read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.data.split import Split
from recgraph.evaluate.results import Result, by_group
from recgraph.runs import plots
from recgraph.runs.plots import KINDS, Plot

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(home))


@pytest.fixture(scope="module")
def split() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


@pytest.fixture(scope="module")
def run(split: Split) -> rg.Run:
    model = rg.models.MCLRec(hidden_dim=8, n_heads=1)
    return rg.fit(model, split, seed=0, max_epochs=4, batch_size=256, learning_rate=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_stands_alone(kind: str, run: rg.Run, tmp_path: Path) -> None:
    drawn = run.plot(kind)
    root = ElementTree.fromstring(drawn.save(tmp_path / "new" / "a.svg").read_text())
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}style") is not None
    page = drawn.save(tmp_path / "a.html").read_text()
    for text in (page, drawn._repr_html_()):
        assert "<svg" in text
        assert ".rg .axis" in text
    for text in (page, drawn._repr_html_(), (tmp_path / "new" / "a.svg").read_text()):
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "<script" not in text
        assert len(text) < 30_000
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
    with pytest.raises(ValueError, match=r"must end in \.svg or \.html"):
        drawn.save(tmp_path / "a.png")


def _points(drawn: Plot, figure: int, kind: str) -> list[tuple[float, float]]:
    found = re.search(rf'<polyline class="{kind}" points="([^"]*)"', drawn.figures[figure].svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in found[1].split())]


def test_curves_show_the_history_and_the_best_epoch(run: rg.Run) -> None:
    drawn = run.plot()
    loss, metric = drawn.figures
    assert (loss.title, metric.title) == ("Loss", "ndcg@10 on valid")
    assert [name for _, name in loss.key] == ["loss", "rec", "cl1", "cl2", "reg"]
    # heights on the chart are linear in the values
    values = [row["ndcg@10"] for row in run.history]
    points = _points(drawn, 1, "s1")
    assert len(points) == 4
    slope, offset = np.polyfit(values, [y for _, y in points], 1)
    assert np.allclose(np.array(values) * slope + offset, [y for _, y in points], atol=0.11)
    assert slope < 0
    best = re.search(r'<circle class="best" cx="([\d.]+)" cy="([\d.]+)"', metric.svg)
    assert best is not None
    assert (float(best[1]), float(best[2])) == points[run.record.best_epoch - 1]  # type: ignore[operator]
    assert metric.note == f"best: {max(values):.4f} at epoch {run.record.best_epoch}"
    assert [row["ndcg@10"] for row in drawn.rows] == values


def test_groups_are_those_of_the_evaluation(run: rg.Run, split: Split) -> None:
    drawn = run.plot("groups")
    overall = run.evaluate("valid", metrics=["ndcg"], cutoffs=(10,))["exclude"]["ndcg@10"]
    for title in {row["groups"] for row in drawn.rows}:
        rows = [row for row in drawn.rows if row["groups"] == title]
        assert sum(row["users"] for row in rows) == 600
        assert sum(row["users"] * row["ndcg@10"] for row in rows) / 600 == pytest.approx(overall)
    lengths = split.valid.history.lengths
    group = next(row for row in drawn.rows if row["group"] == "0-3")
    assert group["users"] == int((lengths <= 3).sum())
    assert f"{group['users']} users" in drawn.figures[0].svg


@pytest.mark.parametrize("kind", ["groups", "popularity"])
def test_a_metric_may_have_a_short_name(kind: str, run: rg.Run) -> None:
    for short, whole in (("NDCG@10", "ndcg@10"), ("popularity@5", "average_popularity@5")):
        drawn, named = run.plot(kind, metric=short), run.plot(kind, metric=whole)
        assert (drawn.title, drawn.rows) == (named.title, named.rows)
        assert whole in drawn.rows[0]


def test_a_group_without_a_value_has_no_bar(run: rg.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_tail(result: Result, labels: list[str]) -> pl.DataFrame:
        unknown = pl.when(pl.col("group") == "tail").then(None).otherwise(pl.col("ndcg@10"))
        return by_group(result, labels).with_columns(unknown.alias("ndcg@10"))

    monkeypatch.setattr(plots, "by_group", without_tail)
    drawn = run.plot("groups")
    assert [row["ndcg@10"] for row in drawn.rows if row["group"] == "tail"] == [None]
    assert "head (" in drawn.figures[1].svg
    assert "tail (" not in drawn.figures[1].svg


def test_popularity_bins_cover_all_users(run: rg.Run, split: Split) -> None:
    rows = run.plot("popularity", metric="recall@5").rows
    assert sum(row["users"] for row in rows) == 600
    assert len(rows) > 3
    places = [row["interactions"] for row in rows]
    assert places == sorted(places)
    counts = split.train.item_counts()[split.valid.truth.values].double()
    total = sum(row["interactions"] * row["users"] for row in rows)
    assert total / 600 == pytest.approx(counts.mean().item())
    users = run.evaluate("valid", metrics=["recall"], cutoffs=(5,))["exclude"]
    assert sum(row["recall@5"] * row["users"] for row in rows) / 600 == pytest.approx(users["recall@5"])


def test_only_the_test_part_unseals_and_no_result_is_replaced(split: Split) -> None:
    run = rg.fit(rg.models.Popularity(), split, seed=0)
    run.evaluate("valid")
    before = run.record.results
    run.plot("groups")
    assert run.record.unsealed == []
    run.plot("popularity", part="test")
    assert run.record.unsealed == ["plot popularity on test"]
    assert run.record.results == before


def test_what_cannot_be_drawn(split: Split, run: rg.Run) -> None:
    popular = rg.fit(rg.models.Popularity(), split, seed=0)
    with pytest.raises(ValueError, match="fitted in one step: it has no learning curve"):
        popular.plot()
    with pytest.raises(ValueError, match="kind = 'pie' must be one of 'curves', 'groups', 'popularity'"):
        run.plot("pie")
    with pytest.raises(ValueError, match="part = 'train' must be"):
        run.plot("groups", part="train")
    with pytest.raises(ValueError, match="'gini@10' is one value for all users: give one of each user"):
        run.plot("groups", metric="gini@10")
    last = rg.fit(rg.models.Popularity(), split, seed=0, fit_on="train+valid")
    with pytest.raises(ValueError, match=r"fitted on train\+valid, so that it knows"):
        last.plot("groups")


def test_a_training_of_one_epoch_and_one_by_loss(split: Split) -> None:
    model = rg.models.SASRec(hidden_dim=8, n_heads=1)
    (figure,) = rg.fit(model, split, seed=0, max_epochs=1, batch_size=256, metric="loss").plot().figures
    assert figure.note.startswith("best: ")
    assert 'class="best"' in figure.svg


def test_hostile_names_are_text(run: rg.Run, tmp_path: Path) -> None:
    record = run.record.model_copy(deep=True)
    record.data.dataset = "<script>alert(1)</script>"
    other = rg.Run(run.model, run.split, record)
    page = other.plot().save(tmp_path / "a.html").read_text()
    assert "<script" not in page


def test_the_command(run: rg.Run, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    small = ("-s", "hidden_dim=8", "-s", "n_heads=1", "-s", "max_epochs=2", "-s", "batch_size=256")
    done = CliRunner().invoke(app, ["train", "sasrec", "-d", "synthetic", "-o", str(folder), *small])
    assert done.exit_code == 0, done.output
    out = tmp_path / "curves.svg"
    done = CliRunner().invoke(app, ["plot", str(folder), "--out", str(out), "--numbers"])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == "epoch\tloss\tndcg@10"
    assert len(done.stdout.splitlines()) == 3
    assert out.read_text().startswith("<svg ")
    done = CliRunner().invoke(
        app, ["plot", str(folder), "-o", str(tmp_path / "g.html"), "-k", "groups", "-m", "recall@5"]
    )
    assert done.exit_code == 0, done.output
    assert "recall@5 on valid" in (tmp_path / "g.html").read_text()
    done = CliRunner().invoke(app, ["plot", str(folder), "--out", str(tmp_path / "a.png")])
    assert done.exit_code == 2
    assert "end its name in .svg or .html" in done.stderr


@pytest.mark.parametrize("options", [{"metric": "ndcg@5"}, {"part": "test"}])
def test_curves_take_no_part_and_no_metric(run: rg.Run, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="part and metric are for 'groups' and 'popularity'"):
        run.plot("curves", **options)
