"""How much memory an evaluation is going to hold, before it starts; and the block size that keeps it within bounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recgraph.data.part import Cases
from recgraph.evaluate.jobs import Job
from recgraph.evaluate.rerank import Precision
from recgraph.evaluate.topk import ACCELERATOR_ROWS, BLOCK_ITEMS, CACHED_ITEMS, CHUNK, TILE_ROWS

_log = logging.getLogger(__name__)
_MIB = 1 << 20
#: what libraries take for themselves once they compute (packed matrices, allocators)
_LIBRARIES = 8 * _MIB
#: users whose metrics are computed together
METRIC_ROWS = 1 << 14


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


@dataclass(frozen=True)
class Memory:
    """Bytes that are held beyond the model and the data.

    Attributes:
        items: the catalogue as it is laid out, or the scores of 256 users where a model gives scores.
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


def plan(
    cases: Cases, jobs: Sequence[Job], limits: Limits, *, width: int | None, device: torch.device, graded: bool
) -> Memory:
    """Predict, choose the block size, and say so in the log (``recgraph.evaluate.memory``, level INFO).

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
        memory = _of(cases, jobs, limits, width, device, graded, block_items)
        if limits.memory_mib is None or memory.total <= limits.memory_mib * _MIB:
            _log.info("%s", memory)
            return memory
    assert memory is not None
    raise ValueError(
        f"memory_mib = {limits.memory_mib} is too little even for the smallest blocks: {memory}; "
        "allow more, or evaluate fewer users or protocols at a time"
    )


def _of(
    cases: Cases,
    jobs: Sequence[Job],
    limits: Limits,
    width: int | None,
    device: torch.device,
    graded: bool,
    block_items: int,
) -> Memory:
    n_users, n_items = len(cases), cases.n_items
    rows = TILE_ROWS.get(device.type, ACCELERATOR_ROWS)
    low = limits.precision != "float32" and width is not None
    depth = max(max(job.protocol.cutoffs) for job in jobs)
    step = min(block_items, CACHED_ITEMS) if device.type in TILE_ROWS else block_items
    places = any(job.needs_places for job in jobs if job.candidates is None)
    # order and position, the permutation they are made of, and the table or 256 rows of scores
    items = 24 * n_items + (256 * 4 * n_items if width is None else (6 if low else 4) * (n_items + CHUNK) * width)
    # where scores are equal, finding the first of them takes four times the block
    scores = 4 * rows * (max(step, block_items if places else 0) + max(4 * step, 3 * block_items if places else 0))
    if low:
        scores += rows * (2 * 5 * step + 16 * (width or 0) * (depth + max(2 * depth, 64)))
    lists = 48 * cases.truth.values.numel() + 24 * n_users + 32 * limits.batch_size * depth * len(jobs)
    for own in {job.key: job for job in jobs}.values():
        of_key = [job for job in jobs if job.key == own.key]
        lists += n_users * depth * _kept_bytes(of_key, graded)
        if any(job.needs_places for job in of_key):
            lists += 50 * cases.truth.values.numel()
    values = sum(len(job.metrics) * len(job.protocol.cutoffs) for job in jobs)
    metrics = 8 * n_users * values + 64 * min(n_users, METRIC_ROWS) * depth + 8 * n_items
    return Memory(items, scores, lists, metrics, block_items)


def _kept_bytes(jobs: Sequence[Job], graded: bool) -> int:
    """Of each place of a list, for the jobs of one ranking."""
    size = 1 + 8 * graded
    if any(job.needs("items", "known") for job in jobs):
        size += 8
    if any(job.needs("known") for job in jobs):
        size += 25
    if any(job.protocol.convention == "torchmetrics" for job in jobs):
        size += 8
    return size + sum(32 + 8 * graded for job in jobs if job.expected)
