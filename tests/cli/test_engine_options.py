"""Commands with --engine ray print and write what they do without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import refused, works

SETTINGS = "--set max_epochs=1 --set batch_size=128 --quiet --seed 3"


@pytest.fixture(scope="module")
def runs(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small trained runs: of a model that reads sequences, of one that propagates, and of one that gives scores."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        works(f"train sasrec --dataset synthetic --out {folder}/sasrec --set hidden_dim=16 {SETTINGS}")
        works(f"train lightgcn --dataset synthetic --out {folder}/lightgcn --set hidden_dim=16 {SETTINGS}")
        works(f"train itemknn --dataset synthetic --out {folder}/itemknn --quiet")
    return {path.name: path for path in folder.iterdir()}


def evaluated(run: Path, users: Path, *more: str) -> list[dict[str, Any]]:
    done = works(f"evaluate {run} -m ndcg@10 -m coverage@10 -m auc --save-users {users} --format json", *more)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


@pytest.mark.parametrize("name", ["sasrec", "lightgcn", "itemknn"])
def test_evaluate_and_recommend(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs[name]
    assert evaluated(run, tmp_path / "there", "--engine", "ray") == evaluated(run, tmp_path / "here")
    files = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(files) == 2
    for file in files:
        assert pl.read_parquet(tmp_path / "there" / file).equals(pl.read_parquet(tmp_path / "here" / file))
    works(f"recommend {run} --all -k 5 --out {tmp_path}/here.parquet")
    works(f"recommend {run} --all -k 5 --out {tmp_path}/there.parquet --engine ray --engine-set workers=2")
    assert pl.read_parquet(tmp_path / "there.parquet").equals(pl.read_parquet(tmp_path / "here.parquet"))


def test_what_cannot_be_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["itemknn"]
    assert "engine = 'dask' must be 'local', 'ray' or" in refused(f"evaluate {run} --engine dask")
    assert "setting 'workers' is for engine 'ray'" in refused(f"evaluate {run} --engine-set workers=2")
    assert "give it with --all" in refused(f"recommend {run} --user 1 --engine ray")
