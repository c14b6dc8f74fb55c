"""Full ranking of all test users end to end: encoding, scores, lists with seen items kept and excluded, metrics."""

from __future__ import annotations

from typing import Any

import beauty

from experiments.bench.work import encoding, scores
from recgraph import registry
from recgraph.evaluate import evaluate
from recgraph.models.base import Space


def prepare(options: dict[str, Any]) -> Any:
    split = beauty.split(options["data"])
    model = registry.load("model", options["model"])(**options["settings"])
    model.build(Space(n_users=split.n_users, n_items=split.n_items), seed=0).to(options["device"])
    cases = split.test
    read, width = cases.history.last(model.config.max_len), model.config.hidden_dim
    one = encoding(model.config, read.with_values(read.values + 1), last_only=True)
    one += scores(len(cases), split.n_items, width)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            evaluate(model, cases, cutoffs=(5, 10, 20), metrics=("recall", "ndcg", "mrr", "hit_rate"))
        return {"users": float(len(cases) * steps), **one.times(steps).counts()}

    return run
