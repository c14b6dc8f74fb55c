"""A user's session without a terminal: every step tells what it does, and what comes out can be looked at."""

from __future__ import annotations

import os
import re
from pathlib import Path

import forked
import pytest

SCRIPT = """
import logging, sys
import recgraph as rg
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s|%(message)s")
data = rg.load_dataset("synthetic")
split = data.split("leave-one-out")
model = rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1})
run = rg.fit(model, split, seed=0, max_epochs=2, batch_size=256, out="fitted")
results = run.evaluate("valid")
for value in (data, split, split.sealed(), run, results, rg.Recommender.load("fitted/bundle")):
    assert " object at 0x" not in repr(value), repr(value)
    assert value._repr_html_().startswith("<div"), value
for kind in ("curves", "groups"):
    run.plot(kind).save(f"{kind}.svg")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


def call(folder: Path, program: str, *arguments: str) -> tuple[str, str]:
    """What a command or a script writes to both streams, where there is no terminal."""
    with forked.module(
        program, *arguments, cwd=folder, env={**os.environ, "RECGRAPH_HOME": str(folder / "home")}
    ) as one:
        assert one.wait() == 0, one.error
        written = one.output, one.error
    for stream in written:
        assert not set(stream) & {"\r", "\x1b"}, "nothing is garbled"
    return written


@pytest.mark.slow
def test_the_session(folder: Path) -> None:
    train = ["recgraph.cli", "train", "sasrec", "--dataset", "synthetic"]
    small = [word for pair in ("hidden_dim=8", "encoder.n_heads=1", "max_epochs=2") for word in ("--set", pair)]
    # 1. a piped training says how far it is
    out, told = call(folder, *train, *small, "--out", "runs/a")
    assert out == ""
    assert re.search(r"^epoch 1/2: loss [\d.]+, ndcg@10 [\d.]+, best [\d.]+ \(epoch 1\), .* left$", told, re.MULTILINE)
    # 2. -v shows records, -q nothing, and the file has all of it
    _, told = call(folder, *train, *small, "--out", "runs/b", "-v")
    assert "] fit sasrec, seed 0, to train of synthetic: 600 users, 300 items" in told
    assert call(folder, *train, *small, "--out", "runs/c", "-q", "--log-file", "c.log") == ("", "")
    kept = (folder / "c.log").read_text()
    for part in ("DEBUG recgraph.train.trainer: checkpoint", "INFO recgraph.train: epoch 2/2", "run saved in runs/c"):
        assert part in kept
    # 3. from Python: records, reprs, blocks of a notebook and charts
    (folder / "script.py").write_text(SCRIPT)
    out, told = call(folder, str(folder / "script.py"))
    assert told == ""
    names = {line.split("|")[0] for line in out.splitlines()}
    assert {"recgraph.train.fitting", "recgraph.train", "recgraph.train.trainer", "recgraph.train.run"} <= names
    # 4. a chart from the command line
    call(folder, "recgraph.cli", "plot", "runs/a", "--out", "a.html", "-q")
    for name in ("curves.svg", "groups.svg", "a.html"):
        assert "<svg" in (folder / name).read_text()
