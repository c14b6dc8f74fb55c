"""Rank once for all protocols, and keep of the lists what their metrics read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recgraph.data.batch import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.expectation import expected_hits
from recgraph.evaluate.jobs import Job
from recgraph.evaluate.memory import Limits, plan
from recgraph.evaluate.ranked import Facts, Places, RankedHits
from recgraph.evaluate.ranking import Asked, RankedBatch, Ranker, device_of, item_vectors_of, lay_out, rank
from recgraph.evaluate.topk import Lists
from recgraph.evaluate.truth import Truth
from recgraph.sparse.ragged import Ragged


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
        scored = any(job.protocol.convention == "torchmetrics" for job in jobs)
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
