"""Split strategies. Each gives every interaction of an ordered log a label: train, valid or
test.
"""

from __future__ import annotations

import datetime as dt
import logging
from abc import abstractmethod
from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from operator import is_
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from recgraph.config import Config, did_you_mean
from recgraph.data.columns import instant
from recgraph.data.ids import plain_value
from recgraph.data.log import PART, Log
from recgraph.data.part import OrderedLog, order
from recgraph.files import DataError
from recgraph.rng import numpy_generator

Share = Annotated[float, Field(ge=0, lt=1)]
Targets = Literal["all", "last", "first", "random"]
_IS_NONE = partial(is_, None)
Moment = Annotated[int | float | str | dt.datetime | dt.date, BeforeValidator(plain_value)]
#: interactions that a user needs to be in all three parts of leave-one-out
_LEAST = 3
#: of train, where no validation part is given and no share is set
_DRAWN = 0.1
_log = logging.getLogger(__name__)


class Label(IntEnum):
    """The part that an interaction belongs to. Beside targets of valid and test these hold the
    known history of users held out, and what is left: neither a target nor known to the user's
    case."""

    TRAIN = 0
    VALID = 1
    TEST = 2
    VALID_HISTORY = 3
    TEST_HISTORY = 4
    VALID_LEFT = 5
    TEST_LEFT = 6


#: part of a split -> the labels of its rows: of targets, of what happened before them, and of what
#: is left out
GROUPS: Mapping[str, tuple[Label, ...]] = {
    "train": (Label.TRAIN,),
    "valid": (Label.VALID, Label.VALID_HISTORY, Label.VALID_LEFT),
    "test": (Label.TEST, Label.TEST_HISTORY, Label.TEST_LEFT),
}
FitPart = Literal["train", "train+valid", "all"]
#: what a model is fitted on -> the labels of its rows
FITTED_ON: Mapping[FitPart, tuple[Label, ...]] = {
    "train": GROUPS["train"],
    "train+valid": GROUPS["train"] + GROUPS["valid"],
    "all": tuple(Label),
}


def sizes_of(labels: Tensor) -> dict[str, int]:
    """The interactions in each part, and how many are left out, where some are."""
    counts = torch.bincount(labels, minlength=len(Label)).tolist()
    sizes = {}
    for name, (target, *others) in GROUPS.items():
        sizes[name] = counts[target] + sum(counts[label] for label in others[:1])
    left = counts[Label.VALID_LEFT] + counts[Label.TEST_LEFT]
    if left:
        sizes["left out"] = left
    return sizes


class Strategy(Config):
    """Base of the strategies."""

    #: whether users without history are evaluated: not at all, or with an empty history
    new_users: Literal["drop", "keep"] = "drop"
    #: the column whose values are the relevance grades of the truth, or None (all relevant items
    #: count the same)
    grades: Literal["rating", "weight"] | None = None

    @property
    def draws(self) -> bool:
        """Whether the seed matters."""
        return False

    @property
    def facts(self) -> dict[str, Any]:
        """What a protocol says of the parts beside the hash of the split, as JSON values."""
        return {}

    @property
    def needed(self) -> tuple[str, ...]:
        """The parts that may not be empty."""
        return ("train",)

    def applied(self, log: Log, seed: int) -> tuple[Self, Tensor]:
        """The strategy as it is kept with the split of this log, and the labels."""
        if self.grades not in (None, *log.log.columns):
            raise ValueError(
                f"grades = {self.grades!r}: the log has no {self.grades}; name its column when reading"
            )
        labels = self.labels(log, seed)
        sizes = sizes_of(labels)
        for name in self.needed:
            if not sizes[name]:
                values = self.model_dump(exclude_none=True)
                settings = ", ".join(f"{setting} = {value!r}" for setting, value in values.items())
                raise ValueError(
                    f"the split leaves the {name} part empty ({settings}); are they in the log's units?"
                )
        return self, labels

    @abstractmethod
    def labels(self, log: Log, seed: int) -> Tensor:
        """[T] uint8: the :class:`Label` of each interaction of ``log.ordered``."""


class Folded(Strategy):
    """Base of the strategies with ``n_folds`` folds of cross-validation (None: the split is a
    single one): test parts that do not overlap, of which the split has the one of number ``fold``,
    from 0."""

    n_folds: int | None = Field(None, ge=2, exclude_if=_IS_NONE)
    fold: int | None = Field(None, ge=0, exclude_if=_IS_NONE)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.fold not in ((None,) if self.n_folds is None else range(self.n_folds)):
            raise ValueError(
                f"n_folds = {self.n_folds} and fold = {self.fold}: give fold = 0 to n_folds - 1, or none"
            )
        return self

    @property
    def _fold(self) -> int:
        return self.fold or 0

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.n_folds is None else {"fold": self.fold, "n_folds": self.n_folds}

    @property
    def needed(self) -> tuple[str, ...]:
        return ("train",) if self.n_folds is None else ("train", "test")


class Shares(Folded):
    """Base of the strategies that give shares of the log to valid and test."""

    valid: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(
                f"valid + test = {self.valid + self.test:g} must leave something to train on"
            )
        return self


class SharedOut(Shares):
    """Base of those whose folds, of the test share 1 / ``n_folds`` unless it is given, test
    everything once.
    """

    @model_validator(mode="before")
    @classmethod
    def _test_everything(cls, values: Any) -> Any:
        n_folds = values.get("n_folds")
        if isinstance(n_folds, int) and n_folds > 0:
            return {"test": 1 / n_folds, **values}
        return values


class LeaveOneOut(Folded):
    """The last interaction of each user is test, the one before it valid, the rest train.

    A fold ``i`` is the split of the log without the last ``i`` interactions of each user.

    Args:
        short_users: users with fewer than 3 interactions train, and are not evaluated
            (``"train"``), or are an error (``"error"``). None is ``"train"``, and says how many; a
            log without any is split as with ``"error"``.
    """

    short_users: Literal["error", "train"] | None = None

    def applied(self, log: Log, seed: int) -> tuple[Self, Tensor]:
        lengths = log.ordered.items.lengths
        n_short = int(((lengths < self._least) & (lengths > 0)).sum())
        few = f"{n_short:,} of {len(lengths):,} users have fewer than {self._least} interactions"
        if n_short and self.short_users == "error":
            fix = f"filter with .k_core(users={self._least}, items=0), or leave short_users out"
            raise DataError(f"{few}: {fix}")
        if self.short_users is not None:
            return super().applied(log, seed)
        if n_short:
            _log.warning("leave-one-out: %s; they are not evaluated", few)
        decided = self.model_copy(update={"short_users": "train" if n_short else "error"})
        return super(LeaveOneOut, decided).applied(log, seed)

    def labels(self, log: Log, seed: int) -> Tensor:
        items = log.ordered.items
        labels = _all_train(log)
        labels[items.lengths[items.rows] - items.positions <= self._fold] = int(Label.TEST_LEFT)
        ends = items.offsets[1:][items.lengths >= self._least] - self._fold
        labels[ends - 1] = int(Label.TEST)
        labels[ends - 2] = int(Label.VALID)
        return labels

    @property
    def _least(self) -> int:
        """The interactions that a user needs to be tested."""
        return _LEAST + self._fold


class Ratio(SharedOut):
    """A share of each user's interactions.

    A user of ``n`` interactions gives ``floor(valid n)`` to valid and ``floor(test n)`` to test. A
    share above 0 that comes to less than one interaction gets one, as long as two or more are left
    to train (as in RecBole; test first). With ``n_folds``, ``test`` is 1 / ``n_folds`` by default:
    each interaction is tested in one fold.

    Args:
        valid, test: the shares; the rest is train.
        order: ``"random"`` (seeded), or ``"time"``: the oldest are train, the newest test.
    """

    order: Literal["random", "time"] = "random"

    @property
    def draws(self) -> bool:
        return self.order == "random"

    def labels(self, log: Log, seed: int) -> Tensor:
        items = log.ordered.items
        rows, lengths = items.rows, items.lengths
        n_valid = _share_of(lengths, self.valid)
        n_test = _share_of(lengths, self.test)
        starts = torch.zeros_like(lengths)

        def lacking(counts: Tensor, share: float) -> Tensor:
            is_lacking = (counts == 0) & (share > 0) & (lengths - n_valid - n_test >= 2)
            return is_lacking.to(counts.dtype)

        if self.n_folds is None:
            n_test += lacking(n_test, self.test)
        else:
            # each user begins with a fold of its own: users of few interactions are spread over all
            # folds
            generator = numpy_generator(seed, "split", "folds")
            firsts = torch.from_numpy(generator.integers(self.n_folds, size=len(lengths)))
            turns = (firsts + self._fold) % self.n_folds
            starts = _share_of(lengths * turns, self.test)
            n_test = (_share_of(lengths * (turns + 1), self.test) - starts) * (lengths > 1)
        n_valid += lacking(n_valid, self.valid)
        n_valid = n_valid.minimum(lengths - n_test - 1)
        ranks = _ranks(log.ordered, self.order, seed, "ratio")
        places = (lengths[rows] - 1 - ranks - starts[rows]) % lengths[rows]
        labels = _all_train(log)
        labels[places < (n_test + n_valid)[rows]] = int(Label.VALID)
        labels[places < n_test[rows]] = int(Label.TEST)
        return labels


class HeldOutUsers(SharedOut):
    """Users that training never sees: some of their interactions are their history (fold-in), the
    others the truth.

    Users of a single interaction are never held out. With ``n_folds``, ``test`` is 1 / ``n_folds``
    by default.

    Args:
        valid, test: shares of the users who have at least two interactions.
        fold_in: the share of a held-out user's interactions that is known, at least 1 and at most
            all but one.
        order: ``"time"``: the oldest are known; ``"random"`` (seeded).
    """

    fold_in: Annotated[float, Field(gt=0, lt=1)] = 0.8
    order: Literal["time", "random"] = "time"

    @property
    def draws(self) -> bool:
        return True

    def labels(self, log: Log, seed: int) -> Tensor:
        items = log.ordered.items
        able = torch.nonzero(items.lengths >= 2).flatten()
        n_able = able.numel()
        mixed = able[torch.from_numpy(numpy_generator(seed, "split", "users").permutation(n_able))]
        n_valid = _whole(self.valid * n_able)
        n_test = _whole(self.test * n_able)
        if self.fold is not None:
            start = _whole(self.fold * self.test * n_able)
            n_test = _whole((self.fold + 1) * self.test * n_able) - start
            # valid users are those before the test users, in a ring
            mixed = mixed.roll(n_valid - start)
        known = _share_of(items.lengths, self.fold_in).clamp(min=1).minimum(items.lengths - 1)
        ranks = _ranks(log.ordered, self.order, seed, "ratio")
        truth_mask = ranks >= known[items.rows]
        labels = _all_train(log)
        groups = (
            (mixed[:n_valid], Label.VALID, Label.VALID_HISTORY),
            (mixed[n_valid : n_valid + n_test], Label.TEST, Label.TEST_HISTORY),
        )
        for users, truth, history in groups:
            chosen = torch.zeros(log.n_users, dtype=torch.bool)
            chosen[users] = True
            member = chosen[items.rows]
            labels[member] = int(history)
            labels[member & truth_mask] = int(truth)
        return labels


class Everything(Strategy):
    """All interactions are train: nothing is held out, so that the model serves and is not
    evaluated.
    """

    def labels(self, log: Log, seed: int) -> Tensor:
        return _all_train(log)


class TimeCut(Shares):
    """One cut of time for all users: train before valid before test.

    The test parts of folds are windows that follow one another up to the end of the log, fold 0 the
    newest. Each has the share ``test`` of all interactions, or with ``test_from`` the length of the
    time from there to the end; its valid part lies before it, and what comes after it is in no
    part.

    Args:
        valid, test: shares of all interactions. The cuts are the times at these quantiles;
            interactions at the very instant of a cut belong to the later part, so that a share may
            come out larger.
        valid_from, test_from: instants instead of shares, both: numbers in the unit in which the
            log's times came in, or dates and ISO 8601 texts where the log has dates (or seconds
            with fractions).
        targets: what is held out of a user who did something after the cut: ``"all"`` of it as one
            set; or one interaction, the ``"last"``, the ``"first"`` or one at ``"random"``
            (seeded): what came before it is history, and what came after it is nobody's target. As
            in Time-to-Split (RecSys 2025).
        unknown_items: ``"drop"`` leaves interactions of items that no earlier part has out of valid
            and test, before targets are chosen; ``"keep"``: they are misses of models without item
            features.
    """

    valid_from: Moment | None = None
    test_from: Moment | None = None
    targets: Targets = Field("all", exclude_if=lambda value: value == "all")
    unknown_items: Literal["keep", "drop"] = Field("keep", exclude_if=lambda value: value == "keep")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("give valid_from and test_from, both, or shares")
        return self

    @property
    def draws(self) -> bool:
        return self.targets == "random"

    @property
    def needed(self) -> tuple[str, ...]:
        return super().needed if self.valid_from is None else ("train", "test")

    @property
    def facts(self) -> dict[str, Any]:
        if self.targets == "all" and self.unknown_items == "keep":
            return super().facts
        return {
            **super().facts,
            "targets": self.targets,
            "unknown_items": self.unknown_items,
        }

    def labels(self, log: Log, seed: int) -> Tensor:
        times = log.ordered.times
        if times is None:
            raise ValueError(
                "a split by time needs timestamps: name their column when reading (timestamp=..., --time)"
            )
        labels = _all_train(log)
        starts = zip(
            self._cuts(times, log), (Label.VALID, Label.TEST, Label.TEST_LEFT), strict=True
        )
        for start, label in starts:
            labels[times >= start] = int(label)
        if self.unknown_items == "drop":
            labels = _without_unknown(log.ordered, labels)
        if self.targets != "all":
            labels = _with_targets(log.ordered, labels, self.targets, seed)
        return labels

    def _cuts(self, times: Tensor, log: Log) -> list[int]:
        """The times at which valid, test and what comes after it begin; one past the last time
        leaves nothing."""
        end = int(times.max()) + 1
        if self.valid_from is not None and self.test_from is not None:
            valid = instant("valid_from", self.valid_from, log.time_unit)
            test = instant("test_from", self.test_from, log.time_unit)
            back = self._fold * (end - test)
            return [valid - back, test - back, end - back]
        count = times.numel()
        n_test = _whole(self.test * count)
        last = count - n_test * self._fold
        first = last - n_test
        places = torch.tensor([first - _whole(self.valid * count), first, last])
        ordered = torch.cat([times.sort().values, times.new_tensor([end])])
        cuts: list[int] = ordered[places.clamp(min=0)].tolist()
        return cuts


class Given(Strategy):
    """The parts as they are given, in files or frames of their own.

    An interaction of valid or test whose item no earlier part has is left out of the truth and
    counted.

    Args:
        valid, order: where no validation part is given, the share of each user's train interactions
            that becomes one (None: a tenth), drawn as by :class:`Ratio`, at ``"random"`` (seeded),
            or by ``"time"``: the latest.
        unknown_items: ``"keep"`` leaves items that training does not know in the truth, where each
            is a miss.
        found: filled in: the interactions of each part, those of valid and test whose pair of user
            and item an earlier part has, too, and whose user or item no earlier part has.
    """

    valid: Annotated[float | None, Field(ge=0, lt=1)] = None
    order: Literal["random", "time"] = "random"
    unknown_items: Literal["drop", "keep"] = "drop"
    found: dict[str, int] = Field(default_factory=dict)

    @property
    def draws(self) -> bool:
        return bool(self.valid) and self.order == "random"

    @property
    def facts(self) -> dict[str, Any]:
        drawn = {} if self.valid is None else {"valid_from_train": self.valid, "order": self.order}
        return {**drawn, "unknown_items": self.unknown_items, **self.found}

    def applied(self, log: Log, seed: int) -> tuple[Self, Tensor]:
        if not log.has_parts:
            raise ValueError(
                "split 'given' needs parts: rg.Split.from_parts(train=..., valid=..., test=...) (--train)"
            )
        has_valid = bool((log.log[PART] == int(Label.VALID)).any())
        share = self.valid
        if has_valid:
            share = None
        elif share is None:
            share = _DRAWN
        decided, labels = super(Given, self.model_copy(update={"valid": share})).applied(log, seed)
        known = _without_unknown(log.ordered, labels)
        found = _found(log.ordered, labels, known)
        odd = [f"{name} = {count:,}" for name, count in found.items() if "_" in name and count]
        if odd:
            _log.warning("given split: %s", ", ".join(odd))
        if self.unknown_items == "drop":
            labels = known
        return decided.model_copy(update={"found": found}), labels

    def labels(self, log: Log, seed: int) -> Tensor:
        """The parts, with the validation part that is drawn from train, if one is."""
        labels = torch.from_numpy(order(log.log)[PART].to_numpy(writable=True))
        if not self.valid:
            return labels
        is_train = labels == int(Label.TRAIN)
        train = log.ordered.filter(is_train)
        lengths = train.items.lengths
        counts = _share_of(lengths, self.valid)
        counts += ((counts == 0) & (lengths >= 2)).to(counts.dtype)
        ranks = _ranks(train, self.order, seed, "given")
        drawn = lengths[train.items.rows] - ranks <= counts[train.items.rows]
        labels[torch.nonzero(is_train).flatten()[drawn]] = int(Label.VALID)
        return labels


def _found(log: OrderedLog, labels: Tensor, known: Tensor) -> dict[str, int]:
    """What is odd of given parts; ``known``: the labels without targets that nothing before
    knows.
    """
    users = log.items.rows
    pairs = users * log.n_items + log.items.values
    before = labels == int(Label.TRAIN)
    found = {"train": int(before.sum())}
    for name in ("valid", "test"):
        own = labels == int(GROUPS[name][0])
        found |= {
            name: int(own.sum()),
            f"{name}_repeats": int(np.isin(pairs[own].numpy(), pairs[before].numpy()).sum()),
            f"{name}_unknown_users": int((own & ~_occur(users, before, log.n_users)).sum()),
            f"{name}_unknown_items": int((own & (known != labels)).sum()),
        }
        before = before | own
    return found


def _all_train(log: Log) -> Tensor:
    return torch.zeros(log.n_interactions, dtype=torch.uint8)


def _without_unknown(log: OrderedLog, labels: Tensor) -> Tensor:
    """The labels with interactions of items that no earlier part has left out of valid and test."""
    known_labels = labels.clone()
    before = labels == int(Label.TRAIN)
    for name in ("valid", "test"):
        target, _, left = GROUPS[name]
        own = labels == int(target)
        known_labels[own & ~_occur(log.items.values, before, log.n_items)] = int(left)
        before = before | own
    return known_labels


def _with_targets(log: OrderedLog, labels: Tensor, targets: Targets, seed: int) -> Tensor:
    """The labels with one target of each user in valid and in test: what the user did in the part
    before it is history, and what came after it is left out."""
    changed, rows = labels.clone(), log.items.rows
    for name in ("valid", "test"):
        target, history, left = GROUPS[name]
        own = torch.nonzero(labels == int(target)).flatten()
        counts = torch.bincount(rows[own], minlength=log.n_users)
        firsts = torch.cumsum(counts, 0) - counts
        last = (counts - 1).clamp(min=0)
        chosen = torch.zeros_like(counts)
        if targets == "last":
            chosen = last
        elif targets == "random":
            generator = numpy_generator(seed, "split", "targets", name)
            draws = torch.from_numpy(generator.random(log.n_users))
            chosen = torch.minimum((draws * counts).to(torch.int64), last)
        place = torch.arange(len(own)) - firsts[rows[own]]
        changed[own[place < chosen[rows[own]]]] = int(history)
        changed[own[place > chosen[rows[own]]]] = int(left)
    return changed


def _occur(values: Tensor, among: Tensor, n: int) -> Tensor:
    """[T] bool: whether a value is one of those where ``among`` [T] is True; ``n`` is above all
    values.
    """
    there = torch.zeros(n, dtype=torch.bool)
    there[values[among]] = True
    return there[values]


def _share_of(lengths: Tensor, share: float) -> Tensor:
    """The share of each length, rounded down."""
    return torch.floor(lengths.to(torch.float64) * share + 1e-9).to(torch.int64)


def _whole(x: float) -> int:
    """The integer below a share of a count, where the share is not exact."""
    return int(np.floor(x + 1e-9))


def _ranks(log: OrderedLog, order: str, seed: int, stream: str) -> Tensor:
    """[T] int64: the places of each row in the order of ``"time"``, or in one at ``"random"``."""
    if order == "time":
        return log.items.positions
    draws = numpy_generator(seed, "split", stream).random(log.n_interactions)
    places = np.lexsort((draws, log.items.rows.numpy()))
    ranks = torch.empty(log.n_interactions, dtype=torch.int64)
    ranks[torch.from_numpy(places)] = log.items.positions
    return ranks


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
    """A strategy by its name."""
    if name not in STRATEGIES:
        there = ", ".join(STRATEGIES)
        raise ValueError(
            f"strategy = {name!r} does not exist{did_you_mean(name, STRATEGIES)}; there are {there}"
        )
    return STRATEGIES[name].of(params)
