"""Models of users and items on one data set, several seeds, one harness, with the intervals of what lies between them.

    python experiments/recommenders.py experiments/configs/recommenders/yelp-hin.toml [--seeds 0 1 2] [--out FILE]

The file names the data set, its split, the training that all share and each model's settings, which were chosen on the
valid part. Each model is trained as `recgraph train` does it, selected on the valid part, and evaluated once on the
test part, seen items kept and excluded. What stands in ``--out`` is not done again; ``--only MODEL`` takes some.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recgraph import experiment
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import over_users

METRIC = "ndcg@20"


def train(board: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """One run: its settings, cost, curve, and what the test part gave."""
    chosen = board["models"][name]
    settings = {**board.get("data", {}), **board["training"], **{k: v for k, v in chosen.items() if k != "model"}}
    run = experiment.train(
        chosen.get("model", name), board["dataset"], None, settings=settings, seed=seed, device="cpu"
    )
    results = run.evaluate("test", cutoffs=(10, 20))
    by_user = results["exclude"].per_user[METRIC]
    kept = ("model", "config", "training", "seed", "data", "best_epoch", "best", "cost", "n_parameters", "provenance")
    return {
        **{key: run.record[key] for key in kept},
        "n_epochs": len(run.history),
        "test": {result.protocol.seen: result.to_dict() for result in results},
        "users": results["exclude"].users.tolist(),
        METRIC: [round(float(value), 6) for value in by_user],
    }


def result_of(record: dict[str, Any]) -> Result:
    protocol = Protocol.of(record["test"]["exclude"]["protocol"])
    return Result(protocol, np.array(record["users"]), {METRIC: np.array(record[METRIC])})


def report(records: list[dict[str, Any]], first: str) -> None:
    """A line a model: valid, test in both conventions, and the first one's lead with its interval and p-value."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        runs.setdefault(record["name"], []).append(record)
    print(f"{'model':<12}{'seeds':>6}{'valid':>8}  {METRIC} excluded   kept     epochs  CPU s   {first} less this")
    for name, own in runs.items():
        seen = {key: [r["test"][key]["metrics"][METRIC] for r in own] for key in ("exclude", "keep")}
        valid = np.mean([r["best"] for r in own])
        cells = f"{name:<12}{len(own):>6}{valid:>8.4f}  {np.mean(seen['exclude']):.4f} +- {np.std(seen['exclude']):.4f}"
        cells += f"  {np.mean(seen['keep']):.4f}  {np.mean([r['n_epochs'] for r in own]):>6.0f}"
        cells += f"{np.mean([r['cost']['cpu_seconds'] for r in own]):>7.0f}"
        if name != first and first in runs:
            c = over_users([result_of(r) for r in own], [result_of(r) for r in runs[first]], METRIC)
            cells += f"   {c.difference:+.4f} [{c.interval.low:+.4f}, {c.interval.high:+.4f}] p {c.p_values['t']:.1e}"
        print(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # each look at the test part is logged; here they are the purpose
    logging.getLogger("recgraph").setLevel(logging.ERROR)
    board = tomllib.loads(options.board.read_text(encoding="utf-8"))
    there = options.out is not None and options.out.is_file()
    records = json.loads(options.out.read_text(encoding="utf-8")) if there else []
    done = {(record["name"], record["seed"]) for record in records}
    for seed in options.seeds:
        for name in options.only or board["models"]:
            if (name, seed) in done:
                continue
            records.append({"name": name, **train(board, name, seed)})
            if options.out:
                temporary = options.out.with_suffix(".new")
                temporary.write_text(json.dumps(records) + "\n", encoding="utf-8")
                os.replace(temporary, options.out)
            last = records[-1]
            print(name, seed, f"valid {last['best']:.4f}", f"epoch {last['best_epoch']}", flush=True)
    report(records, board["first"])


if __name__ == "__main__":
    main()
