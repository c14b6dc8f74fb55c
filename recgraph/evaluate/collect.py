"""Rank once for all protocols, within bounds of memory, and keep of the lists what their metrics read.

Where several processes are connected, each ranks for its share of the users; all then have what is kept of every user.
So has the process that gives shares to an engine.

The log (``recgraph.evaluate.collect``, level DEBUG) says before the ranking how much memory it is going to take.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.engine import Engine, Piece
from recgraph.evaluate.hits import Facts, RankedHits, Truth
from recgraph.evaluate.kept import Kept, Share
from recgraph.evaluate.low_precision import Precision
from recgraph.evaluate.measurement import Measurement, by_ranking
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.ranking import GROUP, Ranker, Targets, device_of, item_vectors_of, make_catalogue, rank
from recgraph.evaluate.topk import ACCELERATOR_ROWS, BLOCK_ITEMS, CACHED_ITEMS, CHUNK, TILE_ROWS, Catalogue
from recgraph.ranks import Ranks, of_all

_log = logging.getLogger(__name__)
#: shares of the users for each worker of an engine
_SHARES = 2
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


def collect(
    model: Ranker,
    cases: Cases,
    measurements: Sequence[Measurement],
    facts: Facts,
    fit_part: Part | None,
    limits: Limits,
    engine: Engine | None = None,
) -> list[RankedHits]:
    """The ranked lists of every measurement, from one pass over the scores; of several processes all must call it.

    Args:
        engine: ranks for shares of the users; None: this process, and those that it is connected with.
    """
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
    one_pass = _Pass(model, catalogue, cases, tuple(measurements), truth, depth, batch_size_of(limits, depth))
    kept = one_pass.ranked_by_all() if engine is None else one_pass.ranked_on(engine)
    users = truth.before_ranking(depth, facts)
    return [kept[each.ranking].ranked(users, each, cases, truth, fit_part) for each in measurements]


@dataclass(frozen=True)
class _Pass:
    """One pass over the scores, by one process or by several that rank for a share of the users each."""

    model: Ranker
    catalogue: Catalogue
    cases: Cases
    measurements: tuple[Measurement, ...]
    truth: Truth
    depth: int
    batch_size: int

    def room(self) -> dict[str, Kept]:
        """Name of a ranking -> room for what is kept of it."""
        alike = by_ranking(self.measurements)
        return {name: Kept.of(self.cases, self.depth, self.truth, of) for name, of in alike.items()}

    def rank(self, kept: Mapping[str, Kept], ranks: Ranks) -> None:
        """Rank for a share of the users."""
        plain = [each for each in self.measurements if each.candidates is None]
        candidates = {each.ranking: each.candidates for each in self.measurements if each.candidates is not None}
        in_catalogue = any(each.needs_ranks for each in plain)
        targets = Targets(self.truth.relevant, candidates, in_catalogue) if candidates or in_catalogue else None
        conventions = tuple(dict.fromkeys(each.ranking for each in plain))
        cases = self.cases
        query = Query(cases.users, cases.history, cases.times if getattr(self.model, "reads_times", False) else None)
        for batch in rank(
            self.model, self.catalogue, query, cases.history, conventions, self.batch_size, targets, ranks
        ):
            for name, lists in batch.lists.items():
                kept[name].add(batch.index, lists, batch.relevant_ranks.get(name), self.truth)

    def ranked_by_all(self) -> dict[str, Kept]:
        """What is kept of every user, where each connected process ranks for its share."""
        kept, ranks = self.room(), Ranks.here()

        def rank_share() -> dict[str, Share]:
            self.rank(kept, ranks)
            return {name: each.share() for name, each in kept.items()} if ranks.count > 1 else {}

        shares = of_all(rank_share)
        for name, each in kept.items():
            if ranks.count > 1:
                each.take_in([share[name] for share in shares])
        return kept

    def ranked_on(self, engine: Engine) -> dict[str, Kept]:
        """The same, where an engine ranks for the shares."""
        if self.catalogue.device.type != "cpu":
            raise ValueError("an engine ranks on the host: move the model there (--device cpu), or leave out engine")
        n = min(_SHARES * engine.size, -(-len(self.cases) // GROUP))
        pieces = (Piece(f"ranking share {index + 1} of {n} of the users", Ranks(index, n)) for index in range(n))
        shares = [*engine.map(_share_of, pieces, self)]
        kept = self.room()
        for name, each in kept.items():
            each.take_in([share[name] for share in shares])
        return kept


def _share_of(one_pass: _Pass, ranks: Ranks) -> dict[str, Share]:
    kept = one_pass.room()
    one_pass.rank(kept, ranks)
    return {name: each.share() for name, each in kept.items()}
