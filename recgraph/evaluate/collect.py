"""Rank once for all protocols, within bounds of memory, and keep of the lists what their metrics read.

Where several processes are connected, each ranks for its share of the users; all then have what is kept of every user.

The log (``recgraph.evaluate.collect``, level DEBUG) says before the ranking how much memory it is going to take.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import Facts, RankedHits, RelevantRanks, Truth, expected_hits
from recgraph.evaluate.low_precision import Precision
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.ranking import Ranker, Targets, device_of, item_vectors_of, make_catalogue, rank
from recgraph.evaluate.topk import ACCELERATOR_ROWS, BLOCK_ITEMS, CACHED_ITEMS, CHUNK, TILE_ROWS, Lists
from recgraph.ranks import Ranks, of_all
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Measurement:
    """One protocol and its metrics.

    Attributes:
        candidates: each user's own; None for all items.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None

    @property
    def ranking(self) -> str:
        """The name of the ranking; protocols that rank alike share it."""
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


_log = logging.getLogger(__name__)
_MIB = 1 << 20
#: what libraries take for themselves once they compute (packed matrices, allocators)
_LIBRARIES = 8 * _MIB
#: users whose metrics are computed together, at most, and places of their lists
METRIC_ROWS = 1 << 14
METRIC_PLACES = 1 << 20


def depth_of(measurements: Sequence[Measurement], n_items: int) -> int:
    """The length of the lists that are kept: the longest cut-off, or all items; what lies beyond is a miss."""
    return min(max(max(each.protocol.cutoffs) for each in measurements), n_items)


def metric_rows(depth: int) -> int:
    """How many users' metrics are computed together, for lists of a length."""
    return max(1, min(METRIC_ROWS, METRIC_PLACES // max(depth, 1)))


@dataclass(frozen=True)
class Limits:
    """How a ranking is cut; nothing here alters results.

    Attributes:
        batch_size: users ranked between two hand-overs.
        block_items: items whose scores are held at a time; None: as ``memory_mib`` allows.
        memory_mib: the most memory beyond the model and the data, in MiB; None: no bound.
        precision: of the scores; below float32 the best of them are scored again.

    Raises:
        ValueError: both ``block_items`` and ``memory_mib``, or one below 1.
    """

    batch_size: int = 1024
    block_items: int | None = None
    memory_mib: int | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.block_items is not None and self.memory_mib is not None:
            raise ValueError("block_items and memory_mib bound the same thing; give one of them")
        for name in ("batch_size", "block_items", "memory_mib"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")


def batch_size_of(limits: Limits, depth: int) -> int:
    """Users ranked between two hand-overs: fewer where lists are long."""
    return max(1, min(limits.batch_size, METRIC_PLACES // max(depth, 1)))


@dataclass(frozen=True)
class Memory:
    """Bytes that are held beyond the model and the data.

    Attributes:
        items: the catalogue, or the scores of 256 users where a model gives scores.
        scores: the blocks of scores that are held at a time, and what finding the best takes.
        lists: what is kept of the lists of all users.
        metrics: of all users.
        block_items: items of a block.
    """

    items: int
    scores: int
    lists: int
    metrics: int
    block_items: int

    @property
    def total(self) -> int:
        """The predicted peak."""
        return self.items + self.scores + self.lists + self.metrics + _LIBRARIES

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {value / _MIB:,.0f}"
            for name, value in (
                ("items", self.items),
                ("scores", self.scores),
                ("lists", self.lists),
                ("metrics", self.metrics),
            )
        )
        return (
            f"predicted peak {self.total / _MIB:,.0f} MiB beyond the model and the data "
            f"({parts}; blocks of {self.block_items:,} items)"
        )


def plan_memory(
    cases: Cases,
    measurements: Sequence[Measurement],
    limits: Limits,
    *,
    width: int | None,
    device: torch.device,
    graded: bool,
) -> Memory:
    """Predict the memory, choose the block size, and write both to the log.

    What a model needs itself to encode or score 256 users is not in it.

    Args:
        width: of the item vectors; None where a model gives scores.
        graded: whether the truth carries grades.

    Raises:
        ValueError: ``limits.memory_mib`` is too little for any block size.
    """
    most = min(limits.block_items or BLOCK_ITEMS, -(-cases.n_items // CHUNK) * CHUNK)
    sizes = [most]
    if limits.memory_mib is not None:
        while sizes[-1] > CHUNK:
            sizes.append(-(-sizes[-1] // 2 // CHUNK) * CHUNK)
    memory = None
    for block_items in sizes:
        memory = _predicted(cases, measurements, limits, width, device, graded, block_items)
        if limits.memory_mib is None or memory.total <= limits.memory_mib * _MIB:
            # a training ranks after each epoch, so that this is a detail
            _log.debug("%s", memory)
            return memory
    assert memory is not None
    raise ValueError(
        f"memory_mib = {limits.memory_mib} is too little even for the smallest blocks: {memory}; "
        "allow more, or evaluate fewer users or protocols at a time"
    )


def _predicted(
    cases: Cases,
    measurements: Sequence[Measurement],
    limits: Limits,
    width: int | None,
    device: torch.device,
    graded: bool,
    block_items: int,
) -> Memory:
    n_users, n_items = len(cases), cases.n_items
    rows = TILE_ROWS.get(device.type, ACCELERATOR_ROWS)
    low = limits.precision != "float32" and width is not None
    depth = depth_of(measurements, n_items)
    batch_size = batch_size_of(limits, depth)
    step = min(block_items, CACHED_ITEMS) if device.type in TILE_ROWS else block_items
    counted = block_items if any(each.needs_ranks for each in measurements if each.candidates is None) else 0
    # order and position, the permutation they are made of, and the table or 256 rows of scores
    items = 24 * n_items + (256 * 4 * n_items if width is None else (6 if low else 4) * (n_items + CHUNK) * width)
    # where scores are equal, finding the first of them takes four times the block
    scores = 4 * rows * (max(step, counted) + max(4 * step, 3 * counted))
    if low:
        scores += rows * (2 * 5 * step + 16 * (width or 0) * (depth + max(2 * depth, 64)))
    lists = 48 * cases.truth.values.numel() + 24 * n_users + 32 * batch_size * depth * len(measurements)
    for alike in by_ranking(measurements).values():
        lists += n_users * depth * _kept_bytes(alike, graded)
        if any(each.needs_ranks for each in alike):
            lists += 50 * cases.truth.values.numel()
    values = sum(len(each.metrics) * len(each.protocol.cutoffs) for each in measurements)
    metrics = 8 * n_users * values + 64 * min(n_users, metric_rows(depth)) * depth + 8 * n_items
    if any(not metric.per_user for each in measurements for metric in each.metrics):
        metrics += 17 * n_users * depth  # the listed items of all users at once, and which ranks have one
    return Memory(items, scores, lists, metrics, block_items)


def _kept_bytes(measurements: Sequence[Measurement], graded: bool) -> int:
    """What is kept of each rank of a list, for the measurements that share a ranking."""
    size = 1 + 8 * graded
    if any(each.needs("items", "known") for each in measurements):
        size += 8
    if any(each.needs("known") for each in measurements):
        size += 25
    if any(LIBRARIES[each.protocol.convention].reads_scores for each in measurements):
        size += 8
    return size + sum(32 + 8 * graded for each in measurements if each.is_expectation)


def by_ranking(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Name of a ranking -> the measurements that share it."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        found.setdefault(each.ranking, []).append(each)
    return found


def collect(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    facts: Facts,
    fit_part: Part | None,
    limits: Limits,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes all must call it."""
    truth = Truth.of(cases)
    depth = depth_of(measurements, cases.n_items)
    vectors = item_vectors_of(model)
    width = None if vectors is None else vectors.shape[1]
    device = device_of(model) if vectors is None else vectors.device
    memory = plan_memory(cases, measurements, limits, width=width, device=device, graded=truth.graded)
    catalogue = make_catalogue(
        vectors,
        cases.n_items,
        depth,
        tie_seed=measurements[0].protocol.tie_seed,
        block_items=memory.block_items,
        device=device,
        precision=limits.precision,
    )
    conventions = tuple(dict.fromkeys(each.ranking for each in measurements if each.candidates is None))
    candidates = {each.ranking: each.candidates for each in measurements if each.candidates is not None}
    in_catalogue = any(each.needs_ranks for each in measurements if each.candidates is None)
    targets = Targets(truth.relevant, candidates, in_catalogue) if candidates or in_catalogue else None
    kept = {name: _Kept.of(cases, depth, truth, alike) for name, alike in by_ranking(measurements).items()}
    query = Query(cases.users, cases.history, cases.times if getattr(model, "reads_times", False) else None)
    ranks, batch_size = Ranks.here(), batch_size_of(limits, depth)

    def rank_share() -> dict[str, _Share]:
        for batch in rank(model, catalogue, query, cases.history, conventions, batch_size, targets, ranks):
            for name, lists in batch.lists.items():
                kept[name].add(batch.index, lists, batch.relevant_ranks.get(name), truth)
        return {name: each.share() for name, each in kept.items()} if ranks.count > 1 else {}

    shares = of_all(rank_share)
    for name, each in kept.items():
        if ranks.count > 1:
            each.take_in([share[name] for share in shares])
    users = truth.before_ranking(depth, facts)
    return [kept[each.ranking].ranked(users, each, cases, truth, fit_part) for each in measurements]


@dataclass
class _Share:
    """What one process keeps of the lists of one ranking: of the users that it ranked for.

    Attributes:
        index: [B] int64, their rows of the cases.
        lists: name of a tensor of :class:`_Kept` -> its rows.
        ranks: of their relevant items, in the order of ``index``; None where they are not wanted.
    """

    index: Tensor
    lists: dict[str, Tensor]
    ranks: RelevantRanks | None


@dataclass
class _Kept:
    """What is kept of the lists of one ranking."""

    hits: Tensor
    lengths: Tensor
    gains: Tensor | None
    items: Tensor | None
    scores: Tensor | None
    index: list[Tensor]
    ranks: list[RelevantRanks]

    @classmethod
    def of(cls, cases: Cases, depth: int, truth: Truth, measurements: Sequence[Measurement]) -> _Kept:
        """Room for the lists of all users, and for what the measurements that share the ranking read of them."""
        shape = (len(cases), depth)
        reads_scores = any(LIBRARIES[each.protocol.convention].reads_scores for each in measurements)
        return cls(
            torch.zeros(shape, dtype=torch.bool),
            torch.zeros(len(cases), dtype=torch.int64),
            torch.zeros(shape, dtype=torch.float64) if truth.graded else None,
            torch.full(shape, -1) if any(each.needs("items", "known") for each in measurements) else None,
            torch.full(shape, -torch.inf, dtype=torch.float64) if reads_scores else None,
            [],
            [],
        )

    def add(self, index: Tensor, lists: Lists, ranks: RelevantRanks | None, truth: Truth) -> None:
        """Keep the lists of the users at rows ``index`` [B] of the cases."""
        width = lists.items.shape[1]
        positions, found = truth.find(index, lists.items)
        self.hits[index, :width] = found
        self.lengths[index] = (lists.items >= 0).sum(1)
        if self.gains is not None and truth.grades is not None:
            self.gains[index, :width] = truth.grades[positions] * found
        if self.items is not None:
            self.items[index, :width] = lists.items
        if self.scores is not None:
            self.scores[index, :width] = lists.scores.double()
        self.index.append(index)
        if ranks is not None:
            self.ranks.append(ranks)

    def share(self) -> _Share:
        """What was added, to be told to other processes."""
        index = torch.cat([torch.empty(0, dtype=torch.int64), *self.index])
        held = {name: getattr(self, name) for name in ("hits", "lengths", "gains", "items", "scores")}
        lists = {name: values[index] for name, values in held.items() if values is not None}
        ranks = RelevantRanks.gather(self.ranks, torch.arange(len(index))) if self.ranks else None
        return _Share(index, lists, ranks)

    def take_in(self, shares: Sequence[_Share]) -> None:
        """Keep what all processes have added, this one among them."""
        for share in shares:
            for name, values in share.lists.items():
                getattr(self, name)[share.index] = values
        shares = [share for share in shares if len(share.index)]
        self.index = [share.index for share in shares]
        self.ranks = [share.ranks for share in shares if share.ranks is not None]

    def ranked(
        self, users: RankedHits, measurement: Measurement, cases: Cases, truth: Truth, fit_part: Part | None
    ) -> RankedHits:
        """The lists as a measurement sees them, beside what is known of the users."""
        ranked = replace(
            users, hits=self.hits, gains=self.gains, lengths=self.lengths, items=self.items, scores=self.scores
        )
        if measurement.needs("known") and fit_part is not None and self.items is not None:
            known, trained = known_items(cases, self.items, fit_part)
            ranked = replace(ranked, known=known, trained=trained)
        if not self.ranks or not measurement.needs_ranks:
            return ranked
        ranks = RelevantRanks.gather(self.ranks, torch.cat(self.index))
        ranked = replace(ranked, relevant_ranks=ranks)
        if measurement.is_expectation:
            hits, gains, ties = expected_hits(ranks, self.hits.shape[1], truth.grades)
            ranked = replace(ranked, hits=hits, gains=gains, ties=ties)
        return ranked


def known_items(cases: Cases, items: Tensor, fit_part: Part) -> tuple[Tensor, Tensor]:
    """[U, K] whether the user has the item in the part, and [U] whether the user has any."""
    n_users = fit_part.items.n_rows
    inside = (cases.users >= 0) & (cases.users < n_users)
    lengths = torch.where(inside, fit_part.items.lengths[cases.users.clamp(0, max(n_users - 1, 0))], 0)
    keys = torch.unique(fit_part.items.rows * cases.n_items + fit_part.items.values)
    wanted = cases.users[:, None] * cases.n_items + items
    known = torch.isin(wanted, keys) & inside[:, None] & (items >= 0)
    return known, lengths > 0
