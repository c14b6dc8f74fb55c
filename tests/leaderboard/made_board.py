"""A board whose records are made up, for tests of what is shown: nothing is trained, no data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_up import record

from recgraph.leaderboard.board import Board, SheetSpec
from recgraph.leaderboard.compare import Column, Comparison
from recgraph.leaderboard.comparisons import save_comparisons
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.plan import jobs_of
from recgraph.leaderboard.sheet import Sheet, compared_records, open_sheet
from recgraph.leaderboard.store import Record, Store
from recgraph.leaderboard.worker import failure_record

__all__ = ["FAILS", "NEVER_RUN", "QUALITY", "made_board", "made_sheets"]

#: name -> NDCG@10 with seen items excluded and kept: the two orders differ
QUALITY = {
    "SASRec": (0.0556, 0.0421),
    "SASRec, <b>sampled</b> & more": (0.0553, 0.0432),
    "LightGCN": (0.0410, 0.0450),
    "EASE": (0.0390, 0.0105),
    "Popularity": (0.0123, 0.0098),
}
FAILS, NEVER_RUN = "GRU4Rec", "MCLRec"


def made_board(folder: Path) -> Board:
    """Users of ``synthetic``, nodes of ``acm``, and ``ml-100k`` of which nothing was run."""
    models = [
        {"model": "sasrec", "name": "SASRec", "note": "Full softmax.", "settings": {"max_epochs": 7}},
        {"model": "sasrec", "name": "SASRec, <b>sampled</b> & more", "settings": {"loss": "sampled_softmax"}},
        {"model": "lightgcn", "name": "LightGCN"},
        {"model": "ease", "name": "EASE", "seeds": [0]},
        {"model": "popularity", "name": "Popularity", "seeds": [0]},
        {"model": "gru4rec", "name": FAILS, "seeds": [0]},
        {"model": "mclrec", "name": NEVER_RUN},
    ]
    users = {"metrics": ["ndcg@10", "recall@10"], "seeds": [0, 1, 2]}
    sheets = [
        {"dataset": "synthetic", "title": "Made-up users", "note": "A note.", "models": models, **users},
        {
            "dataset": "acm",
            "title": "Made-up nodes",
            "models": [{"model": "meow", "name": "MEOW"}, {"model": "adameow", "name": "AdaMEOW"}],
            "metrics": ["macro_f1", "auc"],
            "seeds": [0, 1],
        },
        {"dataset": "ml-100k", "title": "Nothing yet", "models": [{"model": "ease", "name": "EASE"}], **users},
    ]
    return Board("made", folder, tuple(SheetSpec.of(sheet) for sheet in sheets))


def made_sheets(board: Board, results: Path) -> list[Sheet]:
    """The sheets of the board, with records that are written now."""
    users, nodes, _ = board.sheets
    store = Store(results / board.name / users.dataset)
    for place, entry in enumerate(users.models):
        for job in jobs_of(users, entry):
            if entry.name in QUALITY:
                store.save(job, _of_users(job, place, *QUALITY[entry.name]))
            elif entry.name == FAILS:
                store.save_failure(job, failure_record(job, "RuntimeError", "it <i>broke</i>", "Traceback:\n  line 1"))
    _compare(open_sheet(board, users, results))
    store = Store(results / board.name / nodes.dataset)
    for place, entry in enumerate(nodes.models):
        for job in jobs_of(nodes, entry):
            store.save(job, _of_nodes(job, place))
    return [open_sheet(board, sheet, results) for sheet in board.sheets]


def _of_users(job: Job, place: int, excluded: float, kept: float) -> Record:
    near = 0.0005 * job.seed
    protocols, scores, groups = {}, {}, {}
    for title, ndcg in (("seen kept", kept), ("seen excluded", excluded)):
        scores[title] = {"ndcg@10": ndcg + near, "recall@10": 2 * ndcg + near, "mrr@10": 0.9 * ndcg + near}
        protocols[title] = {
            "protocol": {"split": "leave-one-out", "seen": title.removeprefix("seen "), "split_hash": "a1" * 32},
            "protocol_hash": f"hash of {title}",
            "n_users": 1234,
            "n_unreachable_users": 5,
        }
        groups[title] = {
            "1-4": {"n_users": 1000, "ndcg@10": ndcg / 2 + near},
            "5+": {"n_users": 234, "ndcg@10": ndcg},
        }
    epochs = {} if place > 2 else {"epoch": [1, 2, 3], "ndcg@10": [excluded / 3, excluded, excluded / 2]}
    return {
        **_record(job, place, scores, protocols),
        "curve": epochs,
        "groups": {"history": groups},
        "data": {"split": "leave-one-out", "n_users": 1234, "n_items": 99},
    }


def _of_nodes(job: Job, place: int) -> Record:
    titles = ["20 labels a class", "40 labels a class", "60 labels a class", "20 labels, logistic regression"]
    scores: dict[str, dict[str, float]] = {
        title: {"macro_f1": 0.9 - 0.01 * place + 0.001 * (at + job.seed), "auc": 0.98}
        for at, title in enumerate(titles)
    }
    scores["k-means"] = {"nmi": 0.5 + 0.1 * place, "ari": 0.4}
    protocol = {"protocol": {"task_hash": "b2" * 32, "probe": {"steps": 200}}, "protocol_hash": "0123456789abcdef"}
    return {
        **_record(job, place, scores, dict.fromkeys(scores, protocol)),
        "curve": {"epoch": [1, 50, 100], "loss": [3.0, 2.0, 1.5 + job.seed]},
        "data": {"target": "paper", "nodes": {"paper": 4019, "author": 7167}},
    }


def _record(job: Job, place: int, scores: dict[str, Any], protocols: dict[str, Any]) -> Record:
    """All entries train; the later ones are faster, larger and slower to ask."""
    training = {"epochs": 3, "best_epoch": 2, "best": 0.1, "select_seen": "exclude"}
    training["selected_by"] = "ndcg@10" if "seen kept" in scores else "loss"
    training["seconds"], training["cpu_seconds"] = 500 / (place + 1) + job.seed, 400 / (place + 1)
    return {
        **record(job, scores, protocols),
        "training": training,
        "inference": {"seconds": 0.1 * (place + 1), "cpu_seconds": 0.1},
        "peak_memory_mb": 600.0 + 300 * place,
        "n_parameters": 10 ** (place + 3),
    }


def _compare(sheet: Sheet) -> None:
    """Keep comparisons: seen items excluded, one entry ties with the best; seen items kept, the best one stands out."""
    columns = {}
    for table in sheet.tables:
        columns[table.title] = {metric: _column(sheet, table.title, metric) for metric in table.metrics}
    save_comparisons(columns, *compared_records(sheet), sheet.folder / sheet.spec.comparisons)


def _column(sheet: Sheet, title: str, metric: str) -> Column:
    done = [entry for entry in sheet.entries if entry.done]
    ordered = sorted(done, key=lambda entry: -sheet.numbers[entry.name, title, "", "", metric].mean)
    best = ordered[0]
    versus = {}
    for place, entry in enumerate(ordered[1:]):
        by = (
            sheet.numbers[best.name, title, "", "", metric].mean - sheet.numbers[entry.name, title, "", "", metric].mean
        )
        p = 0.31 if title == "seen excluded" and place == 0 else 0.00004
        versus[entry.address] = (Comparison("users", 1234, by, by - 0.001, by + 0.001, p, p, 0.2),)
    return Column(best.address, versus)
