"""``evaluate``: metrics of a model under one or several protocols, from one pass over its scores.
Of several processes each ranks for its share of the users, and all have the numbers of every user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph import parallel
from recgraph.config import checked
from recgraph.data.batches import Query
from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate.metrics import (
    DEFAULT_METRICS,
    OF_TRAINING,
    Metric,
    MetricList,
    RankedHits,
    RelevantRanks,
    Truth,
    check_items,
    check_needs,
    expected_hits,
    item_keys,
    metric_class,
    split_metric,
    value_of,
)
from recgraph.evaluate.protocol import Protocol, Seen, Ties, is_leaked
from recgraph.evaluate.ranking import GROUP, Ranker, Targets, catalogue_for, item_vectors_of, rank
from recgraph.evaluate.rerank import (
    CoOccurrence,
    Cosine,
    Reranker,
    Reranking,
    bind,
    pick,
    reranker_of,
)
from recgraph.evaluate.results import Result, Results
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.parallel import Engine, Piece
from recgraph.ranks import Ranks, of_all
from recgraph.rng import numpy_generator
from recgraph.sparse.products import distinct
from recgraph.sparse.ragged import Ragged

#: in what protocols of one pass may differ
_MAY_DIFFER = {
    "seen",
    "cutoffs",
    "ties",
    "candidates",
    "n_candidates",
    "candidate_seed",
    "candidate_hash",
    "rerank",
}
#: users whose metrics are computed together, at most, and places of their lists
_ROWS, _PLACES = 1 << 14, 1 << 20
#: shares of the users for each worker of an engine
_SHARES = 2


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
        model: anything with ``score(query)``, or with ``has_vectors`` and ``encode_users`` and
            ``encode_items``.
        cases: whom to rank for; the items of their histories are the seen ones.
        protocols: how to count, a result for each; by default one for each entry of ``seen``, made
            of the settings below that a protocol has. They share one pass, and so the split and
            ``tie_seed``; they may differ in ``seen``, ``candidates``, ``ties``, ``cutoffs`` and
            ``rerank``.
        seen: the conventions for seen items: ``"keep"`` them as candidates, ``"exclude"`` them.
        cutoffs: list lengths; by default 5, 10 and 20, or those that ``metrics`` name where each of
            them does.
        metrics: names, e.g. ``"ndcg"`` at every cut-off or ``"ndcg@10"`` at one, or metrics with
            options of their own; by default :data:`~recgraph.evaluate.metrics.DEFAULT_METRICS`.
        ties: one order of equal scores, by a permutation of the items drawn with ``tie_seed``, or
            ``"expectation"``, over all orders.
        candidate_lists: a row for each case, for protocols with ``candidates="lists"``.
        fit_part: what the model was fitted on, for metrics of popularity and novelty.
        features: [n_items, F], for the diversity of lists.
        split, part, fitted_on, history: recorded in the protocol.
        allow_fitted: also rank a valid or test part that ``fitted_on`` names, to measure how well a
            model fits.
        engine: ranks for shares of the users (:mod:`recgraph.parallel`), with a model on the host;
            None: this process. Results are the same, bit for bit, for the same number of threads.
        rerank: a re-ranker that picks the lists (:class:`~recgraph.evaluate.rerank.Reranker`), its
            name or a mapping with its settings. Co-occurrence is that of ``fit_part``,
            ``item_columns`` are the item features.

    Returns:
        A result for each protocol, with the values of each user in the order of ``cases``.

    Raises:
        ValueError: no cases, items outside the catalogue, a metric that needs what is not given,
            NaN scores, protocols that cannot share a pass, or a part that the model was fitted on.
    """
    wanted = MetricList.of(metrics)
    if protocols is None:
        fields: dict[str, Any] = {
            "ties": ties,
            "part": part,
            "fitted_on": fitted_on,
            "history": history,
            "tie_seed": tie_seed,
            "rerank": rerank,
            "cutoffs": wanted.cutoffs(cutoffs, Protocol().cutoffs),
        }
        if split is not None:
            fields |= {
                "split": split.name,
                "split_hash": split.hash,
                "split_facts": getattr(split, "facts", ""),
            }
        protocols = [Protocol.of(fields, seen=convention) for convention in dict.fromkeys(seen)]
    if len(cases) == 0:
        part, split = protocols[0].part, protocols[0].split
        raise ValueError(
            f"cases is empty: truth of part {part!r} of split {split!r} has no user; give another part"
        )
    check_items("cases.history", cases.history.values, cases.n_items)
    _check_protocols(protocols, allow_fitted)
    missing: dict[str, str] = {}
    co_occurrence = None
    if fit_part is None:
        missing |= dict.fromkeys(OF_TRAINING, "fit_part")
    else:
        co_occurrence = CoOccurrence(fit_part.items, cases.n_items)
    if features is None:
        missing["features"] = "features"
    else:
        features = _checked_features(features, cases.n_items)
    check_needs(wanted.metrics, missing)
    by_vectors = _cosine_of(model)
    measurements = []
    for protocol in protocols:
        identified, candidates = candidates_for(protocol, cases, candidate_lists)
        update: dict[str, Any] = {"cutoffs": wanted.cutoffs(protocol.cutoffs, ())}
        if cases.at is not None:
            update["at"] = "first event"
        reranking = None
        if protocol.rerank:
            reranking = bind(
                reranker_of(protocol.rerank),
                "rerank",
                model,
                by_vectors=by_vectors,
                in_common=co_occurrence,
                columns=item_columns,
            )
        complete = identified.model_copy(update=update)
        measurements.append(Measurement(complete, wanted.metrics, candidates, reranking))
    users = cases.users.cpu().numpy().astype(np.int64)
    results = []
    ranked_lists = _rank_once(model, cases, measurements, fit_part, features, engine)
    for measurement, ranked in zip(measurements, ranked_lists, strict=True):
        per_user, overall = metric_values(wanted, ranked, measurement.protocol.cutoffs)
        n_unreachable = _n_unreachable(cases, measurement)
        results.append(Result(measurement.protocol, users, per_user, overall, n_unreachable))
    return Results(results)


def _check_protocols(protocols: Sequence[Protocol], allow_fitted: bool) -> None:
    """Refuse protocols that cannot share a pass, or rank a part that the model was fitted on."""
    for protocol in protocols:
        if differing := set(protocols[0].differences(protocol)) - _MAY_DIFFER:
            raise ValueError(
                f"protocols differ in {', '.join(sorted(differing))}; evaluate each in a call of its own"
            )
        if not allow_fitted and is_leaked(protocol.part, protocol.fitted_on):
            raise ValueError(
                f"part = {protocol.part!r} is in fitted_on = {protocol.fitted_on!r}: the model knows what it is to "
                "find; rank another part, or allow_fitted=True to measure how well it fits"
            )


def _checked_features(features: Tensor, n_items: int) -> Tensor:
    features = features.detach().cpu()  # embeddings of a model, where it is
    if len(features) != n_items or not bool(features.isfinite().all()):
        raise ValueError(f"features {list(features.shape)} must be [{n_items}, F], all finite")
    return features


def _cosine_of(model: Ranker) -> Callable[[], Cosine] | None:
    """Makes the similarity of the model's item vectors once; None where it has none."""
    if not model.has_vectors:
        return None

    @cache
    def cosine() -> Cosine:
        vectors = item_vectors_of(model)
        assert vectors is not None
        return Cosine(vectors.detach().float().to("cpu"))

    return cosine


def sample_candidates(cases: Cases, n: int, seed: int) -> Ragged:
    """The relevant items of each user, and ``n`` items drawn by the seed and the user alone,
    uniformly and without replacement, from those that are neither relevant nor in the history.
    Metrics over them are far above those over all items, and may order models differently (Krichene
    and Rendle, KDD 2020)."""
    rows = []
    of_users = cases.users.tolist(), cases.truth.to_lists(), cases.history.to_lists()
    for user, truth, history in zip(*of_users, strict=True):
        relevant, taken = np.unique(truth), np.unique([*truth, *history])
        n_free = cases.n_items - len(taken)
        drawn = numpy_generator(seed, "candidates", user).choice(
            n_free, min(n, n_free), replace=False
        )
        # the items that are not taken are numbered: before each stand so many that are
        rows.append(
            [
                *relevant,
                *(drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right")),
            ]
        )
    return Ragged.from_lists(rows)


def candidates_for(
    protocol: Protocol, cases: Cases, lists: Ragged | None
) -> tuple[Protocol, Ragged | None]:
    """The protocol with what identifies its candidates, and those of each user (None: all
    items).
    """
    if protocol.candidates == "all":
        return protocol, None
    if protocol.candidates == "sampled":
        assert protocol.n_candidates is not None
        seed = protocol.candidate_seed or 0
        lists = sample_candidates(cases, protocol.n_candidates, seed)
        # unset and 0 are the same draw and must be the same protocol
        protocol = protocol.model_copy(update={"candidate_seed": seed})
    else:
        if lists is None or lists.n_rows != len(cases):
            raise ValueError(f"candidate_lists must have a row for each of the {len(cases)} cases")
        digest = _hash_of_lists(lists, cases)
        if protocol.candidate_hash not in ("", digest):
            raise ValueError(
                f"candidate_lists have the hash {digest}; the protocol's are {protocol.candidate_hash}"
            )
        protocol = protocol.model_copy(update={"candidate_hash": digest})
    if protocol.seen == "exclude":
        n_items = cases.n_items
        is_seen = torch.isin(item_keys(lists, n_items), item_keys(cases.history, n_items))
        lists = lists.filter(~is_seen)
    return protocol, lists


def _hash_of_lists(lists: Ragged, cases: Cases) -> str:
    """16 hexadecimal digits, the same for the same candidates of each user in any order."""
    check_items("candidate_lists", lists.values, cases.n_items)
    ascending = distinct(lists, cases.n_items).values
    if len(ascending) < len(lists.values):
        raise ValueError("candidate_lists names an item twice for one case")
    content = hashlib.sha256()
    for part in (cases.users, lists.offsets, ascending):
        content.update(part.numpy(force=True).astype("<i8").tobytes())
    return content.hexdigest()[:16]


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics."""

    protocol: Protocol
    metrics: tuple[Metric, ...]
    #: each user's own; None for all items
    candidates: Ragged | None
    #: picks the lists from the ranking; None: they are its best
    reranking: Reranking | None

    def __post_init__(self) -> None:
        if self.reranking is not None and self.needs_ranks:
            raise ValueError(
                "rerank: ties = 'expectation' and metrics such as auc read the whole ranking"
            )

    @property
    def scored(self) -> str:
        """The name of the ranking by score, which measurements without candidates of their own
        share.
        """
        return self.protocol.seen if self.candidates is None else self.protocol.hash

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_ranks(self) -> bool:
        """Whether it needs the ranks of the relevant items among all candidates."""
        if self.protocol.ties == "expectation" or self.needs("relevant_ranks"):
            return True
        return any(not metric.cut for metric in self.metrics)

    @property
    def depth(self) -> int:
        """The length of its lists."""
        return max(self.protocol.cutoffs)

    @property
    def n_ranked(self) -> int:
        """The length of the rankings that its lists are picked from."""
        if self.reranking is None:
            return self.depth
        pool: int = self.reranking.reranker.config.pool
        return max(self.depth, pool)


@dataclass(frozen=True)
class _Pass:
    model: Ranker
    catalogue: Catalogue
    cases: Cases
    measurements: tuple[Measurement, ...]
    truth: Truth


@dataclass(frozen=True)
class _Batch:
    """What a measurement reads of some users' lists: tables [B, K] by the names of
    :class:`RankedHits`, and the ranks of the pass, by :attr:`Measurement.scored`.
    """

    index: Tensor
    tables: dict[str, Tensor]
    relevant_ranks: dict[str, RelevantRanks]


def _rank_once(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    fit_part: Part | None,
    features: Tensor | None,
    engine: Engine | None,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes
    all must call it.
    """
    # what lies beyond the last item is a miss
    longest = max(measurement.n_ranked for measurement in measurements)
    catalogue = catalogue_for(
        model,
        cases.n_items,
        min(longest, cases.n_items),
        tie_seed=measurements[0].protocol.tie_seed,
    )
    one_pass = _Pass(model, catalogue, cases, tuple(measurements), Truth.of(cases))
    ranks = Ranks.here()
    if engine is None or ranks.count > 1:
        shares = of_all(lambda: _rank_share(one_pass, ranks))
    else:
        n = min(_SHARES * engine.size, -(-len(cases) // GROUP))
        pieces = (
            Piece(f"ranking share {index + 1} of {n} of the users", Ranks(index, n))
            for index in range(n)
        )
        shares = list(parallel.map(_rank_share, pieces, one_pass, engine))
    facts: dict[str, Any] = {"n_items": cases.n_items, "features": features}
    if fit_part is not None:
        facts["counts"] = fit_part.item_counts()
        facts["n_users"] = int((fit_part.items.lengths > 0).sum())
    ranked_lists = []
    for measurement, *batches_of_shares in zip(measurements, *shares, strict=True):
        batches = list(chain.from_iterable(batches_of_shares))
        ranked = replace(_ranked_hits(one_pass.truth, measurement, batches), **facts)
        if measurement.needs("known"):
            assert fit_part is not None
            ranked = replace(ranked, known=known_items(cases, ranked.listed(), fit_part))
        ranked_lists.append(ranked)
    return ranked_lists


def _ranked_hits(truth: Truth, measurement: Measurement, batches: Sequence[_Batch]) -> RankedHits:
    """The lists of all batches, in the order of the cases."""
    row_of = torch.cat([batch.index for batch in batches]).argsort()
    tables: dict[str, Any] = {}
    for name in batches[0].tables:
        tables[name] = torch.cat([batch.tables[name] for batch in batches])[row_of]
    depth = tables["hits"].shape[1]
    ranked = RankedHits(n_relevant=truth.n_relevant, ideal_gains=truth.ideal_gains(depth), **tables)
    if measurement.needs_ranks:
        name = measurement.scored
        ranks = RelevantRanks.cat([batch.relevant_ranks[name] for batch in batches]).take(row_of)
        ranked = replace(ranked, relevant_ranks=ranks)
        if measurement.protocol.ties == "expectation":
            hits, gains, ties = expected_hits(ranks, depth, truth.grades)
            ranked = replace(ranked, hits=hits, gains=gains, ties=ties)
    return ranked


def _rank_share(one_pass: _Pass, ranks: Ranks) -> list[list[_Batch]]:
    """Rank for a share of the users: what each measurement reads of the lists."""
    cases, truth, measurements = one_pass.cases, one_pass.truth, one_pass.measurements
    conventions: dict[str, None] = {}
    candidates: dict[str, Ragged] = {}
    in_catalogue = False
    for measurement in measurements:
        if measurement.candidates is None:
            conventions[measurement.scored] = None
            in_catalogue |= measurement.needs_ranks
        else:
            candidates[measurement.scored] = measurement.candidates
    targets = None
    if candidates or in_catalogue:
        targets = Targets(truth.relevant, candidates, in_catalogue)
    query = Query(cases.users, cases.history)
    if getattr(one_pass.model, "reads_times", False):
        query = replace(query, times=cases.times, at=cases.at)
    batches: list[list[_Batch]] = [[] for _ in measurements]
    for ranked in rank(
        one_pass.model,
        one_pass.catalogue,
        query,
        cases.history,
        tuple(conventions),
        targets=targets,
        ranks=ranks,
    ):
        for measurement, batches_of_measurement in zip(measurements, batches, strict=True):
            lists = ranked.lists[measurement.scored]
            depth = min(measurement.depth, cases.n_items)
            if measurement.reranking is not None:
                lists = _picked(lists, depth, measurement.reranking)
            lists = lists.first(depth)
            hits, gains = truth.find(ranked.index, lists.items)
            tables = {"hits": hits}
            if gains is not None:
                tables["gains"] = gains
            if measurement.needs("items", "known"):
                tables["items"] = lists.items
            if measurement.needs("scores"):
                tables["scores"] = lists.scores.double()
            batch = _Batch(ranked.index, tables, ranked.relevant_ranks)
            batches_of_measurement.append(batch)
    return batches


def _picked(lists: Lists, depth: int, reranking: Reranking) -> Lists:
    """Lists of at most ``depth`` items, picked from longer ones."""
    places, _ = pick(lists.items, lists.scores.double(), depth, reranking=reranking)
    is_none, index = places < 0, places.clamp(min=0)
    return Lists(
        items=lists.items.gather(1, index).masked_fill(is_none, -1),
        scores=lists.scores.gather(1, index).masked_fill(is_none, float("-inf")),
    )


def known_items(cases: Cases, items: Tensor, fit_part: Part) -> Tensor:
    """[U, K] whether the user has the item in the part."""
    inside = (cases.users >= 0) & (cases.users < fit_part.items.n_rows)
    known = torch.unique(item_keys(fit_part.items, cases.n_items))
    is_known = torch.isin(cases.users[:, None] * cases.n_items + items, known)
    return is_known & inside[:, None] & (items >= 0)


def metric_values(
    wanted: MetricList, ranked: RankedHits, cutoffs: Sequence[int]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The values of each user, and those over all users, by name (``"ndcg@10"``, ``"auc"``)."""
    per_user: dict[str, np.ndarray] = {}
    overall: dict[str, float] = {}
    step = max(1, min(_ROWS, _PLACES // max(ranked.hits.shape[1], 1)))
    for metric in wanted.metrics:
        for name, k in wanted.columns(metric, cutoffs).items():
            if metric.per_user:
                values = torch.cat(
                    [metric(ranked.rows(at, at + step), k) for at in range(0, len(ranked), step)]
                )
                per_user[name] = values.numpy()
            else:
                values = metric(ranked, k)
            overall[name] = metric.mean(values)
    return per_user, overall


def _n_unreachable(cases: Cases, measurement: Measurement) -> int:
    """Users with a relevant item that is no candidate."""
    n_items = cases.n_items
    relevant = item_keys(cases.truth, n_items)
    if measurement.candidates is not None:
        unreachable_mask = ~torch.isin(relevant, item_keys(measurement.candidates, n_items))
    elif measurement.protocol.seen == "exclude":
        unreachable_mask = torch.isin(relevant, item_keys(cases.history, n_items))
    else:
        return 0
    return int(torch.unique(cases.truth.rows[unreachable_mask]).numel())


def check_selects(metric: str) -> None:
    """Refuse a metric that cannot select the best epoch: of a model that has learnt nothing lower
    ones are the best.
    """
    cls = metric_class(split_metric(metric)[0])
    if not cls.higher_is_better or "features" in cls().needs:
        raise ValueError(
            f"metric = {metric!r} cannot select the best epoch: it is better when it is lower, or needs features of "
            "items; take e.g. 'ndcg@10'"
        )


def validation(
    model: Ranker,
    cases: Cases,
    selects: str,
    *,
    seen: Seen,
    fit_part: Part,
    cutoffs: Sequence[int] = (5, 10, 20),
) -> dict[str, float]:
    """The metrics of a training after an epoch: the default ones, and the one that selects the best
    epoch, as it is named, e.g. ``"coverage@20"``."""
    check_selects(selects)
    name, k = split_metric(selects)
    if k is not None:
        cutoffs = (*cutoffs, k)
    (result,) = evaluate(
        model,
        cases,
        seen=(seen,),
        cutoffs=cutoffs,
        metrics=(*DEFAULT_METRICS, name),
        fit_part=fit_part,
    )
    return {**result.metrics, selects: value_of(result.metrics, selects)}
