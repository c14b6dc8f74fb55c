"""The node task over several training seeds, each of them a run as `recgraph train` and `recgraph evaluate` make it.

    python experiments/node_task.py acm [--model MEOW] [--from FOLDER] [--seeds 0 1 2] [--set key=value ...]

The settings are those of ``configs/<model>-<dataset>.toml`` where there is such a file (or of ``--config``), and
``--set`` wins. ``--from`` prepares the data from a folder of HeCo's files first, as `recgraph data get` does. Prints a
line a seed: the table of the linear probe, clustering, epochs, CPU seconds an epoch and peak memory; then means and
deviations over seeds. ``--out FILE`` writes all of it as JSON, the logistic regression's scores too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from recgraph import experiment
from recgraph.config import load_toml, parse_settings
from recgraph.data import catalog
from recgraph.evaluate.node_results import NodeResults
from recgraph.node_run import NodeRun
from recgraph.provenance import provenance
from recgraph.registry import key

CONFIGS = Path(__file__).resolve().parent / "configs"


def settings_of(model: str, dataset: str, config: Path | None, given: list[str]) -> dict[str, Any]:
    """The published settings or those of a file, and over them what was given."""
    published = CONFIGS / f"{key(model)}-{Path(dataset).stem}.toml"
    file = config or (published if published.is_file() else None)
    return {**(load_toml(file) if file else {}), **parse_settings(given)}


def summarise(run: NodeRun, results: NodeResults) -> dict[str, Any]:
    """What is kept of a run: its settings, cost, curve and scores."""
    record, history = run.record, run.history
    return {
        "seed": record["seed"],
        "model": record["config"],
        "training": record["training"],
        "data": record["data"],
        "epochs": len(history),
        "best_epoch": record["best_epoch"],
        "loss": record["best"],
        "curve": [float(f"{row['loss']:.6g}") for row in history],
        "preparation_cpu_seconds": record["preparation"]["cpu_seconds"],
        "epoch_cpu_seconds": record["cost"]["cpu_seconds"] / max(len(history), 1),
        "peak_mib": record["cost"]["peak_memory_mb"],
        "protocol": results.protocol.model_dump(mode="json"),
        "protocol_hash": results.hash,
        "probe": {labels: scores.mean() for labels, scores in results.linear.items()},
        "logistic": {labels: scores.mean() for labels, scores in results.logistic.items()},
        "clusters": dict(results.clusters),
    }


def line(result: dict[str, Any]) -> str:
    cells = ["/".join(f"{100 * value:.2f}" for value in scores.values()) for scores in result["probe"].values()]
    clusters = "/".join(f"{100 * value:.1f}" for value in result["clusters"].values())
    cost = (
        f"{result['best_epoch']}/{result['epochs']} epochs, {result['epoch_cpu_seconds']:.2f} CPU s each, "
        f"preparation {result['preparation_cpu_seconds']:.2f}, peak {result['peak_mib']:.0f} MiB"
    )
    return f"seed {result['seed']}  {'  '.join(cells)}  {clusters}  {cost}"


def over_seeds(results: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """[mean, deviation] over training seeds of each score."""

    def both(values: list[float]) -> list[float]:
        return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]

    tables = {labels: [result["probe"][labels] for result in results] for labels in results[0]["probe"]}
    tables["clusters"] = [result["clusters"] for result in results]
    return {name: {score: both([row[score] for row in rows]) for score in rows[0]} for name, rows in tables.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a graph with classes of nodes, such as acm")
    parser.add_argument(
        "--from", dest="folder", type=Path, help="a folder of the data set's files; else what is prepared"
    )
    parser.add_argument("--model", default="MEOW")
    parser.add_argument("--config", type=Path, help="a TOML file of settings; else the published ones")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", help="where to compute; else the best")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    catalog.get(options.dataset, options.folder)
    settings = settings_of(options.model, options.dataset, options.config, options.settings)
    print("Macro-F1/Micro-F1/area at each number of labels a class; NMI/ARI", flush=True)
    results = []
    for seed in options.seeds:
        run = experiment.train(
            options.model, options.dataset, None, settings=settings, seed=seed, device=options.device, progress=False
        )
        if not isinstance(run, NodeRun):
            raise SystemExit(f"{options.dataset} has no classes of nodes")
        results.append(summarise(run, run.evaluate()))
        print(line(results[-1]), flush=True)
    summary = over_seeds(results)
    for name, scores in summary.items():
        print(name, {score: f"{100 * mean:.2f} +- {100 * std:.2f}" for score, (mean, std) in scores.items()})
    if options.out:
        whole = {"dataset": options.dataset, "model": options.model, "results": results, "over_seeds": summary}
        options.out.write_text(json.dumps({**whole, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
