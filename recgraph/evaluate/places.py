"""Where relevant items stand among all candidates, and lists among each user's own candidates.

Both read the same scores as the lists of :class:`~recgraph.evaluate.topk.Catalogue`, to the last bit: a relevant item
is compared with the others by counting, so that ties are known exactly and no catalogue is ever sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.evaluate.ranked import Places
from recgraph.evaluate.select import NOTHING, merge
from recgraph.evaluate.topk import Catalogue, Lists, exact_enough
from recgraph.sparse.ragged import Ragged

#: scores that are compared at a time
_AT_ONCE = 1 << 24
_NEVER = float("nan")


def scores_of(catalogue: Catalogue, queries: Tensor, items: Ragged) -> Tensor:
    """[T]: the scores of B rows of items, as the ranking sees them; NaN for items that the catalogue leaves out."""
    queries = exact_enough(queries.detach())
    columns = catalogue.position[items.values]
    found = queries.new_full((items.values.numel(),), _NEVER)
    for first in range(0, items.n_rows, catalogue.rows):
        last = min(first + catalogue.rows, items.n_rows)
        mine = slice(int(items.offsets[first]), int(items.offsets[last]))
        rows, places = items.rows[mine] - first, columns[mine]
        for start, block, _ in catalogue.blocks(queries[first:last]):
            here = ((places >= start) & (places < start + block.shape[1])).nonzero().flatten()
            found[mine.start + here] = block[rows[here], places[here] - start]
    return found


@torch.no_grad()
def places_of(
    catalogue: Catalogue, queries: Tensor, relevant: Ragged, seen: Ragged | None, conventions: tuple[str, ...]
) -> dict[str, Places]:
    """Where the relevant items stand.

    Args:
        queries: as for :meth:`Catalogue.rank`.
        relevant: B rows of item indices, each once.
        seen: B rows of item indices; needed for ``"exclude"``, under which they are no candidates.
        conventions: of ``"keep"`` and ``"exclude"``.

    Returns:
        convention -> places, with the counts on the device of the catalogue.
    """
    own, columns = scores_of(catalogue, queries, relevant), catalogue.position[relevant.values]
    queries = exact_enough(queries.detach())
    gone = _unique(seen, catalogue) if seen is not None and "exclude" in conventions else None
    counts = {name: own.new_zeros((3, own.numel()), dtype=torch.int64) for name in conventions}
    for first in range(0, relevant.n_rows, catalogue.rows):
        last = min(first + catalogue.rows, relevant.n_rows)
        mine = slice(int(relevant.offsets[first]), int(relevant.offsets[last]))
        pairs = relevant.rows[mine] - first, own[mine], columns[mine]
        for start, block, filled in catalogue.blocks(queries[first:last]):
            block[:, filled:] = _NEVER
            names = torch.arange(start, start + block.shape[1], device=block.device)
            if "keep" in conventions:
                counts["keep"][:, mine] += _count(block, names, *pairs)
            if gone is not None:
                out = slice(int(gone.offsets[first]), int(gone.offsets[last]))
                here = ((gone.values[out] >= start) & (gone.values[out] < start + block.shape[1])).nonzero().flatten()
                block[gone.rows[out][here] - first, gone.values[out][here] - start] = _NEVER
                counts["exclude"][:, mine] += _count(block, names, *pairs)
    n_all = torch.full_like(relevant.lengths, catalogue.order.numel())
    places = {}
    for name, (above, equal, before) in counts.items():
        reachable, n_candidates = columns >= 0, n_all
        if name == "exclude" and gone is not None:
            width = catalogue.width
            barred = torch.isin(relevant.rows * width + columns, gone.rows * width + gone.values)
            reachable, n_candidates = reachable & ~barred, n_all - gone.lengths
        places[name] = Places(relevant.with_values(above), equal, before, reachable, n_candidates)
    return places


@torch.no_grad()
def among(
    catalogue: Catalogue, queries: Tensor, candidates: Ragged, relevant: Ragged, users: Tensor | None = None
) -> tuple[Lists, Places]:
    """Rank each user's own candidates.

    Args:
        candidates: B rows of item indices, each once.
        relevant: B rows of item indices, each once; what is no candidate is not reachable.
        users: [B] int64, only to name a user in an error.

    Returns:
        lists of the catalogue's length, and where the relevant items stand.

    Raises:
        ValueError: a score is NaN.
    """
    scores, columns = scores_of(catalogue, queries, candidates), catalogue.position[candidates.values]
    if bool(scores.isnan().any()):
        row = int(candidates.rows[scores.isnan()][0])
        who = f"row {row}" if users is None else f"user index {int(users[row])}"
        raise ValueError(f"the model scores {who} with NaN; train or check the model")
    table = candidates.with_values(columns).to_padded(fill=-1)
    values, found = merge(candidates.with_values(scores).to_padded(fill=NOTHING), table, catalogue.k)
    lists = Lists(torch.where(found < 0, found, catalogue.order[found.clamp(min=0)]), values)
    own_columns = catalogue.position[relevant.values]
    keys = candidates.rows * catalogue.width + columns
    keys, order = keys.sort()
    wanted = relevant.rows * catalogue.width + own_columns
    at = torch.searchsorted(keys, wanted).clamp(max=max(keys.numel() - 1, 0))
    reachable = keys[at] == wanted if keys.numel() else torch.zeros_like(wanted, dtype=torch.bool)
    own = scores.new_full((wanted.numel(),), _NEVER)
    own[reachable] = scores[order[at[reachable]]]
    block = candidates.with_values(scores).to_padded(fill=_NEVER)
    above, equal, before = _count(block, table, relevant.rows, own, own_columns)
    return lists, Places(relevant.with_values(above), equal, before, reachable, candidates.lengths)


def _count(block: Tensor, names: Tensor, rows: Tensor, own: Tensor, columns: Tensor) -> Tensor:
    """[3, T] int64: candidates of a block above, equal, and equal but listed before, for each relevant item.

    Args:
        block: [R, W] scores, NaN where there is no candidate.
        names: [W] or [R, W], the columns that the block holds.
        rows, own, columns: [T], the relevant items: row of the block, score, column.
    """
    counts = torch.zeros((3, rows.numel()), dtype=torch.int64, device=block.device)
    step = max(_AT_ONCE // max(block.shape[1], 1), 1)
    for start in range(0, rows.numel(), step):
        part = slice(start, start + step)
        scores, mine = block[rows[part]], own[part, None]
        same = scores == mine
        counts[0, part] = (scores > mine).sum(1)
        counts[1, part] = same.sum(1)
        tied = (counts[1, part] > 0).nonzero().flatten()
        there = names if names.dim() == 1 else names[rows[part][tied]]
        counts[2, start + tied] = (same[tied] & (there < columns[part][tied, None])).sum(1)
    return counts


def _unique(seen: Ragged, catalogue: Catalogue) -> Ragged:
    """The columns of seen items, each once a row."""
    columns = catalogue.position[seen.values]
    keys = torch.unique((seen.rows * catalogue.width + columns)[columns >= 0])
    lengths = torch.bincount(keys // catalogue.width, minlength=seen.n_rows)
    return Ragged.from_lengths(keys % catalogue.width, lengths)
