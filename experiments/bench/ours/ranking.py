"""Full ranking: end to end, and of given vectors alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experiments.bench.ours.training import beauty
from experiments.bench.peers.ranking import part, users_and_items
from experiments.bench.work import encoding, scores
from recgraph import registry
from recgraph.evaluate import evaluate
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.models.base import Space
from recgraph.sparse.ragged import Ragged

AT_ONCE = 1024


def ranking(options: dict[str, Any]) -> Any:
    """All test users end to end: encoding, scores, lists with seen items kept and excluded,
    metrics.
    """
    split = beauty(options["data"])
    model = registry.load("model", options["model"])(**options["settings"])
    model.build(Space(n_users=split.n_users, n_items=split.n_items), seed=0).to(options["device"])
    cases = split.test
    read, width = cases.history.last(model.config.max_len), model.config.hidden_dim
    one = encoding(model.config, read.with_values(read.values + 1), last_only=True)
    one += scores(len(cases), split.n_items, width)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            evaluate(
                model, cases, cutoffs=(5, 10, 20), metrics=("recall", "ndcg", "mrr", "hit_rate")
            )
        return {"users": float(len(cases) * steps), **one.times(steps).counts()}

    return run


def topk(options: dict[str, Any]) -> Any:
    """Exact top-k by inner product, the vectors given, seen items kept and excluded in one pass."""
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    item_vectors, queries = (
        torch.from_numpy(array).to(options["device"]) for array in (items, users)
    )
    catalogue = Catalogue(options["n_items"], options["k"], item_vectors=item_vectors)

    # as many seen items a user as on Beauty
    drawn = torch.from_numpy(generator.integers(0, options["n_items"], 8 * len(users)))
    seen = Ragged.from_lengths(drawn, torch.full((len(users),), 8)).to(options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            catalogue.rank(queries, seen, ("keep", "exclude"))
        done = len(queries) * steps
        return {"users": float(done), **scores(done, len(items), options["width"]).counts()}

    return run


def topk_large(options: dict[str, Any]) -> Any:
    """A large catalogue: exact top-k with seen items excluded, everything beside the vectors made
    while it is measured.

    Before that, some users are ranked with blocks of 1,000 and of 50,000 items; different lists are
    a failure.
    """
    queries, items, drawn = (
        torch.from_numpy(array).to(options["device"]) for array in users_and_items(options)
    )

    def rank(end: int, block_items: int | None = None) -> Lists:
        catalogue = Catalogue(
            options["n_items"], options["k"], item_vectors=items, block_items=block_items
        )
        lists = []
        for start in range(0, end, AT_ONCE):
            index = slice(start, min(start + AT_ONCE, end))
            own = drawn[index]
            seen = Ragged.from_lengths(
                own.flatten(), torch.full((len(own),), own.shape[1], device=own.device)
            )
            lists.append(catalogue.rank(queries[index], seen, ("exclude",))["exclude"])
        return Lists.cat(lists)

    small, large = (rank(options["checked"], block_items) for block_items in (1_000, 50_000))
    if not torch.equal(small.items, large.items) or not torch.equal(small.scores, large.scores):
        raise ValueError("blocks of 1,000 and of 50,000 items give different lists")
    del small, large

    def run(steps: int) -> dict[str, float]:
        end = part(options, steps).stop
        rank(end, options["block_items"])
        return {"users": float(end), **scores(end, options["n_items"], options["width"]).counts()}

    return run
