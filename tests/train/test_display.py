"""What a training shows: the text of an epoch, lines in a pipe, the choice between a bar, lines and nothing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recgraph.train.display import (
    EpochLog,
    EpochText,
    NotebookBar,
    ProgressBar,
    ProgressLines,
    duration,
    in_notebook,
    progress_observer,
)


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def row(epoch: int, value: float | None, best: float | None, seconds: float) -> dict[str, float]:
    found = {"epoch": epoch, "loss": 5.0 - epoch, "seconds": seconds}
    return found | ({} if value is None else {"ndcg@10": value}) | ({} if best is None else {"best": best})


def test_the_text_of_an_epoch() -> None:
    text = EpochText("ndcg@10", 10, may_stop=True)
    assert text.add(row(1, 0.1, 0.1, 30.0)) == (
        "epoch 1/10: loss 4.0000, ndcg@10 0.1000, best 0.1000 (epoch 1), 30 s, at most 4 min left"
    )
    assert "best 0.1000 (epoch 1)" in text.add(row(2, 0.05, 0.1, 60.0))
    assert "ndcg@10" not in text.add(row(3, None, None, 90.0)), "an epoch without a validation"
    assert text.add(row(10, 0.2, 0.2, 300.0)).endswith("best 0.2000 (epoch 10), 5 min")
    assert "about 30 s left" in EpochText("loss", 2, may_stop=False).add({"epoch": 1, "loss": 1.0, "seconds": 30.0})


def test_a_resumed_training_knows_the_best_epoch_before() -> None:
    text = EpochText("ndcg@10", 10, True, history=[row(1, 0.3, 0.3, 1.0), row(2, 0.1, 0.3, 2.0)])
    assert "best 0.3000 (epoch 1)" in text.add(row(3, 0.2, 0.3, 3.0))


def test_durations() -> None:
    assert [duration(value) for value in (0.24, 12.3, 360, 9000)] == ["0.2 s", "12 s", "6 min", "2.5 h"]


def test_lines_are_rare_and_the_last_epoch_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    lines = ProgressLines(EpochText("ndcg@10", 20, True), 20, every=5.0, clock=clock)
    for epoch in range(1, 21):
        clock.now += 1.0
        lines.start_epoch(epoch - 1, 3, 0)
        lines.end_epoch(row(epoch, 0.1, 0.1, float(epoch)))
    lines.close()
    lines.close()
    out, told = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in told.splitlines()] == [f"epoch {n}/20" for n in (1, 6, 11, 16, 20)]
    assert told.isprintable() is False
    assert set(told) & {"\r", "\x1b"} == set()


def test_a_long_epoch_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    lines = ProgressLines(EpochText("ndcg@10", 2, True), 2, silence=60.0, clock=clock)
    lines.start_epoch(0, 1000, 0)
    for batch in range(1, 101):
        clock.now += 1.0
        lines.advance()
        if batch % 20 == 0:
            lines.step({"loss": 2.5}, 1234.0)
    assert capsys.readouterr().err.splitlines() == ["epoch 1/2: batch 60 of 1,000, loss 2.5000, 1,234 targets/s"]


def test_every_epoch_is_a_record(caplog: pytest.LogCaptureFixture) -> None:
    log = EpochLog(EpochText("ndcg@10", 3, True))
    with caplog.at_level(logging.INFO, logger="recgraph"):
        log.end_epoch(row(1, 0.1, 0.1, 1.0))
    (record,) = caplog.records
    assert record.name == "recgraph.train"
    assert record.getMessage().startswith("epoch 1/3: loss 4.0000, ndcg@10 0.1000")
    assert record.row["loss"] == 4.0  # type: ignore[attr-defined]


def test_what_shows_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(progress: bool | None) -> type | None:
        observer = progress_observer(progress, "ndcg@10", 3, True)
        if observer is not None:
            observer.close()
        return None if observer is None else type(observer)

    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert [shown(value) for value in (None, True, False)] == [None, ProgressLines, None]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert [shown(value) for value in (None, True, False)] == [ProgressBar, ProgressBar, None]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    kernel = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    made = SimpleNamespace(HTML=str, display=lambda *_, **__: SimpleNamespace(update=lambda _: None))
    monkeypatch.setitem(sys.modules, "IPython.display", made)
    assert in_notebook()
    assert [shown(value) for value in (None, True, False)] == [NotebookBar, NotebookBar, None]
    # a terminal's IPython has no kernel
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not in_notebook()


def test_a_real_notebook_has_a_bar_and_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path))
    code = (
        "import recgraph as rg\n"
        "split = rg.load_dataset('synthetic').split('leave-one-out')\n"
        "model = rg.models.SASRec(hidden_dim=8, n_heads=1)\n"
        "rg.fit(model, split, seed=0, max_epochs=2, batch_size=256)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert [output.output_type for output in outputs] == ["display_data", "execute_result"], outputs
    bar, block = (output.data["text/html"] for output in outputs)
    assert '<progress max="2" value="2.000">' in bar
    assert "epoch 2/2: loss" in bar
    assert "Run of sasrec" in block
    assert outputs[1].data["text/plain"].startswith("Run(sasrec on leave-one-out")
