"""MEOW or AdaMEOW by batches on a generated graph: first an epoch through the library's trainer, then all embeddings.

Each repetition is the next stage. What it counts is not a rate but what the record shows.
"""

from __future__ import annotations

import time
from typing import Any

import large_graph
import torch

from recgraph import registry
from recgraph.evaluate.nodes import logistic_probe
from recgraph.graph.node_task import NodeSplit
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

#: papers that are labelled (20 a community), that choose the probe, that it is scored on
_LABELLED, _VALID, _SCORED = 400, 1000, 5000


def prepare(options: dict[str, Any]) -> Any:
    began = time.process_time()
    graph, labels = large_graph.generate(options["n_targets"])
    generated = time.process_time()
    model = registry.load("model", options["model"])(**options["settings"]).build(graph, seed=0)
    ready = time.process_time()
    sizes = {
        "others": float(sum(graph.count(name) for name in ("author", "term"))),
        "edges": float(sum(edges.adj.nnz for edges in graph.edges.values())),
        "generate_cpu_s": generated - began,
        "build_cpu_s": ready - generated,
    }
    generators = Generators(0)
    batches = model.batches(None, options["batch_size"], generators)
    config = TrainConfig(max_epochs=1, metric="loss", patience=None, learning_rate=options["learning_rate"])
    papers = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[: _LABELLED + _VALID + _SCORED]
    split = NodeSplit(*torch.arange(len(papers)).split([_LABELLED, _VALID, _SCORED]))
    kept: dict[str, torch.Tensor] = {}

    def epoch() -> dict[str, float]:
        history = Trainer(model, batches, config, generators).fit()
        return {**sizes, "batches": float(len(batches)), "info": history[-1]["info"]}

    def embed() -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            kept["embedding"] = model.embed()
        return {"nodes": float(len(kept["embedding"]))}

    def score() -> dict[str, float]:
        return {"accuracy": logistic_probe(kept["embedding"][papers], labels[papers], split).mean()["micro_f1"]}

    stages = iter([embed, score, epoch, embed, score])

    def run(steps: int) -> dict[str, float]:
        return next(stages)() if steps else {}

    return run
