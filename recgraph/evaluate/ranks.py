"""The ranks of relevant items among all candidates, and lists of each user's own candidates.

Both read the same scores as the lists of :class:`~recgraph.evaluate.topk.Catalogue`, to the last bit: a relevant item
is compared with the others by counting, so that ties are known exactly and no catalogue is ever sorted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.evaluate.hits import RelevantRanks
from recgraph.evaluate.select import NO_SCORE, SeenColumns, merge
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.sparse.ragged import Ragged

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
