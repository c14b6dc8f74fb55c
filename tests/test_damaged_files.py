"""Every kind of file that the library writes is refused by its name when it is damaged, or of a newer version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.data import catalog
from recgraph.data import imprint as imprints
from recgraph.data.ids import IdMap
from recgraph.data.interactions import Interactions
from recgraph.data.split import SealedSplit
from recgraph.graph.hetero import HeteroGraph
from recgraph.leaderboard.store import Store
from recgraph.models.closed_form.neighbours import ItemKNN
from recgraph.runs.continuing import check_same_run
from recgraph.runs.record import RunRecord
from recgraph.serve.recommender import Recommender
from recgraph.train import checkpoint as checkpoints
from recgraph.tuning.finding import find_study

ROWS = [(f"u{user}", f"i{(user + step) % 7}", step) for user in range(6) for step in range(5)]
LOG = Interactions.from_frame(
    pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row"), user="user", item="item", timestamp="time"
)
RECORD = RunRecord.from_json(
    {"model": "ease", "config": {}, "training": {}, "seed": 0, "fitted_on": "train", "data": {"split_hash": "abc"}}
)
TENSORS = {"a": torch.arange(5.0)}


def bundle(folder: Path) -> None:
    split = LOG.split()
    rg.fit(ItemKNN(), split, seed=0).save(folder)


def checkpoint(folder: Path) -> None:
    checkpoints.save_tensors(TENSORS, folder / "best.safetensors")
    made = checkpoints.Checkpoint(TENSORS, TENSORS, {"s": torch.zeros(2, dtype=torch.uint8)}, {"epoch": 1})
    checkpoints.save(folder, made, 1, best=folder / "best.safetensors")
    (folder / "best.safetensors").unlink()


def study(folder: Path) -> None:
    imprints.replace_json({"study": "s", "model": "m"}, folder / "study.json")


def read_study(folder: Path) -> None:
    with find_study(str(folder)):
        pass


def prepared(folder: Path) -> None:
    catalog.get("synthetic")


#: kind of file -> write it into a folder, read it from there
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "log": (LOG.save, Interactions.load),
    "split": (lambda folder: LOG.split().save(folder), lambda folder: SealedSplit.load(folder).unseal("a test")),
    "graph": (lambda folder: HeteroGraph.from_interactions(LOG, LOG.split().train).save(folder), HeteroGraph.load),
    "id map": (
        lambda folder: LOG.users.write(folder / "ids.parquet"),
        lambda folder: IdMap.read(folder / "ids.parquet"),
    ),
    "checkpoint": (checkpoint, lambda folder: checkpoints.read(next(folder.glob("step-*")))),
    "weights": (
        lambda folder: checkpoints.save_tensors(TENSORS, folder / "best.safetensors"),
        lambda folder: checkpoints.load_tensors(folder / "best.safetensors"),
    ),
    "bundle": (bundle, Recommender.load),
    "record": (RECORD.write, RunRecord.read),
    "configuration": (
        lambda folder: imprints.replace_json(RECORD.to_json(), folder / "config.json"),
        lambda folder: check_same_run(folder, RECORD, {}),
    ),
    "study": (study, read_study),
    "board": (
        lambda folder: imprints.replace_json({"scores": {"keep": {"ndcg@10": 0.25}}}, folder / "ease-seed0.json"),
        lambda folder: Store(folder).read("ease-seed0.json"),
    ),
    "prepared data": (prepared, lambda folder: Interactions.load(catalog.get("synthetic").path)),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "kept"))
    return tmp_path / "kept"


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("change", ["flip", "cut"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_by_name(folder: Path, kind: str, change: str) -> None:
    write, read = KINDS[kind]
    write(folder)
    assert files(folder)
    for path in files(folder):
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.8):
            place = int(share * len(whole))
            flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            path.write_bytes(flipped if change == "flip" else whole[:place])
            with pytest.raises(ValueError, match=path.name.replace(".", r"\.")):
                read(folder)
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_newer_version_is_refused_by_name_with_the_way_out(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, read = KINDS[kind]
    with monkeypatch.context() as newer:
        newer.setattr(imprints, "FORMAT", imprints.FORMAT + 1)
        write(folder)
    names = "|".join(path.name.replace(".", r"\.") for path in files(folder))
    with pytest.raises(ValueError, match=rf"({names}): a newer recgraph wrote .* upgrade it"):
        read(folder)
