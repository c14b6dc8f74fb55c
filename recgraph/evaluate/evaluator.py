"""``evaluate``: metrics of a model under one or several protocols, from one pass over its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph import parallel
from recgraph.config import checked
from recgraph.data.batches import Query
from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import Facts, RankedHits, RelevantRanks, Truth, check_items, expected_hits
from recgraph.evaluate.metrics import DEFAULT_METRICS, Asked, Metric, metric_class, split_metric, value_of
from recgraph.evaluate.protocol import Protocol, Seen, Ties, is_leaked
from recgraph.evaluate.ranking import GROUP, Ranker, Targets, catalogue_for, item_vectors_of, rank
from recgraph.evaluate.rerank import CoOccurrence, Cosine, Reranker, Reranking, bind, pick, reranker_of
from recgraph.evaluate.results import Result, Results
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.parallel import Engine, Piece
from recgraph.ranks import Ranks, of_all
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged


def sample_candidates(cases: Cases, n: int, seed: int) -> Ragged:
    """The relevant items of each user and ``n`` items drawn from the rest; fewer where there are no more.

    The draw is uniform, without replacement, among items that are neither relevant nor in the history, and depends on
    the seed and the user alone, not on the other users. Metrics over sampled candidates are far above those over the
    whole catalogue and may order models differently (Krichene and Rendle, KDD 2020).
    """
    rows = []
    for user, truth, history in zip(
        cases.users.tolist(), cases.truth.to_lists(), cases.history.to_lists(), strict=True
    ):
        relevant, taken = np.unique(truth), np.unique([*truth, *history])
        n_free = cases.n_items - len(taken)
        drawn = numpy_generator(seed, "candidates", user).choice(n_free, min(n, n_free), replace=False)
        # the items that are not taken are numbered: before each stand so many that are
        rows.append([*relevant, *(drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right"))])
    return Ragged.from_lists(rows)


def candidates_for(protocol: Protocol, cases: Cases, lists: Ragged | None) -> tuple[Protocol, Ragged | None]:
    """The candidates that a protocol asks for (None: all items), and the protocol with what identifies them.

    Raises:
        ValueError: lists are missing, do not fit the cases, hold an item twice or outside the catalogue, or are not
            those of the protocol.
    """
    if protocol.candidates == "all":
        return protocol, None
    if protocol.candidates == "sampled":
        assert protocol.n_candidates is not None
        seed = protocol.candidate_seed or 0
        # unset and 0 are the same draw and must be the same protocol
        named = Protocol.of(protocol.model_dump(), candidate_seed=seed)
        return named, _allowed(protocol, cases, sample_candidates(cases, protocol.n_candidates, seed))
    if lists is None or lists.n_rows != len(cases):
        raise ValueError(f"candidate_lists must have a row for each of the {len(cases)} cases")
    check_items("candidate_lists", lists.values, cases.n_items)
    keys = (lists.rows * cases.n_items + lists.values).sort().values
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("candidate_lists holds an item twice for a user; give each once")
    content = hashlib.sha256()
    for part in (cases.users, lists.offsets, keys % cases.n_items):
        content.update(part.numpy(force=True).astype("<i8").tobytes())
    digest = content.hexdigest()[:16]
    if protocol.candidate_hash not in ("", digest):
        raise ValueError(f"candidate_lists have the hash {digest}; the protocol's are {protocol.candidate_hash}")
    return Protocol.of(protocol.model_dump(), candidate_hash=digest), _allowed(protocol, cases, lists)


def _allowed(protocol: Protocol, cases: Cases, lists: Ragged) -> Ragged:
    if protocol.seen == "keep":
        return lists
    known = cases.history.rows * cases.n_items + cases.history.values
    return lists.filter(~torch.isin(lists.rows * cases.n_items + lists.values, known))


#: shares of the users for each worker of an engine
_SHARES = 2


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics.

    Attributes:
        candidates: each user's own; None for all items.
        reranking: picks the lists from the ranking; None: they are its best.

    Raises:
        ValueError: lists are re-ranked, and what is measured reads the whole ranking.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None
    reranking: Reranking | None = None

    def __post_init__(self) -> None:
        if self.reranking is not None and self.needs_ranks:
            raise ValueError(
                "rerank: ties = 'expectation' and metrics such as auc read the whole ranking; leave them out"
            )

    @property
    def ranking(self) -> str:
        """The name of the ranking; protocols that rank alike share it."""
        return self.scored if self.reranking is None else f"{self.scored}/{self.protocol.rerank}"

    @property
    def scored(self) -> str:
        """The name of the ranking by score, which re-rankers change."""
        own = self.protocol
        if self.candidates is None:
            return own.seen
        return "/".join(map(str, (own.seen, own.candidates, own.n_candidates, own.candidate_seed, own.candidate_hash)))

    @property
    def is_expectation(self) -> bool:
        """Whether it averages over all orders of equal scores."""
        return self.protocol.ties == "expectation"

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_ranks(self) -> bool:
        """Whether it needs the ranks of the relevant items among all candidates."""
        return self.is_expectation or self.needs("relevant_ranks") or any(not metric.cut for metric in self.metrics)


def collect(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    facts: Facts,
    fit_part: Part | None,
    engine: Engine | None = None,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes all must call it.

    Args:
        engine: ranks for shares of the users; None: this process, and those that it is connected with.

    Raises:
        ValueError: several processes are connected, and there is an engine; or it would rank on an accelerator.
    """
    # what lies beyond the last item is a miss
    depth = min(max(max(each.protocol.cutoffs) for each in measurements), cases.n_items)
    pools = [each.reranking.pool for each in measurements if each.reranking is not None]
    n_ranked = min(max(depth, *pools, 0), cases.n_items)
    catalogue = catalogue_for(model, cases.n_items, n_ranked, tie_seed=measurements[0].protocol.tie_seed)
    one_pass = _Pass(model, catalogue, cases, tuple(measurements), Truth.of(cases), depth)
    kept, ranks = one_pass.room(), Ranks.here()
    if engine is not None:
        if ranks.count > 1 or catalogue.device.type != "cpu":
            raise ValueError("engine (--engine) ranks for one process, on the host: leave it out")
        n = min(_SHARES * engine.size, -(-len(cases) // GROUP))
        pieces = (Piece(f"ranking share {index + 1} of {n} of the users", Ranks(index, n)) for index in range(n))
        _take_in(kept, parallel.map(_share_of, pieces, one_pass, engine))
    elif ranks.count > 1:
        _take_in(kept, of_all(lambda: _share_of(one_pass, ranks)))
    else:
        one_pass.rank(kept, ranks)
    users = one_pass.truth.before_ranking(depth, facts)
    return [kept[each.ranking].ranked(users, each, cases, one_pass.truth, fit_part) for each in measurements]


@dataclass
class Kept:
    """What is kept of the lists of one ranking: tables [U, K] by the names of :class:`RankedHits`, and ranks."""

    tables: dict[str, Tensor]
    index: list[Tensor]
    ranks: list[RelevantRanks]

    @classmethod
    def of(cls, cases: Cases, depth: int, truth: Truth, measurements: Sequence[Measurement]) -> Kept:
        """Room for the lists of all users, and for what the measurements that share the ranking read of them."""
        shape = (len(cases), depth)
        tables = {"hits": torch.zeros(shape, dtype=torch.bool)}
        if truth.grades is not None:
            tables["gains"] = torch.zeros(shape, dtype=torch.float64)
        if any(each.needs("items", "known") for each in measurements):
            tables["items"] = torch.full(shape, -1)
        if any(each.needs("scores") for each in measurements):
            tables["scores"] = torch.full(shape, -torch.inf, dtype=torch.float64)
        return cls(tables, [], [])

    def add(self, index: Tensor, lists: Lists, ranks: RelevantRanks | None, truth: Truth) -> None:
        """Keep the lists of the users at rows ``index`` [B] of the cases."""
        positions, found = truth.find(index, lists.items)
        values = {"hits": found, "items": lists.items, "scores": lists.scores.double()}
        if truth.grades is not None:
            values["gains"] = truth.grades[positions] * found
        for name, table in self.tables.items():
            table[index, : found.shape[1]] = values[name]
        self.index.append(index)
        if ranks is not None:
            self.ranks.append(ranks)

    def share(self) -> Kept:
        """What was added, to be told to other processes."""
        index = torch.cat([torch.empty(0, dtype=torch.int64), *self.index])
        ranks = [RelevantRanks.gather(self.ranks, torch.arange(len(index)))] if self.ranks else []
        return Kept({name: table[index] for name, table in self.tables.items()}, [index], ranks)

    def take_in(self, share: Kept) -> None:
        """Keep what another process has added."""
        for name, values in share.tables.items():
            self.tables[name][share.index[0]] = values
        if len(share.index[0]):
            self.index += share.index
            self.ranks += share.ranks

    def ranked(
        self, users: RankedHits, measurement: Measurement, cases: Cases, truth: Truth, fit_part: Part | None
    ) -> RankedHits:
        """The lists as a measurement sees them, beside what is known of the users."""
        # what others that share the ranking read beyond its longest cut-off is not part of its lists
        depth = max(measurement.protocol.cutoffs)
        cut: dict[str, Any] = {name: table[:, :depth] for name, table in self.tables.items()}
        ranked = replace(users, **cut)
        if measurement.needs("known") and fit_part is not None and ranked.items is not None:
            ranked = replace(ranked, known=known_items(cases, ranked.items, fit_part))
        if not self.ranks or not measurement.needs_ranks:
            return ranked
        ranks = RelevantRanks.gather(self.ranks, torch.cat(self.index))
        ranked = replace(ranked, relevant_ranks=ranks)
        if measurement.is_expectation:
            hits, gains, ties = expected_hits(ranks, ranked.hits.shape[1], truth.grades)
            ranked = replace(ranked, hits=hits, gains=gains, ties=ties)
        return ranked


def known_items(cases: Cases, items: Tensor, fit_part: Part) -> Tensor:
    """[U, K] whether the user has the item in the part."""
    inside = (cases.users >= 0) & (cases.users < fit_part.items.n_rows)
    keys = torch.unique(fit_part.items.rows * cases.n_items + fit_part.items.values)
    wanted = cases.users[:, None] * cases.n_items + items
    return torch.isin(wanted, keys) & inside[:, None] & (items >= 0)


@dataclass(frozen=True)
class _Pass:
    """One ranking of the users of cases, for several measurements."""

    model: Ranker
    catalogue: Catalogue
    cases: Cases
    measurements: tuple[Measurement, ...]
    truth: Truth
    depth: int

    def by_ranking(self) -> dict[str, list[Measurement]]:
        """Name of a ranking -> the measurements that share it."""
        found: dict[str, list[Measurement]] = {}
        for each in self.measurements:
            found.setdefault(each.ranking, []).append(each)
        return found

    def room(self) -> dict[str, Kept]:
        """Room for what is kept of each ranking."""
        return {name: Kept.of(self.cases, self.depth, self.truth, own) for name, own in self.by_ranking().items()}

    def rank(self, kept: dict[str, Kept], ranks: Ranks) -> None:
        """Rank for a share of the users, and keep what is read of their lists."""
        plain = [each for each in self.measurements if each.candidates is None]
        candidates = {each.scored: each.candidates for each in self.measurements if each.candidates is not None}
        in_catalogue = any(each.needs_ranks for each in plain)
        targets = Targets(self.truth.relevant, candidates, in_catalogue) if candidates or in_catalogue else None
        conventions = tuple(dict.fromkeys(each.scored for each in plain))
        cases, by_name = self.cases, self.by_ranking()
        query = Query(cases.users, cases.history, cases.times if getattr(self.model, "reads_times", False) else None)
        for batch in rank(self.model, self.catalogue, query, cases.history, conventions, targets, ranks):
            for name, (one, *_) in by_name.items():
                lists, ranks_of = batch.lists[one.scored], batch.relevant_ranks.get(one.scored)
                if one.reranking is not None:
                    lists, ranks_of = _reranked(lists, self.depth, one.reranking), None
                kept[name].add(batch.index, lists.first(self.depth), ranks_of, self.truth)


def _share_of(one_pass: _Pass, ranks: Ranks) -> dict[str, Kept]:
    kept = one_pass.room()
    one_pass.rank(kept, ranks)
    return {name: each.share() for name, each in kept.items()}


def _take_in(kept: dict[str, Kept], shares: Iterable[dict[str, Kept]]) -> None:
    for each in shares:
        for name, share in each.items():
            kept[name].take_in(share)


def _reranked(lists: Lists, k: int, reranking: Reranking) -> Lists:
    """Pick lists of at most ``k`` items from longer ones, best first, on the host."""
    places, _ = pick(lists.items, lists.scores.double(), k, reranking=reranking)
    at = places.clamp(min=0)
    scores = lists.scores.gather(1, at).masked_fill(places < 0, float("-inf"))
    return Lists(torch.where(places < 0, places, lists.items.gather(1, at)), scores)


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
            by default :data:`~recgraph.evaluate.metrics.DEFAULT_METRICS`. ``"auc"`` reads the whole ranking and
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
