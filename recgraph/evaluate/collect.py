"""One protocol of an evaluation, and what it counts.

How much memory an evaluation is going to hold, before it starts; and the block size that keeps it within bounds.

Rank once for all protocols, and keep of the lists what their metrics read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import Facts, Places, RankedHits, Truth, expected_hits
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.metrics.conventions import LIBRARIES
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.ranking import Asked, Precision, RankedBatch, Ranker, device_of, item_vectors_of, lay_out, rank
from recgraph.evaluate.topk import ACCELERATOR_ROWS, BLOCK_ITEMS, CACHED_ITEMS, CHUNK, TILE_ROWS, Lists
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Job:
    """One protocol and what it counts.

    Attributes:
        candidates: each user's own; None for all items.
    """

    protocol: Protocol
    metrics: tuple[Metric, ...]
    candidates: Ragged | None

    @property
    def key(self) -> str:
        """Of the ranking; protocols that rank alike share it."""
        own = self.protocol
        if self.candidates is None:
            return own.seen
        return "/".join(map(str, (own.seen, own.candidates, own.n_candidates, own.candidate_seed, own.candidate_hash)))

    @property
    def expected(self) -> bool:
        return self.protocol.ties == "expectation"

    def needs(self, *names: str) -> bool:
        """Whether a metric reads one of the named things."""
        return any(not metric.needs.isdisjoint(names) for metric in self.metrics)

    @property
    def needs_places(self) -> bool:
        return self.expected or self.needs("places") or any(not metric.cut for metric in self.metrics)


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
    """Predict, choose the block size, and say so in the log (``recgraph.evaluate.collect``, level INFO).

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
    if any(LIBRARIES[job.protocol.convention].reads_scores for job in jobs):
        size += 8
    return size + sum(32 + 8 * graded for job in jobs if job.expected)


def collect(
    model: Ranker,
    cases: Cases,
    jobs: Sequence[Job],
    facts: Facts,
    fit_part: Part | None,
    limits: Limits,
) -> list[RankedHits]:
    """The ranked lists of every job, from one pass over the scores."""
    truth = Truth.of(cases)
    depth = max(max(job.protocol.cutoffs) for job in jobs)
    vectors = item_vectors_of(model)
    width = None if vectors is None else vectors.shape[1]
    device = device_of(model) if vectors is None else vectors.device
    memory = plan(cases, jobs, limits, width=width, device=device, graded=truth.graded)
    catalogue = lay_out(
        vectors,
        cases.n_items,
        min(depth, cases.n_items),
        tie_seed=jobs[0].protocol.tie_seed,
        block_items=memory.block_items,
        device=device,
        precision=limits.precision,
    )
    query = Query(cases.users, cases.history)
    everywhere = tuple(dict.fromkeys(job.key for job in jobs if job.candidates is None))
    own = {job.key: job.candidates for job in jobs if job.candidates is not None}
    relevant = Ragged.from_lengths(truth.keys % cases.n_items, truth.n_relevant)
    places = any(job.needs_places for job in jobs if job.candidates is None)
    asked = Asked(relevant, own, places) if own or places else None
    kept = {
        key: _Kept.like(cases, depth, truth, [job for job in jobs if job.key == key]) for key in (*everywhere, *own)
    }
    for batch in rank(model, catalogue, query, cases.history, everywhere, limits.batch_size, asked):
        for key, lists in batch.lists.items():
            kept[key].add(batch, lists, batch.places.get(key), truth)
    ideal = truth.ideal_gains(depth)
    total = None
    if truth.grades is not None:
        total = torch.zeros(len(cases), dtype=torch.float64).index_add_(0, relevant.rows, truth.grades)
    base = RankedHits(
        torch.empty(0), truth.n_relevant, ideal_gains=ideal, total_gain=total, relevant=relevant, facts=facts
    )
    return [kept[job.key].ranked(base, job, cases, truth, fit_part) for job in jobs]


@dataclass
class _Kept:
    """What is kept of the lists of one ranking."""

    hits: Tensor
    lengths: Tensor
    gains: Tensor | None
    items: Tensor | None
    scores: Tensor | None
    index: list[Tensor]
    places: list[Places]

    @classmethod
    def like(cls, cases: Cases, depth: int, truth: Truth, jobs: Sequence[Job]) -> _Kept:
        shape = (len(cases), depth)
        scored = any(LIBRARIES[job.protocol.convention].reads_scores for job in jobs)
        return cls(
            torch.zeros(shape, dtype=torch.bool),
            torch.zeros(len(cases), dtype=torch.int64),
            torch.zeros(shape, dtype=torch.float64) if truth.graded else None,
            torch.full(shape, -1) if any(job.needs("items", "known") for job in jobs) else None,
            torch.full(shape, -torch.inf, dtype=torch.float64) if scored else None,
            [],
            [],
        )

    def add(self, batch: RankedBatch, lists: Lists, places: Places | None, truth: Truth) -> None:
        index, width = batch.index, lists.items.shape[1]
        found_at, found = truth.find(index, lists.items)
        self.hits[index, :width] = found
        self.lengths[index] = (lists.items >= 0).sum(1)
        if self.gains is not None and truth.grades is not None:
            self.gains[index, :width] = truth.grades[found_at] * found
        if self.items is not None:
            self.items[index, :width] = lists.items
        if self.scores is not None:
            self.scores[index, :width] = lists.scores.double()
        if places is not None:
            self.index.append(index)
            self.places.append(places)

    def ranked(self, base: RankedHits, job: Job, cases: Cases, truth: Truth, fit_part: Part | None) -> RankedHits:
        """With the shared attributes of ``base``."""
        places = Places.gather(self.places, torch.cat(self.index)) if self.places and job.needs_places else None
        ranked = replace(base, hits=self.hits, gains=self.gains, lengths=self.lengths, items=self.items)
        ranked = replace(ranked, scores=self.scores, places=places)
        if job.needs("known") and fit_part is not None and self.items is not None:
            known, trained = known_items(cases, self.items, fit_part)
            ranked = replace(ranked, known=known, trained=trained)
        if job.expected and places is not None:
            hits, gains, ties = expected_hits(places, self.hits.shape[1], truth.grades)
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
