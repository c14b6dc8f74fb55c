"""Streaming full ranking."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from recgraph.evaluate.hits import RelevantRanks
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class SeenColumns:
    """Seen columns of some users, each once, in ascending order.

    Attributes:
        columns: a row for each user.
        rows: [T] int64, aligned with the values.
    """

    columns: Ragged
    rows: Tensor

    @classmethod
    def of(cls, seen: Ragged, position: Tensor, width: int) -> SeenColumns:
        """Of rows of item indices; ``position`` [n_items] is the column of each item, -1 for none, below ``width``."""
        columns = position[seen.values]
        keys = torch.unique((seen.rows * width + columns)[columns >= 0])
        rows, columns = keys // width, keys % width
        lengths = torch.bincount(rows, minlength=seen.n_rows)
        return cls(Ragged.from_lengths(columns, lengths), rows)

    def tile(self, start: int, end: int) -> SeenColumns:
        """The users from ``start`` to ``end``."""
        offsets = self.columns.offsets[start : end + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return SeenColumns(Ragged(self.columns.values[first:last], offsets - first), self.rows[first:last] - start)

    @cached_property
    def _by_column(self) -> tuple[Tensor, Tensor]:
        columns, order = self.columns.values.sort()
        return columns, order

    def within(self, starts: list[int]) -> list[Tensor]:
        """For each stretch of columns between two ``starts`` [S + 1] the entries in it, S index tensors."""
        columns, order = self._by_column
        edges = torch.searchsorted(columns, torch.tensor(starts, device=columns.device)).tolist()
        return [order[low:high] for low, high in pairwise(edges)]


#: columns that share one maximum; the best columns lie in the blocks with the best maxima
BLOCK = 64
#: columns that share a maximum inside the best blocks
STRIDED = 8
NO_SCORE = float("-inf")


def best_columns(scores: Tensor, k: int, filled: int, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """The ``k`` best columns of each row.

    Args:
        scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; -inf where a column may not be chosen.
        filled: columns from here on are padding.
        excluded: [X] int64, further positions ``row * W + column`` that may not be chosen (an allowed one may hold
            -inf, too).

    Returns:
        values [R, k] and columns [R, k] int64 in rank order; where a row has fewer than ``k`` allowed
        columns the rest is -inf and -1. A NaN anywhere in a row shows as a NaN in its first value.
    """
    values, columns = _topk(scores, k + 1)
    unsure = (values[:, k - 1] == NO_SCORE) | (values[:, k - 1] == values[:, k])
    unsure &= ~values[:, 0].isnan()
    values, columns = in_column_order(values[:, :k], columns[:, :k])
    if bool(unsure.any()):
        rows = unsure.nonzero().flatten()
        allowed_mask = torch.ones_like(scores, dtype=torch.bool)
        allowed_mask[:, filled:] = False
        allowed_mask.view(-1)[excluded] = False
        values[rows], columns[rows] = _resolve(scores[rows], values[rows, -1:], allowed_mask[rows], k)
    return values, columns


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(k)``, several times as fast.

    The maxima of blocks of 64 columns are one pass over the scores; the best k columns lie in the k blocks with the
    highest maxima, so only those are searched, by maxima again.
    """
    n_rows, width = scores.shape
    n_blocks = width // BLOCK
    if 2 * k >= n_blocks:
        values, columns = scores.topk(k)
        return values, columns
    blocks = scores.view(n_rows, n_blocks, BLOCK)
    best = blocks.amax(2).topk(k, sorted=False).indices
    row_of = torch.arange(n_rows, device=scores.device)[:, None] * n_blocks
    found = scores.view(-1, BLOCK).index_select(0, (row_of + best).flatten())
    strided = found.view(n_rows, STRIDED, -1)
    inside = strided.amax(1).topk(k, sorted=False).indices
    values, place = strided.gather(2, inside[:, None].expand(-1, STRIDED, -1)).flatten(1).topk(k)
    place = place // k * strided.shape[2] + inside.gather(1, place % k)
    return values, best.gather(1, place // BLOCK) * BLOCK + place % BLOCK


def in_column_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Put columns of equal value in ascending order; ``values`` [R, k] descend already."""
    if not bool((values[:, 1:] == values[:, :-1]).any()):
        return values, columns
    by_column = columns.argsort(1)
    values, order = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_column).gather(1, order)


def _resolve(scores: Tensor, cut: Tensor, allowed_mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    above = scores > cut
    equal = (scores == cut) & allowed_mask
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(1) <= wanted))
    found = Ragged.from_lengths(chosen.nonzero()[:, 1], chosen.sum(1))
    columns = found.to_padded(fill=-1, width=k)
    values = scores.gather(1, columns.clamp(min=0)).masked_fill(columns < 0, NO_SCORE)
    # a missing column and an allowed -inf are equal; the missing ones are last already and the sort is stable
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def merge(values: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best ``k`` of candidates from several lists.

    Args:
        values, columns: [R, M]; a column is named once in its row, or is -1 (missing, its value -inf).

    Returns:
        values and columns [R, k], with the same order and padding as :func:`best_columns`.
    """
    if values.shape[1] <= k:
        short = k + 1 - values.shape[1]
        values = torch.nn.functional.pad(values, (0, short), value=NO_SCORE)
        columns = torch.nn.functional.pad(columns, (0, short), value=-1)
    best, place = values.topk(k + 1)
    if not bool(((best[:, 1:] == best[:, :-1]) | (best[:, :-1] == NO_SCORE)).any()):
        return best[:, :k], columns.gather(1, place[:, :k])
    by_column = columns.argsort(1)
    values, columns = values.gather(1, by_column), columns.gather(1, by_column)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    last = (columns < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    return values.gather(1, last), columns.gather(1, last)


#: columns that are kept for a row before they are merged, times k
_PENDING = 8


class RunningBest:
    """The ``k`` best columns of each row of a score matrix that comes block by block and is never held whole.

    Once ``k`` columns are known, a later block can only add what is above the worst of them. Few columns are: a block
    is read once, for the maxima of its runs of 64 columns, and only the runs that rise above are searched.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._found: tuple[Tensor, Tensor] | None = None
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._n_blocks = self._n_settled = 0
        self._cut = torch.empty(0)
        self._open = True

    def add(self, scores: Tensor, start: int, filled: int, excluded: Tensor) -> None:
        """Read the next block.

        Args:
            scores: [R, W] contiguous, W a multiple of 64 and greater than ``k``; positions that may not be chosen, the
                padding from column ``filled`` on among them, hold -inf. A NaN anywhere shows in the result.
            start: the block's first column; blocks come in ascending order.
            filled: the block's columns that are items.
            excluded: [X] int64, positions ``row * W + column`` that may not be chosen.
        """
        self._n_blocks += 1
        if self._found is not None and not self._open:
            self._search(scores, start)
        else:
            self._all(scores, start, filled, excluded)

    def result(self) -> tuple[Tensor, Tensor]:
        """Values [R, k] and columns [R, k] int64 in rank order, padded with -inf and -1."""
        self._settle()
        assert self._found is not None
        return self._found

    def _all(self, scores: Tensor, start: int, filled: int, excluded: Tensor) -> None:
        """A block while some row may still list a score of -inf."""
        values, columns = best_columns(scores, self.k, filled, excluded)
        if start:
            columns = torch.where(columns < 0, columns, columns + start)
        if self._found is not None:
            values, columns = torch.cat([self._found[0], values], 1), torch.cat([self._found[1], columns], 1)
            values, columns = merge(values, columns, self.k)
        self._keep(values, columns)

    def _search(self, scores: Tensor, start: int) -> None:
        """A block of which only what is above the cut matters: an equal score in a later column loses."""
        runs = scores.view(scores.shape[0], -1, BLOCK)
        # written as "not below" so that NaN is found, too
        rows, at = (~(runs.amax(2) <= self._cut)).nonzero(as_tuple=True)
        if rows.numel():
            searched = scores.view(-1, BLOCK).index_select(0, rows * runs.shape[1] + at)
            run, inside = (~(searched <= self._cut[rows])).nonzero(as_tuple=True)
            self._pending.append((rows[run], start + at[run] * BLOCK + inside, searched[run, inside]))
        n_pending = sum(part[0].numel() for part in self._pending)
        # the cut rises slower and slower: few columns pass while the blocks become four times as many
        if self._n_blocks >= 4 * self._n_settled or n_pending > _PENDING * self.k * scores.shape[0]:
            self._settle()

    def _settle(self) -> None:
        """Merge what is pending."""
        self._n_settled = self._n_blocks
        if self._found is None or not self._pending:
            return
        rows, columns, values = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending = []
        order = rows.argsort(stable=True)
        new = Ragged.from_lengths(columns[order], torch.bincount(rows, minlength=self._found[0].shape[0]))
        values = torch.cat([self._found[0], new.with_values(values[order]).to_padded(fill=NO_SCORE)], 1)
        columns = torch.cat([self._found[1], new.to_padded(fill=-1)], 1)
        self._keep(*merge(values, columns, self.k))

    def _keep(self, values: Tensor, columns: Tensor) -> None:
        self._found, self._n_settled = (values, columns), self._n_blocks
        cut = values[:, -1:]
        self._open = bool((cut == NO_SCORE).any())
        # a row with a NaN is an error already, whatever else is in it
        self._cut = torch.where(values[:, :1].isnan(), -NO_SCORE, cut)


#: users whose scores are held at a time, on the host and on an accelerator: not more than a model is called with, as
#: a tile costs as much where some of its rows are empty
TILE_ROWS = {"cpu": 128}
ACCELERATOR_ROWS = 256
#: columns of one matrix product
CHUNK = 1024
#: columns held at a time where the caller does not say: 64 MiB of float32 scores a tile
BLOCK_ITEMS = 1 << 17
#: columns that a host ranks at a time, at most: their scores stay in its cache until they are read
CACHED_ITEMS = 1 << 14


@dataclass(frozen=True)
class Lists:
    """Ranked lists.

    Attributes:
        items: [B, k] int64 item indices, best first; -1 where fewer than ``k`` items may be recommended.
        scores: [B, k], aligned; -inf at the padding.
    """

    items: Tensor
    scores: Tensor

    def first(self, k: int) -> Lists:
        """The first ``k`` items of each list."""
        return self if self.items.shape[1] <= k else Lists(self.items[:, :k], self.scores[:, :k])

    @classmethod
    def cat(cls, parts: list[Lists]) -> Lists:
        return cls(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


def tie_order(n_items: int, tie_seed: int) -> Tensor:
    """[n_items] int64: the items in the order in which equal scores are listed."""
    return torch.from_numpy(numpy_generator(tie_seed, "ties").permutation(n_items))


class _Buffer(threading.local):
    """Memory for scores, of each thread its own and freed with it; a copy or a pickle begins without any."""

    scores: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Buffer, ()


class Catalogue:
    """The items that are ranked, in the order of the tie rule, prepared once for many users.

    Threads may share one: nothing but the buffer of scores changes, and each thread has its own.

    Args:
        k: the length of the lists.
        item_vectors: [n_items, D] where scores are inner products; None where a model gives scores.
        candidates: [C] int64 item indices to which the ranking is restricted; None for all.
        block_items: columns held at a time (rounded up to whole tiles); bounds the memory, not the result.
        device: where the ranking runs (default: that of ``item_vectors``, else the host).
        wide: compute scores in float64 from float32 vectors, widened tile by tile, which costs no more than vectors
            kept in float64. Only for vectors whose products float64 adds up without rounding: such sums do not depend
            on the number of users, so that tiles are not padded to a fixed one.

    Attributes:
        order: [C] the item of each column; ``position`` [n_items] the column of each item, -1 for none.
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
        if device is None:
            device = torch.device("cpu") if item_vectors is None else item_vectors.device
        order = tie_order(n_items, tie_seed)
        if candidates is not None:
            keep_mask = torch.zeros(n_items, dtype=torch.bool)
            keep_mask[candidates.cpu()] = True
            order = order[keep_mask[order]]
        self.n_items, self.k, self.device = n_items, k, device
        self.rows = TILE_ROWS.get(device.type, ACCELERATOR_ROWS)
        self.order = order.to(device)
        self.position = torch.full((n_items,), -1, device=device)
        self.position[self.order] = torch.arange(order.numel(), device=device)
        self._chunk = self._chunk_for(k)
        self.width = max(_round_up(order.numel(), self._chunk), self._chunk)
        self._block = min(_round_up(block_items or BLOCK_ITEMS, self._chunk), self.width)
        self.n_blocks = -(-self.width // self._block)
        step = min(self._block, CACHED_ITEMS) if device.type in TILE_ROWS else self._block
        self._step = min(_round_up(step, self._chunk), self._block)
        self._wide = wide
        self._vectors = None if item_vectors is None else self._chunks(item_vectors.detach())
        self._buffer = _Buffer()
        #: rows of a tile -> whether its scores are those of a whole one, bit for bit
        self._agree: dict[int, bool] = {}

    def _chunk_for(self, k: int) -> int:
        n_chunks = max(-(-self.order.numel() // CHUNK), 1)
        return max(_round_up(-(-self.order.numel() // n_chunks), BLOCK), _round_up(k + 1, BLOCK))

    def for_length(self, k: int) -> Catalogue | None:
        """The same items for lists of length ``k``, sharing the vectors.

        None where the tiles of a catalogue made for that length would have another shape, and its scores, perhaps,
        another rounding.
        """
        if self._chunk_for(k) != self._chunk:
            return None
        other = copy.copy(self)
        other.k = k
        return other

    def in_tiles_of(self, rows: int) -> Catalogue | None:
        """The same for fewer users at a time, which costs less where few are ranked.

        None where the processor's products of fewer rows have other last bits. The order in which a product is summed
        does not depend on its values, so that one block of random ones tells.
        """
        other = copy.copy(self)
        other.rows = rows
        if self._vectors is None:
            return other
        if rows not in self._agree:
            wanted = (self.rows, self._vectors[0].shape[0])
            made = torch.from_numpy(numpy_generator(0, "tiles").standard_normal(wanted))
            queries = made.to(self.device, self._vectors[0].dtype)
            whole = next(self.blocks(queries, self._step))[1].clone()
            parts = [next(other.blocks(part, self._step))[1].clone() for part in queries.split(rows)]  # type: ignore[no-untyped-call]
            self._agree[rows] = torch.equal(whole, torch.cat(parts))
        return other if self._agree[rows] else None

    def _chunks(self, vectors: Tensor) -> list[Tensor]:
        """[D, chunk] each: the vectors of consecutive columns."""
        chunks = []
        for start in range(0, self.width, self._chunk):
            # contiguous: the product with a transposed view costs nearly twice as much
            rows = as_wide_floats(vectors[self.order[start : start + self._chunk]])
            chunk = rows.new_zeros(rows.shape[1], self._chunk)
            chunk[:, : len(rows)] = rows.T
            chunks.append(chunk)
        return chunks

    @torch.no_grad()
    def rank(
        self, queries: Tensor, seen: Ragged | None, conventions: tuple[str, ...], users: Tensor | None = None
    ) -> dict[str, Lists]:
        """Rank for a batch of users: convention -> lists.

        Args:
            queries: [B, D] user vectors where the catalogue has item vectors, else [B, n_items] scores in item order.
            seen: B rows of item indices (repeats allowed); needed where ``"exclude"`` is asked for.
            conventions: of ``"keep"`` (seen items are candidates like any other) and ``"exclude"``.
            users: [B] int64, only to name a user in an error.

        Raises:
            ValueError: a score is NaN (names the user).
        """
        queries = self.prepared(queries)
        parts: dict[str, list[Lists]] = {name: [] for name in conventions}
        excludes = seen is not None and "exclude" in conventions
        columns_seen = SeenColumns.of(seen, self.position, self.width) if seen is not None and excludes else None
        for start in range(0, queries.shape[0], self.rows):
            tile = queries[start : start + self.rows]
            tile_seen = None if columns_seen is None else columns_seen.tile(start, start + tile.shape[0])
            for name, (values, columns) in self.rank_tile(tile, tile_seen, conventions).items():
                # where scores are NaN, which is refused below, columns may lie past the last one
                items = torch.where(columns < 0, columns, self.order[columns.clamp(0, len(self.order) - 1)])
                parts[name].append(Lists(items, values))
        ranked = {name: Lists.cat(lists) for name, lists in parts.items()}
        for lists in ranked.values():
            bad = lists.scores[:, 0].isnan()
            if bool(bad.any()):
                raise ValueError(_nan_message(bad.nonzero().flatten(), users))
        return ranked

    def prepared(self, queries: Tensor) -> Tensor:
        """User vectors in the type of the items', or scores in one that tells them apart."""
        queries = queries.detach()
        if self._wide:
            return queries.double()
        return as_wide_floats(queries) if self._vectors is None else queries.to(self._vectors[0].dtype)

    def rank_tile(
        self, queries: Tensor, seen: SeenColumns | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Rank for R users, at most :attr:`rows`: convention -> scores [R, k] and columns [R, k] int64."""
        nothing = torch.empty(0, dtype=torch.int64, device=self.device)
        starts = [*range(0, self.width, self._step), self.width]
        stretches = [nothing] * len(starts) if seen is None else seen.within(starts)
        seen_scores = None if seen is None else queries.new_empty(seen.rows.numel())
        best = RunningBest(self.k)
        for (start, scores, filled), here in zip(self.blocks(queries, self._step), stretches, strict=False):
            scores[:, filled:] = NO_SCORE
            excluded = nothing
            if seen is not None and seen_scores is not None:
                excluded = seen.rows[here] * scores.shape[1] + (seen.columns.values[here] - start)
                flat = scores.view(-1)
                seen_scores[here] = flat[excluded]
                flat[excluded] = NO_SCORE
            best.add(scores, start, filled, excluded)
        found = best.result()
        if seen is None or seen_scores is None:
            return dict.fromkeys(conventions, found)
        if bool(seen_scores.isnan().any()):
            found[0][seen.rows[seen_scores.isnan()], 0] = float("nan")
        ranked = {"exclude": found}
        if "keep" in conventions:
            # the best of all items are among the best unseen ones and the seen ones: no second pass over the
            # scores
            old = seen.columns.with_values(seen_scores).to_padded(fill=NO_SCORE), seen.columns.to_padded(fill=-1)
            ranked["keep"] = merge(torch.cat([found[0], old[0]], 1), torch.cat([found[1], old[1]], 1), self.k)
        return {name: ranked[name] for name in conventions}

    def blocks(self, queries: Tensor, step: int | None = None) -> Iterator[tuple[int, Tensor, int]]:
        """The scores of at most :attr:`rows` users, block by block of columns.

        Args:
            step: columns of a block, a multiple of the tiles' (default: as many as may be held).

        Yields:
            the first column, scores [R, W] (in the thread's buffer, which the next block reuses), and how many of the
            block's columns are items; what the rest holds means nothing.
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
        if buffer is None or buffer.dtype != queries.dtype or buffer.numel() < n_rows * width:
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


def _nan_message(rows: Tensor, users: Tensor | None) -> str:
    who = int(rows[0]) if users is None else int(users[rows[0].to(users.device)])
    label = "row" if users is None else "user index"
    return f"the model scores {label} {who} with NaN ({rows.numel()} of this batch); train or check the model"


NAN = float("nan")
# float32 counts ones up to here
_EXACT = 1 << 24


@dataclass
class _Pairs:
    """Items of some users, with their columns and, once they are found, their scores.

    Attributes:
        rows, columns: [T] int64; the column is -1 for an item that the catalogue leaves out.
        scores: [T], NaN until found.
    """

    rows: Tensor
    columns: Tensor
    scores: Tensor

    @classmethod
    def of(cls, columns: Ragged, like: Tensor) -> _Pairs:
        return cls(columns.rows, columns.values, like.new_full((columns.values.numel(),), NAN))

    def find(self, start: int, block: Tensor) -> None:
        """Read the scores that a block of columns holds."""
        here = ((self.columns >= start) & (self.columns < start + block.shape[1])).nonzero().flatten()
        self.scores[here] = block[self.rows[here], self.columns[here] - start]


@torch.no_grad()
def rank_relevant(
    catalogue: Catalogue, queries: Tensor, relevant: Ragged, seen: Ragged | None, conventions: tuple[str, ...]
) -> dict[str, RelevantRanks]:
    """The ranks of the relevant items among the catalogue.

    Args:
        queries: as for :meth:`Catalogue.rank`.
        relevant: B rows of item indices, each once.
        seen: B rows of item indices; needed for ``"exclude"``, under which they are no candidates.
        conventions: of ``"keep"`` and ``"exclude"``.

    Returns:
        convention -> ranks, with the counts on the device of the catalogue.
    """
    queries = catalogue.prepared(queries)
    columns = relevant.with_values(catalogue.position[relevant.values])
    seen_columns = None
    if seen is not None and "exclude" in conventions:
        seen_columns = SeenColumns.of(seen, catalogue.position, catalogue.width).columns
    is_seen = torch.zeros_like(columns.values, dtype=torch.bool)
    if seen_columns is not None:
        keys = seen_columns.rows * catalogue.width + seen_columns.values
        is_seen = torch.isin(columns.rows * catalogue.width + columns.values, keys)
    counts, among_seen = [], []
    for first in range(0, relevant.n_rows, catalogue.rows):
        index = torch.arange(first, min(first + catalogue.rows, relevant.n_rows), device=catalogue.device)
        tile = queries[index]
        pairs = _Pairs.of(columns.take(index), queries)
        seen_pairs = None if seen_columns is None else _Pairs.of(seen_columns.take(index), queries)
        # one block is computed once, several twice: scores must be known before they can be compared
        held = list(catalogue.blocks(tile)) if catalogue.n_blocks == 1 else None
        for start, block, _ in held or catalogue.blocks(tile):
            for known in filter(None, (pairs, seen_pairs)):
                known.find(start, block)
        total = torch.zeros((3, pairs.rows.numel()), dtype=torch.int64, device=catalogue.device)
        for start, block, filled in held or catalogue.blocks(tile):
            block[:, filled:] = NAN
            names = torch.arange(start, start + block.shape[1], device=block.device)
            itself = (pairs.columns >= start) & (pairs.columns < start + block.shape[1])
            total += _count(block, names, pairs, itself)
        counts.append(total)
        if seen_columns is not None and seen_pairs is not None:
            own = seen_columns.take(index)
            table, names = own.with_values(seen_pairs.scores).to_padded(fill=NAN), own.to_padded(fill=-1)
            mine = slice(int(relevant.offsets[first]), int(relevant.offsets[first + len(index)]))
            among_seen.append(_count(table, names, pairs, is_seen[mine]))
    reachable, n_all = columns.values >= 0, torch.full_like(relevant.lengths, catalogue.order.numel())
    in_catalogue = torch.cat(counts, 1)
    above, equal, before = in_catalogue
    ranks = {"keep": RelevantRanks(relevant.with_values(above), equal, before, reachable, n_all)}
    if seen_columns is not None:
        above, equal, before = in_catalogue - torch.cat(among_seen, 1)
        n_left = n_all - seen_columns.lengths
        ranks["exclude"] = RelevantRanks(relevant.with_values(above), equal, before, reachable & ~is_seen, n_left)
    return {name: ranks[name] for name in conventions}


@torch.no_grad()
def rank_candidates(
    catalogue: Catalogue, queries: Tensor, candidates: Ragged, relevant: Ragged, users: Tensor | None = None
) -> tuple[Lists, RelevantRanks]:
    """Rank each user's own candidates.

    Args:
        candidates: B rows of item indices, each once.
        relevant: B rows of item indices, each once; what is no candidate is not reachable.
        users: [B] int64, only to name a user in an error.

    Returns:
        lists of the catalogue's length, and the ranks of the relevant items.

    Raises:
        ValueError: a score is NaN.
    """
    scores, columns = _scores_of(catalogue, queries, candidates), catalogue.position[candidates.values]
    if bool(scores.isnan().any()):
        row = int(candidates.rows[scores.isnan()][0])
        who = f"row {row}" if users is None else f"user index {int(users[row])}"
        raise ValueError(f"the model scores {who} with NaN; train or check the model")
    table = candidates.with_values(columns).to_padded(fill=-1)
    values, found = merge(candidates.with_values(scores).to_padded(fill=NO_SCORE), table, catalogue.k)
    lists = Lists(torch.where(found < 0, found, catalogue.order[found.clamp(min=0)]), values)
    own_columns = catalogue.position[relevant.values]
    keys = candidates.rows * catalogue.width + columns
    keys, order = keys.sort()
    wanted = relevant.rows * catalogue.width + own_columns
    at = torch.searchsorted(keys, wanted).clamp(max=max(keys.numel() - 1, 0))
    reachable = keys[at] == wanted if keys.numel() else torch.zeros_like(wanted, dtype=torch.bool)
    pairs = _Pairs.of(relevant.with_values(own_columns), scores)
    pairs.scores[reachable] = scores[order[at[reachable]]]
    block = candidates.with_values(scores).to_padded(fill=NAN)
    above, equal, before = _count(block, table, pairs, reachable)
    return lists, RelevantRanks(relevant.with_values(above), equal, before, reachable, candidates.lengths)


def _scores_of(catalogue: Catalogue, queries: Tensor, items: Ragged) -> Tensor:
    """[T]: the scores of B rows of items, as the ranking sees them; NaN for items that the catalogue leaves out."""
    queries = catalogue.prepared(queries)
    columns = items.with_values(catalogue.position[items.values])
    found = []
    for first in range(0, items.n_rows, catalogue.rows):
        index = torch.arange(first, min(first + catalogue.rows, items.n_rows), device=catalogue.device)
        pairs = _Pairs.of(columns.take(index), queries)
        for start, block, _ in catalogue.blocks(queries[index]):
            pairs.find(start, block)
        found.append(pairs.scores)
    return torch.cat(found)


def _count(block: Tensor, names: Tensor, pairs: _Pairs, itself: Tensor) -> Tensor:
    """[3, T] int64: candidates of a block above, equal, and equal but listed before, for each relevant item.

    Args:
        block: [R, W] scores, NaN where there is no candidate.
        names: [W] or [R, W], the columns that the block holds.
        itself: [T] bool, whether the block holds the item itself.
    """
    width = block.shape[1]
    counts = torch.zeros((3, pairs.rows.numel()), dtype=torch.int64, device=block.device)
    # as many at a time as the block has users: that bounds what a comparison takes by the block's own size
    step = max(block.shape[0], 1)
    # comparisons written as floats and summed by a product are several times as fast as sums of booleans, and exact
    # up to 2^24 columns
    ones = torch.ones(min(width, _EXACT), dtype=torch.float32, device=block.device)
    for start in range(0, pairs.rows.numel(), step):
        part = slice(start, start + step)
        rows, mine = pairs.rows[part], pairs.scores[part, None]
        scores = block if len(rows) == len(block) and bool((rows[1:] > rows[:-1]).all()) else block[rows]
        result = torch.empty(scores.shape, dtype=torch.float32, device=block.device)
        for place, compare in enumerate((torch.gt, torch.eq)):
            for columns in torch.split(compare(scores, mine, out=result), _EXACT, 1):
                counts[place, part] += (columns @ ones[: columns.shape[1]]).long()
        tied = (counts[1, part] > itself[part].long()).nonzero().flatten()
        there = names if names.dim() == 1 else names[rows[tied]]
        counts[2, start + tied] = ((scores[tied] == mine[tied]) & (there < pairs.columns[part][tied, None])).sum(1)
    return counts
