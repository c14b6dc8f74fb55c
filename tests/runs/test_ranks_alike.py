"""Processes that train together fit the same, or are told what differs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from launched import on_ranks

import recgraph as rg
from recgraph.data.split import Split
from recgraph.engine import Local
from recgraph.evaluate import evaluate
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import BPRMF
from recgraph.models.heterogeneous.heco import HeCo
from recgraph.models.sequence.contrastive import CL4SRec
from recgraph.models.two_stage.model import TwoStage
from recgraph.ranks import Ranks, is_first, is_told
from recgraph.runs.run import Run
from recgraph.serve.embedder import Embedder
from recgraph.serve.recommender import Recommender
from recgraph.workers.engines import Ray

N_USERS, N_ITEMS = 40, 21
SPACE = Space(n_users=N_USERS, n_items=N_ITEMS)
SMALL: dict[str, Any] = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "max_len": 5, "loss": "bpr", "n_negatives": 2}
TRAINING: dict[str, Any] = {"max_epochs": 1, "batch_size": 16, "device": "cpu", "progress": False}


def split(shift: int = 0) -> Split:
    """All splits have as many users, items and interactions."""
    rows = [(user, (user * (step + 1) + shift * step) % N_ITEMS, step) for user in range(N_USERS) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


def fitted(data: Split, out: Path | None = None, seed: int = 0, **settings: Any) -> Run:
    return rg.fit(BPRMF(hidden_dim=8, **settings), data, seed=seed, out=out, **TRAINING)


def with_features(folder: Path, step: int) -> Run:
    """Fitted to a log of files, whose features are this rank's own."""
    log, items = folder / f"log-{step}.csv", folder / f"items-{step}.csv"
    split().interactions.log.rename({"time": "timestamp"}).select("user", "item", "timestamp").write_csv(log)
    pl.DataFrame([{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_ITEMS)]).write_csv(items)
    data = rg.load_data(log, item_features=items).split("leave-one-out")
    return rg.fit(CL4SRec(**SMALL, item_features=("kind",)), data, seed=0, **TRAINING)


def refused(made: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=r"\w") as refusal:
        made()
    return str(refusal.value)


def graph() -> HeteroGraph:
    pairs = {("paper", "by", "author"): (torch.arange(40) % 20, torch.arange(40) % 7)}
    return HeteroGraph.from_edge_lists({"paper": 20, "author": 7}, pairs, features={"paper": torch.eye(20)})


def kept(folder: Path) -> dict[str, Any]:
    """What is on disk when a run is there, by how it was made: names, or the error of what the first cannot write."""
    write, write_nodes = Recommender.save, Embedder.save

    def late(save: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
        def written(made: Any, to: Path) -> None:
            time.sleep(0.3)
            save(made, to)

        return written

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    new = pl.DataFrame({"user": range(N_USERS), "item": [1] * N_USERS, "time": [99] * N_USERS})
    settings = {"max_epochs": 1, "device": "cpu", "progress": False}
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recommender, "save", late(write))
        patch.setattr(Embedder, "save", late(write_nodes))
        run = rg.fit(EASE(), split(), seed=0, out=folder / "fit", device="cpu")
        found["fit"] = sorted(path.name for path in (folder / "fit").iterdir())
        run.update(new, out=folder / "update", valid=0, force=True, device="cpu", progress=False)
        found["update"] = sorted(path.name for path in (folder / "update").iterdir())
        model = HeCo(metapaths=("paper-author-paper",), hidden_dim=4)
        rg.fit_graph(model, graph(), seed=0, out=folder / "graph", **settings)
        found["graph"] = sorted(path.name for path in (folder / "graph").iterdir())
        if is_first():
            run.save(folder / "bundle")  # which the others need not call
        patch.setattr(Recommender, "save", full)
        for name, act in {
            "full fit": lambda: rg.fit(EASE(), split(), seed=0, out=folder / "full", device="cpu"),
            "full update": lambda: run.update(new, out=folder / "later", valid=0, force=True, progress=False),
        }.items():
            with pytest.raises(OSError, match=r"\w") as raised:
                act()
            found[name] = str(raised.value), is_told(raised.value)
    return found


def asked(folder: Path) -> dict[str, Any]:
    """What this rank is told, by what was tried; a hang would end the test."""
    torch.set_num_threads(1)
    rank, data = Ranks.here().index, split()
    told = {
        "seed": refused(lambda: fitted(data, seed=rank)),
        "setting": refused(lambda: fitted(data, l2=0.1 * (rank + 1))),
        "data": refused(lambda: fitted(split(rank))),
        "features": refused(lambda: with_features(folder, rank + 1)),
        "folder": refused(lambda: fitted(data, None if rank else folder / "first")),
        "two stages": refused(lambda: rg.fit(TwoStage(models=("popularity",)), data, seed=0, device="cpu")),
        "tune": refused(lambda: rg.tune("bprmf", data, n_trials=1, out=folder / "study")),
    }
    # a tracker is the first one's own, and a failed fit leaves the connection as it was
    run = rg.fit(BPRMF(hidden_dim=8), data, seed=0, checkpoint_seconds=float(rank), **TRAINING)
    told["model"] = refused(lambda: evaluate(BPRMF(hidden_dim=8).build(SPACE, seed=rank).eval(), data.sealed().valid))
    told["scores"] = refused(lambda: evaluate(EASE(l2=10.0 + rank).build(SPACE).fit(data.train), data.sealed().valid))
    told["part"] = refused(lambda: run.evaluate("test" if rank else "valid"))
    told["engine"] = refused(lambda: run.evaluate("valid", engine=Ray()))
    return {
        "told": told,
        "kept": kept(folder),
        "n_ranks": run.record.n_ranks,
        "local": run.evaluate("valid", engine=Local())[0].metrics == run.evaluate("valid")[0].metrics,
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return on_ranks(2, asked, tmp_path_factory.mktemp("alike"))


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ("seed", "rank 1 differs from rank 0 in seed (seed = 1, not 0): processes that train together must"),
        ("setting", "rank 1 differs from rank 0 in l2 (l2 = 0.2, not 0.1)"),
        ("data", "rank 1 differs from rank 0 in data (data = "),
        ("features", "rank 1 differs from rank 0 in file of item_features (file of item_features = "),
        ("folder", "rank 1 differs from rank 0 in out (out = 'none', not 'a folder')"),
        (
            "two stages",
            "TwoStage is fitted by one process, and a launcher has started 2: give the same command",
        ),
        ("tune", "tune runs in one process, and a launcher has started 2 (WORLD_SIZE): start it without a launcher"),
        ("model", "rank 1 evaluates another model than rank 0: processes of one launcher rank for one evaluation"),
        ("scores", "rank 1 evaluates another model than rank 0"),
        ("part", "rank 1 evaluates other users or protocols than rank 0"),
        ("engine", "engine = Ray('auto', "),
        ("engine", "2 processes of a launcher divide the users already, and each would have the engine rank for all"),
    ],
)
def test_all_are_told_the_same(tried: str, message: str, two: list[dict[str, Any]]) -> None:
    assert message in two[0]["told"][tried]
    assert two[0]["told"][tried] == two[1]["told"][tried]


def test_what_is_the_same_is_fitted(two: list[dict[str, Any]]) -> None:
    assert [rank["n_ranks"] for rank in two] == [2, 2]
    assert all(rank["local"] for rank in two)


def test_a_run_is_on_disk_on_every_rank_when_it_is_made(two: list[dict[str, Any]]) -> None:
    for rank in two:
        for name in ("fit", "update", "graph"):
            assert {"bundle", "record.json"} <= {*rank["kept"][name]}, name


@pytest.mark.parametrize("what", ["full fit", "full update"])
def test_what_the_first_cannot_write_all_are_told(what: str, two: list[dict[str, Any]]) -> None:
    assert [rank["kept"][what] for rank in two] == [("[Errno 28] No space left on device", True)] * 2
