"""Streaming full ranking: the best k of all items for each user, seen items kept and excluded from one pass.

The order is by score, then by a seeded permutation of the items: columns are the items in the permuted order,
so that "the lower column first" is the whole tie rule. Scores are computed in tiles of fixed shape (128 users
by 1,024 columns, padded at the ends), so that the rounding of a score, and with it every list, depends
neither on how users are batched nor on how many items are ranked at a time.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.evaluate.select import BLOCK, NO_SCORE, RunningBest, SeenColumns, merge
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged

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
