"""Ranking with scores of low precision, and the same lists as without.

The whole catalogue is scored in float16 or bfloat16; the best ``k`` and a margin of further columns are scored again
exactly, and the best ``k`` of those are listed. That this is what float32 would have listed is proven for each user,
from bounds of the rounding errors; where the proof fails (the margin is too small, scores are nearly equal, the type
overflows) the user is ranked in float32.

Rank with a model: encode users in groups of similar history length, then rank them tile by tile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from recgraph.data.batches import Query
from recgraph.evaluate.hits import Places
from recgraph.evaluate.ranks import among, places_of
from recgraph.evaluate.select import NOTHING, Seen
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.sparse.ragged import Ragged

Precision = Literal["float32", "float16", "bfloat16"]
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: rows of a table converted at a time
_ROWS = 1 << 14


class LowPrecision(Catalogue):
    """A :class:`~recgraph.evaluate.topk.Catalogue` that scans in low precision; items listed are those of float32.

    Scores of the lists are exact inner products rounded to the vectors' type, and may differ from the float32 product
    in the last bits. Products must be accumulated in float32 at least, as they are on the host and, for vectors as
    short as those of recommendation, on accelerators.

    Args:
        n_items, k, tie_seed, candidates, block_items: as for the base.
        item_vectors: [n_items, D].
        precision: ``"float16"`` or ``"bfloat16"``.
        margin: further columns scored again (default: ``2 * k``, at least 64).

    Attributes:
        n_ranked, n_fallbacks: users ranked, and those of them that float32 ranked.

    Raises:
        ValueError: another precision, or a margin below 1.
    """

    def __init__(
        self,
        n_items: int,
        k: int,
        *,
        item_vectors: Tensor,
        precision: Precision,
        tie_seed: int = 0,
        candidates: Tensor | None = None,
        block_items: int | None = None,
        margin: int | None = None,
    ) -> None:
        if precision not in _TYPES:
            raise ValueError(f"precision = {precision!r} must be one of {', '.join(get_args(Precision)[1:])}")
        margin = max(2 * k, 64) if margin is None else margin
        if margin < 1:
            raise ValueError(f"margin = {margin} must be at least 1")
        super().__init__(
            n_items, k, tie_seed=tie_seed, item_vectors=item_vectors, candidates=candidates, block_items=block_items
        )
        self._type = _TYPES[precision]
        self._scan = Catalogue(
            n_items,
            k + margin,
            tie_seed=tie_seed,
            item_vectors=item_vectors,
            candidates=candidates,
            block_items=block_items,
            low=self._type,
        )
        self._table = item_vectors.detach()
        self._item_norm, self._item_error = self._norms(self._table)
        self.n_ranked = self.n_fallbacks = 0

    def rank_tile(
        self, queries: Tensor, marks: Seen | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        scanned = self._scan.rank_tile(queries.to(self._type), marks, conventions)
        slack = self._slack(queries)
        sure = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
        ranked = {}
        for name, (values, columns) in scanned.items():
            *ranked[name], proven = self._refine(queries, values.double(), columns, slack)
            sure &= proven
        self.n_ranked += len(queries)
        rows = (~sure).nonzero().flatten()
        self.n_fallbacks += rows.numel()
        if rows.numel():
            again = super().rank_tile(queries[rows], None if marks is None else marks.take(rows), conventions)
            for name, lists in again.items():
                for own, exact in zip(ranked[name], lists, strict=True):
                    own[rows] = exact
        return {name: (values, columns) for name, (values, columns) in ranked.items()}

    def _norms(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """[] float64 each: the greatest norm of a row in low precision, and of its difference from the row."""
        norm = error = torch.zeros((), dtype=torch.float64, device=table.device)
        for rows in torch.split(table, _ROWS):
            low, real = rows.to(self._type).double(), rows.double()
            norm = torch.maximum(norm, low.norm(dim=1).max())
            error = torch.maximum(error, (low - real).norm(dim=1).max())
        return norm, error

    def _slack(self, queries: Tensor) -> Tensor:
        """[R] float64: how far a score of low precision may be from the real one, before it is rounded itself."""
        real, low = queries.double(), queries.to(self._type).double()
        norm = low.norm(dim=1)
        inputs = real.norm(dim=1) * self._item_error + (low - real).norm(dim=1) * self._item_norm
        slack: Tensor = inputs + _roundoff(queries.shape[1]) * norm * self._item_norm
        return slack

    def _refine(self, queries: Tensor, low: Tensor, columns: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [R, k] and columns [R, k] of the best by exact scores, and whether float32 would list them: [R] bool.

        Args:
            low: [R, K] float64, the scores of low precision, descending.
            columns: [R, K], -1 at the padding.
            slack: [R].
        """
        # in the order of the tie rule, so that the stable sort keeps it
        columns = columns.sort(dim=1).values
        vectors = self._table[self.order[columns.clamp(min=0)]].double()
        query = queries.double()[:, :, None]
        missing = columns < 0
        scores = (vectors @ query).squeeze(2).masked_fill(missing, NOTHING)
        error = (vectors.abs() @ query.abs()).squeeze(2) * _roundoff(queries.shape[1])
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        error, columns = error.gather(1, order), columns.gather(1, order)
        k, finfo = self.k, torch.finfo(self._type)
        # what was left out scores at most this, in low precision and then in truth
        cut = low[:, -1]
        limit = cut + cut.abs() * finfo.eps + finfo.tiny + slack
        full = ~missing.any(1)
        beyond = scores[:, k - 1] - error[:, k - 1] > limit + self._widest(query)
        near = scores[:, :k] - scores[:, 1 : k + 1] <= error[:, :k] + error[:, 1 : k + 1]
        near &= columns[:, 1 : k + 1] >= 0
        sure = (beyond | ~full) & ~near.any(1) & low[:, 0].isfinite() & slack.isfinite()
        return scores[:, :k].to(queries.dtype), columns[:, :k], sure

    def _widest(self, query: Tensor) -> Tensor:
        """[R] float64: how far any float32 score may be from the real one."""
        norm = query.squeeze(2).norm(dim=1)
        widest: Tensor = norm * (self._item_norm + self._item_error) * _roundoff(query.shape[1])
        return widest


def _roundoff(width: int) -> float:
    """The relative error of a float32 inner product of so many terms, in whatever order they are summed."""
    unit = torch.finfo(torch.float32).eps / 2
    return width * unit / (1 - width * unit)


#: users given to a model at a time. Fixed, because a model's rounding may depend on who shares its batch.
GROUP = 256


@runtime_checkable
class Ranker(Protocol):
    """What evaluation and serving need of a model (:class:`recgraph.models.base.Model` is one)."""

    @property
    def has_vectors(self) -> bool:
        """Whether scores are inner products of user and item vectors."""

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: higher is better."""

    def encode_users(self, query: Query) -> Tensor:
        """[B, D]."""

    def encode_items(self) -> Tensor:
        """[n_items, D]."""


@dataclass(frozen=True)
class RankedBatch:
    """Lists of a batch of users.

    Attributes:
        index: [B] int64, the rows of the query that was ranked, on the host.
        lists: convention (``"keep"``, ``"exclude"``), or name of the users' own candidates -> lists, on the host.
        places: the same -> where the relevant items stand, where that was asked for.
    """

    index: Tensor
    lists: dict[str, Lists]
    places: dict[str, Places] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What else a ranking computes, from the same scores.

    Attributes:
        relevant: a row for each user of the query, items each once: count where they stand.
        own: name -> a row for each user, the candidates that are ranked under that name.
        everywhere: whether to count among all items, too, or among the users' own candidates alone.
    """

    relevant: Ragged
    own: dict[str, Ragged] = field(default_factory=dict)
    everywhere: bool = True


def device_of(model: object) -> torch.device:
    """Where a model's parameters or buffers live; the host for what has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Within the block the model is in evaluation mode and no gradient is recorded; after it, as before."""
    training = isinstance(model, nn.Module) and model.training
    if isinstance(model, nn.Module):
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if isinstance(model, nn.Module):
            model.train(training)


def item_vectors_of(model: Ranker) -> Tensor | None:
    """[n_items, D], the items as the model sees them now; None where it gives scores."""
    with evaluating(model):
        return model.encode_items() if model.has_vectors else None


def lay_out(
    vectors: Tensor | None,
    n_items: int,
    k: int,
    *,
    tie_seed: int = 0,
    candidates: Tensor | None = None,
    block_items: int | None = None,
    device: torch.device | None = None,
    precision: Precision = "float32",
) -> Catalogue:
    """Items laid out for ranking: see :class:`~recgraph.evaluate.topk.Catalogue`.

    Args:
        precision: below ``"float32"`` items are scored in that type and the best again: the lists stay the same. Only
            where there are ``vectors``.
    """
    if vectors is not None and precision != "float32":
        return LowPrecision(
            n_items,
            k,
            item_vectors=vectors,
            precision=precision,
            tie_seed=tie_seed,
            candidates=candidates,
            block_items=block_items,
        )
    return Catalogue(
        n_items,
        k,
        tie_seed=tie_seed,
        item_vectors=vectors,
        candidates=candidates,
        block_items=block_items,
        device=device if vectors is None else None,
    )


def catalogue_for(
    model: Ranker,
    n_items: int,
    k: int,
    *,
    tie_seed: int = 0,
    candidates: Tensor | None = None,
    block_items: int | None = None,
    precision: Precision = "float32",
) -> Catalogue:
    """The items as the model sees them now, laid out for ranking."""
    return lay_out(
        item_vectors_of(model),
        n_items,
        k,
        tie_seed=tie_seed,
        candidates=candidates,
        block_items=block_items,
        device=device_of(model),
        precision=precision,
    )


def rank(
    model: Ranker,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    batch_size: int = 1024,
    asked: Asked | None = None,
) -> Iterator[RankedBatch]:
    """Rank for all users of a query, shortest histories first.

    Args:
        catalogue: from :func:`catalogue_for` of this model.
        seen: one row for each user of the query, the items that ``"exclude"`` leaves out.
        batch_size: users whose lists are handed out together, rounded up to a multiple of 256, the groups in
            which the model is always called: it bounds memory and does not alter results.
        asked: what else to compute.

    Yields:
        Each user once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size} must be at least 1")
    by_length = query.history.lengths.argsort(stable=True)
    groups = torch.split(by_length, GROUP)
    per_batch = -(-batch_size // GROUP)
    for start in range(0, len(groups), per_batch):
        done = [
            _rank_group(model, catalogue, query, seen, conventions, group, asked)
            for group in groups[start : start + per_batch]
        ]
        index = torch.cat(groups[start : start + per_batch])
        lists = {name: Lists.cat([part.lists[name] for part in done]) for name in done[0].lists}
        rows = torch.arange(index.numel())
        places = {name: Places.gather([part.places[name] for part in done], rows) for name in done[0].places}
        yield RankedBatch(index, lists, places)


def _rank_group(
    model: Ranker,
    catalogue: Catalogue,
    query: Query,
    seen: Ragged | None,
    conventions: tuple[str, ...],
    index: Tensor,
    asked: Asked | None,
) -> RankedBatch:
    device = catalogue.device
    part = Query(query.users[index], query.history.take(index)).to(device)
    own_seen = None if seen is None else seen.take(index).to(device)
    with evaluating(model):
        queries = model.encode_users(part) if model.has_vectors else model.score(part)
        lists = catalogue.rank(queries, own_seen, conventions, part.users) if conventions else {}
        places: dict[str, Places] = {}
        if asked is not None:
            relevant = asked.relevant.take(index).to(device)
            if asked.everywhere and conventions:
                places = places_of(catalogue, queries, relevant, own_seen, conventions)
            for name, rows in asked.own.items():
                lists[name], places[name] = among(catalogue, queries, rows.take(index).to(device), relevant, part.users)
    host = torch.device("cpu")
    return RankedBatch(
        index,
        {name: Lists(found.items.to(host), found.scores.to(host)) for name, found in lists.items()},
        {name: found.to(host) for name, found in places.items()},
    )
