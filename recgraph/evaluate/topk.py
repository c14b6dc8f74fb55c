"""Streaming full ranking: the best k of all items for each user, seen items kept and excluded from
one pass.

Columns are the items in the order of a seeded permutation, so that "the lower column first" is the
whole tie rule. Scores are computed in tiles of fixed shape (128 users by 1,024 columns, padded at
the ends), so that the rounding of a score depends neither on how users are batched nor on how many
items are ranked at a time. ``torch.topk`` breaks ties arbitrarily: its values are trusted, and rows
in which equality could matter are resolved exactly. The ranks of relevant items are counted from
the same scores, so that no catalogue is ever sorted.
"""

from __future__ import annotations

import copy
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.evaluate.metrics import RelevantRanks, item_keys
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged

NAN, NO_SCORE = float("nan"), float("-inf")
#: users whose scores are held at a time, on the host and on an accelerator: not more than a model
#: is called with, as a tile costs as much where some of its rows are empty
TILE_ROWS = {"cpu": 128}
ACCELERATOR_ROWS = 256
#: columns of one matrix product
CHUNK = 1024
#: columns held at a time where the caller does not say: 64 MiB of float32 scores a tile
BLOCK_ITEMS = 1 << 17
#: columns that a host ranks at a time, at most: their scores stay in its cache until they are read
CACHED_ITEMS = 1 << 14
#: columns that share one maximum; the best columns lie in the blocks with the best maxima
BLOCK = 64
#: columns that share a maximum inside the best blocks
STRIDED = 8
#: columns that are kept for a row before they are merged, times k
_PENDING = 8


@dataclass(frozen=True)
class Lists:
    """Ranked lists: item indices [B, k] int64, best first, and scores [B, k]; padded with -1 and
    -inf.
    """

    items: Tensor
    scores: Tensor

    def first(self, k: int) -> Lists:
        """The first ``k`` items of each list."""
        return Lists(self.items[:, :k], self.scores[:, :k])

    def to(self, device: torch.device) -> Lists:
        return Lists(self.items.to(device), self.scores.to(device))

    @classmethod
    def cat(cls, parts: list[Lists]) -> Lists:
        return cls(
            torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts])
        )


def tie_order(n_items: int, tie_seed: int) -> Tensor:
    """[n_items] int64: the items in the order in which equal scores are listed."""
    return torch.from_numpy(numpy_generator(tie_seed, "ties").permutation(n_items))


class _Buffer(threading.local):
    """Memory for scores, of each thread its own and freed with it; a copy or a pickle begins
    without any.
    """

    scores = torch.empty(0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Buffer, ()


class Catalogue:
    """The items that are ranked, in the order of the tie rule, prepared once for many users;
    threads may share one.

    Args:
        item_vectors: [n_items, D] where scores are inner products; None where a model gives scores.
        candidates: [C] int64 item indices to which the ranking is restricted; None for all.
        block_items: columns held at a time (rounded up to whole tiles); bounds the memory, not the
            result.
        wide: compute scores in float64 from float32 vectors, widened tile by tile. Only for vectors
            whose products float64 adds up without rounding: such sums do not depend on the number
            of users, and tiles are not padded.

    Attributes:
        order: [C] the item of each column; ``position`` [n_items] the column of each item, -1 for
            none.
        width: columns, padding included.
    """

    def __init__(
        self,
        n_items: int,
        k: int,
        *,
        tie_seed: int = 0,
        item_vectors: Tensor | None = None,
        candidates: Tensor | None = None,
        block_items: int | None = None,
        device: torch.device | None = None,
        wide: bool = False,
    ) -> None:
        order = tie_order(n_items, tie_seed)
        if candidates is not None:
            keep_mask = torch.zeros(n_items, dtype=torch.bool)
            keep_mask[candidates.cpu()] = True
            order = order[keep_mask[order]]
        if item_vectors is not None:
            device = item_vectors.device
        self.order = order.to(device)
        self.n_items, self.k, self.device = n_items, k, self.order.device
        self.rows = TILE_ROWS.get(self.device.type, ACCELERATOR_ROWS)
        self.position = torch.full((n_items,), -1, device=self.device)
        self.position[self.order] = torch.arange(order.numel(), device=self.device)
        self._chunk = self._chunk_for(k)
        self.width = max(_round_up(order.numel(), self._chunk), self._chunk)
        self._block = min(_round_up(block_items or BLOCK_ITEMS, self._chunk), self.width)
        self.n_blocks = -(-self.width // self._block)
        self._step = self._block
        if self.device.type in TILE_ROWS:
            self._step = min(_round_up(CACHED_ITEMS, self._chunk), self._block)
        self._wide = wide
        self._vectors: list[Tensor] | None = None
        if item_vectors is not None:  # [D, chunk] each, of consecutive columns
            self._vectors = []
            for columns in self.order.split(self._chunk):  # type: ignore[no-untyped-call]
                # contiguous: the product with a transposed view costs nearly twice as much
                vectors = as_wide_floats(item_vectors.detach()[columns])
                chunk = vectors.new_zeros(vectors.shape[1], self._chunk)
                chunk[:, : len(vectors)] = vectors.T
                self._vectors.append(chunk)
        self._buffer = _Buffer()
        #: rows of a tile -> whether its scores are those of a whole one, bit for bit
        self._agree: dict[int, bool] = {}

    def _chunk_for(self, k: int) -> int:
        n_chunks = max(-(-self.order.numel() // CHUNK), 1)
        return max(_round_up(-(-self.order.numel() // n_chunks), BLOCK), _round_up(k + 1, BLOCK))

    def for_length(self, k: int) -> Catalogue | None:
        """The same items for lists of length ``k``; None where tiles for that length have another
        shape, and scores, perhaps, another rounding."""
        if self._chunk_for(k) != self._chunk:
            return None
        other = copy.copy(self)
        other.k = k
        return other

    def in_tiles_of(self, rows: int) -> Catalogue | None:
        """The same for fewer users at a time, which costs less where few are ranked. None where
        products of fewer rows have other last bits; the order in which they are summed does not
        depend on the values, so random ones tell."""
        other = copy.copy(self)
        other.rows = rows
        if self._vectors is None:
            return other
        if rows not in self._agree:
            shape = (self.rows, self._vectors[0].shape[0])
            normal = torch.from_numpy(numpy_generator(0, "tiles").standard_normal(shape))
            queries = normal.to(self.device, self._vectors[0].dtype)
            whole = next(self.blocks(queries, self._step))[1].clone()
            shares = queries.split(rows)  # type: ignore[no-untyped-call]
            parts = [next(other.blocks(share, self._step))[1].clone() for share in shares]
            self._agree[rows] = torch.equal(whole, torch.cat(parts))
        return other if self._agree[rows] else None

    def prepared(self, queries: Tensor) -> Tensor:
        """User vectors in the type of the items', or scores in one that tells them apart."""
        queries = queries.detach()
        if self._wide:
            return queries.double()
        if self._vectors is None:
            return as_wide_floats(queries)
        return queries.to(self._vectors[0].dtype)

    @torch.no_grad()
    def rank(
        self,
        queries: Tensor,
        seen: Ragged | None,
        conventions: tuple[str, ...],
        users: Tensor | None = None,
    ) -> dict[str, Lists]:
        """Rank for a batch of users: convention (``"keep"``, ``"exclude"``) -> lists.

        Queries are user vectors [B, D] where the catalogue has item vectors, else scores [B,
        n_items] in item order; ``seen`` are B rows of item indices (repeats allowed); ``users`` [B]
        name one whose score is NaN.
        """
        queries = self.prepared(queries)
        tiles: dict[str, list[Lists]] = defaultdict(list)
        excluded = self.excluded_columns(seen, conventions)
        tile_seen = None
        for start in range(0, queries.shape[0], self.rows):
            tile = queries[start : start + self.rows]
            if excluded is not None:
                tile_seen = excluded.part(start, start + tile.shape[0])
            for name, (values, columns) in self._rank_tile(tile, tile_seen, conventions).items():
                tiles[name].append(Lists(self.items_of(columns), values))
        ranked = {}
        for name, parts in tiles.items():
            ranked[name] = Lists.cat(parts)
            refuse_nan(ranked[name].scores[:, 0].isnan().nonzero().flatten(), users)
        return ranked

    def items_of(self, columns: Tensor) -> Tensor:
        """The items of columns, -1 of -1. Where scores are NaN, which is refused, columns may lie
        past the last one.
        """
        items = self.order[columns.clamp(0, len(self.order) - 1)]
        return torch.where(columns < 0, columns, items)

    def excluded_columns(self, seen: Ragged | None, conventions: tuple[str, ...]) -> Ragged | None:
        """The columns of the seen items, where a convention leaves them out."""
        if seen is None or "exclude" not in conventions:
            return None
        return self.seen_columns(seen)

    def seen_columns(self, seen: Ragged) -> Ragged:
        """The columns of the items that the catalogue has, in each row once, in ascending order."""
        columns = self.position[seen.values]
        keys = torch.unique((seen.rows * self.width + columns)[columns >= 0])
        lengths = torch.bincount(keys // self.width, minlength=seen.n_rows)
        return Ragged.from_lengths(keys % self.width, lengths)

    def _rank_tile(
        self, queries: Tensor, seen: Ragged | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Rank for R users, at most :attr:`rows`: convention -> scores [R, k] and columns [R, k]
        int64.
        """
        best = RunningBest(self.k)
        blocks = self.blocks(queries, self._step)
        if seen is None:
            nothing = torch.empty(0, dtype=torch.int64, device=self.device)
            for start, scores, filled in blocks:
                scores[:, filled:] = NO_SCORE
                best.add(scores, start, filled, nothing)
            return dict.fromkeys(conventions, best.result())
        columns, order = seen.values.sort()
        starts = torch.arange(self._step, self.width, self._step, device=columns.device)
        # the entries whose columns each block has
        entries = order.tensor_split(torch.searchsorted(columns, starts).tolist())
        seen_scores = queries.new_empty(len(order))
        for (start, scores, filled), index in zip(blocks, entries, strict=True):
            scores[:, filled:] = NO_SCORE
            excluded = seen.rows[index] * scores.shape[1] + (seen.values[index] - start)
            flat = scores.view(-1)
            seen_scores[index] = flat[excluded]
            flat[excluded] = NO_SCORE
            best.add(scores, start, filled, excluded)
        values, columns = best.result()
        is_nan = seen_scores.isnan()
        if bool(is_nan.any()):
            values[seen.rows[is_nan], 0] = NAN
        ranked = {"exclude": (values, columns)}
        if "keep" in conventions:
            # the best of all items are among the best unseen ones and the seen ones: no second pass
            # over the scores
            all_values = [values, seen.with_values(seen_scores).to_padded(fill=NO_SCORE)]
            all_columns = [columns, seen.to_padded(fill=-1)]
            ranked["keep"] = merge(torch.cat(all_values, 1), torch.cat(all_columns, 1), self.k)
        return ranked

    def blocks(self, queries: Tensor, step: int | None = None) -> Iterator[tuple[int, Tensor, int]]:
        """The scores of at most :attr:`rows` users, in blocks of ``step`` columns (default: as many
        as may be held).

        Yields the first column, scores [R, W] (in the thread's buffer, which the next block
        reuses), and how many of the block's columns are items; what the rest holds means nothing.
        """
        step = step or self._block
        n_rows = queries.shape[0]
        if n_rows < self.rows and self._vectors is not None and not self._wide:
            queries = torch.cat([queries, queries.new_zeros(self.rows - n_rows, queries.shape[1])])
        for start in range(0, self.width, step):
            scores = self._scores(queries, start, min(step, self.width - start))[:n_rows]
            yield start, scores, min(max(self.order.numel() - start, 0), scores.shape[1])

    def _scores(self, queries: Tensor, start: int, width: int) -> Tensor:
        """[rows, width] of the thread's buffer: the scores of the columns from ``start`` on."""
        n_rows = queries.shape[0]
        buffer = self._buffer.scores
        if buffer.dtype != queries.dtype or buffer.numel() < n_rows * width:
            # made under inference mode it could not be written to elsewhere
            with torch.inference_mode(False):
                buffer = self._buffer.scores = queries.new_empty(self.rows * width)
        scores = buffer[: n_rows * width].view(n_rows, width)
        if self._vectors is None:
            order = self.order[start : start + width]
            torch.index_select(queries, 1, order, out=scores[:, : order.numel()])
        else:
            for number in range(width // self._chunk):
                chunk = self._vectors[start // self._chunk + number]
                columns = slice(number * self._chunk, (number + 1) * self._chunk)
                torch.mm(queries, chunk.to(queries.dtype), out=scores[:, columns])
        return scores


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def as_wide_floats(values: Tensor) -> Tensor:
    """Narrow floats as float32; integers, which may be too large for that, as float64."""
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.float() if values.is_floating_point() else values.double()


def refuse_nan(rows: Tensor, users: Tensor | None) -> None:
    """Name the first of the ``rows`` whose scores hold NaN, by ``users`` [B] where these are
    known.
    """
    if not rows.numel():
        return
    name = f"row {int(rows[0])}"
    if users is not None:
        name = f"user index {int(users[rows[0]])}"
    raise ValueError(f"the model scores {name} with NaN; train or check the model")


def best_columns(scores: Tensor, k: int, filled: int, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row, by score and then by lower column: values and columns [R,
    k] in rank order, padded with -inf and -1. A NaN anywhere in a row shows as a NaN in its first
    value.

    Scores [R, W] are contiguous, W a multiple of 64 and greater than ``k``. Columns from ``filled``
    on and positions ``excluded`` [X] (``row * W + column``) may not be chosen and hold -inf, as an
    allowed one may, too.
    """
    values, columns = _topk(scores, k + 1)
    unsure = (values[:, k - 1] == NO_SCORE) | (values[:, k - 1] == values[:, k])
    unsure &= ~values[:, 0].isnan()
    values, columns = values[:, :k], columns[:, :k]
    if bool((values[:, 1:] == values[:, :-1]).any()):
        values, columns = _in_order(values, columns)
    if bool(unsure.any()):
        rows = unsure.nonzero().flatten()
        allowed_mask = torch.ones_like(scores, dtype=torch.bool)
        allowed_mask[:, filled:] = False
        allowed_mask.view(-1)[excluded] = False
        values[rows], columns[rows] = _resolve(
            scores[rows], values[rows, -1:], allowed_mask[rows], k
        )
    return values, columns


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)``, several times as fast: the best k columns lie in the k blocks of 64
    columns with the highest maxima, and only those are searched, by maxima again."""
    n_rows, width = scores.shape
    n_blocks = width // BLOCK
    if 2 * k >= n_blocks:
        values, columns = scores.topk(k)
        return values, columns
    blocks = scores.view(n_rows, n_blocks, BLOCK)
    best = blocks.amax(2).topk(k, sorted=False).indices
    row_of = torch.arange(n_rows, device=scores.device)[:, None] * n_blocks
    runs = scores.view(-1, BLOCK).index_select(0, (row_of + best).flatten())
    strided = runs.view(n_rows, STRIDED, -1)
    inside = strided.amax(1).topk(k, sorted=False).indices
    values, place = strided.gather(2, inside[:, None].expand(-1, STRIDED, -1)).flatten(1).topk(k)
    place = place // k * strided.shape[2] + inside.gather(1, place % k)
    return values, best.gather(1, place // BLOCK) * BLOCK + place % BLOCK


def _in_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Values [R, M] descending, and columns of equal value ascending."""
    by_column = columns.argsort(1)
    values, order = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_column).gather(1, order)


def _resolve(scores: Tensor, cut: Tensor, allowed_mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    above = scores > cut
    equal = (scores == cut) & allowed_mask
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= wanted))
    rows = Ragged.from_lengths(chosen.nonzero()[:, 1], chosen.sum(1))
    columns = rows.to_padded(fill=-1, width=k)
    values = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, NO_SCORE)
    # a missing column and an allowed -inf are equal; the missing ones are last already and the sort
    # is stable
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def merge(values: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of values and columns [R, M] of several lists, ordered and padded as by
    :func:`best_columns`; a column is named once in its row, or is -1 (missing, its value -inf)."""
    if values.shape[1] <= k:
        short = k + 1 - values.shape[1]
        values = torch.nn.functional.pad(values, (0, short), value=NO_SCORE)
        columns = torch.nn.functional.pad(columns, (0, short), value=-1)
    best, place = values.topk(k + 1)
    if not bool(((best[:, 1:] == best[:, :-1]) | (best[:, :-1] == NO_SCORE)).any()):
        return best[:, :k], columns.gather(1, place[:, :k])
    values, columns = _in_order(values, columns)
    last = (columns < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, last), columns.gather(1, last)


class RunningBest:
    """The ``k`` best columns of each row of a score matrix that comes block by block and is never
    held whole.

    Once ``k`` columns are known, a later block can only add what is above the worst of them. Few
    columns are: a block is read once, for the maxima of its runs of 64 columns, and only the runs
    that rise above are searched.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._best: tuple[Tensor, Tensor] | None = None
        #: rows, columns and values above the cut
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_pending = self._n_blocks = self._n_settled = 0
        self._cut = torch.empty(0)
        #: whether some row may still list a score of -inf
        self._is_open = True

    def add(self, scores: Tensor, start: int, filled: int, excluded: Tensor) -> None:
        """Read the next block, as for :func:`best_columns`, with -inf at ``excluded`` positions and
        in the padding; in ascending order of ``start``, the first column."""
        self._n_blocks += 1
        if not self._is_open:
            self._search(scores, start)
            return
        values, columns = best_columns(scores, self.k, filled, excluded)
        if start:
            columns = torch.where(columns < 0, columns, columns + start)
        self._merge(values, columns)

    def result(self) -> tuple[Tensor, Tensor]:
        self._settle()
        assert self._best is not None
        return self._best

    def _search(self, scores: Tensor, start: int) -> None:
        """A block of which only what is above the cut matters: an equal score in a later column
        loses.
        """
        runs = scores.view(scores.shape[0], -1, BLOCK)
        # written as "not below" so that NaN is found, too
        rows, at = (~(runs.amax(2) <= self._cut)).nonzero(as_tuple=True)
        if rows.numel():
            searched = scores.view(-1, BLOCK).index_select(0, rows * runs.shape[1] + at)
            run, inside = (~(searched <= self._cut[rows])).nonzero(as_tuple=True)
            columns = start + at[run] * BLOCK + inside
            self._pending.append((rows[run], columns, searched[run, inside]))
            self._n_pending += run.numel()
        most = _PENDING * self.k * scores.shape[0]
        # the cut rises slower and slower: few columns pass while the blocks become four times as
        # many
        if self._n_blocks >= 4 * self._n_settled or self._n_pending > most:
            self._settle()

    def _settle(self) -> None:
        """Merge the pending columns into the best ones."""
        self._n_settled = self._n_blocks
        if not self._pending:
            return
        rows, columns, values = map(torch.cat, zip(*self._pending, strict=True))
        self._pending, self._n_pending = [], 0
        order = rows.argsort(stable=True)
        lengths = torch.bincount(rows, minlength=self._cut.shape[0])
        new = Ragged.from_lengths(columns[order], lengths)
        padded = new.with_values(values[order]).to_padded(fill=NO_SCORE)
        self._merge(padded, new.to_padded(fill=-1))

    def _merge(self, values: Tensor, columns: Tensor) -> None:
        if self._best is not None:
            values = torch.cat([self._best[0], values], 1)
            columns = torch.cat([self._best[1], columns], 1)
            values, columns = merge(values, columns, self.k)
        self._best, self._n_settled = (values, columns), self._n_blocks
        cut = values[:, -1:]
        self._is_open = bool((cut == NO_SCORE).any())
        # a row with a NaN is an error already, whatever else is in it
        self._cut = torch.where(values[:, :1].isnan(), -NO_SCORE, cut)


@torch.no_grad()
def rank_relevant(
    catalogue: Catalogue,
    queries: Tensor,
    relevant: Ragged,
    seen: Ragged | None,
    conventions: tuple[str, ...],
) -> dict[str, RelevantRanks]:
    """The ranks of the relevant items (B rows, each once) among the catalogue: convention -> ranks.
    ``queries`` and ``seen`` are those of :meth:`Catalogue.rank`."""
    queries = catalogue.prepared(queries)
    columns = relevant.with_values(catalogue.position[relevant.values])
    seen_columns = catalogue.excluded_columns(seen, conventions)
    is_seen = torch.zeros_like(columns.values, dtype=torch.bool)
    if seen_columns is not None:
        keys = item_keys(seen_columns, catalogue.width)
        is_seen = torch.isin(item_keys(columns, catalogue.width), keys)
    counts, among_seen = [], []
    for first in range(0, relevant.n_rows, catalogue.rows):
        end = min(first + catalogue.rows, relevant.n_rows)
        tile, targets = queries[first:end], columns.part(first, end)
        wanted = [targets]
        if seen_columns is not None:
            wanted.append(seen_columns.part(first, end))
        # one block is computed once, several twice: scores must be known before they can be
        # compared
        blocks: Iterable[tuple[int, Tensor, int]] = catalogue.blocks(tile)
        if catalogue.n_blocks == 1:
            blocks = list(blocks)
        scores, *scores_of_seen = _scores_of(blocks, wanted, queries)
        if catalogue.n_blocks > 1:
            blocks = catalogue.blocks(tile)
        total = torch.zeros((3, scores.numel()), dtype=torch.int64, device=catalogue.device)
        for start, block, filled in blocks:
            block[:, filled:] = NAN
            names = torch.arange(start, start + block.shape[1], device=block.device)
            itself = (targets.values >= start) & (targets.values < start + block.shape[1])
            total += _count(block, names, targets, scores, itself)
        counts.append(total)
        for tile_seen, values in zip(wanted[1:], scores_of_seen, strict=True):
            table, names = (
                tile_seen.with_values(values).to_padded(fill=NAN),
                tile_seen.to_padded(fill=-1),
            )
            entries = slice(int(relevant.offsets[first]), int(relevant.offsets[end]))
            among_seen.append(_count(table, names, targets, scores, is_seen[entries]))
    counted = torch.cat(counts, 1)
    reachable = columns.values >= 0
    n_candidates = torch.full_like(relevant.lengths, catalogue.order.numel())
    ranks = {"keep": _relevant_ranks(relevant, counted, reachable, n_candidates)}
    if seen_columns is not None:
        counted = counted - torch.cat(among_seen, 1)
        n_left = n_candidates - seen_columns.lengths
        ranks["exclude"] = _relevant_ranks(relevant, counted, reachable & ~is_seen, n_left)
    return ranks


def _relevant_ranks(
    relevant: Ragged, counts: Tensor, reachable: Tensor, n_candidates: Tensor
) -> RelevantRanks:
    above, equal, before = counts
    return RelevantRanks(relevant.with_values(above), equal, before, reachable, n_candidates)


@torch.no_grad()
def rank_candidates(
    catalogue: Catalogue,
    queries: Tensor,
    candidates: Ragged,
    relevant: Ragged,
    users: Tensor | None = None,
) -> tuple[Lists, RelevantRanks]:
    """Rank each user's own candidates, B rows of items, each once: lists of the catalogue's length,
    and the ranks of the relevant items."""
    queries = catalogue.prepared(queries)
    columns = candidates.with_values(catalogue.position[candidates.values])
    targets = relevant.with_values(catalogue.position[relevant.values])
    tiles = []
    for first in range(0, candidates.n_rows, catalogue.rows):
        end = min(first + catalogue.rows, candidates.n_rows)
        parts = [columns.part(first, end), targets.part(first, end)]
        tiles.append(_scores_of(catalogue.blocks(queries[first:end]), parts, queries))
    scores, scores_of_targets = map(torch.cat, zip(*tiles, strict=True))
    refuse_nan(candidates.rows[scores.isnan()], users)
    table, scored = columns.to_padded(fill=-1), candidates.with_values(scores)
    values, best = merge(scored.to_padded(fill=NO_SCORE), table, catalogue.k)
    keys = item_keys(columns, catalogue.width)
    reachable = torch.isin(item_keys(targets, catalogue.width), keys)
    counts = _count(scored.to_padded(fill=NAN), table, targets, scores_of_targets, reachable)
    ranks = _relevant_ranks(relevant, counts, reachable, candidates.lengths)
    return Lists(catalogue.items_of(best), values), ranks


def _scores_of(
    blocks: Iterable[tuple[int, Tensor, int]], columns: Sequence[Ragged], queries: Tensor
) -> list[Tensor]:
    """[T] each: the scores of rows of columns; NaN for column -1, an item that the catalogue leaves
    out.
    """
    all_scores = [queries.new_full((rows.values.numel(),), NAN) for rows in columns]
    for start, block, _ in blocks:
        for rows, scores in zip(columns, all_scores, strict=True):
            inside_mask = (rows.values >= start) & (rows.values < start + block.shape[1])
            index = inside_mask.nonzero().flatten()
            scores[index] = block[rows.rows[index], rows.values[index] - start]
    return all_scores


def _count(block: Tensor, names: Tensor, columns: Ragged, scores: Tensor, itself: Tensor) -> Tensor:
    """[3, T] int64: candidates above, equal, and equal but listed before, for each of T relevant
    items.

    The block [R, W] has NaN where there is no candidate; ``names`` [W] or [R, W] are its columns.
    ``columns`` and ``scores`` are those of the relevant items; ``itself`` [T] bool says whether the
    block holds the item.
    """
    counts = torch.zeros((3, scores.numel()), dtype=torch.int64, device=block.device)
    # as many at a time as the block has users: that bounds what a comparison takes by the block's
    # own size
    step = max(block.shape[0], 1)
    # comparisons written as floats and summed by a product are several times as fast as sums of
    # booleans, and exact up to 2^24 columns
    ones = torch.ones(block.shape[1], dtype=torch.float32, device=block.device)
    for start in range(0, scores.numel(), step):
        part = slice(start, start + step)
        rows, values = columns.rows[part], scores[part, None]
        others = block
        if len(rows) != len(block) or not bool((rows[1:] > rows[:-1]).all()):
            others = block[rows]
        result = torch.empty(others.shape, dtype=torch.float32, device=block.device)
        counts[0, part] = (torch.gt(others, values, out=result) @ ones).long()
        counts[1, part] = (torch.eq(others, values, out=result) @ ones).long()
        tied = (counts[1, part] > itself[part].long()).nonzero().flatten()
        names_of_tied = names if names.dim() == 1 else names[rows[tied]]
        is_before = names_of_tied < columns.values[part][tied, None]
        counts[2, start + tied] = ((others[tied] == values[tied]) & is_before).sum(1)
    return counts
