"""``evaluate``: metrics of a model under one or several protocols, from one pass over its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate.candidates import candidates_for
from recgraph.evaluate.collect import Measurement, collect
from recgraph.evaluate.hits import Facts, RankedHits, check_items
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, Asked, metric_class, split_metric, value_of
from recgraph.evaluate.protocol import Protocol, Seen, Ties, is_leaked
from recgraph.evaluate.ranking import Ranker, item_vectors_of
from recgraph.evaluate.rerank import CoOccurrence, Cosine, Reranker, bind, reranker_of
from recgraph.evaluate.results import Result, Results
from recgraph.parallel import Engine
from recgraph.sparse.ragged import Ragged

#: what metrics read that is made of the data the model was fitted on
_OF_TRAINING = frozenset({"counts", "n_users", "known"})
#: in what protocols of one pass may differ
_MAY_DIFFER = {"seen", "cutoffs", "ties", "candidates", "n_candidates", "candidate_seed", "candidate_hash", "rerank"}
#: users whose metrics are computed together, at most, and places of their lists
_ROWS, _PLACES = 1 << 14, 1 << 20


@checked
def evaluate(
    model: Ranker,
    cases: Cases,
    *,
    protocols: Sequence[Protocol] | None = None,
    seen: Sequence[Seen] = ("keep", "exclude"),
    cutoffs: Sequence[int] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    ties: Ties = "seeded permutation",
    candidate_lists: Ragged | None = None,
    fit_part: Part | None = None,
    features: Tensor | None = None,
    split: Any = None,
    part: str = "",
    fitted_on: str = "",
    history: str = "",
    tie_seed: int = 0,
    allow_fitted: bool = False,
    engine: Engine | None = None,
    rerank: str | Mapping[str, Any] | Reranker | None = None,
    item_columns: ItemColumns | None = None,
) -> Results:
    """Rank all items for every case and compute the metrics.

    Args:
        model: anything with ``score(query)``, or with ``has_vectors`` and ``encode_users`` and ``encode_items``.
        cases: whom to rank for; the items of their histories are the seen ones.
        protocols: how to count, a result for each; by default one for each entry of ``seen``, made of the settings
            below that a protocol has. They share one pass, and so the split and ``tie_seed``; they may differ in
            ``seen``, ``candidates``, ``ties``, ``cutoffs`` and ``rerank``.
        seen: the conventions for seen items: ``"keep"`` them as candidates, ``"exclude"`` them.
        cutoffs: list lengths; by default 5, 10 and 20, or those that ``metrics`` name where each of them does. A list
            ends with the last item, however long it may be.
        metrics: names, e.g. ``"ndcg"`` at every cut-off or ``"ndcg@10"`` at one, or metrics with options of their own;
            by default :data:`~recgraph.evaluate.metrics.names.DEFAULT_METRICS`. ``"auc"`` reads the whole ranking and
            has no cut-off.
        ties: one order of equal scores, drawn with ``tie_seed``, or ``"expectation"``, over all of them.
        candidate_lists: a row for each case, for protocols with ``candidates="lists"``.
        fit_part: what the model was fitted on, for metrics of popularity and novelty.
        features: [n_items, F], for the diversity of lists.
        split, part, fitted_on, history: recorded in the protocol.
        tie_seed: of the permutation of the items that orders equal scores.
        allow_fitted: also rank a valid or test part that ``fitted_on`` names: how well a model fits, not how well it
            recommends.
        engine: ranks for shares of the users (:mod:`recgraph.parallel`), with a model on the host; None: this process.
            Results are the same, bit for bit, for the same number of threads.
        rerank: a re-ranker that picks the lists (:class:`~recgraph.evaluate.rerank.Reranker`), its name or a mapping
            with its settings; the protocol records it. Co-occurrence is that of ``fit_part``.
        item_columns: the item features, for a re-ranker with ``columns``.

    Returns:
        A result for each protocol, with the values of each user in the order of ``cases``.

    Raises:
        ValueError: no cases, a user without relevant items, an unknown metric or one that needs what is not given, NaN
            scores, protocols that cannot share a pass, or a part that the model was fitted on.
    """
    asked = Asked.of(metrics)
    if protocols is None:
        given: dict[str, Any] = {"ties": ties, "part": part, "fitted_on": fitted_on, "history": history}
        given |= {"tie_seed": tie_seed, "rerank": rerank or "", "cutoffs": asked.cutoffs(cutoffs, Protocol().cutoffs)}
        if split is not None:
            given |= {"split": split.name, "split_hash": split.hash, "split_facts": getattr(split, "facts", "")}
        protocols = [Protocol.of(given, seen=which) for which in dict.fromkeys(seen)]
    else:
        protocols = [each.model_copy(update={"cutoffs": asked.cutoffs(each.cutoffs, ())}) for each in protocols]
    _check(protocols, cases, allow_fitted)
    check_needs(asked.metrics, fit_part, features, "fit_part")
    facts = _facts(cases, fit_part, features)
    in_common = None if fit_part is None else CoOccurrence(fit_part.items, cases.n_items)
    by_vectors = cache(partial(_by_vectors, model)) if model.has_vectors else None
    measurements = []
    for protocol in protocols:
        named, candidates = candidates_for(protocol, cases, candidate_lists)
        picks = None
        if named.rerank:
            picks = bind(
                reranker_of(named.rerank),
                "rerank",
                model,
                by_vectors=by_vectors,
                in_common=in_common,
                columns=item_columns,
            )
        measurements.append(Measurement(named, asked.metrics, candidates, picks))
    lists = collect(model, cases, measurements, facts, fit_part, engine)
    users = cases.users.cpu().numpy().astype(np.int64)
    results, log_hash = [], getattr(split, "log_hash", "")
    for measurement, ranked in zip(measurements, lists, strict=True):
        per_user, overall = metric_values(asked, ranked, measurement.protocol.cutoffs)
        unreachable = _n_unreachable(cases, measurement)
        results.append(Result(measurement.protocol, users, per_user, overall, unreachable, log_hash=log_hash))
    return Results(results)


def _by_vectors(model: Ranker) -> Cosine:
    found = item_vectors_of(model)
    assert found is not None
    return Cosine(found.detach().float().to("cpu"))


def _facts(cases: Cases, fit_part: Part | None, features: Tensor | None) -> Facts:
    if features is not None:
        if features.dim() != 2 or features.shape[0] != cases.n_items:
            raise ValueError(f"features must be [{cases.n_items}, F], not {list(features.shape)}")
        features = features.detach().cpu()  # embeddings of a model, where it is
        if (bad := (~features.isfinite().all(1)).nonzero()).numel():
            raise ValueError(f"features: those of item index {int(bad[0])} hold NaN or an infinite number; fill them")
    if fit_part is None:
        return Facts(cases.n_items, features=features)
    return Facts(cases.n_items, fit_part.item_counts(), int((fit_part.items.lengths > 0).sum()), features)


def check_needs(metrics: Sequence[Metric], fit_part: object, features: object, name: str) -> None:
    """Refuse metrics that read what is not given (None); ``name`` is that of ``fit_part``."""
    for metric in metrics:
        if fit_part is None and not metric.needs.isdisjoint(_OF_TRAINING):
            raise ValueError(f"metric {metric.label!r} needs what the model was fitted on; give {name}")
        if features is None and "features" in metric.needs:
            raise ValueError(f"metric {metric.label!r} needs features of items; give features")


def _check(protocols: Sequence[Protocol], cases: Cases, allow_fitted: bool) -> None:
    if not protocols:
        raise ValueError("protocols (or seen) is empty; give at least one")
    if len(cases) == 0:
        part, split = protocols[0].part, protocols[0].split
        raise ValueError(f"cases is empty: part {part!r} of split {split!r} asks nothing of any user; give another one")
    for name, rows in (("history", cases.history), ("truth", cases.truth), ("times", cases.times)):
        if rows is not None and rows.n_rows != len(cases):
            raise ValueError(f"cases.{name} has {rows.n_rows} rows for {len(cases)} users; give one for each user")
    check_items("cases.history", cases.history.values, cases.n_items)
    if bool((cases.truth.lengths == 0).any()):
        row = int((cases.truth.lengths == 0).nonzero()[0])
        raise ValueError(f"user index {int(cases.users[row])} has no relevant item; leave such users out of the cases")
    for protocol in protocols:
        if differing := set(protocols[0].differences(protocol)) - _MAY_DIFFER:
            raise ValueError(f"protocols differ in {', '.join(sorted(differing))}; evaluate each in a call of its own")
        if not allow_fitted and is_leaked(protocol.part, protocol.fitted_on):
            raise ValueError(
                f"part = {protocol.part!r} is in fitted_on = {protocol.fitted_on!r}: the model knows what is asked "
                "for; rank another part, or allow_fitted=True to measure how well it fits"
            )


def metric_values(
    asked: Asked, ranked: RankedHits, cutoffs: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The values of each user, and those over all users, by name (``"ndcg@10"``, ``"auc"``)."""
    per_user: dict[str, np.ndarray] = {}
    overall: dict[str, float] = {}
    step = max(1, min(_ROWS, _PLACES // max(ranked.hits.shape[1], 1)))
    for metric in asked.metrics:
        for k in asked.columns(metric, cutoffs):
            name = metric.label if k is None else f"{metric.label}@{k}"
            if metric.per_user:
                values = torch.cat([metric(ranked.rows(at, at + step), k) for at in range(0, len(ranked), step)])
                per_user[name] = values.numpy()
            else:
                values = metric(ranked, k)
            overall[name] = metric.mean(values)
    return per_user, overall


def _n_unreachable(cases: Cases, measurement: Measurement) -> int:
    """Users with a relevant item that is no candidate."""
    relevant = cases.truth.rows * cases.n_items + cases.truth.values
    if measurement.candidates is not None:
        gone = ~torch.isin(relevant, measurement.candidates.rows * cases.n_items + measurement.candidates.values)
    elif measurement.protocol.seen == "exclude":
        gone = torch.isin(relevant, cases.history.rows * cases.n_items + cases.history.values)
    else:
        return 0
    return int(torch.unique(cases.truth.rows[gone]).numel())


def check_selects(metric: str) -> None:
    """Refuse a metric that cannot select the best epoch: lower values of it are better (a model that has learnt nothing
    has the lowest), or it needs features of items."""
    of = metric_class(split_metric(metric)[0])
    if not of.higher_is_better or "features" in of().needs:
        why = "needs features of items" if of.higher_is_better else "is better when it is lower"
        raise ValueError(f"metric = {metric!r} cannot select the best epoch: it {why}; take e.g. 'ndcg@10'")


def validation(
    model: Ranker, cases: Cases, selects: str, *, seen: Seen, fit_part: Part, cutoffs: Sequence[int] = (5, 10, 20)
) -> dict[str, float]:
    """The metrics of a training after an epoch: the default ones, and the one that selects the best epoch, whose value
    is found under the name ``selects``, e.g. ``"coverage@20"``, too."""
    check_selects(selects)
    name, k = split_metric(selects)
    wanted = tuple(dict.fromkeys((*DEFAULT_METRICS, name)))
    every = sorted({*cutoffs, *([] if k is None else [k])})
    (result,) = evaluate(model, cases, seen=(seen,), cutoffs=every, metrics=wanted, fit_part=fit_part)
    values = result.metrics
    return {**values, selects: value_of(values, selects)}
