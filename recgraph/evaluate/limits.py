"""How a ranking is cut, and the memory that it is going to take: bounds that alter no result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from recgraph.data.part import Cases
from recgraph.evaluate.low_precision import Precision
from recgraph.evaluate.measurement import Measurement, by_ranking
from recgraph.evaluate.topk import ACCELERATOR_ROWS, BLOCK_ITEMS, CACHED_ITEMS, CHUNK, TILE_ROWS
from recgraph.memory import RANKING_LIBRARIES, SMALL, Bound, Estimate, MemoryLimitError, bound_of, format_size, resident

__all__ = ["Limits", "Memory", "batch_size_of", "depth_of", "metric_rows", "plan_memory", "ranked_of"]

_MIB = 1 << 20
#: users whose metrics are computed together, at most, and places of their lists
METRIC_ROWS = 1 << 14
METRIC_PLACES = 1 << 20


def depth_of(measurements: Sequence[Measurement], n_items: int) -> int:
    """The length of the lists that are kept: the longest cut-off, or all items; what lies beyond is a miss."""
    return min(max(max(each.protocol.cutoffs) for each in measurements), n_items)


def ranked_of(measurements: Sequence[Measurement], n_items: int) -> int:
    """The length of the lists that are ranked: that of those that are kept, or the largest pool of a re-ranker."""
    pools = [each.reranking.pool for each in measurements if each.reranking is not None]
    return min(max(depth_of(measurements, n_items), *pools, 0), n_items)


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
        memory_limit: the most memory of the process, in bytes; None: no bound.
        precision: of the scores; below float32 the best of them are scored again.

    Raises:
        ValueError: more than one of ``block_items``, ``memory_mib`` and ``memory_limit``, or a number below 1.
    """

    batch_size: int = 1024
    block_items: int | None = None
    memory_mib: int | None = None
    precision: Precision = "float32"
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        bounds = [name for name in ("block_items", "memory_mib", "memory_limit") if getattr(self, name) is not None]
        if len(bounds) > 1:
            raise ValueError(f"{' and '.join(bounds)} bound the same thing; give one of them")
        for name in ("batch_size", *bounds):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")


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
        before: of a process with a limit, the bytes that it held before the ranking, and the limit.
    """

    items: int
    scores: int
    lists: int
    metrics: int
    block_items: int
    before: tuple[int, int] | None = None

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by what they hold."""
        return {"items": self.items, "scores": self.scores, "lists": self.lists, "metrics": self.metrics}

    @property
    def total(self) -> int:
        """The predicted peak."""
        return sum(self.parts.values()) + RANKING_LIBRARIES

    def __str__(self) -> str:
        if self.before is not None:
            before, limit = self.before
            held = {"library, data and model": before, "libraries at work": RANKING_LIBRARIES, **self.parts}
            return f"predicted memory of the ranking:\n{Estimate(held, {}).table(limit)}"
        parts = ", ".join(f"{name} {value / _MIB:,.0f}" for name, value in self.parts.items())
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
    threads: int = 1,
    n_shards: int = 1,
) -> Memory:
    """Predict the memory, and choose the block size.

    What a model needs itself to encode or score 256 users is not in it.

    Args:
        width: of the item vectors; None where a model gives scores.
        graded: whether the truth carries grades.
        threads: that rank at the same time.
        n_shards: processes that share out the items of the catalogue.

    Without a bound in ``limits``, and with blocks that need not be of a given size, what the machine has is the bound.

    Raises:
        ValueError: ``limits.memory_mib`` is too little for any block size.
        MemoryLimitError: so is what ``limits.memory_limit``, or the machine, leaves.
    """
    bound = None if limits.memory_limit is None else Bound(limits.memory_limit, is_given=True)
    if bound is None and limits.memory_mib is None and limits.block_items is None:
        most = _most_items(limits, cases)
        freely = _predicted(cases, measurements, limits, width, device, graded, most, threads, n_shards)
        bound = None if freely.total <= SMALL else bound_of()
        if bound is None or resident() + freely.total <= bound.n_bytes:
            return freely
    if bound is not None:
        now, limit = resident(), bound.n_bytes
        rest = replace(limits, memory_limit=None, memory_mib=max((limit - now) // _MIB, 1))
        try:
            planned = plan_memory(
                cases,
                measurements,
                rest,
                width=width,
                device=device,
                graded=graded,
                threads=threads,
                n_shards=n_shards,
            )
        except ValueError as error:
            raise MemoryLimitError(
                f"{bound}: the library, the data and the model take {format_size(now)}, "
                f"which leaves {format_size(max(limit - now, 0))} to rank with; {error}"
            ) from None
        return replace(planned, before=(now, limit))
    sizes = [_most_items(limits, cases)]
    if limits.memory_mib is not None:
        while sizes[-1] > CHUNK:
            sizes.append(-(-sizes[-1] // 2 // CHUNK) * CHUNK)
    memory = None
    for block_items in sizes:
        memory = _predicted(cases, measurements, limits, width, device, graded, block_items, threads, n_shards)
        if limits.memory_mib is None or memory.total <= limits.memory_mib * _MIB:
            return memory
    assert memory is not None
    raise ValueError(
        f"memory_mib = {limits.memory_mib} is too little even for the smallest blocks: {memory}; "
        "allow more, or evaluate fewer users or protocols at a time"
    )


def _most_items(limits: Limits, cases: Cases) -> int:
    """Items of the largest block."""
    return min(limits.block_items or BLOCK_ITEMS, -(-cases.n_items // CHUNK) * CHUNK)


def _predicted(
    cases: Cases,
    measurements: Sequence[Measurement],
    limits: Limits,
    width: int | None,
    device: torch.device,
    graded: bool,
    block_items: int,
    threads: int,
    n_shards: int,
) -> Memory:
    n_users, n_items = len(cases), cases.n_items
    rows = TILE_ROWS.get(device.type, ACCELERATOR_ROWS)
    low = limits.precision != "float32" and width is not None
    depth = depth_of(measurements, n_items)
    ranked = ranked_of(measurements, n_items)
    batch_size = batch_size_of(limits, ranked)
    step = min(block_items, CACHED_ITEMS) if device.type in TILE_ROWS else block_items
    counted = block_items if any(each.needs_ranks for each in measurements if each.candidates is None) else 0
    # order and position, the permutation they are made of, and the table or 256 rows of scores
    items = 24 * n_items + (
        threads * 256 * 4 * n_items if width is None else (6 if low else 4) * (n_items // n_shards + CHUNK) * width
    )
    # where scores are equal, finding the first of them takes four times the block
    scores = threads * 4 * rows * (max(step, counted) + max(4 * step, 3 * counted))
    if low:
        scores += rows * (2 * 5 * step + 16 * (width or 0) * (depth + max(2 * depth, 64)))
    lists = 48 * cases.truth.values.numel() + 24 * n_users + 32 * batch_size * ranked * len(measurements)
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
    if any(each.needs_scores for each in measurements):
        size += 8
    return size + sum(32 + 8 * graded for each in measurements if each.is_expectation)
