"""Folders of runs in ``earlier/``, which the library wrote before its modules were put in order, are read as they are.

A SASRec of 12 users with 6 items each, and a MEOW of a graph of 30 papers and 8 authors.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data.split import Split
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs.run import NodeRun, Run
from recgraph.serve.embedder import Embedder
from recgraph.serve.recommender import Recommender

TRAINING = {"max_epochs": 3, "batch_size": 8, "clip_norm": 1.0, "schedule": "cosine", "warmup_steps": 2}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).with_name("earlier"), tmp_path / "earlier"))


def split() -> Split:
    rows = [(f"u{user}", (user + step * step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    features = pl.DataFrame({"item": list(range(9)), "genre": [str(item % 3) for item in range(9)]})
    log = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time", item_features=features)
    return log.split("leave-one-out")


def test_a_run_that_recommends(earlier: Path) -> None:
    folder = earlier / "sasrec"
    before = json.loads((folder / "record.json").read_text())
    run = Run.open(folder, split())
    assert isinstance(run, Run)
    assert run.record.to_json() == before
    assert run.evaluate("test").to_dict() == before["results"]["test"]
    assert isinstance(rg.load(folder), Recommender)
    model = SASRec(hidden_dim=8, n_heads=1, n_layers=1)
    resumed = rg.fit(model, split(), seed=3, out=folder, device="cpu", resume=True, **TRAINING)  # type: ignore[arg-type]
    assert resumed.history == before["history"]
    assert run.recommend(users=["u3"], k=3).height == 3


def test_a_run_that_embeds_nodes(earlier: Path) -> None:
    folder = earlier / "meow"
    run = Run.open(folder)
    assert isinstance(run, NodeRun)
    assert run.record.to_json() == json.loads((folder / "record.json").read_text())
    kept = rg.load(folder)
    assert isinstance(kept, Embedder)
    assert torch.equal(kept.vectors, run.embedder.vectors)
    with torch.no_grad():
        torch.testing.assert_close(run.model.embed(), kept.vectors)  # type: ignore[operator]
