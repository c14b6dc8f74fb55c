"""What re-rankers cost and gain: NDCG@10 against the diversity of lists, of a trained run.

    python experiments/rerank.py RUN OUT.jsonl [--users 5000] [--pools 20 100] [--compare genres]

Contrastive search is one of ``experiments/ideas``. The validation part is ranked without seen items
by score and by every re-ranker at every strength and pool, all of them comparing items by the
model's vectors, or by what ``--compare`` says. Of each re-ranker the program chooses the setting
with the most diversity among those that lose at most 1 % of NDCG@10 (the ranking itself where none
does), and measures that one on the test part, once. A line of OUT is one measurement.

Diversity is the mean over the pairs of a list of 1 - similarity, by each of: vectors (cosine), the
users whom two items have in common in training (cosine), and genres, where items have them
(Jaccard). One of them is what the re-rankers compare by, so that its growth is no finding. The
choice reads another one alone: genres, users or vectors, the first of these that they do not see.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import recgraph as rg
from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases
from recgraph.evaluate import Protocol, evaluate
from recgraph.evaluate.metrics import Metric, RankedHits
from recgraph.evaluate.rerank import CoOccurrence, Cosine, Jaccard, Similarity, reranker_of
from recgraph.evaluate.results import Result
from recgraph.files import write_text
from recgraph.serve.vectors import encode_items
from recgraph.train.record import provenance
from recgraph.train.run import Run

K = 10
#: the most of NDCG that may be lost
LOSS = 0.01
STRENGTHS = {
    "mmr": (0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    "contrastive_search": (0.003, 0.01, 0.02, 0.05, 0.1, 0.3),
    "dpp": (0.02, 0.05, 0.1, 0.2, 0.3, 0.5),
}
#: what re-rankers compare by -> their settings
COMPARE: dict[str, dict[str, Any]] = {
    "vectors": {},
    "users": {"similarity": "co_occurrence"},
    "genres": {"columns": ["genres"]},
}
#: what ``diversity(by=...)`` compares by
SIMILARITIES: dict[str, Similarity] = {}


@dataclass(frozen=True)
class Diversity(Metric):
    """The mean of 1 - similarity over the pairs of the first k; a list of one item is 0."""

    by: str = ""

    name = "diversity"
    needs_truth = False
    needs = frozenset({"items"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        items = ranked.listed()
        return torch.cat([self._of(rows) for rows in items.split(512)])  # type: ignore[no-untyped-call]

    def _of(self, items: Tensor) -> Tensor:
        there_mask, known = items >= 0, items.clamp(min=0)
        compare, total = (
            SIMILARITIES[self.by].of(known),
            torch.zeros(len(items), dtype=torch.float64),
        )
        for place in range(items.shape[1]):
            pair_mask = there_mask & there_mask[:, place, None]
            pair_mask[:, place] = False
            total += ((1 - compare(known[:, place])) * pair_mask).sum(1)
        n = there_mask.sum(1)
        return total / (n * (n - 1)).clamp(min=1)


def measured(
    run: Run, cases: Cases, columns: ItemColumns, part: str, specifications: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Result]]:
    """The ranking, then each re-ranker, from one pass over the scores."""
    split = run.split
    assert split is not None
    common = {
        "split": split.name,
        "split_hash": split.hash,
        "part": part,
        "fitted_on": "train",
        "seen": "exclude",
    }
    common |= {"history": "train" if part == "valid" else "train+valid", "cutoffs": (K,)}
    given: list[dict[str, Any]] = [{}, *specifications]
    protocols = [Protocol.of(common, rerank=reranker_of(each) if each else "") for each in given]
    metrics = ["ndcg", "recall", *(Diversity(by=by) for by in SIMILARITIES)]
    results = evaluate(
        run.model,
        cases,
        protocols=protocols,
        metrics=metrics,
        fit_part=split.train,
        item_columns=columns,
    )
    yield from zip(given, results, strict=True)


def rows_of(found: Iterator[tuple[dict[str, Any], Result]], part: str) -> list[dict[str, Any]]:
    """A row for each measurement, with what it changes against the ranking, the first of them."""
    rows: list[dict[str, Any]] = []
    plain: Result | None = None
    for specification, result in found:
        plain = plain or result
        change = {
            name: value / plain.metrics[name] - 1
            for name, value in result.metrics.items()
            if plain.metrics[name] > 0
        }
        lost = result.per_user[f"ndcg@{K}"] - plain.per_user[f"ndcg@{K}"]
        error = float(np.std(lost, ddof=1) / len(lost) ** 0.5 / plain.metrics[f"ndcg@{K}"])
        rows.append(
            {
                "part": part,
                "users": len(result.users),
                "rerank": specification,
                "metrics": result.metrics,
                "change": change,
                "standard error of the change of ndcg": error,
                "protocol_hash": result.hash,
            }
        )
    return rows


def chosen_of(rows: list[dict[str, Any]], name: str, unseen: str) -> dict[str, Any]:
    """The setting of a re-ranker with the most diversity among those that lose little; none where
    all lose more.
    """
    fine = [
        row
        for row in rows
        if row["rerank"].get("name") == name and row["change"][f"ndcg@{K}"] >= -LOSS
    ]
    best: dict[str, Any] = max(
        fine, key=lambda row: float(row["change"][unseen]), default={"rerank": {}}
    )
    return dict(best["rerank"])


def measure(folder: Path, out: Path, n_users: int, pools: list[int], compare: str) -> None:
    """Choose on the validation part, measure on the test part."""
    rg.import_file(Path(__file__).parent / "ideas" / "contrastive_search.py")
    run = Run.open(folder)
    assert isinstance(run, Run)
    split = run.split
    assert split is not None
    log, n_items = split.interactions, len(split.interactions.items)
    columns = ItemColumns(log.items, log.item_features, log.columns.item)
    if log.item_features is not None and "genres" in log.item_features.columns:
        SIMILARITIES["genres"] = Jaccard([columns.codes("genres", "genres")])
    SIMILARITIES["users"] = CoOccurrence(split.train.items, n_items)
    SIMILARITIES["vectors"] = Cosine(encode_items(run.model))
    if compare not in SIMILARITIES:
        raise ValueError(f"--compare {compare}: there are {', '.join(SIMILARITIES)}")
    unseen = f"diversity(by={next(by for by in SIMILARITIES if by != compare)})@{K}"
    cases = split.valid
    if len(cases) > n_users:
        drawn = torch.randperm(len(cases), generator=torch.Generator().manual_seed(0))[:n_users]
        cases = cases.take(drawn.sort().values)
    every = [
        {"name": name, "strength": strength, "pool": pool, **COMPARE[compare]}
        for name, strengths in STRENGTHS.items()
        for strength in strengths
        for pool in pools
    ]
    rows = rows_of(measured(run, cases, columns, "valid", every), "valid")
    chosen = [picked for name in STRENGTHS if (picked := chosen_of(rows, name, unseen))]
    whole = split.unseal("re-rankers chosen on valid")
    rows += rows_of(measured(run, whole.test, columns, "test", chosen), "test")
    about = {
        "run": run.record.only(
            "model", "config", "training", "seed", "fitted_on", "data", "best_epoch"
        ),
        "compared by": compare,
        "unseen": unseen,
        "loss allowed": LOSS,
        "provenance": provenance(),
    }
    write_text("".join(json.dumps(row) + "\n" for row in (about, *rows)), out)
    for row in rows:
        if row["part"] == "test":
            print(json.dumps({name: row[name] for name in ("rerank", "metrics", "change")}))


def main() -> None:
    """Parse, call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--compare", choices=[*COMPARE], default="vectors")
    parser.add_argument("--pools", type=int, nargs="+", default=[20, 100])
    given = parser.parse_args()
    measure(given.run, given.out, given.users, given.pools, given.compare)


if __name__ == "__main__":
    main()
