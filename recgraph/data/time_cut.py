"""The split strategy ``"time"``: one cut of time for all users."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import BeforeValidator, ConfigDict, model_validator
from torch import Tensor

from recgraph.config import Added
from recgraph.data.columns import duration, instant
from recgraph.data.folded import Shares, whole
from recgraph.data.labels import GROUPS, Label
from recgraph.data.log import InteractionLog
from recgraph.data.targets import Targets, with_targets, without_unknown

__all__ = ["TimeCut"]

_log = logging.getLogger(__name__)

_IN_UNIT = "is it in the unit of the log's timestamps?"


def _plain(value: object) -> object:
    """Scalars of numpy as Python's: pydantic would read an integer of numpy as a float, and round it."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else value.astype("datetime64[us]").item()
    return value.item() if isinstance(value, np.number) else value


def _moment(value: object) -> object:
    made = _plain(value)
    if made is None or (isinstance(made, dt.date) and made != made):  # pandas' NaT, at which pydantic fails
        raise ValueError("it is no moment")
    if isinstance(made, bool) or not isinstance(made, int | float | str | dt.date):
        raise ValueError("give a number in the unit of the log's times, a date, a datetime or an ISO 8601 text")
    return made


def _length(value: object) -> object:
    made = _plain(value)
    if isinstance(made, bool) or not (made is None or isinstance(made, int | float | str)):
        raise ValueError("give a text such as '14D', or a number in the unit of the log's times")
    return made


Moment = Annotated[int | float | str | dt.datetime | dt.date, BeforeValidator(_moment)]


class TimeCut(Shares):
    """One cut of time for all users: train before valid before test.

    The test parts of folds are windows that follow one another up to the end of the log, fold 0 the newest. Each has
    the share ``test`` of all interactions, or with ``test_from`` the length of the time from there to the end, or the
    length ``window``; its valid part lies before it, and what comes after it is in no part.

    Args:
        valid, test: shares of all interactions. The cuts are the times at these quantiles; interactions at the very
            instant of a cut belong to the later part, so that a share may come out larger.
        valid_from, test_from: instants instead of shares: numbers in the unit in which the log's times came in, or
            dates and ISO 8601 texts where the log has dates (or seconds with fractions). Both or none.
        window: a length of time instead of either, of the test part and of the valid part before it: ``"14D"``
            (``W``, ``D``, ``h``, ``min``, ``s``) where the log has dates (or seconds with fractions), a number in their
            unit where its times came in as numbers. The newest window ends with the log's last interaction.
        targets: what is asked of a user who did something after the cut: ``"all"`` of it as one set, with what was
            known at the cut; or one interaction, the ``"last"``, the ``"first"`` or one at ``"random"`` (seeded), with
            what the user had done by then: what came before it after the cut is history, and what came after it is
            asked of nobody. Nothing at or after a cut is trained on. As in Time-to-Split (RecSys 2025).
        unknown_items: ``"drop"`` leaves interactions of items that no earlier part has out of valid and test, before
            targets are chosen; ``"keep"``: they are misses of models without item features.
        new_users: users without history are not evaluated (``"drop"``; their interactions stay in their part), or
            evaluated with an empty history (``"keep"``).
    """

    # infinities and NaN are moments of no log, which is said of the unit, too
    model_config = ConfigDict(allow_inf_nan=True)

    valid_from: Moment | None = None
    test_from: Moment | None = None
    window: Annotated[int | float | str | None, BeforeValidator(_length), Added()] = None
    targets: Annotated[Targets, Added()] = "all"
    unknown_items: Annotated[Literal["keep", "drop"], Added()] = "keep"

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.valid_from is None) != (self.test_from is None):
            raise ValueError("valid_from and test_from are given both or not at all")
        if self.window is not None and self.valid_from is not None:
            raise ValueError(f"window = {self.window!r} and valid_from both set the cuts: leave out one of them")
        if self.window is not None and not self._has_default_shares:
            raise ValueError(f"{self._shares}, and window = {self.window!r} is a length of time: leave out one of them")
        return self

    @model_validator(mode="after")
    def _train_before_all_folds(self) -> Self:
        if self.n_folds is not None and self._asked and self.valid + self.n_folds * self.test >= 1:
            raise ValueError(
                f"valid = {self.valid:g} and test = {self.test:g} of n_folds = {self.n_folds} windows leave nothing to "
                "train on: give fewer folds or smaller shares"
            )
        return self

    @property
    def _asked(self) -> dict[Label, float]:
        return super()._asked if self.valid_from is None and self.window is None else {}

    @property
    def _shares(self) -> str:
        return f"valid = {self.valid:g} and test = {self.test:g} are shares"

    @property
    def _has_default_shares(self) -> bool:
        return (self.valid, self.test) == tuple(type(self).model_fields[name].default for name in ("valid", "test"))

    @property
    def draws(self) -> bool:
        return self.targets == "random"

    @property
    def is_by_user(self) -> bool:
        is_whole = self.valid_from is None or self.n_folds is not None
        return not is_whole and not self.draws and self.unknown_items == "keep"

    def _facts(self) -> dict[str, int | str]:
        if self.targets == "all" and self.unknown_items == "keep":
            return super()._facts()
        return {**super()._facts(), "targets": self.targets, "unknown_items": self.unknown_items}

    def labels_of_users(self, interactions: InteractionLog, seed: int) -> Tensor:
        times = interactions.ordered.times
        if times is None:
            raise ValueError("a split by time needs timestamps: name their column when reading (timestamp=..., --time)")
        labels = torch.full_like(times, int(Label.TRAIN), dtype=torch.uint8)
        parts = (Label.VALID, Label.TEST, Label.TEST_LEFT)
        for start, label in zip(self._cuts(times, interactions), parts, strict=False):
            labels[times >= start] = int(label)
        if self.unknown_items == "drop":
            labels = without_unknown(interactions.ordered, labels)
        return with_targets(interactions.ordered, labels, self.targets, seed)

    def check_counts(self, counts: Mapping[Label, int]) -> None:
        if self.window is not None and not (counts[Label.TEST] and counts[Label.VALID]):
            which = "the log" if self.fold is None else f"fold = {self.fold} of n_folds = {self.n_folds}"
            part = "valid" if counts[Label.TEST] else "test"
            raise ValueError(
                f"window = {self.window!r}: the {part} part of {which} has no interaction: give a longer window, or "
                "fewer folds"
            )
        if not counts[Label.TRAIN]:
            if self.valid_from is None:
                message = f"valid = {self.valid:g} and test = {self.test:g} leave nothing to train on: "
                raise ValueError(message + "too many interactions are at the very instant of the cut")
            raise ValueError(
                f"valid_from = {self.valid_from!r} leaves nothing to train on: no interaction is before it; {_IN_UNIT}"
            )
        if self.valid_from is not None:
            self._check_instants(counts)
        super().check_counts(counts)

    def _check_instants(self, counts: Mapping[Label, int]) -> None:
        n_valid, n_test = (sum(counts[label] for label in GROUPS[name]) for name in ("valid", "test"))
        if not n_test:
            raise ValueError(
                f"test_from = {self.test_from!r} leaves nothing to test: no interaction is at or after it; {_IN_UNIT}"
            )
        if not n_valid and self.valid_from != self.test_from:
            _log.warning(
                "the valid part holds no interaction: none is from valid_from = %r to before test_from = %r",
                *(self.valid_from, self.test_from),
            )

    def _cuts(self, times: Tensor, interactions: InteractionLog) -> tuple[int, ...]:
        """Where valid and test begin, and of a fold what comes after its test."""
        if self.valid_from is not None and self.test_from is not None:
            # here and not where the settings are read, so that splits saved with both are still read
            if not self._has_default_shares:
                raise ValueError(f"{self._shares}: leave them out, or leave out valid_from and test_from")
            unit = interactions.time_unit
            cuts = instant("valid_from", self.valid_from, unit), instant("test_from", self.test_from, unit)
            if cuts[0] > cuts[1]:
                raise ValueError(f"valid_from = {self.valid_from!r} must not lie after test_from = {self.test_from!r}")
            return cuts if self.fold is None else self._windows(*cuts, times)
        if self.window is not None:
            return self._windows_of(duration("window", self.window, interactions.time_unit), times)
        ordered = times.sort().values
        count = times.numel()
        n_test = whole(self.test * count)
        end = count - n_test * (self.fold or 0)
        places = (end - n_test - whole(self.valid * count), end - n_test, *((end,) if self.fold else ()))
        # one past the last time is a cut that leaves nothing
        return tuple(int(ordered[-1]) + 1 if place >= count else int(ordered[place]) for place in places)

    def _windows(self, valid_from: int, test_from: int, times: Tensor) -> tuple[int, ...]:
        """The cuts of the newest fold moved back to those of this one."""
        assert self.n_folds is not None
        assert self.fold is not None
        first, end = int(times.min()), int(times.max()) + 1
        length = end - test_from
        if length <= 0 or valid_from - (self.n_folds - 1) * length <= first:
            raise ValueError(
                f"n_folds = {self.n_folds}: the log is too short for so many windows of the time from test_from = "
                f"{self.test_from!r} to its end, which need something to train on before them; give fewer folds or a "
                "later test_from, which is not after the end"
            )
        later = self.fold * length
        return valid_from - later, test_from - later, end - later

    def _windows_of(self, length: int, times: Tensor) -> tuple[int, ...]:
        """The cuts of windows of a length that follow one another up to the end of the log."""
        first, last = int(times.min()), int(times.max())
        n_windows = (self.n_folds or 1) + 1  # each fold's, and the valid part of the oldest
        if last + 1 - n_windows * length <= first:
            raise ValueError(
                f"window = {self.window!r} is too long: {n_windows} windows, of the valid part too, leave nothing to "
                f"train on; the log spans {(last - first) / length:.3g} of them: give a shorter window, or fewer folds"
            )
        end = last + 1 - (self.fold or 0) * length
        return (end - 2 * length, end - length, *((end,) if self.fold else ()))
