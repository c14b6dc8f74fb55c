"""``evaluate``: metrics of a model under one or several protocols, from one pass over its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Interface

import numpy as np
import torch

from recgraph import registry
from recgraph.data.batch import Query
from recgraph.data.part import Cases
from recgraph.evaluate.metrics.base import Metric, RankedHits
from recgraph.evaluate.protocol import Protocol, Seen
from recgraph.evaluate.ranking import Ranker, catalogue_for, rank
from recgraph.evaluate.results import Result, Results
from recgraph.evaluate.truth import Truth

METRICS = ("recall", "hit_rate", "ndcg", "mrr", "map", "precision")
#: users whose metrics are computed together
_METRIC_ROWS = 1 << 16


class SplitLabel(Interface):
    """What a protocol records of a split."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...


def evaluate(
    model: Ranker,
    cases: Cases,
    *,
    protocols: Sequence[Protocol] | None = None,
    seen: Sequence[Seen] = ("keep", "exclude"),
    cutoffs: Sequence[int] = (5, 10, 20),
    metrics: Sequence[str] = METRICS,
    split: SplitLabel | None = None,
    part: str = "",
    fitted_on: str = "",
    history: str = "",
    tie_seed: int = 0,
    batch_size: int = 1024,
    block_items: int | None = None,
) -> Results:
    """Rank all items for every case and compute the metrics.

    Args:
        model: anything with ``score(query)``, or with ``has_vectors`` and ``encode_users`` and
            ``encode_items``.
        cases: whom to rank for; the items of their histories are the seen ones.
        protocols: how to count, a result for each; by default one for each entry of ``seen``, made of the
            settings below. They may differ in ``seen`` and ``cutoffs``, which share one pass, and in nothing
            else.
        seen: the conventions for seen items: ``"keep"`` them as candidates, ``"exclude"`` them.
        cutoffs: list lengths.
        metrics: names, e.g. ``"ndcg"``.
        split, part, fitted_on, history: recorded in the protocol.
        tie_seed: of the permutation of the items that orders equal scores.
        batch_size: users ranked between two hand-overs; bounds memory and does not alter results.
        block_items: items ranked at a time; bounds memory (a tile of scores takes 128 users x ``block_items``
            x 4 bytes on the host) and does not alter results.

    Returns:
        A result for each protocol, with the values of each user in the order of ``cases``.

    Raises:
        ValueError: no cases, a user without relevant items, an unknown metric, NaN scores, or protocols that
            cannot share a pass.
    """
    if protocols is None:
        common = {
            "split": split.name if split is not None else "",
            "split_hash": split.hash if split is not None else "",
            "part": part,
            "fitted_on": fitted_on,
            "history": history,
            "tie_seed": tie_seed,
            "cutoffs": tuple(cutoffs),
        }
        protocols = [Protocol.of(common, seen=convention) for convention in dict.fromkeys(seen)]
    _check(protocols, cases)
    counted = [registry.load("metric", name)() for name in metrics]
    conventions = tuple(dict.fromkeys(protocol.seen for protocol in protocols))
    depth = max(max(protocol.cutoffs) for protocol in protocols)
    hits = _hits(model, cases, conventions, depth, protocols[0].tie_seed, batch_size, block_items)
    users = cases.users.cpu().numpy().astype(np.int64)
    unreachable = {"keep": 0, "exclude": _n_unreachable(cases) if "exclude" in conventions else 0}
    return Results(
        [
            Result(
                protocol,
                users,
                _values(counted, hits[protocol.seen], protocol.cutoffs),
                unreachable[protocol.seen],
            )
            for protocol in protocols
        ]
    )


def _check(protocols: Sequence[Protocol], cases: Cases) -> None:
    if not protocols:
        raise ValueError("protocols (or seen) is empty; give at least one")
    if len(cases) == 0:
        raise ValueError("cases is empty: there is no user to evaluate")
    if bool((cases.truth.lengths == 0).any()):
        row = int((cases.truth.lengths == 0).nonzero()[0])
        raise ValueError(f"user index {int(cases.users[row])} has no relevant item; leave such users out of the cases")
    for other in protocols[1:]:
        differing = set(protocols[0].differences(other)) - {"seen", "cutoffs"}
        if differing:
            raise ValueError(f"protocols differ in {', '.join(sorted(differing))}; evaluate each in a call of its own")


def _hits(
    model: Ranker,
    cases: Cases,
    conventions: tuple[str, ...],
    depth: int,
    tie_seed: int,
    batch_size: int,
    block_items: int | None,
) -> dict[str, RankedHits]:
    """The hits of every user's lists; the lists themselves are dropped batch by batch."""
    truth = Truth.of(cases)
    width = min(depth, cases.n_items)
    catalogue = catalogue_for(model, cases.n_items, width, tie_seed=tie_seed, block_items=block_items)
    query = Query(cases.users, cases.history)
    hits = {name: torch.zeros(len(cases), depth, dtype=torch.bool) for name in conventions}
    gains = {name: torch.zeros(len(cases), depth, dtype=torch.float64) for name in conventions if truth.graded}
    for batch in rank(model, catalogue, query, cases.history, conventions, batch_size):
        for name, lists in batch.lists.items():
            places, found = truth.find(batch.index, lists.items)
            hits[name][batch.index, :width] = found
            if truth.grades is not None:
                gains[name][batch.index, :width] = truth.grades[places] * found
    ideal = truth.ideal_gains(depth)
    return {name: RankedHits(hits[name], truth.n_relevant, gains.get(name), ideal) for name in conventions}


def _values(metrics: Sequence[Metric], ranked: RankedHits, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = {}
    for metric in metrics:
        for k in cutoffs:
            parts = [
                metric(ranked.rows(start, start + _METRIC_ROWS), k) for start in range(0, len(ranked), _METRIC_ROWS)
            ]
            values[f"{metric.name}@{k}"] = torch.cat(parts).numpy()
    return values


def _n_unreachable(cases: Cases) -> int:
    """Users with a relevant item in their history."""
    relevant = cases.truth.rows * cases.n_items + cases.truth.values
    known = cases.history.rows * cases.n_items + cases.history.values
    return int(torch.unique(cases.truth.rows[torch.isin(relevant, known)]).numel())


def split_metric(name: str) -> tuple[str, int]:
    """``"ndcg@10"`` -> ``("ndcg", 10)``.

    Raises:
        ValueError: not of that form, or no such metric.
    """
    metric, sign, k = name.partition("@")
    if not sign or not k.isdigit() or int(k) < 1:
        raise ValueError(f"metric {name!r} must be of the form name@k, e.g. ndcg@10")
    known: str = registry.load("metric", metric).name
    return known, int(k)
