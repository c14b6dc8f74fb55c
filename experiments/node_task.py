"""MEOW and AdaMEOW on the node task with their published settings.

    python experiments/node_task.py acm --data FOLDER [--model MEOW] [--seeds 0 1 2] [--set key=value ...]

FOLDER holds HeCo's files of the data set (labels.npy, pa.txt, p_feat.npz, train_20.npy, ...). Paths are composed from
the raw edges. Prints the table of the probe, clustering, epochs, CPU seconds an epoch and the peak memory, one line
a seed, then means and deviations over seeds; ``--out FILE`` writes all of it as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from recgraph import registry
from recgraph.config import distribute, parse_settings
from recgraph.data.hetero import EdgeType, HeteroGraph
from recgraph.data.hetero.node_task import NodeSplit
from recgraph.evaluate.probe import cluster_scores, linear_probe, logistic_probe
from recgraph.models.base_graph import GraphModel
from recgraph.provenance import provenance
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

LABELS = ("20", "40", "60")


@dataclass(frozen=True)
class DataSet:
    """HeCo's files of a data set, and the settings that were published for it."""

    target: str
    edges: dict[str, EdgeType]
    paths: tuple[str, ...]
    features: dict[str, str] = field(default_factory=dict)
    raw: tuple[str, ...] = ()
    probe: dict[str, float] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, folder: Path) -> HeteroGraph:
        pairs = {name: np.loadtxt(folder / f"{file}.txt", dtype=np.int64) for file, name in self.edges.items()}
        counts: dict[str, int] = {}
        for (source, _, target), both in pairs.items():
            for name, column in ((source, both[:, 0]), (target, both[:, 1])):
                counts[name] = max(counts.get(name, 0), int(column.max()) + 1)
        features = {
            name: sp.load_npz(folder / f"{file}.npz").astype(np.float32) for name, file in self.features.items()
        }
        for name, matrix in features.items():
            counts[name] = max(counts[name], matrix.shape[0])
        counts[self.target] = len(np.load(folder / "labels.npy"))
        return HeteroGraph.from_edge_lists(counts, pairs, features=features)


DATA = {
    "acm": DataSet(
        "paper",
        {"pa": ("paper", "by", "author"), "ps": ("paper", "on", "subject")},
        ("paper-author-paper", "paper-subject-paper"),
        {"paper": "p_feat", "author": "a_feat"},
        probe={"learning_rate": 0.03},
        settings={
            "meow": {
                "dropout": 0.2,
                "temperature": 0.4,
                "feature_mask": 0.3,
                "edge_mask": (0.3, 0.2),
                "top_k": (110, 700),
                "n_clusters": (100, 300),
                "proto_weight": 1.0,
            },
            "adameow": {
                "dropout": 0.3,
                "temperature": 1.0,
                "feature_mask": 0.3,
                "edge_mask": 0.2,
                "top_k": (690, 690),
            },
        },
        training={
            "meow": {"learning_rate": 7e-4, "patience": 30},
            "adameow": {"learning_rate": 5e-5, "weight_decay": 1e-5, "max_epochs": 1200, "patience": None},
        },
    ),
    "dblp": DataSet(
        "author",
        {"pa": ("paper", "by", "author"), "pc": ("paper", "at", "conference"), "pt": ("paper", "has", "term")},
        (
            "author-paper-author",
            "author-paper-conference-paper-author",
            "author-paper-term-paper-author",
        ),
        {"author": "a_feat", "paper": "p_feat", "term": "t_feat"},
        raw=("term",),
        probe={"learning_rate": 0.01},
        settings={
            "meow": {
                "dropout": 0.2,
                "temperature": 0.9,
                "feature_mask": 0.2,
                "edge_mask": (0.2, 0.5, 0.6),
                "top_k": (25, 200, 40),
                "n_clusters": (200, 700),
                "proto_weight": 1.0,
            },
            "adameow": {
                "dropout": 0.2,
                "temperature": 0.9,
                "feature_mask": 0.1,
                "edge_mask": 0.3,
                "top_k": (25, 200, 40),
            },
        },
        training={
            "meow": {"learning_rate": 6e-4, "patience": 35},
            "adameow": {"learning_rate": 1e-4, "weight_decay": 1e-3, "max_epochs": 1500, "patience": None},
        },
    ),
    "imdb": DataSet(
        "movie",
        {"ma": ("movie", "has", "actor"), "md": ("movie", "by", "director"), "mk": ("movie", "about", "keyword")},
        ("movie-actor-movie", "movie-director-movie", "movie-keyword-movie"),
        {"movie": "m_feat"},
        probe={"learning_rate": 0.01},
        settings={
            "meow": {
                "dropout": 0.2,
                "temperature": 0.9,
                "feature_mask": 0.3,
                "edge_mask": 0.1,
                "top_k": (70, 10, 70),
                "n_clusters": (500, 700),
                "proto_weight": 1.0,
            },
            "adameow": {
                "dropout": 0.1,
                "temperature": 0.9,
                "feature_mask": 0.3,
                "edge_mask": 0.1,
                "top_k": (70, 10, 70),
            },
        },
        training={
            "meow": {"learning_rate": 1e-4, "weight_decay": 1e-3, "patience": 15},
            "adameow": {"learning_rate": 5e-4, "weight_decay": 5e-4, "max_epochs": 1000, "patience": None},
        },
    ),
    "aminer": DataSet(
        "paper",
        {"pa": ("paper", "by", "author"), "pr": ("paper", "cites", "reference")},
        ("paper-author-paper", "paper-reference-paper"),
        probe={"learning_rate": 0.1, "weight_decay": 8e-4},
        settings={
            "meow": {
                "dropout": 0.2,
                "temperature": 0.9,
                "feature_mask": 0.2,
                "edge_mask": (0.7, 0.4),
                "top_k": (5, 21),
                "counts": "binary",
                "n_clusters": (500, 1200),
                "proto_weight": 0.1,
            },
            "adameow": {
                "dropout": 0.0,
                "temperature": 0.9,
                "feature_mask": 0.0,
                "edge_mask": 0.0,
                "top_k": (8, 31),
                "counts": "binary",
                "projection_dim": 16,
            },
        },
        training={
            "meow": {"learning_rate": 7e-4, "patience": 25},
            "adameow": {"learning_rate": 1e-4, "weight_decay": 1e-4, "max_epochs": 3000, "patience": None},
        },
    ),
}


def splits(folder: Path) -> dict[str, NodeSplit]:
    """HeCo's splits of 20, 40 and 60 labels a class."""

    def part(name: str) -> torch.Tensor:
        return torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.int64))

    return {n: NodeSplit(part(f"train_{n}"), part(f"val_{n}"), part(f"test_{n}")) for n in LABELS}


def run(data: DataSet, folder: Path, name: str, seed: int, given: dict[str, Any]) -> dict[str, Any]:
    """Train with one seed and score the embeddings."""
    cls = registry.load("model", name)
    key = registry.key(name)
    published = {**data.settings.get(key, {}), "metapaths": data.paths, "raw_features": data.raw}
    training = {"metric": "loss", "max_epochs": 5000, **data.training.get(key, {})}
    chosen = distribute({**published, **training, **given}, {"model": cls.Config, "training": TrainConfig})
    config = TrainConfig.of(chosen["training"])
    graph = data.read(folder)
    began = time.process_time()
    model: GraphModel = cls(**chosen["model"]).build(graph, seed=seed)
    preparation = time.process_time() - began
    generators = Generators(seed)
    trainer = Trainer(model, model.batches(None, 1, generators), config, generators)
    history = trainer.fit()
    model.eval()
    with torch.no_grad():
        embedding = model.embed()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    labels = torch.from_numpy(np.load(folder / "labels.npy")).long()
    return {
        "seed": seed,
        "model": model.config.model_dump(mode="json"),
        "training": config.model_dump(mode="json"),
        "epochs": len(history),
        "best_epoch": trainer.stopping.best_epoch,
        "loss": trainer.stopping.best,
        "preparation_cpu_seconds": preparation,
        "epoch_cpu_seconds": history[-1]["cpu_seconds"] / len(history),
        "peak_mib": peak,
        "probe": {
            n: linear_probe(embedding, labels, split, seed=seed, **data.probe).mean()
            for n, split in splits(folder).items()
        },
        "logistic": {n: logistic_probe(embedding, labels, split).mean() for n, split in splits(folder).items()},
        "clusters": cluster_scores(embedding, labels, seed=seed),
    }


def line(result: dict[str, Any]) -> str:
    cells = ["/".join(f"{100 * v:.2f}" for v in result["probe"][n].values()) for n in LABELS]
    clusters = "/".join(f"{100 * v:.1f}" for v in result["clusters"].values())
    cost = (
        f"{result['best_epoch']}/{result['epochs']} epochs, {result['epoch_cpu_seconds']:.2f} CPU s each, "
        f"preparation {result['preparation_cpu_seconds']:.2f}, peak {result['peak_mib']:.0f} MiB"
    )
    return f"seed {result['seed']}  {'  '.join(cells)}  {clusters}  {cost}"


def summary(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Mean and deviation over training seeds of each score."""
    return {
        n: {
            name: [
                statistics.mean(r["probe"][n][name] for r in results),
                statistics.stdev(r["probe"][n][name] for r in results) if len(results) > 1 else 0.0,
            ]
            for name in results[0]["probe"][n]
        }
        for n in LABELS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(DATA))
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--model", default="MEOW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = parse_settings(options.settings)
    print("Macro-F1/Micro-F1/area at 20, 40, 60 labels a class; NMI/ARI", flush=True)
    results = []
    for seed in options.seeds:
        results.append(run(DATA[options.dataset], options.data, options.model, seed, given))
        print(line(results[-1]), flush=True)
    over_seeds = summary(results)
    for n, scores in over_seeds.items():
        print(n, {name: f"{100 * mean:.2f} +- {100 * std:.2f}" for name, (mean, std) in scores.items()})
    if options.out:
        whole = {"dataset": options.dataset, "model": options.model, "results": results, "over_seeds": over_seeds}
        options.out.write_text(json.dumps({**whole, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
