"""Split strategies. Each gives every interaction of an ordered log a label: train, valid or test."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.errors import ShortUserError
from recgraph.data.folded import Folded, SharedOut, whole
from recgraph.data.given import Given
from recgraph.data.labels import Label, Strategy, random_ranks, share_of
from recgraph.data.log import InteractionLog
from recgraph.data.time_cut import TimeCut
from recgraph.registry import key, proposal
from recgraph.rng import numpy_generator

__all__ = [
    "EVERYTHING",
    "GIVEN",
    "STRATEGIES",
    "Everything",
    "HeldOutUsers",
    "LeaveOneOut",
    "Ratio",
    "TimeCut",
    "strategy_of",
]

#: interactions that a user needs to be in all three parts of leave-one-out
_LEAST = 3
_log = logging.getLogger(__name__)


class LeaveOneOut(Folded):
    """The last interaction of each user is test, the one before it valid, the rest train.

    A fold ``i`` is the split of the log without the last ``i`` interactions of each user.

    Args:
        short_users: all interactions of users who have fewer than 3 are train, and these users are not evaluated
            (``"train"``), or such users are an error (``"error"``). None is ``"train"``, and says how many they are; a
            log without any is split, and its split hashed, as with ``"error"``.
    """

    short_users: Literal["error", "train"] | None = None

    @property
    def is_by_user(self) -> bool:
        return True

    @property
    def reads_order(self) -> bool:
        return True

    def resolved(self, lengths: Tensor) -> Self:
        if self.short_users is not None:
            return self
        short = _short(lengths, self._least)
        if not len(short):
            # what the default was when every short user was an error: hashes made then stay the same
            return self.model_copy(update={"short_users": "error"})
        fate = "they are kept in train and not evaluated"
        if self.fold:
            fate = f"the last {self.fold} of each are left out, the rest is train, and they are not evaluated"
        _log.warning(
            "leave-one-out: %s of %s users have fewer than %d interactions; %s",
            *(f"{len(short):,}", f"{len(lengths):,}", self._least, fate),
        )
        return self.model_copy(update={"short_users": "train"})

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        lengths = log.items.lengths
        enough, later = lengths >= self._least, self.fold or 0
        if self.short_users == "error":
            _refuse_short(interactions, lengths, self._least)
        labels = torch.full((log.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)
        labels[lengths[log.items.rows] - log.items.positions <= later] = int(Label.TEST_LEFT)
        ends = log.items.offsets[1:][enough] - later
        labels[ends - 1] = int(Label.TEST)
        labels[ends - 2] = int(Label.VALID)
        return labels

    @property
    def _least(self) -> int:
        """The interactions that a user needs to be tested."""
        return _LEAST + (self.fold or 0)


def _short(lengths: Tensor, least: int) -> Tensor:
    """The users of fewer than ``least`` interactions; those without any are none of a log's."""
    return torch.nonzero((lengths < least) & (lengths > 0)).flatten()


def _refuse_short(interactions: InteractionLog, lengths: Tensor, least: int) -> None:
    short = _short(lengths, least)
    if not short.numel():
        return
    first = int(short[0])
    row = int(interactions.ordered.rows[interactions.ordered.items.offsets[first]])
    message = (
        f"leave-one-out needs {least} interactions of each user; user {interactions.users.ids([first])[0]!r} "
        f"has {int(lengths[first])} ({short.numel():,} of {lengths.numel():,} users have fewer): filter with "
        f".k_core(users={least}, items=0), or keep them in train alone: short_users='train', the default"
    )
    raise interactions.source.error(ShortUserError, message, row=row)


class Ratio(SharedOut):
    """A share of each user's interactions.

    A user of ``n`` interactions gives ``floor(valid n)`` to valid and ``floor(test n)`` to test. A share above 0 that
    comes to less than one interaction gets one, as long as two or more are left to train (as in RecBole; test first).

    With ``n_folds``, ``test`` is 1 / ``n_folds`` by default: each interaction is tested in one fold, and a user with
    fewer interactions than folds in so many. Users of a single interaction are not tested.

    Args:
        valid, test: the shares; the rest is train.
        order: ``"random"`` (seeded), or ``"time"``: the oldest are train, the newest test.
    """

    order: Literal["random", "time"] = "random"

    @model_validator(mode="after")
    def _folds_at_random(self) -> Self:
        if self.n_folds is not None and self.order == "time":
            raise ValueError("order = 'time' has no folds: leave it out, or split by 'time' or 'leave-one-out'")
        return self

    @property
    def draws(self) -> bool:
        return self.order == "random"

    @property
    def is_by_user(self) -> bool:
        return not self.draws

    @property
    def reads_order(self) -> bool:
        return self.order == "time"

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        rows, lengths = log.items.rows, log.items.lengths
        n_valid, n_test = share_of(lengths, self.valid), share_of(lengths, self.test)
        starts = torch.zeros_like(lengths)

        def lacking(counts: Tensor, share: float) -> Tensor:
            return ((counts == 0) & (share > 0) & (lengths - n_valid - n_test >= 2)).to(counts.dtype)

        if self.n_folds is None:
            n_test += lacking(n_test, self.test)
        else:
            starts, n_test = self._tests_of_fold(lengths, self.n_folds, seed)
        n_valid += lacking(n_valid, self.valid)
        n_valid = n_valid.minimum(lengths - n_test - 1)
        ranks = log.items.positions if self.order == "time" else random_ranks(log, seed, "ratio")
        places = (lengths[rows] - 1 - ranks - starts[rows]) % lengths[rows]
        labels = torch.full((log.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)
        labels[places < (n_test + n_valid)[rows]] = int(Label.VALID)
        labels[places < n_test[rows]] = int(Label.TEST)
        return labels

    def _tests_of_fold(self, lengths: Tensor, n_folds: int, seed: int) -> tuple[Tensor, Tensor]:
        """[n_users] where the test interactions of each user begin in its random order, and how many they are."""
        # each user begins with a fold of its own: users of few interactions are spread over all folds
        firsts = torch.from_numpy(numpy_generator(seed, "split", "folds").integers(n_folds, size=len(lengths)))
        turns = (firsts + (self.fold or 0)) % n_folds
        starts, ends = (share_of(lengths * edges, self.test) for edges in (turns, turns + 1))
        return starts, (ends - starts) * (lengths > 1)


class HeldOutUsers(SharedOut):
    """Users that training never sees: some of their interactions are their history (fold-in), the others the truth.

    Held-out users have empty train rows; users of a single interaction are never held out. With ``n_folds``, ``test``
    is 1 / ``n_folds`` by default: each other user is tested in one fold.
    ``fit_part("train+valid")`` holds all interactions of the valid users.

    Args:
        valid, test: shares of the users who have at least two interactions.
        fold_in: the share of a held-out user's interactions that is known, at least 1 and at most all but
            one.
        order: ``"time"``: the oldest are known; ``"random"`` (seeded).
    """

    fold_in: Annotated[float, Field(gt=0, lt=1)] = 0.8
    order: Literal["time", "random"] = "time"

    @property
    def draws(self) -> bool:
        return True

    @property
    def reads_order(self) -> bool:
        return self.order == "time"

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        lengths = log.items.lengths
        able = torch.nonzero(lengths >= 2).flatten()
        mixed = able[torch.from_numpy(numpy_generator(seed, "split", "users").permutation(able.numel()))]
        n_valid, n_test = (whole(share * able.numel()) for share in (self.valid, self.test))
        if self.fold is not None:
            start = whole(self.fold * self.test * able.numel())
            n_test = whole((self.fold + 1) * self.test * able.numel()) - start
            mixed = mixed.roll(n_valid - start)  # valid users are those before the test users, in a ring
        known = share_of(lengths, self.fold_in).clamp(min=1).minimum(lengths - 1)
        ranks = log.items.positions if self.order == "time" else random_ranks(log, seed, "ratio")
        truth_mask = ranks >= known[log.items.rows]
        labels = torch.full((log.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)
        groups = (
            (mixed[:n_valid], Label.VALID, Label.VALID_HISTORY),
            (mixed[n_valid : n_valid + n_test], Label.TEST, Label.TEST_HISTORY),
        )
        for users, truth, history in groups:
            chosen = torch.zeros(log.n_users, dtype=torch.bool)
            chosen[users] = True
            member = chosen[log.items.rows]
            labels[member] = int(history)
            labels[member & truth_mask] = int(truth)
        return labels


class Everything(Strategy):
    """All interactions are train: nothing is held out, so that the model serves and is not evaluated."""

    @property
    def is_by_user(self) -> bool:
        return True

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        return torch.full((interactions.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)


#: the names of the strategies that hold nothing out, and that take the parts as they are given
EVERYTHING, GIVEN = "all", "given"
STRATEGIES: dict[str, type[Strategy]] = {
    "leave-one-out": LeaveOneOut,
    "ratio": Ratio,
    "time": TimeCut,
    "users": HeldOutUsers,
    GIVEN: Given,
    EVERYTHING: Everything,
}

_BY_TIME = "'time' (one cut for all users), or 'ratio' with order='time' (each user's own)"
_DRAWN = "'ratio' with order='random', its default (a share of each user's interactions), or 'users' (whole users)"
#: what other libraries call a split, as the registry compares names -> how it is asked for here
_ELSEWHERE = {
    **dict.fromkeys(("loo", "lso", "last", "lastitem", "leaveonelast", "leavelastout"), "'leave-one-out'"),
    **dict.fromkeys(("random", "randomsplit", "holdout", "percentage"), _DRAWN),
    **dict.fromkeys(("temporal", "timestamp", "timebased", "chronological", "chrono", "date"), _BY_TIME),
    **dict.fromkeys(("globaltime", "globaltemporal", "timesplit", "timepoint", "timecut"), "'time'"),
    **dict.fromkeys(("user", "userbased", "coldusers", "stronggeneralization"), "'users'"),
    **dict.fromkeys(("none", "full", "everything"), "'all' (nothing is held out)"),
    **dict.fromkeys(("kfold", "crossvalidation", "cv"), "a strategy with n_folds and fold, as 'ratio'"),
    **dict.fromkeys(("predefined", "fixed"), "'given', by rg.Split.from_parts or --train, --valid and --test"),
}


def strategy_of(name: str, params: Mapping[str, Any]) -> Strategy:
    """A strategy by its name.

    Raises:
        ValueError: no such strategy, or a parameter that it does not have or allow.
    """
    if name not in STRATEGIES:
        here = _ELSEWHERE.get(key(name))
        known = f"did you mean {here}? There are {', '.join(STRATEGIES)}" if here else proposal(name, STRATEGIES)
        raise ValueError(f"strategy = {name!r} does not exist; {known}")
    if "n_folds" in params and not issubclass(STRATEGIES[name], Folded):
        folded = ", ".join(repr(each) for each, own in STRATEGIES.items() if issubclass(own, Folded))
        raise ValueError(f"strategy = {name!r} has no folds; give one of {folded}, or leave n_folds out")
    try:
        return STRATEGIES[name].of(params)
    except ConfigError as error:
        raise ConfigError(f"split {name!r}: {error}") from None
