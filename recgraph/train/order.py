"""What a log gives away to a table of transitions, which trains nothing: by its histories, and by
their order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from recgraph.data.part import Cases, Part
from recgraph.data.split import Split
from recgraph.evaluate.checks import Check, Status
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.significance import paired_t
from recgraph.models.base import Space
from recgraph.models.closed_form.transitions import Transitions
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged


def order(
    split: Split, *, n_users: int = 2000, n_interactions: int = 1_000_000, seed: int = 0
) -> list[Check]:
    """What histories say beyond their last item, and what their order says, to
    :class:`Transitions`: NDCG@10 on valid, seen items excluded, against the last item alone, and
    against a log in which each user's training order is shuffled (after Klenitskiy et al., RecSys
    2024). A log in which neither says anything is none to compare sequence models on. It is fitted
    on at most ``n_interactions``, of users that are drawn, and ranks for at most ``n_users`` drawn
    ones.
    """
    if not len(split.valid):
        return [Check("gain of histories", "skipped", None, "the valid part is empty")]
    rng = numpy_generator(seed, "order")
    train = split.train.items
    space = Space(n_users=0, n_items=split.n_items)
    users = torch.from_numpy(rng.permutation(train.n_rows))
    items = train.take(users[train.lengths[users].cumsum(0) <= n_interactions])
    cases = split.valid.take(torch.from_numpy(rng.permutation(len(split.valid))[:n_users]))

    def shuffled(rows: Ragged) -> Ragged:
        keys = rows.rows + torch.from_numpy(rng.random(len(rows.values)))
        return rows.with_values(rows.values[keys.argsort()])

    def fitted(items: Ragged) -> Transitions:
        return Transitions().build(space).fit(Part(items, space.n_items))

    def scores_of(model: Transitions, cases: Cases) -> np.ndarray:
        (results,) = evaluate(model, cases, seen=("exclude",), metrics=("ndcg@10",))
        scores: np.ndarray = results.per_user["ndcg@10"]
        return scores

    model, of_last = fitted(items), Transitions(decay=1e-30).build(space)
    of_last.load_state_dict(model.state_dict())  # the table is the same
    scores = scores_of(model, cases)
    last = scores_of(of_last, cases)
    unordered = fitted(shuffled(items))
    without = scores_of(unordered, replace(cases, history=shuffled(cases.history)))
    checks = []
    for name, what, other in (
        ("histories", "the last item alone", last),
        ("their order", "shuffled orders", without),
    ):
        gain = float(scores.mean() - other.mean())
        p = paired_t(scores - other)
        status: Status = "ok" if gain > 0 and p < 0.05 else "warn"
        detail = f"NDCG@10 of transitions on valid: {scores.mean():.4f}; {what}: {other.mean():.4f} (p = {p:.1g})"
        checks.append(Check(f"gain of {name}", status, gain, detail))
    return checks
