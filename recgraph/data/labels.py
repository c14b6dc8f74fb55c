"""What a split strategy is: it gives every interaction of an ordered log a label, train, valid or test."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config
from recgraph.data.file_order import warn_if_sorted
from recgraph.data.log import InteractionLog
from recgraph.data.part import OrderedLog
from recgraph.rng import numpy_generator

__all__ = ["GROUPS", "Label", "Share", "Strategy", "occur", "random_ranks", "share_of", "sizes_of"]

Share = Annotated[float, Field(ge=0, lt=1)]


class Label(IntEnum):
    """The part that an interaction belongs to."""

    TRAIN = 0
    VALID = 1
    TEST = 2
    #: the known history of a user held out for valid or test
    VALID_HISTORY = 3
    TEST_HISTORY = 4
    #: what of valid or test is neither asked for nor known to the user's case
    VALID_LEFT = 5
    TEST_LEFT = 6


#: part of a split -> the labels of its rows
GROUPS: Mapping[str, tuple[Label, ...]] = {
    "train": (Label.TRAIN,),
    "valid": (Label.VALID, Label.VALID_HISTORY, Label.VALID_LEFT),
    "test": (Label.TEST, Label.TEST_HISTORY, Label.TEST_LEFT),
}
_LEFT = (Label.VALID_LEFT, Label.TEST_LEFT)


class Strategy(Config):
    """Base of the strategies."""

    #: whether users without history are evaluated: not at all, or with an empty history
    new_users: Literal["drop", "keep"] = "drop"
    #: the column whose values are the relevance grades of the truth, or None (all relevant items count the same)
    grades: Literal["rating", "weight"] | None = None

    @property
    def draws(self) -> bool:
        """Whether the seed matters."""
        return False

    @property
    def is_by_user(self) -> bool:
        """Whether the label of an interaction depends on its user's interactions alone, and on no draw."""
        return False

    @property
    def reads_order(self) -> bool:
        """Whether the label of an interaction depends on what came before it."""
        return False

    def resolved(self, lengths: Tensor) -> Self:
        """The strategy with the settings that it has for this log: those that its split is hashed and kept with.

        Args:
            lengths: [n_users] how many interactions each user has.
        """
        return self

    def check_columns(self, names: Collection[str]) -> None:
        """Refuse a log without the column of the grades."""
        if self.grades is not None and self.grades not in names:
            raise ValueError(f"grades = {self.grades!r}: the log has no {self.grades}; name its column when reading")

    def applied(self, interactions: InteractionLog, seed: int) -> tuple[Self, Tensor]:
        """The strategy as it is kept with the split of this log, and :meth:`labels`."""
        made = self.resolved(interactions.ordered.items.lengths)
        made.check_columns(interactions.log.columns)
        if made.reads_order:
            warn_if_sorted(interactions)
        return made, made.labels(interactions, seed)

    @property
    def facts(self) -> str:
        """What a protocol says of the parts beside the hash of the split, as JSON; empty where there is nothing."""
        return ""

    def labels(self, interactions: InteractionLog, seed: int) -> Tensor:
        """[T] uint8: the :class:`Label` of each interaction of ``interactions.ordered``."""
        labels = self.labels_of_users(interactions, seed)
        counts = torch.bincount(labels, minlength=len(Label)).tolist()
        self.check_counts({label: counts[label] for label in Label})
        return labels

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        """:meth:`labels` of a log that may hold some of the users alone, where :attr:`is_by_user`."""
        raise NotImplementedError

    def check_counts(self, counts: Mapping[Label, int]) -> None:
        """Raise ``ValueError`` where the numbers of interactions with each label make no usable split."""


def sizes_of(labels: Tensor) -> dict[str, int]:
    """The interactions in each part, and how many are left out, where some are."""
    counts = torch.bincount(labels, minlength=len(Label)).tolist()
    left = sum(counts[label] for label in _LEFT)
    sizes = {name: sum(counts[label] for label in own if label not in _LEFT) for name, own in GROUPS.items()}
    return {**sizes, "left out": left} if left else sizes


def occur(values: Tensor, among: Tensor, n: int) -> Tensor:
    """[T] bool: whether a value is one of those where ``among`` [T] is True; ``n`` is above all values."""
    there = torch.zeros(n, dtype=torch.bool)
    there[values[among]] = True
    return there[values]


def share_of(lengths: Tensor, share: float) -> Tensor:
    """The share of each length, rounded down."""
    return torch.floor(lengths.to(torch.float64) * share + 1e-9).to(torch.int64)


def random_ranks(log: OrderedLog, seed: int, stream: str) -> Tensor:
    """[T] int64: a random permutation of the places of each row."""
    draws = numpy_generator(seed, "split", stream).random(log.n_interactions)
    order = np.lexsort((draws, log.items.rows.numpy()))
    ranks = torch.empty(log.n_interactions, dtype=torch.int64)
    ranks[torch.from_numpy(order)] = log.items.positions
    return ranks
