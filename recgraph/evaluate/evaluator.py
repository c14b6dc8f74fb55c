"""``evaluate``: metrics of a model under one or several protocols, from one pass over its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from recgraph.arguments import checked
from recgraph.data.item_columns import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate.candidates import candidates_for, check_items
from recgraph.evaluate.collect import collect
from recgraph.evaluate.hits import Facts, RankedHits
from recgraph.evaluate.limits import Limits, metric_rows
from recgraph.evaluate.low_precision import Precision
from recgraph.evaluate.measurement import Measurement
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.names import (
    DEFAULT_METRICS,
    Asked,
    metric_class,
    split_metric,
    value_of,
)
from recgraph.evaluate.protocol import Convention, Protocol, Seen, Ties, is_leaked
from recgraph.evaluate.ranking import Ranker
from recgraph.evaluate.reranked import Rerankings
from recgraph.evaluate.results import Result, Results
from recgraph.finite import first_bad_row
from recgraph.memory import parse_size
from recgraph.parallel import Engine
from recgraph.rerank.base import Reranker
from recgraph.sparse.ragged import Ragged

#: what metrics read that is made of the data the model was fitted on
_OF_TRAINING = frozenset({"counts", "n_users", "known", "trained"})
_MAY_DIFFER = {
    "seen",
    "cutoffs",
    "convention",
    "ties",
    "candidates",
    "n_candidates",
    "candidate_seed",
    "candidate_hash",
    "rerank",
}


#: places of all lists together to which they are filled up for a metric that cannot deal with shorter ones
_MOST_PLACES = 1 << 24


class SplitLabel(Interface):
    """What a protocol records of a split."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...


@checked
def evaluate(
    model: Ranker,
    cases: Cases,
    *,
    protocols: Sequence[Protocol] | None = None,
    seen: Sequence[Seen] | None = None,
    cutoffs: Sequence[int] | None = None,
    metrics: Sequence[str | Metric] | None = None,
    convention: Convention | None = None,
    ties: Ties | None = None,
    candidate_lists: Ragged | None = None,
    fit_part: Part | None = None,
    features: Tensor | None = None,
    split: SplitLabel | None = None,
    part: str | None = None,
    fitted_on: str | None = None,
    history: str | None = None,
    tie_seed: int | None = None,
    batch_size: int = 1024,
    block_items: int | None = None,
    memory_mib: int | None = None,
    precision: Precision = "float32",
    allow_fitted: bool = False,
    engine: Engine | None = None,
    memory_limit: str | int | None = None,
    rerank: str | Mapping[str, Any] | Reranker | None = None,
    item_columns: ItemColumns | None = None,
) -> Results:
    """Rank all items for every case and compute the metrics.

    Args:
        model: anything with ``score(query)``, or with ``has_vectors`` and ``encode_users`` and
            ``encode_items``.
        cases: whom to rank for; the items of their histories are the seen ones.
        protocols: how to count, a result for each; by default one for each entry of ``seen``, made of the
            settings below that a protocol has, none of which may be given beside ``protocols``. They share one pass,
            and so the split and ``tie_seed``; they may differ in ``seen``, ``candidates``, ``ties``, ``convention``,
            ``cutoffs`` and ``rerank``.
        seen: the conventions for seen items: ``"keep"`` them as candidates, ``"exclude"`` them; by default both.
        cutoffs: list lengths; by default 5, 10 and 20, or those that ``metrics`` name where each of them does. A list
            ends with the last item, however long it may be.
        metrics: names, e.g. ``"ndcg"`` at every cut-off or ``"ndcg@10"`` at one, or metrics with options of their own;
            by default those of :data:`~recgraph.evaluate.metrics.names.DEFAULT_METRICS` that the convention defines.
            Those that read the whole ranking (``"auc"``, under ``cornac`` also ``"map"``) have no cut-off.
        convention: whose definitions of the metrics; by default ``"recgraph"``.
        ties: ``"seeded permutation"``, one order of equal scores, drawn with ``tie_seed``, which is the default, or
            ``"expectation"``, over all of them.
        candidate_lists: a row for each case, for protocols with ``candidates="lists"``.
        fit_part: what the model was fitted on, for metrics of popularity and novelty.
        features: [n_items, F], for the diversity of lists.
        split, part, fitted_on, history: recorded in the protocol.
        tie_seed: of the permutation of the items that orders equal scores; by default 0.
        batch_size: users ranked between two hand-overs; bounds memory and does not alter results.
        block_items: items whose scores are held at a time; bounds memory and does not alter results.
        memory_mib: instead of ``block_items``: the most memory, in MiB, to be taken beyond the model and the data. The
            predicted peak is written to the log (``recgraph.evaluate.collect``) before the ranking starts.
        precision: of scores that are inner products. Below float32, for accelerators that are faster then, the best
            are scored again: lists are those of float32, and where that cannot be proven a user is ranked in it.
        allow_fitted: also rank a valid or test part that ``fitted_on`` names: how well a model fits, not how well it
            recommends.
        engine: ranks for shares of the users (:mod:`recgraph.parallel`), with a model on the host; None: this
            process. Values of users are gathered before any mean is made, and results are the same, bit for bit, for
            the same number of threads.
        memory_limit: instead of ``memory_mib``: the most memory of the process, e.g. ``"8GiB"``. A table of the
            predicted peak is logged likewise, and what does not fit is refused.
        rerank: a re-ranker that picks the lists (:class:`~recgraph.rerank.base.Reranker`), its name or a mapping with
            its settings; the protocol records it. Co-occurrence is that of ``fit_part``.
        item_columns: the item features, for a re-ranker with ``columns``.

    Returns:
        A result for each protocol, with the values of each user in the order of ``cases``.

    Raises:
        ValueError: no cases, a user without relevant items, an unknown metric or one that needs what is not given, NaN
            scores, protocols that cannot share a pass, settings that would be ignored, a ``memory_mib`` that is too
            little, or a part that the model was fitted on.
    """
    asked = Asked.of(metrics)
    settings = {
        "seen": seen,
        "cutoffs": None if cutoffs is None else tuple(cutoffs),
        "convention": convention,
        "ties": ties,
        "split": split,
        "part": part,
        "fitted_on": fitted_on,
        "history": history,
        "tie_seed": tie_seed,
        "rerank": rerank,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if protocols is None:
        given["cutoffs"] = asked.cutoffs(cutoffs, Protocol().cutoffs)
        protocols = _protocols(("keep", "exclude") if seen is None else seen, split, given)
    elif given:
        raise ValueError(f"{', '.join(given)} given beside protocols would be ignored; set them in each Protocol")
    else:
        protocols = [each.model_copy(update={"cutoffs": asked.cutoffs(each.cutoffs, ())}) for each in protocols]
    _check(protocols, cases, candidate_lists)
    if not allow_fitted:
        _check_held_out(protocols)
    limit = None if memory_limit is None else parse_size(memory_limit)
    limits = Limits(batch_size, block_items, memory_mib, precision, limit)
    facts = _facts(cases, fit_part, features)
    rerankings = Rerankings(model, cases.n_items, fit_part, item_columns)
    measurements = []
    for protocol in protocols:
        named, candidates = candidates_for(protocol, cases, candidate_lists)
        chosen = asked.made(named.convention)
        check_needs(chosen, fit_part, features, "fit_part")
        measurements.append(Measurement(named, chosen, candidates, rerankings.of(named)))
    lists = collect(model, cases, measurements, facts, fit_part, limits, engine)
    users = cases.users.cpu().numpy().astype(np.int64)
    results, log_hash = [], getattr(split, "log_hash", "")
    for measurement, ranked in zip(measurements, lists, strict=True):
        per_user, overall = metric_values(measurement.metrics, ranked, measurement.protocol.cutoffs, asked)
        unreachable = _n_unreachable(cases, measurement)
        results.append(Result(measurement.protocol, users, per_user, overall, unreachable, log_hash=log_hash))
    return Results(results)


def _protocols(seen: Sequence[Seen], split: SplitLabel | None, given: dict[str, Any]) -> list[Protocol]:
    """One for each convention, of the settings that are given."""
    common = {name: value for name, value in given.items() if name not in ("seen", "split")}
    if split is not None:
        common |= {"split": split.name, "split_hash": split.hash, "split_facts": getattr(split, "facts", "")}
    return [Protocol.of(common, seen=which) for which in dict.fromkeys(seen)]


def _facts(cases: Cases, fit_part: Part | None, features: Tensor | None) -> Facts:
    if features is not None:
        if features.dim() != 2 or features.shape[0] != cases.n_items:
            raise ValueError(f"features must be [{cases.n_items}, F], not {list(features.shape)}")
        features = features.detach().cpu()  # embeddings of a model, where it is
        if (item := first_bad_row(features)) is not None:
            raise ValueError(f"features: those of item index {item} hold NaN or an infinite number; fill them")
    if fit_part is None:
        return Facts(cases.n_items, features=features)
    return Facts(cases.n_items, fit_part.item_counts(), int((fit_part.items.lengths > 0).sum()), features)


def check_needs(metrics: Sequence[Metric], fit_part: object, features: object, name: str) -> None:
    """Refuse metrics that read what is not given (None), before anything is ranked.

    Args:
        name: of the argument that gives ``fit_part``.
    """
    for metric in metrics:
        if fit_part is None and not metric.needs.isdisjoint(_OF_TRAINING):
            raise ValueError(f"metric {metric.label!r} needs what the model was fitted on; give {name}")
        if features is None and "features" in metric.needs:
            raise ValueError(
                f"metric {metric.label!r} needs features of items; give features, as evaluate, frame and matrix of "
                "recgraph.evaluate take them"
            )


def _check(protocols: Sequence[Protocol], cases: Cases, candidate_lists: Ragged | None) -> None:
    if not protocols:
        raise ValueError("protocols (or seen) is empty; give at least one")
    if candidate_lists is not None and all(protocol.candidates != "lists" for protocol in protocols):
        raise ValueError('candidate_lists would be ignored; give protocols=[Protocol(candidates="lists")] with them')
    if len(cases) == 0:
        part, split = protocols[0].part, protocols[0].split
        where = f"part {part!r} of split {split!r}" if split else "it"
        raise ValueError(
            f"cases is empty: {where} asks nothing of any user; give another part or split, or a log whose users have "
            "enough interactions (leave-one-out: three)"
        )
    _check_rows(cases)
    if bool((cases.truth.lengths == 0).any()):
        row = int((cases.truth.lengths == 0).nonzero()[0])
        raise ValueError(f"user index {int(cases.users[row])} has no relevant item; leave such users out of the cases")
    for other in protocols[1:]:
        differing = set(protocols[0].differences(other)) - _MAY_DIFFER
        if differing:
            raise ValueError(f"protocols differ in {', '.join(sorted(differing))}; evaluate each in a call of its own")


def _check_rows(cases: Cases) -> None:
    """Refuse cases whose parts are not of the same users and items."""
    n = len(cases.users)
    for name, rows in (("history", cases.history), ("truth", cases.truth), ("times", cases.times)):
        if rows is not None and rows.n_rows != n:
            raise ValueError(f"cases.{name} has {rows.n_rows} rows for {n} users; give one for each user")
    check_items("cases.history", cases.history.values, cases.n_items)
    if cases.grades is not None and len(cases.grades) != len(cases.truth.values):
        raise ValueError(f"cases.grades has {len(cases.grades)} grades for {len(cases.truth.values)} relevant items")


def _check_held_out(protocols: Sequence[Protocol]) -> None:
    for protocol in protocols:
        if is_leaked(protocol.part, protocol.fitted_on):
            raise ValueError(
                f"part = {protocol.part!r} is in fitted_on = {protocol.fitted_on!r}: the model knows what is asked "
                "for; rank a part that it was not fitted on or fit on less; allow_fitted=True measures how well it fits"
            )


def metric_values(
    metrics: Sequence[Metric], ranked: RankedHits, cutoffs: Sequence[int], asked: Asked
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The values of each user, and those over all users, by name (``"ndcg@10"``, ``"auc"``).

    Raises:
        ValueError: a metric of all lists together would need them filled up far beyond their ends.
    """
    per_user: dict[str, np.ndarray] = {}
    overall: dict[str, float] = {}
    for metric in metrics:
        for k in asked.columns(metric, cutoffs):
            name = metric.label if k is None else f"{metric.label}@{k}"
            width = ranked.hits.shape[1] if k is None or metric.short_lists else max(k, ranked.hits.shape[1])
            if metric.per_user:
                step = metric_rows(width)
                parts = [
                    metric(ranked.rows(start, min(start + step, len(ranked))), k)
                    for start in range(0, len(ranked), step)
                ]
                values = torch.cat(parts)
                per_user[name] = values.numpy()
            else:
                if width > ranked.hits.shape[1] and width * len(ranked) > _MOST_PLACES:
                    raise ValueError(
                        f"metric {name!r} looks at all lists at once, and they end after {ranked.hits.shape[1]} items: "
                        f"take a shorter cut-off, or set short_lists = True in {type(metric).__name__} if its compute "
                        "deals with lists that are shorter than k"
                    )
                values = metric(ranked, k)
            overall[name] = metric.mean(values, ranked)
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
    """Refuse a metric that cannot select the best epoch.

    Raises:
        ValueError: no such metric, or lower values of it are better (a model that has learnt nothing has the lowest),
            or it needs features of items.
    """
    of = metric_class(split_metric(metric)[0])
    if not of.higher_is_better or "features" in of().needs:
        why = "needs features of items" if of.higher_is_better else "is better when it is lower"
        raise ValueError(f"metric = {metric!r} cannot select the best epoch: it {why}; take e.g. 'ndcg@10'")


def validation(
    model: Ranker, cases: Cases, selects: str, *, seen: Seen, fit_part: Part, cutoffs: Sequence[int] = (5, 10, 20)
) -> dict[str, float]:
    """The metrics of a training after an epoch: the default ones, and the one that selects the best epoch.

    Args:
        selects: e.g. ``"coverage@20"``; its value is found under this name, too.
        fit_part: what the model is fitted on.

    Raises:
        ValueError: see :func:`check_selects`.
    """
    check_selects(selects)
    name, k = split_metric(selects)
    wanted = tuple(dict.fromkeys((*DEFAULT_METRICS, name)))
    every = sorted({*cutoffs, *([] if k is None else [k])})
    (result,) = evaluate(model, cases, seen=(seen,), cutoffs=every, metrics=wanted, fit_part=fit_part)
    values = result.metrics
    return {**values, selects: value_of(values, selects)}
