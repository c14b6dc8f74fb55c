"""Which items are ranked for each user, where it is not the whole catalogue."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from recgraph.data.part import Cases
from recgraph.evaluate.hits import check_items
from recgraph.evaluate.protocol import Protocol
from recgraph.rng import derive
from recgraph.sparse.ragged import Ragged

#: candidates drawn together
_AT_ONCE = 1 << 22
#: of SplitMix64: 2^64 over the golden ratio
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_candidates(cases: Cases, n: int, seed: int) -> Ragged:
    """The relevant items of each user and ``n`` items drawn from the rest.

    The draw is uniform, without replacement, among items that are neither relevant nor in the history, and depends on
    the seed and the user alone, not on the other users. Metrics over sampled candidates are far above those over the
    whole catalogue and may order models differently (Krichene and Rendle, KDD 2020).

    Returns:
        a row for each case; fewer than ``n`` are drawn where there are no more.
    """
    n_items = cases.n_items
    relevant = torch.unique(cases.truth.rows * n_items + cases.truth.values)
    taken = torch.unique(torch.cat([relevant, cases.history.rows * n_items + cases.history.values]))
    n_taken = torch.bincount(taken // n_items, minlength=len(cases))
    wanted = (n_items - n_taken).clamp(max=n)
    parts = []
    step = max(_AT_ONCE // max(min(n, n_items), 1), 1)
    for start in range(0, len(cases), step):
        rows = torch.arange(start, min(start + step, len(cases)))
        parts.append(_draw(cases.users[rows], rows, taken, n_taken[rows], wanted[rows], n_items, seed))
    keys = torch.cat([relevant, *parts])
    # the relevant items of a user first, then the drawn ones in the order of the draw
    order = (keys // n_items).argsort(stable=True)
    return Ragged.from_lengths(keys[order] % n_items, torch.bincount(keys // n_items, minlength=len(cases)))


def _draw(
    users: Tensor, rows: Tensor, taken: Tensor, n_taken: Tensor, wanted: Tensor, n_items: int, seed: int
) -> Tensor:
    """Keys ``row * n_items + item`` of ``wanted[r]`` items that are not taken, for each of some rows.

    The items of a user that are not taken are numbered 0, 1, ...; the draw is of numbers.
    """
    free = n_items - n_taken
    # the choice depends on the user alone, so that the draw does, too
    many = wanted * wanted > 32 * free
    parts = []
    for chosen, draw in ((~many, _draw_by_floyd), (many, _draw_by_sorting)):
        if bool(chosen.any()):
            numbers = draw(users[chosen], free[chosen], wanted[chosen], seed)
            is_drawn = numbers >= 0
            row_of = rows[chosen][:, None].expand_as(numbers)[is_drawn]
            parts.append(row_of * n_items + _items_of_numbers(row_of, numbers[is_drawn], taken, n_items))
    return torch.cat(parts)


def _draw_by_floyd(users: Tensor, free: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """[R, W] numbers below ``free``, each once, -1 past the end of a row: Floyd's algorithm.

    Step j draws from the first ``free - wanted + j + 1`` numbers; one that was drawn before gives way to the last.
    """
    width = int(wanted.max())
    drawn = torch.full((len(users), width), -1)
    for step in range(width):
        last = free - wanted + step
        number = (_uniform(seed, users, step) * (last + 1)).long().minimum(last)
        again = (drawn[:, :step] == number[:, None]).any(1)
        drawn[:, step] = torch.where(step < wanted, torch.where(again, last, number), -1)
    return drawn


def _draw_by_sorting(users: Tensor, free: Tensor, wanted: Tensor, seed: int) -> Tensor:
    """The same for a large share of the numbers: the first ones of a random order of all."""
    parts = []
    for row in torch.split(torch.arange(len(users)), max(_AT_ONCE // int(free.max().clamp(min=1)), 1)):
        chance = torch.stack([_uniform(seed, users[row], step) for step in range(int(free[row].max()))], 1)
        beyond = torch.arange(chance.shape[1]) >= free[row, None]
        order = chance.masked_fill_(beyond, 2.0).argsort(1)[:, : int(wanted.max())]
        order = torch.nn.functional.pad(order, (0, int(wanted.max()) - order.shape[1]), value=-1)
        parts.append(order.masked_fill_(torch.arange(order.shape[1]) >= wanted[row, None], -1))
    return torch.cat(parts)


def _items_of_numbers(rows: Tensor, numbers: Tensor, taken: Tensor, n_items: int) -> Tensor:
    """The items that have these numbers among the items of their row that are not taken."""
    first = torch.searchsorted(taken, rows * n_items)
    of_row = torch.searchsorted(taken, (rows + 1) * n_items) - first
    # how many taken items lie before the item: the t-th one does if it has no more than `number` free items before it
    low, high = torch.zeros_like(of_row), of_row
    while bool((low < high).any()):
        middle = (low + high) // 2
        item = taken[(first + middle).clamp(max=taken.numel() - 1)] - rows * n_items
        before = (low < high) & (item - middle <= numbers)
        low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle.minimum(high))
    return numbers + low


def _uniform(seed: int, users: Tensor, step: int) -> Tensor:
    """[R] float64 in [0, 1): a hash of the seed, the user and the step (SplitMix64), and so of nothing else."""
    state = np.uint64(derive(seed, "candidates", step)) + users.numpy(force=True).astype(np.uint64) * _GOLDEN
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) / 2.0**53)


def candidates_for(protocol: Protocol, cases: Cases, lists: Ragged | None) -> tuple[Protocol, Ragged | None]:
    """The candidates that a protocol asks for (None: all items), and the protocol with what identifies them.

    Raises:
        ValueError: lists are missing, do not fit the cases, hold an item twice or outside the catalogue, or are not
            those of the protocol.
    """
    if protocol.candidates == "all":
        return protocol, None
    if protocol.candidates == "sampled":
        assert protocol.n_candidates is not None
        seed = protocol.candidate_seed or 0
        # unset and 0 are the same draw and must be the same protocol
        named = Protocol.of(protocol.model_dump(), candidate_seed=seed)
        return named, _allowed(protocol, cases, sample_candidates(cases, protocol.n_candidates, seed))
    if lists is None:
        raise ValueError('candidate_lists must be given where candidates = "lists"')
    _check(lists, cases)
    content = hashlib.sha256()
    keys = (lists.rows * cases.n_items + lists.values).sort().values % cases.n_items
    for part in (cases.users, lists.offsets, keys):
        content.update(part.numpy(force=True).astype("<i8").tobytes())
    digest = content.hexdigest()[:16]
    if protocol.candidate_hash not in ("", digest):
        raise ValueError(f"candidate_lists have the hash {digest}; the protocol's are {protocol.candidate_hash}")
    return Protocol.of(protocol.model_dump(), candidate_hash=digest), _allowed(protocol, cases, lists)


def _allowed(protocol: Protocol, cases: Cases, lists: Ragged) -> Ragged:
    if protocol.seen == "keep":
        return lists
    known = cases.history.rows * cases.n_items + cases.history.values
    return lists.filter(~torch.isin(lists.rows * cases.n_items + lists.values, known))


def _check(lists: Ragged, cases: Cases) -> None:
    if lists.n_rows != len(cases):
        raise ValueError(f"candidate_lists has {lists.n_rows} rows; give one for each of the {len(cases)} cases")
    check_items("candidate_lists", lists.values, cases.n_items)
    keys = lists.rows * cases.n_items + lists.values
    if torch.unique(keys).numel() < keys.numel():
        raise ValueError("candidate_lists holds an item twice for a user; give each once")
