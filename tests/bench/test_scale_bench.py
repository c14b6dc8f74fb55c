"""The benchmark of growing graphs: what is generated, and that its stages are the library's steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from workloads import BENCH, workload

from experiments.bench import scale
from experiments.bench.harness import Sample
from recgraph import registry
from recgraph.rng import Generators

N = 600


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH / "ours"))


def options(model: str, **more: Any) -> dict[str, Any]:
    settings = {**scale.SETTINGS, **scale.OF_MODEL[model], "hidden_dim": 8, **more}
    if model == "MEOW":
        settings["n_clusters"] = [5, 9]
    return {"model": model, "n_targets": N, "settings": settings, "batch_size": 256, "learning_rate": 1e-3}


def test_generated_graph() -> None:
    generate = workload("ours/large_graph.py").generate
    graph, labels = generate(N)
    assert [graph.count(name) for name in ("paper", "author", "term")] == [N, 1500, 1500]
    assert torch.equal(labels, torch.arange(N) % 20)
    again, _ = generate(N)
    other, _ = generate(N, seed=1)
    for kind, edges in graph.edges.items():
        adj = edges.adj
        assert adj.nnz == 25 * N
        assert int(adj.degrees.min()) >= 1
        within = (adj.rows % 20 == adj.indices % 20).float().mean()
        # 60 % are moved into the community, of the others one in twenty is there by chance
        assert 0.57 < float(within) < 0.67
        reached = adj.t().degrees
        assert int(reached[:100].sum()) > 5 * int(reached[-100:].sum())
        assert torch.equal(adj.indices, again.edges[kind].adj.indices)
        assert not torch.equal(adj.indices, other.edges[kind].adj.indices)


@pytest.mark.parametrize("model", scale.MODELS)
def test_epoch_by_batches(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = workload("ours/batch_epoch.py")
    for name, value in (("_LABELLED", 100), ("_VALID", 100), ("_SCORED", 300)):
        monkeypatch.setattr(module, name, value)
    run = module.prepare(options(model, **scale.BATCHES))
    assert run(0) == {}
    embed, before, epoch, again, after = (run(1) for _ in range(5))
    assert embed["nodes"] == again["nodes"] == N
    assert epoch["batches"] == 3
    assert epoch["others"] == 3000
    assert epoch["edges"] == 50 * N
    assert epoch["info"] > 0
    assert 0 <= before["accuracy"] <= 1
    assert 0 <= after["accuracy"] <= 1


@pytest.mark.parametrize("model", scale.MODELS)
def test_exact_loss_is_that_of_the_model(model: str) -> None:
    """The stages add up to one full-graph step."""
    chosen = options(model, dropout=0.0)
    run = workload("ours/exact_loss.py").prepare(chosen)
    _, _, calibration, loss, _ = (run(1) for _ in range(5))
    assert calibration == {"anchors": 512}
    graph, _ = workload("ours/large_graph.py").generate(N)
    whole = registry.load("model", model)(**chosen["settings"]).build(graph, seed=0).train()
    terms = whole(next(iter(whole.batches(None, 1, Generators(0)).epoch(0))), list(whole.phases[0].terms))
    total = sum(float(terms[name].detach()) * weight for name, weight in whole.phases[0].terms.items())
    assert loss["loss"] == pytest.approx(total, rel=1e-5)


def test_time_of_pairs_is_predicted_from_some_anchors() -> None:
    assert scale.predict(Sample({"anchors": 512.0}, cpu_s=2.0, wall_s=9.0, peak_mb=1.0), 51_200) == 200


def test_table_and_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(model: str, n_targets: int, threads: int) -> dict[str, Any]:
        line = {"model": model, "targets": n_targets, "threads": threads, "peak_mb": n_targets, "within_limit": True}
        accuracy = {"untrained": 0.25, "trained": 0.5}
        return {
            **line,
            "bench": "scale-batches",
            "epoch_cpu_s": n_targets / 1e3,
            "embed_cpu_s": 1.0,
            "accuracy": accuracy,
        }

    monkeypatch.setattr(scale, "by_batches", measured)
    out = tmp_path / "lines.jsonl"
    growth = {"bench": "growth", "stage": "split", "size": 10}
    out.write_text(f"{json.dumps(growth)}\n")
    assert scale.main(["--only", "batches", "--models", "MEOW", "--largest", "50000", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "x 2.00 for x 2" in printed
    assert "accuracy 0.250 -> 0.500" in printed
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert lines[0] == growth  # `make bench-scale` writes into the same file
    assert [line["targets"] for line in lines[1:]] == [25_000, 50_000]
