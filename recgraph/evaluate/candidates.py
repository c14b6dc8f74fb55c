"""Which items are ranked for each user, where it is not the whole catalogue."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from recgraph.data.part import Cases
from recgraph.evaluate.hits import check_items
from recgraph.evaluate.protocol import Protocol
from recgraph.rng import numpy_generator
from recgraph.sparse.ragged import Ragged


def sample_candidates(cases: Cases, n: int, seed: int) -> Ragged:
    """The relevant items of each user and ``n`` items drawn from the rest; fewer where there are no more.

    The draw is uniform, without replacement, among items that are neither relevant nor in the history, and depends on
    the seed and the user alone, not on the other users. Metrics over sampled candidates are far above those over the
    whole catalogue and may order models differently (Krichene and Rendle, KDD 2020).
    """
    rows = []
    for user, truth, history in zip(
        cases.users.tolist(), cases.truth.to_lists(), cases.history.to_lists(), strict=True
    ):
        relevant, taken = np.unique(truth), np.unique([*truth, *history])
        n_free = cases.n_items - len(taken)
        drawn = numpy_generator(seed, "candidates", user).choice(n_free, min(n, n_free), replace=False)
        # the items that are not taken are numbered: before each stand so many that are
        rows.append([*relevant, *(drawn + np.searchsorted(taken - np.arange(len(taken)), drawn, side="right"))])
    return Ragged.from_lists(rows)


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
    if lists is None or lists.n_rows != len(cases):
        raise ValueError(f"candidate_lists must have a row for each of the {len(cases)} cases")
    check_items("candidate_lists", lists.values, cases.n_items)
    keys = (lists.rows * cases.n_items + lists.values).sort().values
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("candidate_lists holds an item twice for a user; give each once")
    content = hashlib.sha256()
    for part in (cases.users, lists.offsets, keys % cases.n_items):
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
