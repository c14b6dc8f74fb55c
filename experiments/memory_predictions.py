"""How near predictions of memory are to what a process takes: cases, each in a process of its own.

    python -m experiments.memory_predictions --out experiments/results/memory.jsonl
    python -m experiments.memory_predictions --table experiments/results/memory.jsonl

Of each case the prediction that the library makes, and the peak of the resident memory from that moment on, which Linux
counts (``VmHWM``; it is set back before the case begins, so that what made the data is not in it). Predictions are of
the whole process. One thread, on the host; sizes are such that the peak is well above what the libraries take.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import recgraph as rg
from recgraph.data.files import replace_text
from recgraph.data.log_file import LogFile
from recgraph.data.preparing import prepare
from recgraph.graph.hetero import HeteroGraph
from recgraph.memory import Estimate, peak
from recgraph.models.base import Space
from recgraph.runs.record import provenance
from recgraph.serve.recommender import Recommender

LIMIT = "1TiB"
#: a case begins when its data are made: the call whose peak is measured
Case = Callable[[], Callable[[], Any]]


def log(n_users: int, n_items: int, each: int) -> rg.Interactions:
    """Each user has as many items, drawn uniformly; a few of them twice."""
    draw = np.random.default_rng(0)
    users = np.repeat(np.arange(n_users), each)
    frame = pl.DataFrame({"u": users, "i": draw.integers(n_items, size=len(users)), "t": np.arange(len(users))})
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t")


def papers(n: int) -> HeteroGraph:
    """Papers with two authors of n / 2 each and one subject of n / 40, with 64 features."""
    draw = torch.Generator().manual_seed(0)
    edges = {
        ("paper", "by", "author"): (torch.arange(2 * n) % n, torch.randint(n // 2, (2 * n,), generator=draw)),
        ("paper", "on", "subject"): (torch.arange(n), torch.randint(n // 40, (n,), generator=draw)),
    }
    x = {"paper": torch.rand(n, 64, generator=draw)}
    return HeteroGraph.from_edge_lists({"paper": n, "author": n // 2, "subject": n // 40}, edges, features=x)


def fitted(model: Any, data: rg.Interactions, **training: Any) -> Callable[[], Any]:
    split = data.split("leave-one-out")
    return lambda: rg.fit(model, split, seed=0, progress=False, memory_limit=LIMIT, **training)


def on_papers(model: Any, n: int, **training: Any) -> Callable[[], Any]:
    graph = papers(n)
    return lambda: rg.fit_graph(model, graph, seed=0, progress=False, memory_limit=LIMIT, **training)


def vectors_of(n_users: int, n_items: int, each: int) -> tuple[rg.Interactions, Any]:
    """A log and the untrained vectors of its users and items."""
    data = log(n_users, n_items, each)
    return data, rg.models.BPRMF(hidden_dim=64).build(Space(n_users=data.n_users, n_items=data.n_items))


def evaluated(n_users: int, n_items: int, cutoff: int) -> Callable[[], Any]:
    data, model = vectors_of(n_users, n_items, 8)
    split = data.split("leave-one-out")
    run = rg.Run(model, split.sealed(), rg.fit("popularity", split, seed=0).record, None, data)
    return lambda: run.evaluate("valid", "exclude", [cutoff], metrics=["ndcg", "coverage", "gini"], memory_limit=LIMIT)


def listed(n_users: int, n_items: int, k: int) -> Callable[[], Any]:
    data, model = vectors_of(n_users, n_items, 8)
    recommender = Recommender.for_log(model, data)
    os.environ["RECGRAPH_MEMORY_LIMIT"] = LIMIT

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for number, part in enumerate(recommender.stream("all", k=k)):
                part.write_parquet(Path(folder) / f"{number}.parquet")

    return write


def recommender_of(model: Any, n_users: int, n_items: int, each: int) -> Recommender:
    """One that is not trained, within the limit of the cases."""
    os.environ["RECGRAPH_MEMORY_LIMIT"] = LIMIT
    data = log(n_users, n_items, each)
    return Recommender.for_log(model.build(Space(n_users=data.n_users, n_items=data.n_items)), data)


def exported(model: Any, n_users: int, n_items: int, each: int) -> Callable[[], Any]:
    recommender = recommender_of(model, n_users, n_items, each)

    def write() -> None:
        with tempfile.TemporaryDirectory() as folder:
            recommender.export(folder)

    return write


def served(n_users: int, n_items: int, each: int) -> Callable[[], Any]:
    """A bundle is read, and the largest requests answered that its limits allow."""
    from recgraph.serve.http.asked import Limits
    from recgraph.serve.http.served import Served

    folder = tempfile.mkdtemp()
    recommender_of(rg.models.BPRMF(hidden_dim=64), n_users, n_items, each).save(folder)

    def answer() -> None:
        service, some = Served.load(Path(folder), Limits()), list(range(Limits().users))
        service.answer([service.reader.read(json.dumps({"users": some, "k": Limits().k}).encode())])
        items = service.reader.items.write(some)
        for by in ("vectors", "co_occurrence"):
            asked = {"items": items, "k": Limits().k, "by": by}
            service.answer([service.reader.read_similar(json.dumps(asked).encode())])
        shutil.rmtree(folder)

    return answer


def explained(n_users: int, n_items: int, each: int) -> Callable[[], Any]:
    recommender = recommender_of(rg.models.BPRMF(hidden_dim=64), n_users, n_items, each)
    user = recommender.users.ids([5]).to_list()[0]
    return lambda: rg.explain.explain(recommender, user)


def prepared(n_files: int, each: int, range_rows: int) -> Callable[[], Any]:
    os.environ["RECGRAPH_MEMORY_LIMIT"] = LIMIT
    draw, folder = np.random.default_rng(0), tempfile.mkdtemp()
    for number in range(n_files):
        columns = {"user": each // 5, "item": 50_000, "timestamp": 10**9}
        frame = pl.DataFrame({name: draw.integers(most, size=each) for name, most in columns.items()})
        frame.write_csv(f"{folder}/{number}.csv")

    def write() -> None:
        prepare(LogFile(f"{folder}/*.csv"), f"{folder}/split", range_rows=range_rows)
        shutil.rmtree(folder)

    return write


# two epochs: the best weights so far are there beside a step
LOSS = {"metric": "loss", "max_epochs": 2}
CASES: dict[str, tuple[str, Case]] = {
    "sasrec-full": (
        "SASRec, full softmax, batches of 4,096, 20,000 items",
        lambda: fitted(rg.models.SASRec(loss="full_softmax"), log(800, 20_000, 40), **LOSS, batch_size=4096),
    ),
    "sasrec-sampled": (
        "SASRec, sampled softmax, batches of 1,024, 500,000 items",
        lambda: fitted(rg.models.SASRec(loss="sampled_softmax"), log(2000, 500_000, 20), **LOSS, batch_size=1024),
    ),
    "mclrec": (
        "MCLRec, batches of 4,096",
        lambda: fitted(rg.models.MCLRec(), log(2000, 5000, 12), **LOSS, batch_size=4096),
    ),
    "lightgcn": (
        "LightGCN, 300,000 users and 150,000 items, 1.8 million interactions",
        lambda: fitted(rg.models.LightGCN(), log(300_000, 150_000, 6), **LOSS, batch_size=900_000),
    ),
    "bprmf": (
        "BPRMF, 600,000 users, 300,000 items",
        lambda: fitted(rg.models.BPRMF(), log(600_000, 300_000, 3), **LOSS, batch_size=100_000),
    ),
    "meow": (
        "MEOW by batches of 4,096 nodes, 40,000 papers",
        lambda: on_papers(
            rg.models.MEOW(metapaths=("paper-author-paper", "paper-subject-paper"), n_clusters=(20,), mini_batch=True),
            40_000,
            max_epochs=2,
            batch_size=4096,
        ),
    ),
    "ease": ("EASE, 7,000 items", lambda: fitted(rg.models.EASE(), log(20_000, 7000, 8))),
    "itemknn": ("ItemKNN, 120,000 items", lambda: fitted(rg.models.ItemKNN(), log(60_000, 120_000, 8))),
    "evaluate": ("evaluation of 100,000 users at cut-off 200", lambda: evaluated(100_000, 4000, 200)),
    "recommend": ("lists of 1,000 for 13,000 users", lambda: listed(13_000, 20_000, 1000)),
    "export": (
        "export of SASRec, 346,000 items",
        lambda: exported(rg.models.SASRec(hidden_dim=64), 1000, 400_000, 800),
    ),
    "export-vectors": (
        "export of BPRMF, 690,000 items",
        lambda: exported(rg.models.BPRMF(hidden_dim=64), 50_000, 800_000, 32),
    ),
    "serve": ("service of BPRMF, 300,000 users, 360,000 items", lambda: served(300_000, 400_000, 3)),
    "inspect": ("explanation by BPRMF, 350,000 items", lambda: explained(60_000, 500_000, 10)),
    "prepare": ("preparation of 3 files of 2 million rows", lambda: prepared(3, 2_000_000, 1_000_000)),
}


def predictions() -> list[int]:
    """The predicted peaks, in the order in which the library tabulates them from now on."""
    peaks: list[int] = []
    tabulate = Estimate.table

    def table(self: Estimate, limit: int | None = None) -> str:
        peaks.append(self.peak)
        return tabulate(self, limit)

    Estimate.table = table
    for name in (
        "recgraph.runs.memory",
        "recgraph.serve.memory",
        "recgraph.evaluate.collect",
        "recgraph.data.preparing_memory",
        "recgraph.explain.memory",
    ):
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stderr))
    return peaks


def measure(name: str) -> dict[str, Any]:
    """The line of a case, in this process."""
    torch.set_num_threads(1)
    peaks = predictions()
    label, make = CASES[name]
    act = make()
    peaks.clear()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    act()
    return {
        "case": name,
        "what": label,
        "before": before,
        "predicted": peaks[0],
        "measured": peak(),
        "provenance": provenance(),
    }


def run(names: Iterable[str], out: Path | None) -> None:
    """Each case in a process of its own, one after the other; lines of the same case in the file are replaced."""
    for name in names:
        command = [sys.executable, "-m", "experiments.memory_predictions", "--child", name]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        line = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {line['predicted'] / line['measured']:.2f} of {line['measured'] / 2**20:,.0f} MiB", flush=True)
        if out is not None:
            kept = {one["case"]: one for one in _lines(out)} | {name: line}
            replace_text("".join(json.dumps(kept[case]) + "\n" for case in CASES if case in kept), out)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(path: Path) -> str:
    """The lines of a file as a table in Markdown."""
    rows = [
        "| case | before, MiB | measured peak, MiB | predicted, MiB | predicted / measured |",
        "| --- | --- | --- | --- | --- |",
    ]
    for line in _lines(path):
        sizes = " | ".join(f"{line[name] / 2**20:,.0f}" for name in ("before", "measured", "predicted"))
        rows.append(f"| {line['what']} | {sizes} | {line['predicted'] / line['measured']:.2f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="by default all of them")
    parser.add_argument("--out", type=Path, help="a file of JSON lines")
    parser.add_argument("--table", type=Path, help="print the lines of this file as a table")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.child)))
    elif given.table:
        print(table(given.table))
    else:
        run(given.case or CASES, given.out)


if __name__ == "__main__":
    main()
