"""Runs that embed the nodes of a graph: fitted without labels, stopped and gone on with, opened again, evaluated."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from node_data import N_PAPERS, make_card

import recgraph
from recgraph.data import catalog
from recgraph.data.catalog import load_graph, load_node_task
from recgraph.data.sealing import SealedTestError
from recgraph.evaluate.node_probe import ProbeConfig, linear_probe
from recgraph.evaluate.node_results import evaluate_nodes
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeTask
from recgraph.models.heterogeneous.heco import HeCo
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs.fit import fit_graph
from recgraph.runs.record import RunRecord
from recgraph.runs.run import NodeRun, Run
from recgraph.serve.embedder import Embedder
from recgraph.train.callbacks import Observer, TrainingInterrupted
from recgraph.workers.lock import FolderInUse

QUICK = ProbeConfig(repeats=3, steps=30, learning_rate=0.1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[HeteroGraph, NodeTask]:
    card = make_card(tmp_path / "cards")
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RECGRAPH_CARDS", str(card.parent))
    catalog.get("tiny", card.parent / "tiny")
    return load_graph("tiny"), load_node_task("tiny")


def meow() -> MEOW:
    return MEOW(metapaths=("paper-author-paper",), hidden_dim=8, n_clusters=(3,))


def fitted(graph: HeteroGraph, out: Path | None = None, **more: Any) -> NodeRun:
    return fit_graph(meow(), graph, **{"seed": 2, "out": out, "device": "cpu", "max_epochs": 5, **more})


class At(Observer):
    """Does something when an epoch has ended."""

    def __init__(self, epoch: int, what: Any) -> None:
        self.epoch, self.what = epoch, what

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == self.epoch:
            self.what()


def test_a_finished_run_with_more_epochs_is_one_that_had_them_at_once(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    graph, _ = data
    fitted(graph, tmp_path / "run", max_epochs=2)
    more = fitted(graph, tmp_path / "run", max_epochs=5, resume=True)
    whole = fitted(graph)
    assert torch.equal(more.embedder.vectors, whole.embedder.vectors)
    assert (len(more.history), more.record.best) == (5, whole.record.best)
    assert torch.equal(NodeRun.open(tmp_path / "run").embedder.vectors, whole.embedder.vectors)


def test_a_run_in_memory(data: tuple[HeteroGraph, NodeTask]) -> None:
    graph, task = data
    run = fitted(graph)
    assert len(run.history) == 5
    assert run.record.best == min(row["loss"] for row in run.history)
    assert run.embeddings().height == N_PAPERS
    assert run.record.preparation is not None
    assert run.record.preparation.cpu_seconds > 0
    results = run.evaluate(task, probe=QUICK)
    assert results.linear["10"].mean()["macro_f1"] > 0.5
    assert run.record.results["nodes"]["clusters"] == results.clusters
    with pytest.raises(ValueError, match="without classes"):
        run.evaluate()
    other = NodeTask("author", task.labels, task.splits, task.paths)
    with pytest.raises(ValueError, match=r"classifies 60 'author' nodes, but the run embeds 60 'paper'"):
        run.evaluate(other)


def test_a_run_is_opened_again(data: tuple[HeteroGraph, NodeTask], tmp_path: Path) -> None:
    graph, task = data
    run = fitted(graph, tmp_path / "run")
    before = run.evaluate(task, probe=QUICK)
    again = Run.open(tmp_path / "run")
    assert isinstance(again, NodeRun)
    assert again.embeddings().equals(run.embeddings())
    assert again.history == run.history
    assert again.evaluate(task, probe=QUICK).to_dict() == before.to_dict()
    assert len(again.record.unsealed) == 2
    model = again.model
    with torch.no_grad():
        assert torch.equal(model.embed(), run.embedder.vectors)  # type: ignore[operator]
    run.save(tmp_path / "mine")
    for folder in (tmp_path / "mine", tmp_path / "run"):
        kept = recgraph.load(folder)
        assert isinstance(kept, Embedder)
        assert kept.embeddings().equals(run.embeddings())


def test_the_last_epochs_weights_are_not_kept_but_the_best(data: tuple[HeteroGraph, NodeTask]) -> None:
    run = fitted(data[0], learning_rate=10.0, patience=None)
    assert run.record.best_epoch is not None
    assert run.record.best_epoch < 5
    short = fitted(data[0], learning_rate=10.0, patience=None, max_epochs=run.record.best_epoch)
    assert torch.equal(run.embedder.vectors, short.embedder.vectors)


def test_an_interrupted_run_goes_on_to_the_same_end(data: tuple[HeteroGraph, NodeTask], tmp_path: Path) -> None:
    whole, out = fitted(data[0], tmp_path / "whole"), tmp_path / "run"
    stop = At(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(TrainingInterrupted, match="--resume"):
        fitted(data[0], out, observers=(stop,))
    assert not (out / "record.json").exists()
    with pytest.raises(ValueError, match="not a finished run; go on with --resume"):
        Run.open(out)
    with pytest.raises(ValueError, match="holds a run already"):
        fitted(data[0], out)
    with pytest.raises(ValueError, match="another seed"):
        fitted(data[0], out, resume=True, seed=3)
    resumed = fitted(data[0], out, resume=True)
    assert torch.equal(resumed.embedder.vectors, whole.embedder.vectors)
    assert [row["loss"] for row in resumed.history] == [row["loss"] for row in whole.history]


def test_a_finished_run_that_is_resumed_is_given_back_as_it_is(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    run = fitted(data[0], tmp_path / "run")
    run.evaluate(data[1], probe=QUICK)
    again = fitted(data[0], tmp_path / "run", resume=True)
    assert again.record == run.record == RunRecord.read(tmp_path / "run")
    assert again.record.results
    assert again.embeddings().equals(run.embeddings())


def test_a_fit_is_refused_while_another_trains_into_its_folder(
    data: tuple[HeteroGraph, NodeTask], tmp_path: Path
) -> None:
    def meet() -> None:
        with pytest.raises(FolderInUse, match=f"process {os.getpid()} on "):
            fitted(data[0], tmp_path / "run", resume=True)

    run = fitted(data[0], tmp_path / "run", observers=(At(1, meet),))
    assert len(run.history) == 5


def test_no_labels_while_a_model_is_fitted(data: tuple[HeteroGraph, NodeTask]) -> None:
    with pytest.raises(SealedTestError, match="a model is fitted to a graph"):
        fitted(data[0], observers=(At(1, lambda: load_node_task("tiny")),))
    load_node_task("tiny")


def test_what_is_refused(data: tuple[HeteroGraph, NodeTask], tmp_path: Path) -> None:
    graph, _ = data
    with pytest.raises(ValueError, match="SASRec embeds no graph; the models that do: adameow, heco, meow"):
        fit_graph(SASRec(), graph, seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must name at least one path"):
        fit_graph(MEOW(), graph, seed=0)
    with pytest.raises(ValueError, match="metric = 'ndcg@10'"):
        fit_graph(meow(), graph, seed=0, metric="ndcg@10")
    with pytest.raises(ValueError, match="batch_size = 16 has no effect on steps on the whole graph; leave it out, or"):
        fit_graph(meow(), graph, seed=0, batch_size=16)
    paths = {"metapaths": meow().config.metapaths, "hidden_dim": 8}
    for own in (HeCo(**paths),):
        with pytest.raises(ValueError, match="batch_size = 16 has no effect on steps on the whole graph; leave it out"):
            fit_graph(own, graph, seed=0, batch_size=16)
    with pytest.raises(ValueError, match="task = 'test' must be a NodeTask"):
        fitted(graph).evaluate("test")  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a run"):
        fitted(graph, tmp_path / "full")


def test_tables_and_protocols(data: tuple[HeteroGraph, NodeTask]) -> None:
    graph, task = data
    features = graph.features("paper")
    assert isinstance(features, torch.Tensor)
    results = evaluate_nodes(features, task, probe=QUICK)
    alone = linear_probe(features, task.labels, task.splits["10"], config=QUICK)
    assert results.linear["10"].mean() == alone.mean()
    lines = str(results).splitlines()
    assert lines[0].split() == ["probe", "labels", "macro_f1", "micro_f1", "auc", "nmi", "ari"]
    assert [line.split()[0] for line in lines[1:]] == ["linear", "logistic", "k-means"]
    assert results.to_dict()["linear"]["10"]["std"] == alone.std()
    hashes = {
        evaluate_nodes(features, task, probe=QUICK).hash,
        results.hash,
        evaluate_nodes(features, task, probe=ProbeConfig(repeats=3, steps=30, learning_rate=0.2)).hash,
        evaluate_nodes(features, task, probe=QUICK, seed=1).hash,
        evaluate_nodes(features, NodeTask("paper", 1 - task.labels, task.splits, task.paths), probe=QUICK).hash,
    }
    assert len(hashes) == 4
