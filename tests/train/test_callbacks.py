"""What looks on while a model is trained: lines, a bar, log records, and trackers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import recgraph as rg
from recgraph.train import callbacks
from recgraph.train.callbacks import EpochLog, EpochText, ProgressBar, ProgressLines, duration, progress_observer


def row(epoch: int, value: float, best: float, seconds: float) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 1.5, "ndcg@10": value, "best": best, "seconds": seconds}


def test_the_line_of_an_epoch() -> None:
    text = EpochText("ndcg@10", 10, may_stop=True, history=[row(1, 0.3, 0.3, 1.0)])
    line = text.add(row(2, 0.1, 0.3, 4.0))
    assert line == "epoch 2/10: loss 1.5000, ndcg@10 0.1000, best 0.3000 (epoch 1), 4.0 s, at most 16 s left"
    assert [duration(value) for value in (0.24, 12.3, 360, 9000)] == ["0.2 s", "12 s", "6 min", "2.5 h"]


def test_lines_are_some_seconds_apart_and_the_last_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = ProgressLines(EpochText("ndcg@10", 20, True), every=5.0, clock=lambda: now[0])
    for epoch in range(1, 9):
        now[0] += 2
        lines.end_epoch(row(epoch, 0.1, 0.1, 2.0 * epoch))
    lines.close()
    told = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["epoch 1/20", "epoch 4/20", "epoch 7/20", "epoch 8/20"]


def test_a_record_for_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "recgraph"):
        EpochLog(EpochText("ndcg@10", 3, True)).end_epoch(row(1, 0.2, 0.2, 1.0))
    (record,) = caplog.records
    assert record.__dict__["row"]["ndcg@10"] == 0.2


@pytest.mark.parametrize(
    ("terminal", "notebook", "expected"),
    [
        (False, False, [None, ProgressLines, None]),
        (True, False, [ProgressBar, ProgressBar, None]),
        (False, True, [ProgressBar, ProgressBar, None]),
    ],
)
def test_what_is_shown_where(
    terminal: bool, notebook: bool, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(callbacks, "_in_notebook", lambda: notebook)
    for progress, kind in zip((None, True, False), expected, strict=True):
        shown = progress_observer(progress, "ndcg@10", 3, EpochText("ndcg@10", 3, True))
        assert (None if shown is None else type(shown)) == kind
        if isinstance(shown, ProgressBar):
            shown.start_epoch(0, 4, 0)
            shown.advance()
            shown.step({"rec": 1.0}, 100.0)
            shown.end_epoch(row(1, 0.2, 0.2, 1.0))
            shown.start_epoch(1, 4, 2)
            shown.close()


def fitted(tmp_path: Path, **settings: Any) -> None:
    rows = {"user": [u for u in range(8) for _ in range(4)], "item": [(u + i) % 6 for u in range(8) for i in range(4)]}
    import polars as pl

    log = rg.Interactions.from_frame(pl.DataFrame(rows), user="user", item="item")
    model = rg.models.BPRMF(hidden_dim=4)
    rg.fit(model, log, seed=0, out=tmp_path / "run", max_epochs=2, device="cpu", progress=False, **settings)


def test_tensorboard_has_the_rows_of_the_epochs(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fitted(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("rec")] == [1, 2]


def test_mlflow_has_settings_and_the_rows_of_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
