"""Which items are ranked for each user, where it is not the whole catalogue."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from recgraph.data.part import Cases
from recgraph.evaluate.protocol import Protocol
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged


def sample_candidates(cases: Cases, n: int, seed: int) -> Ragged:
    """The relevant items of each user and ``n`` items drawn from the rest.

    The draw is uniform, without replacement, among items that are neither relevant nor in the history, and depends on
    the seed and the user alone, not on who else is asked. Metrics over sampled candidates are far above those over the
    whole catalogue and may order models differently (Krichene and Rendle, KDD 2020).

    Returns:
        a row for each case; fewer than ``n`` are drawn where there are no more.
    """
    rows = []
    for place, user in enumerate(cases.users.tolist()):
        relevant = np.unique(cases.truth.row(place).numpy())
        taken = set(relevant.tolist()) | set(cases.history.row(place).tolist())
        rng = numpy_generator(seed, "candidates", user)
        rows.append([*relevant.tolist(), *_draw(rng, cases.n_items, taken, n)])
    return Ragged.from_lists(rows)


def _draw(rng: np.random.Generator, n_items: int, taken: set[int], n: int) -> list[int]:
    free = n_items - len(taken)
    if 2 * n >= free:  # nearly all: a permutation ends sooner than draws that repeat
        return [item for item in rng.permutation(n_items).tolist() if item not in taken][:n]
    drawn: dict[int, None] = {}
    while len(drawn) < n:
        drawn |= dict.fromkeys(item for item in rng.integers(n_items, size=2 * n).tolist() if item not in taken)
    return list(drawn)[:n]


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
    if bool(((lists.values < 0) | (lists.values >= cases.n_items)).any()):
        raise ValueError(f"candidate_lists holds an item outside 0 to {cases.n_items - 1}")
    keys = lists.rows * cases.n_items + lists.values
    if torch.unique(keys).numel() < keys.numel():
        raise ValueError("candidate_lists holds an item twice for a user; give each once")
