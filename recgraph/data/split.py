"""A split is a value with a hash; what trains and tunes gets it sealed, without the test part."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.ids import IdMap
from recgraph.data.interactions import Interactions
from recgraph.data.part import Cases, Part
from recgraph.data.sealing import SealedTestError, check_open
from recgraph.data.strategies import STRATEGIES, Label, Strategy

__all__ = ["SealedSplit", "SealedTestError", "Split", "make_split"]

FitPart = Literal["train", "train+valid"]
_TEST = (Label.TEST, Label.TEST_HISTORY)
_log = logging.getLogger(__name__)


class _Labelled:
    """What a split and a sealed split share: interactions with labels, and the parts that training may see.

    Attributes:
        interactions: the log (of a sealed split: without the test part).
        name: the strategy.
        params: its settings.
        seed: of its draws; None where it draws nothing.
    """

    def __init__(
        self,
        interactions: Interactions,
        labels: Tensor,
        strategy: Strategy,
        name: str,
        seed: int | None,
    ) -> None:
        self.interactions = interactions
        self.labels = labels
        self.strategy = strategy
        self.name = name
        self.seed = seed

    @property
    def params(self) -> dict[str, Any]:
        return self.strategy.model_dump(mode="json")

    @property
    def n_users(self) -> int:
        return self.interactions.n_users

    @property
    def n_items(self) -> int:
        return self.interactions.n_items

    @property
    def users(self) -> IdMap:
        return self.interactions.users

    @property
    def items(self) -> IdMap:
        return self.interactions.items

    @cached_property
    def train(self) -> Part:
        """The training part: a row for each user of the log, empty for those held out."""
        return self._part((Label.TRAIN,))

    @cached_property
    def valid(self) -> Cases:
        """The validation cases, for stopping and tuning; their history is train."""
        return self._cases(Label.VALID, (Label.TRAIN, Label.VALID_HISTORY))

    def _has(self, labels: Iterable[Label]) -> Tensor:
        mask = torch.zeros_like(self.labels, dtype=torch.bool)
        for label in labels:
            mask |= self.labels == int(label)
        return mask

    def _part(self, labels: Iterable[Label]) -> Part:
        log = self.interactions.ordered.filter(self._has(labels))
        return Part(log.items, log.n_items, log.weights, log.times)

    def _cases(self, truth: Label, history: Iterable[Label]) -> Cases:
        asked = self.interactions.ordered.filter(self._has((truth,)))
        known = self.interactions.ordered.items.filter(self._has(history))
        wanted = asked.items.lengths > 0
        if self.strategy.new_users == "drop":
            wanted &= known.lengths > 0
        users = torch.nonzero(wanted).flatten()
        column = {"rating": asked.ratings, "weight": asked.weights, None: None}[self.strategy.grades]
        grades = None if column is None else asked.items.with_values(column).take(users).values
        return Cases(users, known.take(users), asked.items.take(users), asked.n_items, grades)


class Split(_Labelled):
    """Interactions in three parts.

    The history of a valid case is what its user did in train, that of a test case what its user did in train
    and valid. A user without history is not asked unless the strategy says so (``new_users="keep"``). Items
    that occur in no train row stay in the catalogue and in the truth.
    """

    @property
    def test(self) -> Cases:
        """The test cases; their history is train and valid."""
        check_open()
        return self._test

    @cached_property
    def _test(self) -> Cases:
        return self._cases(Label.TEST, (Label.TRAIN, Label.VALID, Label.VALID_HISTORY, Label.TEST_HISTORY))

    def fit_part(self, which: FitPart) -> Part:
        """What a model is fitted on: ``"train"``, or ``"train+valid"`` for the last fit before the test."""
        _check_which(which)
        if which == "train":
            return self.train
        return self._part((Label.TRAIN, Label.VALID, Label.VALID_HISTORY))

    @cached_property
    def hash(self) -> str:
        """64 hex digits from ids, ordered log, labels and parameters; the same on every machine."""
        head = {"name": self.name, "params": self.params, "seed": self.seed, "version": 1}
        state = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        state.update(self.users.digest())
        state.update(self.items.digest())
        log = self.interactions.ordered
        arrays = {
            "offsets": "<i8",
            "items": "<i4",
            "labels": "u1",
            "times": "<i8",
            "weights": "<f8",
            "ratings": "<f8",
        }
        values = {
            "offsets": log.items.offsets,
            "items": log.items.values,
            "labels": self.labels,
            "times": log.times,
            "weights": log.weights,
            "ratings": log.ratings,
        }
        for key, kind in arrays.items():
            array = values[key]
            if array is not None:
                state.update(f"{key}:{array.numel()}:".encode())
                state.update(np.ascontiguousarray(array.numpy(), dtype=kind).data)
        return state.hexdigest()

    def sealed(self) -> SealedSplit:
        """A handle for training, stopping and tuning, without the test rows."""
        keep = ~self._has(_TEST)
        open_log = self.interactions.masked(keep.numpy())
        return SealedSplit(open_log, self.labels[keep], self.strategy, self.name, self.seed, self.hash, lambda: self)

    def unseal(self, reason: str) -> Split:
        """Itself: nothing is sealed here."""
        return self

    def save(self, folder: str | Path) -> None:
        """Write the split; the test rows go into a file of their own in the sub-folder ``test``."""
        from recgraph.data.split_files import save_split

        save_split(self, Path(folder))

    @staticmethod
    def load(folder: str | Path, reason: str) -> Split:
        """Read a saved split with its test part; the reason is logged. See :meth:`SealedSplit.load`."""
        return SealedSplit.load(folder).unseal(reason)

    def __repr__(self) -> str:
        counts = {name: int(self._has(labels).sum()) for name, labels in _GROUPS.items()}
        shown = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        sizes = f"{self.n_users:,} users, {self.n_items:,} items"
        return f"Split({self.name}: {sizes}, {shown}, hash {self.hash[:12]})"


_GROUPS: Mapping[str, tuple[Label, ...]] = {
    "train": (Label.TRAIN,),
    "valid": (Label.VALID, Label.VALID_HISTORY),
    "test": _TEST,
}


def _check_which(which: str) -> None:
    if which not in ("train", "train+valid"):
        raise ValueError(f"which = {which!r} must be 'train' or 'train+valid'")


class SealedSplit(_Labelled):
    """A split whose test part cannot be read by mistake.

    It guards against mistakes and against code that goes through this interface, not against a program that
    searches the disk or the memory.

    Attributes:
        hash: that of the whole split.
        unsealed_reasons: the reasons given to :meth:`unseal`, in order.
    """

    def __init__(
        self,
        interactions: Interactions,
        labels: Tensor,
        strategy: Strategy,
        name: str,
        seed: int | None,
        digest: str,
        reveal: Callable[[], Split],
    ) -> None:
        super().__init__(interactions, labels, strategy, name, seed)
        self.hash = digest
        self.unsealed_reasons: list[str] = []
        self._reveal = reveal

    @property
    def test(self) -> Cases:
        """Refused.

        Raises:
            SealedTestError: always.
        """
        raise SealedTestError("the test part is sealed; unseal(reason) opens it, once all choices are made")

    def fit_part(self, which: FitPart) -> Part:
        """``"train"`` alone: a fit on train + valid is the last one, made for the test.

        Raises:
            SealedTestError: ``which`` is ``"train+valid"``.
        """
        _check_which(which)
        if which == "train+valid":
            raise SealedTestError("fitting on train+valid leaves nothing to stop or tune on; unseal(reason) first")
        return self.train

    def sealed(self) -> SealedSplit:
        """Itself."""
        return self

    def unseal(self, reason: str) -> Split:
        """The whole split. The reason is logged and remembered.

        Raises:
            ValueError: the reason is empty.
            CorruptFileError: the saved test part is damaged or was changed.
        """
        if not reason.strip():
            raise ValueError("reason = '' must say why the test part is opened")
        check_open()
        split = self._reveal()
        self.unsealed_reasons.append(reason)
        _log.warning("test part of split %s (%s) unsealed: %s", self.hash[:12], self.name, reason)
        return split

    @staticmethod
    def load(folder: str | Path) -> SealedSplit:
        """Read a saved split without touching its test file."""
        from recgraph.data.split_files import load_sealed

        return load_sealed(Path(folder))

    def __repr__(self) -> str:
        return f"SealedSplit({self.name}: {self.n_users:,} users, {self.n_items:,} items, hash {self.hash[:12]})"


def make_split(interactions: Interactions, name: str, seed: int, params: Mapping[str, Any]) -> Split:
    """Split by the strategy of that name.

    Raises:
        ValueError: no such strategy, or a parameter that it does not have or allow.
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy = {name!r} does not exist; there are {', '.join(STRATEGIES)}")
    try:
        strategy = STRATEGIES[name].of(params)
    except ConfigError as error:
        raise ConfigError(f"split {name!r}: {error}") from None
    column = strategy.grades
    if column is not None and column not in interactions.log.columns:
        raise ValueError(f"grades = {column!r}: the log has no {column}; name its column when reading")
    labels = strategy.labels(interactions, seed)
    return Split(interactions, labels, strategy, name, int(seed) if strategy.draws else None)
