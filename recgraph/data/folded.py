"""Folds of cross-validation, and shares of the log: what several split strategies have in common."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from recgraph.config import Added
from recgraph.data.labels import Label, Share, Strategy

__all__ = ["Folded", "SharedOut", "Shares", "whole"]

_log = logging.getLogger(__name__)


class Folded(Strategy):
    """Base of the strategies with folds of cross-validation: test parts that do not overlap, one of them in a split.

    Args:
        n_folds: how many there are; None: the split is a single one.
        fold: the one that is tested, from 0.
    """

    n_folds: Annotated[int | None, Field(ge=2), Added()] = None
    fold: Annotated[int | None, Field(ge=0), Added()] = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.n_folds is None and self.fold is not None:
            raise ValueError(f"fold = {self.fold} needs n_folds, the number of folds; give both or none")
        if self.n_folds is not None and (self.fold is None or self.fold >= self.n_folds):
            which = f"a fold, and fold = {self.fold}" if self.fold is not None else "a fold, which is not given"
            raise ValueError(f"n_folds = {self.n_folds} needs {which}: give fold = 0 to {self.n_folds - 1}")
        return self

    @property
    def facts(self) -> str:
        return json.dumps(found, sort_keys=True) if (found := self._facts()) else ""

    def _facts(self) -> dict[str, int | str]:
        """:attr:`facts` as JSON values."""
        return {} if self.n_folds is None or self.fold is None else {"fold": self.fold, "n_folds": self.n_folds}

    def check_counts(self, counts: Mapping[Label, int]) -> None:
        if self.n_folds is not None and not counts[Label.TEST]:
            raise ValueError(
                f"fold = {self.fold} of n_folds = {self.n_folds} tests no interaction: the log is too short for so "
                "many folds; give a smaller n_folds, or larger test parts"
            )


class Shares(Folded):
    """Base of the strategies that give shares of the log to valid and test."""

    valid: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _leave_something(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g} must leave something to train on")
        return self

    @property
    def _asked(self) -> dict[Label, float]:
        """The shares of the parts that are made by them."""
        return {Label.VALID: self.valid, Label.TEST: self.test}

    def check_counts(self, counts: Mapping[Label, int]) -> None:
        super().check_counts(counts)
        for label, share in self._asked.items():
            if share > 0 and not counts[label]:
                part = label.name.lower()
                _log.warning(
                    "%s = %g: the share of this log that is the %s part holds no interaction; give a larger one, or "
                    "%s=0 where the part is not wanted",
                    *(part, share, part, part),
                )


class SharedOut(Shares):
    """Base of those whose folds, of the test share 1 / ``n_folds`` unless it is given, test everything once."""

    @model_validator(mode="before")
    @classmethod
    def _test_everything(cls, values: Any) -> Any:
        try:
            return {"test": 1 / int(values["n_folds"]), **values}
        except (KeyError, TypeError, ValueError, ArithmeticError):  # no folds, or a wrong number, which is an error
            return values

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        if self.n_folds is not None and self.n_folds * self.test > 1 + 1e-9:
            raise ValueError(
                f"test = {self.test:g} of n_folds = {self.n_folds} test parts comes to more than all: leave test out "
                f"(each is {1 / self.n_folds:.3g}), or give a smaller one"
            )
        return self


def whole(x: float) -> int:
    """The integer below a share of a count, where the share is not exact."""
    return int(np.floor(x + 1e-9))
