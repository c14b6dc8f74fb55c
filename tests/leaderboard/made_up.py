"""Boards whose records are made up, so that every number of a sheet is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result, save_users
from recgraph.leaderboard.board import Board, SheetSpec
from recgraph.leaderboard.plan import TITLES, Job, Record, plan_of, users_file
from recgraph.leaderboard.runner import failure_record
from recgraph.leaderboard.sheet import Sheet, open_sheet

BOARD = """
title = "A shop | with signs"
note = "Made up."
seeds = [0, 1, 2]
metrics = ["ndcg@10", "recall@10"]

[protocol]
cutoffs = [10]

[training]
max_epochs = 3

[[models]]
model = "popularity"
seeds = [0]

[[models]]
model = "lightgcn"
note = "Two layers."
settings = { n_layers = 2 }

[[models]]
model = "lightgcn"
name = "LightGCN, three layers"

[[models]]
model = "bprmf"
"""
USERS = 60
PROVENANCE = {
    "python": "3.11.7",
    "packages": {"recgraph": "0.1.0", "torch": "2.13.0"},
    "machine": "a machine, 2 cores",
    "threads": 1,
    "cuda": None,
    "commit": "0123456789ab",
}
#: entry -> seed -> what its users gain over chance; LightGCN's two entries do not differ, BPRMF
#: failed once
MEANS = {
    "Popularity": [0.1],
    "LightGCN": [0.40, 0.41, 0.42],
    "LightGCN, three layers": [0.41, 0.40, 0.415],
}


def write_board(folder: Path, text: str = BOARD, name: str = "synthetic") -> Board:
    """The board ``shop`` of one data set."""
    path = folder / "shop" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return Board("shop", path.parent, (SheetSpec.load(path),))


def records_of(board: Board) -> Path:
    return board.folder_of(board.sheets[0])


def opened(board: Board) -> Sheet:
    return open_sheet(board, board.sheets[0])


def jobs(board: Board) -> dict[str, list[Job]]:
    (sheet,) = board.sheets
    return {entry.name: jobs for entry, jobs in plan_of(board, sheet)}


def result(seen: str, values: Sequence[float], split_hash: str = "5" * 64) -> Result:
    """Values of users for both metrics."""
    protocol = Protocol.of(
        {
            "split": "leave-one-out",
            "split_hash": split_hash,
            "part": "test",
            "fitted_on": "train",
            "history": "train+valid",
            "cutoffs": (10,),
        },
        seen=seen,
    )
    ndcg = np.asarray(values, dtype=np.float64)
    return Result(protocol, np.arange(len(ndcg)), {"ndcg@10": ndcg, "recall@10": np.sqrt(ndcg)})


def users(job: Job, mean: float, seen: str) -> list[float]:
    """Values between 0 and 1 that are the same on every machine."""
    own = len(job.model) + job.settings.get("n_layers", 3)
    noise = np.sin(np.arange(USERS) * (3.0 + job.seed) + own) * 0.05
    return list(np.clip(mean / (2 if seen == "keep" else 1) + noise, 0, 1).round(6))


def record(
    job: Job, scores: Mapping[str, Mapping[str, float]], protocols: Mapping[str, Any]
) -> Record:
    """A record as the worker writes it."""
    trained = job.model != "popularity"
    epochs = [1, 2, 3] if trained else []
    return {
        "model": job.model,
        "dataset": job.dataset,
        "seed": job.seed,
        "identity": job.identity,
        "settings": job.settings,
        "data_hash": "d" * 16,
        "scores": scores,
        "protocols": protocols,
        "training": {
            "seconds": 10.0 + job.seed if trained else 0.25,
            "cpu_seconds": 9.0 + job.seed if trained else 0.25,
            "epochs": len(epochs),
            "best_epoch": 2 if trained else None,
            "best": 0.5 if trained else None,
            "selected_by": "ndcg@10" if trained else None,
            "select_seen": "exclude" if trained else None,
        },
        "inference": {"seconds": 0.5, "cpu_seconds": 0.4},
        "peak_memory_mb": 300.0,
        "n_parameters": 1000 if trained else 0,
        "curve": {
            "epoch": epochs,
            "ndcg@10": [0.1, 0.5, None][: len(epochs)],
            "loss": [0.9, 0.5, 0.4][: len(epochs)],
        },
        "device": "cpu",
        "provenance": PROVENANCE,
        "at": f"2026-01-0{job.seed + 1}T00:00:00+00:00",
        "data": {
            "split": "leave-one-out",
            "split_hash": "5" * 64,
            "n_users": USERS,
            "n_items": 300,
        },
    }


def fill(
    board: Board, means: Mapping[str, Sequence[float]] = MEANS, split_hash: str = "5" * 64
) -> None:
    """Records of users, with their Parquet files, for the seeds of the entries that are given."""
    for name, own in means.items():
        for job, mean in zip(jobs(board)[name], own, strict=False):
            found = [result(seen, users(job, mean, seen), split_hash) for seen in TITLES]
            protocols = {TITLES[each.protocol.seen]: each.to_dict() for each in found}
            scores = {title: each.pop("metrics") for title, each in protocols.items()}
            made = record(job, scores, protocols)
            made["groups"] = {"history": {title: groups_of(own) for title, own in scores.items()}}
            for each in found:
                save_users(each, users_file(job.folder, job.stem, each.protocol.seen))
            job.save(made)


def groups_of(scores: Mapping[str, float]) -> dict[str, dict[str, float]]:
    return {"1-4": {"n_users": 20, **scores}, "5-19": {"n_users": 40, **scores}}


def fail(board: Board, name: str, seed: int) -> None:
    (job,) = [job for job in jobs(board)[name] if job.seed == seed]
    record = failure_record(job, ValueError("a | bad\nnumber"))
    job.save_failure({**record, "at": "2026-01-04T00:00:00+00:00"})
