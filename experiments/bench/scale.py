"""How MEOW and AdaMEOW grow with the graph: ``python -m experiments.bench.scale [--out FILE]``.

An epoch by batches on generated graphs of up to 200,000 target nodes, 1,000,000 others and 10,000,000 edges, and the
exact loss on all of 25,000 and 50,000 nodes, whose quadratic time is predicted before it starts. Each size runs in a
process of its own. Prints a JSON object a line as each ends, then a table; with ``--out`` the lines replace those of
the same models and sizes in a file, which keeps all others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.bench.growth import PATIENCE_S, rounded, write
from experiments.bench.harness import Child, Sample, Side, child_environment, machine

MODELS = ("MEOW", "AdaMEOW")
BY_BATCHES, EXACT = (25_000, 50_000, 100_000, 200_000), (25_000, 50_000)
#: MiB of a process
LIMIT_MB = 8 * 1024
_PATHS = ["paper-author-paper", "paper-term-paper"]
SETTINGS: dict[str, Any] = {
    "metapaths": _PATHS,
    "paths": {"form": "factorised"},
    "raw_features": ["paper", "author", "term"],
    "dropout": 0.1,
}
BATCHES: dict[str, Any] = {
    "mini_batch": True,
    "sampling": {"fan_out": [[3, 1], [1, 1]], "context_fan_out": [2]},
}
#: MEOW: one k-means a granularity at each epoch; AdaMEOW: weights that cannot shrink everywhere
OF_MODEL: dict[str, dict[str, Any]] = {
    "MEOW": {"prototypes": {"restarts": 1}},
    "AdaMEOW": {"contrast": {"weight": {"normalise": True}}},
}
BATCH_SIZE, LEARNING_RATE = 1024, 1e-3


@contextlib.contextmanager
def process(workload: str, model: str, n_targets: int, settings: dict[str, Any], threads: int) -> Iterator[Child]:
    """A measured process of a size of its own."""
    options = {
        "model": model,
        "n_targets": n_targets,
        "settings": {**SETTINGS, **settings, **OF_MODEL[model]},
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "steps": 1,
        "warmup": 0,
    }
    side = Side(f"recgraph {model}", workload, options)
    environment = child_environment(os.environ, threads)
    with contextlib.closing(Child(Path(sys.executable), side, environment, PATIENCE_S)) as child:
        yield child


def described(bench: str, model: str, n_targets: int, threads: int, child: Child) -> dict[str, Any]:
    return {
        "bench": bench,
        "model": model,
        "targets": n_targets,
        "threads": threads,
        "machine": machine(),
        "versions": child.versions,
        "clock": "process CPU time",
    }


def by_batches(model: str, n_targets: int, threads: int) -> dict[str, Any]:
    """An epoch by batches, and embeddings of all nodes before and after it."""
    with process("ours/batch_epoch.py", model, n_targets, BATCHES, threads) as child:
        _, before, epoch, embed, after = (child.measure() for _ in range(5))
        counts = epoch.counts
        return {
            **described("scale-batches", model, n_targets, threads, child),
            **{name: int(counts[name]) for name in ("others", "edges", "batches")},
            "settings": {
                **SETTINGS,
                **BATCHES,
                **OF_MODEL[model],
                "batch_size": BATCH_SIZE,
                "learning_rate": LEARNING_RATE,
            },
            **{name: rounded(counts[name]) for name in ("generate_cpu_s", "build_cpu_s", "info")},
            "epoch_cpu_s": rounded(epoch.cpu_s),
            "epoch_wall_s": rounded(epoch.wall_s),
            "ms_per_target": rounded(1000 * epoch.cpu_s / n_targets),
            "embed_cpu_s": rounded(embed.cpu_s),
            "accuracy": {"untrained": rounded(before.counts["accuracy"]), "trained": rounded(after.counts["accuracy"])},
            "peak_mb": round(embed.peak_mb),
            "within_limit": embed.peak_mb <= LIMIT_MB,
        }


def exact(model: str, n_targets: int, threads: int) -> dict[str, Any]:
    """One full-graph step with the exact loss, whose time is printed before it starts."""
    with process("ours/exact_loss.py", model, n_targets, {}, threads) as child:
        views, _, calibration = (child.measure() for _ in range(3))
        predicted = predict(calibration, n_targets)
        print(
            f"{model}, exact loss of {n_targets:,} nodes, {n_targets**2:,} pairs: {predicted:,.1f} s predicted from "
            f"{int(calibration.counts['anchors'])} anchors",
            file=sys.stderr,
            flush=True,
        )
        loss, backward = child.measure(), child.measure()
        return {
            **described("scale-exact", model, n_targets, threads, child),
            "settings": {**SETTINGS, **OF_MODEL[model]},
            "pairs": n_targets**2,
            "predicted_cpu_s": rounded(predicted),
            "loss_cpu_s": rounded(loss.cpu_s),
            "predicted_share": rounded(predicted / loss.cpu_s),
            "ns_per_pair": rounded(1e9 * loss.cpu_s / n_targets**2),
            "linear_cpu_s": rounded(views.cpu_s + backward.cpu_s),
            "loss": rounded(loss.counts["loss"]),
            "peak_mb": round(backward.peak_mb),
            "within_limit": backward.peak_mb <= LIMIT_MB,
        }


def predict(calibration: Sample, n_targets: int) -> float:
    """Seconds of the loss of all anchors, from the seconds of some."""
    return calibration.cpu_s * n_targets / calibration.counts["anchors"]


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as text; growth is against the next smaller size of the same model."""
    rows, last = [], {}
    for line in lines:
        key = line["bench"], line["model"]
        seconds = line.get("epoch_cpu_s", line.get("loss_cpu_s"))
        before = last.get(key)
        growth = f"x {seconds / before[1]:.2f} for x {line['targets'] / before[0]:g}" if before else ""
        last[key] = line["targets"], seconds
        if "accuracy" in line:
            untrained, trained = line["accuracy"].values()
            beside = f"embed {line['embed_cpu_s']:.1f} s, accuracy {untrained:.3f} -> {trained:.3f}"
        else:
            beside = f"predicted {line['predicted_cpu_s']:.1f} s, rest of the step {line['linear_cpu_s']:.1f} s"
        name = f"{line['bench']:14} {line['model']:8} {line['targets']:>8,}"
        rows.append(f"{name} {seconds:>9.1f} s  {line['peak_mb']:>6,} MB  {growth:18}  {beside}")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("batches", "exact"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--largest", type=int, default=max(BY_BATCHES), help="leave larger sizes out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="merge the JSON lines into this file")
    chosen = parser.parse_args(argv)
    lines: list[dict[str, Any]] = []
    for name, sizes, measure in (("batches", BY_BATCHES, by_batches), ("exact", EXACT, exact)):
        if chosen.only not in (None, name):
            continue
        for model in chosen.models:
            for n_targets in sizes:
                if n_targets > chosen.largest:
                    continue
                lines.append(measure(model, n_targets, chosen.threads))
                print(json.dumps(lines[-1]), flush=True)
                if chosen.out is not None:
                    write(lines[-1:], chosen.out)
    print(f"\n{table(lines)}")
    return 0 if all(line["within_limit"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
