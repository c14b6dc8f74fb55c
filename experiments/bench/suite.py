"""The benchmarks: what is compared with whom, how many steps a repetition has, and what is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.bench.harness import Side
from experiments.bench.report import Goal, Reference

SIZES = {"hidden_dim": 64, "max_len": 50, "dropout": 0.5}
#: random vectors of Beauty's size
VECTORS = {"n_items": 12101, "n_users": 22363, "width": 64, "k": 20}
#: a large catalogue; a repetition ranks for the first ``sample`` users
LARGE = {
    "n_items": 100_000,
    "n_users": 100_000,
    "sample": 20_000,
    "width": 64,
    "k": 20,
    "block_items": None,
    "checked": 2_048,
    "exclude": True,
    "steps": 10,
    "warmup": 1,
}
PUBLISHED = Reference("published MCLRec code", 75, 92, share_of_peer=0.19)


@dataclass(frozen=True)
class Bench:
    """One comparison.

    Attributes:
        name: as given to ``--only``.
        unit: what is counted.
        ours, peer: the sides.
        goal: the ratio that is asked for.
        reference: figures measured before.
        others: further peers, shown beside.
    """

    name: str
    unit: str
    ours: Side
    peer: Side
    goal: Goal | None = None
    reference: Reference | None = None
    others: tuple[Side, ...] = ()


def suite(data: Path, device: str = "cpu") -> Iterator[Bench]:
    """All benchmarks, on the Beauty sequence file ``data`` and what lies beside it; ``device`` is
    of our side.
    """
    common = {"data": str(data), "device": device}

    def train(model: str, regime: str, batch_size: int, steps: int, **settings: Any) -> Side:
        options = {
            "model": model,
            "batch_size": batch_size,
            "settings": {**SIZES, "regime": regime, **settings},
        }
        loss = settings.get("loss", {"name": "full_softmax"})["name"]
        return Side(
            f"recgraph {model}, {regime}, {loss}",
            "ours/training.py:train",
            {**common, **options, "steps": steps, "warmup": 5},
        )

    def recbole(steps: int) -> Side:
        options = {**common, "batch_size": 256, "steps": steps, "warmup": 2}
        return Side(
            "RecBole SASRec, a sample a prefix",
            "peers/of_recbole.py:recbole_sasrec",
            options,
            "recbole",
        )

    def replay(name: str, n_negatives: int, steps: int) -> Side:
        options = {
            **common,
            "batch_size": 128,
            "n_negatives": n_negatives,
            "steps": steps,
            "warmup": 2,
        }
        return Side(f"RePlay SASRec, {name}", "peers/replay_sasrec.py", options, "replay")

    rectools = {**common, "batch_size": 128, "loss": "softmax", "steps": 3, "warmup": 1}
    ranking = {**common, "model": "SASRec", "settings": SIZES, "steps": 1, "warmup": 1}
    # RecBole ranks 1,090 users/s at its default of 4,096 users a batch and 1,950 at 256: it gets
    # its best
    recbole_ranking = {**common, "batch_size": 256, "eval_batch_size": 64, "steps": 1, "warmup": 1}
    vectors = {**VECTORS, "device": device, "steps": 2, "warmup": 1}

    # the random 80 / 10 / 10 split of ml-100k, three layers of width 64, BPR with one uniform
    # negative
    graph = {
        "data": str(data.parent.parent / "ml-100k" / "ml-100k.inter"),
        "batch_size": 2048,
        "steps": 100,
        "warmup": 10,
    }
    ours_graph = {
        **graph,
        "device": device,
        "split": "movielens",
        "model": "LightGCN",
        "settings": {"n_layers": 3},
    }
    lightgcn = Side("recgraph LightGCN", "ours/training.py:train", {**ours_graph, "steps": 300})

    full = train("SASRec", "causal", 128, 30)
    sampled = train(
        "SASRec", "causal", 128, 90, loss={"name": "sampled_softmax", "n_negatives": 512}
    )
    yield Bench(
        "sasrec-prefix",
        "targets",
        train("SASRec", "prefix", 256, 40),
        recbole(10),
        Goal(5),
        Reference("RecBole 1.2.1", 430, 452),
    )
    yield Bench(
        "mclrec-prefix",
        "targets",
        train("MCLRec", "prefix", 256, 12),
        recbole(10),
        Goal(8, "reference"),
        PUBLISHED,
    )
    yield Bench(
        "sasrec-causal-full",
        "targets",
        full,
        replay("full softmax", 0, 4),
        Goal(8),
        Reference("RePlay 0.22", 543, 543),
    )
    yield Bench(
        "sasrec-causal-full-rectools",
        "targets",
        full,
        Side("RecTools SASRec, full softmax", "peers/rectools_sasrec.py", rectools, "rectools"),
        None,
        Reference("RecTools 0.19", 309, 309),
    )
    yield Bench(
        "sasrec-causal-sampled",
        "targets",
        sampled,
        replay("128 shared negatives", 128, 40),
        Goal(3),
        Reference("RePlay 0.22", 6200, 6200),
    )
    yield Bench(
        "mclrec-causal",
        "targets",
        train("MCLRec", "causal", 128, 20),
        recbole(10),
        Goal(15, "reference"),
        PUBLISHED,
    )
    yield Bench(
        "lightgcn",
        "targets",
        lightgcn,
        Side("RecBole LightGCN", "peers/of_recbole.py:recbole_lightgcn", graph, "recbole"),
        Goal(3.5),
        Reference("RecBole 1.2.1", 62000, 67000),
    )
    yield Bench(
        "lightgcn-pyg",
        "targets",
        lightgcn,
        Side("PyG LightGCN on a normalised CSR", "peers/pyg_lightgcn.py", graph),
        Goal(3.5),
        Reference("PyG 2.x", 70000, 70000),
    )
    yield Bench(
        "ranking-end-to-end",
        "users",
        Side("recgraph SASRec, seen kept and excluded", "ours/ranking.py:ranking", ranking),
        Side(
            "RecBole SASRec, seen kept",
            "peers/of_recbole.py:recbole_ranking",
            recbole_ranking,
            "recbole",
        ),
        Goal(3),
        Reference("RecBole 1.2.1", 2600, 2600),
    )
    yield Bench(
        "ranking-alone",
        "users",
        Side("recgraph top-k", "ours/ranking.py:topk", vectors),
        Side("faiss IndexFlatIP", "peers/ranking.py:faiss_ranking", vectors),
        Goal(0.7),
        Reference("faiss flat", 38000, 38000),
    )
    large = {**LARGE, "device": device}
    yield Bench(
        "ranking-large",
        "users",
        Side("recgraph top-k, seen excluded", "ours/ranking.py:topk_large", large),
        Side("faiss IndexFlatIP, seen excluded", "peers/ranking.py:faiss_large", large),
        Goal(0.8),
        None,
        (
            Side(
                "faiss IndexFlatIP, seen kept",
                "peers/ranking.py:faiss_large",
                {**large, "exclude": False},
            ),
            Side("U @ I.T, topk, seen excluded", "peers/ranking.py:plain_ranking", large),
        ),
    )
