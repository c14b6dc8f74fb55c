"""What looks on while a model is trained: lines, a bar, log records, trackers; and the charts of a
run.
"""

from __future__ import annotations

import logging
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recgraph as rg
from recgraph.data.split import Split
from recgraph.train.config import TrainConfig
from recgraph.train.observers import EpochLines, ProgressBar


def row(epoch: int, value: float, best: float, seconds: float) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 1.5, "ndcg@10": value, "best": best, "seconds": seconds}


CONFIG = TrainConfig(max_epochs=10)


@pytest.mark.parametrize(("shows", "expected"), [(True, [1, 4, 7, 8]), (False, [])])
def test_each_epoch_is_logged_and_shown_lines_are_some_seconds_apart(
    shows: bool,
    expected: list[int],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    lines = EpochLines(CONFIG, shows=shows, every=5.0, clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "recgraph"):
        for epoch in range(1, 9):
            now[0] += 2
            lines.end_epoch(row(epoch, 0.1, 0.1, 2.0 * epoch))
        lines.close()
    shown = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert shown == [f"epoch {epoch}/10" for epoch in expected]
    assert [record.__dict__["row"]["epoch"] for record in caplog.records] == [*range(1, 9)]


@pytest.mark.parametrize("progress", [None, True, False])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_elsewhere(
    terminal: bool,
    progress: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("recgraph.train.fitting.shows_bar", lambda: terminal)
    bars = []
    monkeypatch.setattr(ProgressBar, "close", lambda bar: bars.append(bar._bar.stop()))
    fitted(tmp_path, progress=progress)
    assert len(bars) == (terminal and progress is not False)
    shown = capsys.readouterr().err
    assert (
        ("bprmf: 2 epochs" in shown)
        == ("epoch 2/2" in shown)
        == (not terminal and progress is not False)
    )


def test_a_fit_in_a_script_says_how_many_epochs_there_may_be_and_stops_early(
    split: Split, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = rg.fit("bprmf", split, seed=0, device="cpu", learning_rate=1e-9)
    config = run.record.training
    first, *_, last, end = capsys.readouterr().err.splitlines()
    assert {"bprmf:", f"{config['max_epochs']}", f"{config['patience']}", config["metric"]} <= {
        *first.split()
    }
    assert len(run.history) < config["max_epochs"] / 2
    assert f"epoch {len(run.history)}/{config['max_epochs']}" in last
    assert {config["metric"], f"{config['patience']}", f"{run.record.best_epoch},"} <= {
        *end.split()
    }
    with caplog.at_level(logging.INFO, "recgraph"):  # which tells the same
        rg.fit("bprmf", split, seed=0, device="cpu", max_epochs=1)
    assert not capsys.readouterr().err


def fitted(tmp_path: Path, **settings: Any) -> None:
    rows = {
        "user": [u for u in range(8) for _ in range(4)],
        "item": [(u + i) % 6 for u in range(8) for i in range(4)],
    }
    import polars as pl

    log = rg.Interactions.from_frame(pl.DataFrame(rows), user="user", item="item")
    model = rg.models.BPRMF(hidden_dim=4)
    rg.fit(
        model,
        log,
        seed=0,
        out=tmp_path / "run",
        max_epochs=2,
        device="cpu",
        **{"progress": False, **settings},
    )


def test_tensorboard_has_the_rows_of_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("rec")] == [1, 2]


def test_mlflow_has_settings_and_the_rows_of_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        fitted(tmp_path, track="mlflow")
        (run,) = mlflow.search_runs(experiment_names=["recgraph"], output_format="list")
        assert run.info.status == "FINISHED"
        assert run.data.params["config.hidden_dim"] == "4"
        history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "rec")
        assert [metric.step for metric in history] == [1, 2]
    finally:
        mlflow.set_tracking_uri(before)


def test_wandb_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    fitted(tmp_path, track="wandb")
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        return rg.load_dataset("synthetic").split("leave-one-out")


@pytest.fixture(scope="module")
def run(split: Split) -> rg.Run:
    model = rg.models.MCLRec(hidden_dim=8, encoder={"n_heads": 1})
    return rg.fit(model, split, seed=0, max_epochs=4, batch_size=256, learning_rate=0.01)


def test_a_file_stands_alone(run: rg.Run, tmp_path: Path) -> None:
    other = rg.Run(run.model, run.split, run.record.model_copy(deep=True))
    other.record.data.dataset = "<script>alert(1)</script>"
    drawn = other.plot()
    svg = drawn.save(tmp_path / "new" / "a.svg").read_text()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    for text in (svg, drawn.save(tmp_path / "a.html").read_text(), drawn._repr_html_()):
        assert "<svg" in text
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "<script" not in text


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
