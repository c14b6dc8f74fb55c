"""Streaming full ranking: the best k of all items for each user, seen items kept and excluded from one pass.

The order is by score, then by a seeded permutation of the items: items are laid out in the permuted order,
so that "the lower column first" is the whole tie rule. Scores are computed in tiles of fixed shape (128 users
by 1,024 columns, padded at the ends), so that the rounding of a score, and with it every list, depends
neither on how users are batched nor on how many items are ranked at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.select import BLOCK, NOTHING, best_columns, merge
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged

#: users whose scores are held at a time, on the host and on an accelerator
TILE_ROWS = {"cpu": 128}
ACCELERATOR_ROWS = 1024
#: columns of one matrix product
CHUNK = 1024
#: columns ranked at a time where the caller does not say: 64 MiB of float32 scores a tile
BLOCK_ITEMS = 1 << 17


@dataclass(frozen=True)
class Lists:
    """Ranked lists.

    Attributes:
        items: [B, k] int64 item indices, best first; -1 where fewer than ``k`` items may be recommended.
        scores: [B, k], aligned; -inf at the padding.
    """

    items: Tensor
    scores: Tensor

    @classmethod
    def cat(cls, parts: list[Lists]) -> Lists:
        return cls(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


@dataclass(frozen=True)
class _Seen:
    """Seen columns of some users, each once, in ascending order.

    Attributes:
        columns: a row for each user.
        rows: [T] int64, aligned with the values.
    """

    columns: Ragged
    rows: Tensor

    @classmethod
    def of(cls, seen: Ragged, position: Tensor, width: int) -> _Seen:
        columns = position[seen.values]
        keys = torch.unique((seen.rows * width + columns)[columns >= 0])
        rows, columns = keys // width, keys % width
        lengths = torch.bincount(rows, minlength=seen.n_rows)
        return cls(Ragged.from_lengths(columns, lengths), rows)

    def tile(self, start: int, end: int) -> _Seen:
        """The users from ``start`` to ``end``."""
        offsets = self.columns.offsets[start : end + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        return _Seen(Ragged(self.columns.values[first:last], offsets - first), self.rows[first:last] - start)


def tie_order(n_items: int, tie_seed: int) -> Tensor:
    """[n_items] int64: the items in the order in which equal scores are listed."""
    return torch.from_numpy(numpy_generator(tie_seed, "ties").permutation(n_items))


class Catalogue:
    """The items that are ranked, laid out once for many users.

    Args:
        n_items: the size of the catalogue.
        k: the length of the lists.
        tie_seed: of the permutation that orders equal scores.
        item_vectors: [n_items, D] where scores are inner products; None where a model gives scores.
        candidates: [C] int64 item indices to which the ranking is restricted; None for all.
        block_items: columns ranked at a time (rounded up to whole tiles); bounds the memory, not the result.
        device: where the ranking runs (default: that of ``item_vectors``, else the host).

    Raises:
        ValueError: ``k`` or ``block_items`` below 1, or vectors that are not [n_items, D].
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
    ) -> None:
        for name, value in (("k", k), ("block_items", BLOCK_ITEMS if block_items is None else block_items)):
            if value < 1:
                raise ValueError(f"{name} = {value} must be at least 1")
        if item_vectors is not None and (item_vectors.dim() != 2 or item_vectors.shape[0] != n_items):
            raise ValueError(f"item_vectors must be [{n_items}, D], not {list(item_vectors.shape)}")
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
        n_chunks = max(-(-order.numel() // CHUNK), 1)
        self._chunk = max(_up(-(-order.numel() // n_chunks), BLOCK), _up(k + 1, BLOCK))
        self.width = max(_up(order.numel(), self._chunk), self._chunk)
        self._block = min(_up(block_items or BLOCK_ITEMS, self._chunk), self.width)
        self.n_blocks = -(-self.width // self._block)
        self._vectors = None if item_vectors is None else self._lay_out(item_vectors)
        self._buffer: Tensor | None = None

    def _lay_out(self, vectors: Tensor) -> list[Tensor]:
        # [D, chunk] each, contiguous: the product with a transposed view costs nearly twice as much
        vectors = exact_enough(vectors.detach())
        table = vectors.new_zeros(self.width, vectors.shape[1])
        table[: self.order.numel()] = vectors[self.order]
        return [part.T.contiguous() for part in torch.split(table, self._chunk)]

    @torch.no_grad()
    def rank(
        self, queries: Tensor, seen: Ragged | None, conventions: tuple[str, ...], users: Tensor | None = None
    ) -> dict[str, Lists]:
        """Rank for a batch of users.

        Args:
            queries: [B, D] user vectors where the catalogue has item vectors, else [B, n_items] scores in
                item order.
            seen: B rows of item indices (repeats allowed); needed where ``"exclude"`` is asked for.
            conventions: which of ``"keep"`` (seen items are candidates like any other) and ``"exclude"`` to
                compute.
            users: [B] int64, only to name a user in an error.

        Returns:
            convention -> lists.

        Raises:
            ValueError: a score is NaN (names the user), or the shapes do not fit.
        """
        wanted = self.n_items if self._vectors is None else self._vectors[0].shape[0]
        if queries.dim() != 2 or queries.shape[1] != wanted:
            raise ValueError(f"queries must be [B, {wanted}], not {list(queries.shape)}")
        if "exclude" in conventions and seen is None:
            raise ValueError("seen must be given to exclude seen items")
        queries = exact_enough(queries.detach())
        parts: dict[str, list[Lists]] = {name: [] for name in conventions}
        marks = _Seen.of(seen, self.position, self.width) if seen is not None and "exclude" in conventions else None
        for start in range(0, queries.shape[0], self.rows):
            tile = queries[start : start + self.rows]
            tile_marks = None if marks is None else marks.tile(start, start + tile.shape[0])
            for name, (values, columns) in self._rank_tile(tile, tile_marks, conventions).items():
                items = torch.where(columns < 0, columns, self.order[columns.clamp(min=0)])
                parts[name].append(Lists(items, values))
        ranked = {name: Lists.cat(lists) for name, lists in parts.items()}
        for lists in ranked.values():
            bad = lists.scores[:, 0].isnan()
            if bool(bad.any()):
                raise ValueError(_nan_message(bad.nonzero().flatten(), users))
        return ranked

    def _rank_tile(
        self, queries: Tensor, marks: _Seen | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        seen_scores = None if marks is None else queries.new_empty(marks.rows.numel())
        found: tuple[Tensor, Tensor] | None = None
        for start, scores, filled in self.blocks(queries):
            scores[:, filled:] = NOTHING
            barred = self._bar(scores, start, marks, seen_scores)
            values, columns = best_columns(scores, self.k, filled, barred)
            if found is not None:
                columns = torch.where(columns < 0, columns, columns + start)
                both = torch.cat([found[0], values], 1), torch.cat([found[1], columns], 1)
                values, columns = merge(*both, self.k)
            found = values, columns
        assert found is not None
        if marks is None or seen_scores is None:
            return dict.fromkeys(conventions, found)
        if bool(seen_scores.isnan().any()):
            found[0][marks.rows[seen_scores.isnan()], 0] = float("nan")
        ranked = {"exclude": found}
        if "keep" in conventions:
            # the best of all items are among the best unseen ones and the seen ones: no second pass over the
            # scores
            old = marks.columns.with_values(seen_scores).to_padded(fill=NOTHING), marks.columns.to_padded(fill=-1)
            ranked["keep"] = merge(torch.cat([found[0], old[0]], 1), torch.cat([found[1], old[1]], 1), self.k)
        return {name: ranked[name] for name in conventions}

    def blocks(self, queries: Tensor) -> Iterator[tuple[int, Tensor, int]]:
        """The scores of at most :attr:`rows` users, block by block of columns.

        Yields:
            the first column, scores [R, W] (in a buffer that the next block reuses), and how many of the block's
            columns are items; what the rest holds means nothing.
        """
        n_rows = queries.shape[0]
        if n_rows < self.rows and self._vectors is not None:
            queries = torch.cat([queries, queries.new_zeros(self.rows - n_rows, queries.shape[1])])
        for start in range(0, self.width, self._block):
            scores = self._scores(queries, start)[:n_rows]
            yield start, scores, min(max(self.order.numel() - start, 0), scores.shape[1])

    def _scores(self, queries: Tensor, start: int) -> Tensor:
        """[rows, W] of the reused buffer: the scores of the columns from ``start`` on."""
        width = min(self._block, self.width - start)
        n_rows = queries.shape[0]
        if self._buffer is None or self._buffer.dtype != queries.dtype:
            self._buffer = queries.new_empty(self.rows * self._block)
        scores = self._buffer[: n_rows * width].view(n_rows, width)
        if self._vectors is None:
            order = self.order[start : start + width]
            torch.index_select(queries, 1, order, out=scores[:, : order.numel()])
        else:
            for number in range(width // self._chunk):
                chunk = self._vectors[start // self._chunk + number]
                torch.mm(queries, chunk, out=scores[:, number * self._chunk : (number + 1) * self._chunk])
        return scores

    def _bar(self, scores: Tensor, start: int, marks: _Seen | None, seen_scores: Tensor | None) -> Tensor:
        """Take the seen columns out of a block; keep their scores; return their places."""
        if marks is None or seen_scores is None:
            return torch.empty(0, dtype=torch.int64, device=self.device)
        width = scores.shape[1]
        columns = marks.columns.values - start
        here = ((columns >= 0) & (columns < width)).nonzero().flatten()
        places = (marks.rows * width + columns)[here]
        flat = scores.view(-1)
        seen_scores[here] = flat[places]
        flat[places] = NOTHING
        return places


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def exact_enough(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _nan_message(rows: Tensor, users: Tensor | None) -> str:
    who = int(rows[0]) if users is None else int(users[rows[0].to(users.device)])
    label = "row" if users is None else "user index"
    return f"the model scores {label} {who} with NaN ({rows.numel()} of this batch); train or check the model"
