"""Split strategies. Each gives every interaction of an ordered log a label: train, valid or test."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from recgraph.config import Added, ConfigError
from recgraph.data.columns import instant
from recgraph.data.errors import ShortUserError
from recgraph.data.given import Given
from recgraph.data.labels import Label, Share, Strategy, random_ranks, share_of
from recgraph.data.log import InteractionLog
from recgraph.data.targets import Targets, with_targets, without_unknown
from recgraph.registry import proposal
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


def _plain_number(value: object) -> object:
    """numpy scalars as Python numbers: pydantic would read an integer of numpy as a float, and round it."""
    if isinstance(value, dt.date) and value != value:  # pandas' NaT, at which pydantic fails
        raise ValueError("it is no moment")
    return value.item() if isinstance(value, np.number) else value


Moment = Annotated[int | float | str | dt.datetime | dt.date, BeforeValidator(_plain_number)]


class _Shares(Strategy):
    """Base of the strategies that give shares of the log to valid and test."""

    valid: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g} must leave something to train on")
        return self


class LeaveOneOut(Strategy):
    """The last interaction of each user is test, the one before it valid, the rest train.

    Args:
        short_users: all interactions of users who have fewer than 3 are train, and these users are not evaluated
            (``"train"``), or such users are an error (``"error"``). None is ``"train"``, and says how many they are; a
            log without any is split, and its split hashed, as with ``"error"``.
    """

    short_users: Literal["error", "train"] | None = None

    @property
    def is_by_user(self) -> bool:
        return True

    def resolved(self, lengths: Tensor) -> Self:
        if self.short_users is not None:
            return self
        short = _short(lengths, _LEAST)
        if not len(short):
            # what the default was when every short user was an error: hashes made then stay the same
            return self.model_copy(update={"short_users": "error"})
        _log.warning(
            "leave-one-out: %s of %s users have fewer than %d interactions; they are kept in train and not evaluated",
            f"{len(short):,}",
            f"{len(lengths):,}",
            _LEAST,
        )
        return self.model_copy(update={"short_users": "train"})

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        lengths = log.items.lengths
        enough = lengths >= _LEAST
        if self.short_users == "error":
            _refuse_short(interactions, lengths, _LEAST)
        labels = torch.full((log.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)
        ends = log.items.offsets[1:][enough]
        labels[ends - 1] = int(Label.TEST)
        labels[ends - 2] = int(Label.VALID)
        return labels


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


class TimeCut(_Shares):
    """One cut of time for all users: train before valid before test.

    Args:
        valid, test: shares of all interactions. The cuts are the times at these quantiles; interactions at the very
            instant of a cut belong to the later part, so that a share may come out larger.
        valid_from, test_from: instants instead of shares: numbers in the unit in which the log's times came in, or
            dates and ISO 8601 texts where the log has dates (or seconds with fractions). Both or none.
        targets: what is asked of a user who did something after the cut: ``"all"`` of it as one set, with what was
            known at the cut; or one interaction, the ``"last"``, the ``"first"`` or one at ``"random"`` (seeded), with
            what the user had done by then: what came before it after the cut is history, and what came after it is
            asked of nobody. Nothing at or after a cut is trained on. As in Time-to-Split (RecSys 2025).
        unknown_items: ``"drop"`` leaves interactions of items that no earlier part has out of valid and test, before
            targets are chosen; ``"keep"``: they are misses of models without item features.
        new_users: users without history are not evaluated (``"drop"``; their interactions stay in their part), or
            evaluated with an empty history (``"keep"``).
    """

    valid_from: Moment | None = None
    test_from: Moment | None = None
    targets: Annotated[Targets, Added()] = "all"
    unknown_items: Annotated[Literal["keep", "drop"], Added()] = "keep"

    @model_validator(mode="after")
    def _both_or_none(self) -> TimeCut:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from are given both or not at all")
        return self

    @property
    def draws(self) -> bool:
        return self.targets == "random"

    @property
    def is_by_user(self) -> bool:
        return self.valid_from is not None and not self.draws and self.unknown_items == "keep"

    @property
    def facts(self) -> str:
        if self.targets == "all" and self.unknown_items == "keep":
            return ""
        return json.dumps({"targets": self.targets, "unknown_items": self.unknown_items}, sort_keys=True)

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        times = interactions.ordered.times
        if times is None:
            raise ValueError("a split by time needs timestamps: name their column when reading (timestamp=..., --time)")
        valid_from, test_from = self._cuts(times, interactions)
        if valid_from > test_from:
            raise ValueError(f"valid_from = {self.valid_from!r} must not lie after test_from = {self.test_from!r}")
        labels = torch.full_like(times, int(Label.TRAIN), dtype=torch.uint8)
        labels[times >= valid_from] = int(Label.VALID)
        labels[times >= test_from] = int(Label.TEST)
        if self.unknown_items == "drop":
            labels = without_unknown(interactions.ordered, labels)
        return with_targets(interactions.ordered, labels, self.targets, seed)

    def check_counts(self, counts: Mapping[Label, int]) -> None:
        if counts[Label.TRAIN]:
            return
        if self.valid_from is None:
            message = f"valid = {self.valid:g} and test = {self.test:g} leave nothing to train on: "
            raise ValueError(message + "too many interactions are at the very instant of the cut")
        message = f"valid_from = {self.valid_from!r} leaves nothing to train on: no interaction is before it; "
        raise ValueError(message + "is it in the unit of the log's timestamps?")

    def _cuts(self, times: Tensor, interactions: InteractionLog) -> tuple[int, int]:
        if self.valid_from is not None and self.test_from is not None:
            defaults = (type(self).model_fields[name].default for name in ("valid", "test"))
            # here and not where the settings are read, so that splits saved with both are still read
            if (self.valid, self.test) != tuple(defaults):
                message = f"valid = {self.valid:g} and test = {self.test:g} are shares: leave them out, "
                raise ValueError(message + "or leave out valid_from and test_from")
            unit = interactions.time_unit
            return instant("valid_from", self.valid_from, unit), instant("test_from", self.test_from, unit)
        ordered = times.sort().values
        count = times.numel()
        # one past the last time is a cut that leaves nothing
        edges = [int(ordered[-1]) + 1 if place >= count else int(ordered[place]) for place in self._places(count)]
        return edges[0], edges[1]

    def _places(self, count: int) -> tuple[int, int]:
        n_test = _whole(self.test * count)
        return count - n_test - _whole(self.valid * count), count - n_test


def _whole(x: float) -> int:
    return int(np.floor(x + 1e-9))


class Ratio(_Shares):
    """A share of each user's interactions.

    A user of ``n`` interactions gives ``floor(valid n)`` to valid and ``floor(test n)`` to test. A share above 0 that
    comes to less than one interaction gets one, as long as two or more are left to train (as in RecBole; test first).

    Args:
        valid, test: the shares; the rest is train.
        order: ``"random"`` (seeded), or ``"time"``: the oldest are train, the newest test.
    """

    order: Literal["random", "time"] = "random"

    @property
    def draws(self) -> bool:
        return self.order == "random"

    @property
    def is_by_user(self) -> bool:
        return not self.draws

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        lengths = log.items.lengths
        n_valid, n_test = share_of(lengths, self.valid), share_of(lengths, self.test)
        for counts, share in ((n_test, self.test), (n_valid, self.valid)):
            lacks = (counts == 0) & (share > 0) & (lengths - n_valid - n_test >= 2)
            counts += lacks.to(counts.dtype)
        ranks = log.items.positions if self.order == "time" else random_ranks(log, seed, "ratio")
        left = lengths[log.items.rows] - ranks  # places from the end, from 1
        labels = torch.full((log.n_interactions,), int(Label.TRAIN), dtype=torch.uint8)
        labels[left <= (n_test + n_valid)[log.items.rows]] = int(Label.VALID)
        labels[left <= n_test[log.items.rows]] = int(Label.TEST)
        return labels


class HeldOutUsers(_Shares):
    """Users that training never sees: some of their interactions are their history (fold-in), the others the truth.

    Held-out users have empty train rows; users of a single interaction are never held out.
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

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        log = interactions.ordered
        lengths = log.items.lengths
        able = torch.nonzero(lengths >= 2).flatten()
        mixed = able[torch.from_numpy(numpy_generator(seed, "split", "users").permutation(able.numel()))]
        n_valid, n_test = (_whole(share * able.numel()) for share in (self.valid, self.test))
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


def strategy_of(name: str, params: Mapping[str, Any]) -> Strategy:
    """A strategy by its name.

    Raises:
        ValueError: no such strategy, or a parameter that it does not have or allow.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy = {name!r} does not exist; {proposal(name, STRATEGIES)}")
    try:
        return STRATEGIES[name].of(params)
    except ConfigError as error:
        raise ConfigError(f"split {name!r}: {error}") from None
