"""Runs that embed the nodes of a graph: fitted without labels, stopped and gone on with, opened
again, evaluated.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from refusing import refused
from small_settings import N_PAPERS, make_card

import recgraph
from recgraph.data import catalog
from recgraph.data.catalog import load_graph, load_node_task
from recgraph.data.split import SealedTestError
from recgraph.evaluate.nodes import ProbeConfig
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeTask
from recgraph.graph.spectral import coordinates
from recgraph.models.heterogeneous.base import Spectral
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.models.sequence.sasrec import SASRec
from recgraph.rng import Generators, derive
from recgraph.serve.bundle import Embedder
from recgraph.train.fit import fit_graph
from recgraph.train.observers import Observer, TrainingInterrupted
from recgraph.train.record import RunRecord
from recgraph.train.run import NodeRun, Run

QUICK = ProbeConfig(repeats=3, steps=30, learning_rate=0.1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[HeteroGraph, NodeTask]:
    card = make_card(tmp_path / "cards")
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECGRAPH_CARDS", str(card.parent))
    catalog.get("tiny", card.parent / "tiny")
    return load_graph("tiny"), load_node_task("tiny")


def fitted(graph: HeteroGraph, out: Path | None = None, **more: Any) -> NodeRun:
    model = MEOW(metapaths=("paper-author-paper",), hidden_dim=8, prototypes={"n_clusters": (3,)})
    return fit_graph(
        model, graph, **{"seed": 2, "out": out, "device": "cpu", "max_epochs": 5, **more}
    )


class At(Observer):
    """Does something when an epoch has ended."""

    def __init__(self, epoch: int, what: Any) -> None:
        self.epoch, self.what = epoch, what

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.epoch:
            self.what()


def test_a_run_is_evaluated_and_opened_again(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    graph, task = data
    run = fitted(graph, tmp_path / "run")
    assert run.record.best == min(row["loss"] for row in run.history)
    assert run.embeddings().height == N_PAPERS
    before = run.evaluate(task, probe=QUICK)
    assert before.linear["10"].mean()["macro_f1"] > 0.5
    with refused("task"):
        run.evaluate()
    with refused("'author'", "'paper'"):
        run.evaluate(NodeTask("author", task.labels, task.splits, task.paths))
    again = Run.open(tmp_path / "run")
    assert isinstance(again, NodeRun)
    assert again.embeddings().equals(run.embeddings())
    assert again.evaluate(task, probe=QUICK).to_dict() == before.to_dict()
    assert len(again.record.unsealed) == 2
    with torch.no_grad():
        assert torch.equal(again.model.embed(), run.embedder.vectors)  # type: ignore[operator]
    kept = recgraph.load(tmp_path / "run")
    assert isinstance(kept, Embedder)
    assert kept.embeddings().equals(run.embeddings())


def test_an_interrupted_run_goes_on_to_the_same_end(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    whole, out = fitted(data[0], tmp_path / "whole"), tmp_path / "run"
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(TrainingInterrupted):
        fitted(data[0], out, observers=(stop,))
    with refused("--resume"):
        Run.open(out)
    with refused("seed"):
        fitted(data[0], out, resume=True, seed=3)
    resumed = fitted(data[0], out, resume=True)
    assert torch.equal(resumed.embedder.vectors, whole.embedder.vectors)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]
    resumed.evaluate(data[1], probe=QUICK)
    again = fitted(data[0], out, resume=True)
    assert again.record == RunRecord.read(out)
    assert again.record.results


def test_no_labels_while_a_model_is_fitted(data: tuple[HeteroGraph, NodeTask]) -> None:
    with pytest.raises(SealedTestError):
        fitted(data[0], observers=(At(1, lambda: load_node_task("tiny")),))


def test_what_is_refused(data: tuple[HeteroGraph, NodeTask]) -> None:
    with refused("model", "NodeModel"):
        fit_graph(SASRec(), data[0], seed=0)  # type: ignore[arg-type]
    with refused("metapaths"):
        fit_graph(MEOW(), data[0], seed=0)
    with refused("metric"):
        fitted(data[0], metric="ndcg@10")
    with refused("max_epochs"):
        fit_graph(Spectral(metapaths=("paper-author-paper",)), data[0], seed=0, max_epochs=3)


def test_a_model_by_its_name(data: tuple[HeteroGraph, NodeTask]) -> None:
    settings: dict[str, Any] = {"metapaths": ("paper-author-paper",), "hidden_dim": 8}
    settings["prototypes"] = {"n_clusters": (3,)}
    named = fit_graph("meow", data[0], seed=2, device="cpu", max_epochs=5, **settings)
    assert torch.equal(named.embedder.vectors, fitted(data[0]).embedder.vectors)
    assert named.record.training["max_epochs"] == 5
    with refused("metapaths", "paper-author-paper"):
        fit_graph("meow", data[0], seed=2)
    with refused("sasrec", "rg.fit"):
        fit_graph("sasrec", data[0], seed=2)
    with refused("hidden_dims", "hidden_dim"):
        fit_graph("meow", data[0], seed=2, hidden_dims=8)


def test_spectral_rows_are_fitted_in_one_step_and_kept(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    model, whole = Spectral(metapaths=("paper-author-paper",), hidden_dim=5), tmp_path / "run"
    run = fit_graph(model, data[0], seed=3, out=whole)
    drawn = Generators(derive(3, "graph views")).fresh("rows")
    assert torch.equal(run.embedder.vectors, coordinates(data[0], 5, drawn)["paper"])
    assert run.history == []
    assert (
        0
        < float(Run.open(whole).evaluate(data[1], probe=QUICK).linear["10"].mean()["macro_f1"])
        <= 1
    )
    assert torch.equal(Run.open(whole).embedder.model.embed(), model.embed())
