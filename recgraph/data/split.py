"""The split of interactions, whole (``Split``) or without its test part (``SealedSplit``); the
seal.

A split is a value with a hash. On disk ``open.parquet`` holds the rows of train and valid,
``test/test.parquet`` those of test, ``split.json`` the strategy and the hash; ids and features lie
beside them. Who may see the test part:

- Training, early stopping and tuning get a :class:`SealedSplit`, without test rows;
  ``unseal(reason)`` opens it, once all choices are made, and the reason is logged and remembered.
- Inside :func:`without_test_data` (a fit, a trial of a study) every split and node task of the
  thread refuses its test part, whichever handle the code holds.

The seal guards against mistakes, not against a program that searches the disk or the memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.log import HEAD_OF_SPLIT, Log
from recgraph.data.part import Cases, Part, order
from recgraph.data.strategies import (
    FITTED_ON,
    GIVEN,
    GROUPS,
    Label,
    Strategy,
    sizes_of,
    strategy_of,
)
from recgraph.data.strategies import FitPart as FitPart
from recgraph.files import (
    CorruptFileError,
    check_manifest,
    read_frame,
    read_manifest,
    read_object,
    replacing_folder,
    write_frame,
    write_json,
)
from recgraph.pages import block

_OPEN, _TEST = "open.parquet", "test/test.parquet"
#: name of a column -> the type in which its values are hashed
_TYPES = {
    "offsets": "<i8",
    "items": "<i4",
    "labels": "u1",
    "times": "<i8",
    "weights": "<f8",
    "ratings": "<f8",
}
#: what the innermost block without test data is doing, or None outside of one
_doing: ContextVar[str | None] = ContextVar("recgraph_without_test_data", default=None)
_log = logging.getLogger(__name__)


class SealedTestError(RuntimeError):
    """The test part was read where it is sealed."""


@contextmanager
def without_test_data(doing: str) -> Iterator[None]:
    """Within the block every split of this thread refuses its test part; errors say what it is
    ``doing``.
    """
    token = _doing.set(doing)
    try:
        yield
    finally:
        _doing.reset(token)


def check_open() -> None:
    """Raise a SealedTestError inside a block without test data."""
    doing = _doing.get()
    if doing is not None:
        raise SealedTestError(
            f"the test part is sealed while {doing}; evaluate on it once, after all choices are made"
        )


class Interactions(Log):
    """A log of interactions: :meth:`from_frame` or :func:`recgraph.load_data` it, filter it, split
    it.

    See :class:`recgraph.data.log.Log` for the attributes and filters.
    """

    @checked
    def split(self, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any) -> Split:
        """Split into train, valid and test.

        Args:
            strategy: ``"leave-one-out"``, ``"time"``, ``"ratio"``, ``"users"``, or ``"all"``, which
                holds nothing out.
            seed: of the strategies that draw; the others ignore it.
            **params: of the strategy, see :mod:`recgraph.data.strategies`; an unknown one is an
                error.
        """
        return Split.of(self, strategy, seed=seed, **params)


@checked
def load_data(
    path: Any, *, user_features: Any = None, item_features: Any = None, **given: Any
) -> Interactions:
    """The interactions in files of one's own, as ``recgraph train --data`` reads them, or in a
    frame.

    What is not given is found out, and what was guessed is logged. Ids of text files become
    integers where each is written as one (``1000.0`` is ``1000``), else texts. A DataError says
    what is wrong, with file and row.

    Args:
        path: a file, a folder of files, or a pattern such as ``"logs/2026-*.csv"``: CSV, TSV, JSON
            (lines or one array), Parquet, RecBole's files (``.user`` and ``.item`` beside the
            ``.inter`` file become features), lines of ``user item item ...``
            (``format="sequences"``); text also packed by gzip or Zstandard. Or a frame.
        user_features, item_features: side information: files or frames.
        given: of :class:`recgraph.data.read.Reading`: the columns, how the files are written.
    """
    return Interactions.of_parts({"train": path}, user_features, item_features, **given)


def folds(
    data: Interactions,
    n_folds: int,
    strategy: str = "leave-one-out",
    *,
    seed: int = 0,
    **params: Any,
) -> list[Split]:
    """Split a log several times, each time with another test part; no interaction is in two of
    them.

    Split ``i`` is ``data.split(strategy, n_folds=n_folds, fold=i, ...)``. By ``"time"``: windows up
    to the end of the log, the newest first; ``"leave-one-out"``: each user's last interaction, then
    the one before it and so on, both without what is later; ``"ratio"`` and ``"users"``: all
    interactions, or all users, in parts at random.
    """
    return [
        data.split(strategy, seed=seed, n_folds=n_folds, fold=fold, **params)
        for fold in range(n_folds)
    ]


class _Labelled:
    """What both kinds of split share; :class:`Split` names the attributes."""

    hash: str
    _note = ""

    def __init__(
        self,
        interactions: Interactions,
        labels: Tensor,
        strategy: Strategy,
        name: str,
        seed: int | None,
    ) -> None:
        self.interactions, self.labels = interactions, labels
        self.strategy, self.name, self.seed = strategy, name, seed
        self.users, self.items = interactions.users, interactions.items
        self.n_users, self.n_items = len(self.users), len(self.items)
        self.params: dict[str, Any] = strategy.model_dump(mode="json")
        self.facts = ""
        if strategy.facts:
            self.facts = json.dumps(strategy.facts, sort_keys=True)

    @cached_property
    def train(self) -> Part:
        """The training part: a row for each user of the log, empty for those held out."""
        return self._part(Label.TRAIN)

    @cached_property
    def valid(self) -> Cases:
        """The validation cases, for stopping and tuning; their history is train."""
        return self._cases(Label.VALID, Label.TRAIN, Label.VALID_HISTORY)

    def _part(self, *labels: Label) -> Part:
        mask = torch.isin(self.labels, torch.tensor(labels, dtype=torch.uint8))
        return self.interactions.ordered.part.filter(mask)

    def _cases(self, truth: Label, *history: Label) -> Cases:
        targets, past = self._part(truth), self._part(*history)
        wanted = targets.items.lengths > 0
        if self.strategy.new_users == "drop":
            wanted &= past.items.lengths > 0
        users = torch.nonzero(wanted).flatten()
        columns = {"rating": targets.ratings, "weight": targets.weights, None: None}
        times = None if past.times is None else past.items.with_values(past.times)
        cases = Cases(
            torch.arange(self.n_users),
            past.items,
            targets.items,
            targets.n_items,
            grades=columns[self.strategy.grades],
            times=times,
        ).take(users)
        if targets.times is not None:
            cases = replace(cases, at=targets.times[targets.items.offsets[users]])
        return cases

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return sizes_of(self.labels)

    @property
    def _known_hash(self) -> str:
        """The beginning of the hash; empty where it was not computed yet, which takes a pass over
        the log.
        """
        return f"{vars(self).get('hash', '')}"[:12]

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self._sizes.items())
        if self._known_hash:
            counts += f", hash {self._known_hash}"
        return f"{type(self).__name__}({self.name}: {self.n_users:,} users, {self.n_items:,} items, {counts})"

    def _repr_html_(self) -> str:
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            **self._sizes,
            "settings": self.params,
            "seed": self.seed,
            "hash": self._known_hash or None,
        }
        return block(f"{type(self).__name__} {self.name}", facts, note=self._note)

    def _rows(self) -> pl.DataFrame:
        """The log by user and time, with the column ``label``."""
        return order(self.interactions.log).with_columns(pl.Series("label", self.labels.numpy()))

    def _save(self, opened: pl.DataFrame, test: pl.DataFrame | None, folder: Path) -> None:
        """Write all but the log, and ``split.json``; an earlier split, or log, in the folder is
        replaced.
        """
        with replacing_folder(folder) as new:
            write_frame(opened, new / _OPEN)
            if test is not None:
                write_frame(test, new / _TEST)
            self.interactions.write_all_but_log(new)
            head = {"name": self.name, "params": self.params, "seed": self.seed, "hash": self.hash}
            write_json(head, new / HEAD_OF_SPLIT)


class Split(_Labelled):
    """Interactions in three parts.

    The history of a valid case is what its user did in train, that of a test case what its user did
    in train and valid. Users without history are not evaluated unless the strategy says so
    (``new_users="keep"``). Items that occur in no train row stay in the catalogue and in the truth.

    Attributes:
        interactions: the log (of a sealed split: without the test part).
        labels: [T] uint8, the :class:`~recgraph.data.strategies.Label` of each row of
            ``interactions.ordered``.
        strategy, name, params: the strategy with its settings, its name, and the settings.
        seed: of its draws; None where it draws nothing.
        facts: what protocols say of the parts beside the hash, as JSON.
    """

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        strategy: str = "leave-one-out",
        *,
        seed: int = 0,
        **params: Any,
    ) -> Split:
        """Split a log; see :meth:`Interactions.split`."""
        applied, labels = strategy_of(strategy, params).applied(interactions, seed)
        return cls(interactions, labels, applied, strategy, int(seed) if applied.draws else None)

    @classmethod
    @checked
    def from_parts(
        cls,
        train: Any,
        valid: Any = None,
        test: Any = None,
        *,
        seed: int = 0,
        user_features: Any = None,
        item_features: Any = None,
        split: Mapping[str, Any] | None = None,
        **reading: Any,
    ) -> Split:
        """The parts as others have made them, as the strategy ``"given"``
        (:class:`recgraph.data.strategies.Given`).

        What is odd of them is logged and kept in ``params["found"]``.

        Args:
            train, valid, test: each as files (path, folder, pattern), as a frame, or as a scipy
                sparse matrix or its ``.npz`` file, whose rows are users, columns items, and entries
                interactions. Without ``valid`` a tenth of each user's train interactions is drawn
                by ``seed``; without ``test`` nothing can be tested.
            user_features, item_features: side information: files or frames, one row an id.
            split: settings of the strategy, e.g. ``{"valid": 0.2}``.
            reading: how they are read, as of :func:`recgraph.load_data`.
        """
        if valid is None and test is None:
            raise ValueError("train alone is given; give valid= or test=, or both")
        parts = {"train": train, "valid": valid, "test": test}
        log = Interactions.of_parts(parts, user_features, item_features, **reading)
        return cls.of(log, GIVEN, seed=seed, **(split or {}))

    @property
    def test(self) -> Cases:
        """The test cases; their history is train and valid."""
        check_open()
        return self._test

    @cached_property
    def _test(self) -> Cases:
        return self._cases(Label.TEST, Label.TRAIN, *GROUPS["valid"], Label.TEST_HISTORY)

    def fit_part(self, which: FitPart) -> Part:
        """What a model is fitted on: ``"train"``; ``"train+valid"`` for the last fit before the
        test; ``"all"`` for the fit that serves, of which no part can be evaluated, and which a
        block without test data refuses."""
        if which == "all":
            check_open()
        return self.train if which == "train" else self._part(*FITTED_ON[which])

    @cached_property
    def hash(self) -> str:  # type: ignore[override]
        """64 hex digits from ids, ordered log, labels and parameters; the same on every machine."""
        head = {"name": self.name, "params": self.params, "seed": self.seed, "version": 1}
        state = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        state.update(self.users.digest())
        state.update(self.items.digest())
        log = self.interactions.ordered
        columns = {
            "offsets": log.items.offsets,
            "items": log.items.values,
            "labels": self.labels,
            "times": log.times,
            "weights": log.weights,
            "ratings": log.ratings,
        }
        for name, values in columns.items():
            if values is not None:
                state.update(f"{name}:{values.numel()}:".encode())
                state.update(np.ascontiguousarray(values.numpy(), dtype=_TYPES[name]).data)
        return state.hexdigest()

    def sealed(self) -> SealedSplit:
        """A handle for training, stopping and tuning, without the test rows."""
        test = torch.tensor(GROUPS["test"], dtype=torch.uint8)
        keep_mask = torch.isin(self.labels, test, invert=True).numpy()
        return SealedSplit(
            self.interactions.masked(keep_mask),
            torch.from_numpy(self.labels.numpy()[keep_mask]),
            self.strategy,
            self.name,
            self.seed,
            digest=self.hash,
            reveal=lambda: self,
        )

    def unseal(self, reason: str) -> Split:
        """Itself: nothing is sealed here."""
        return self

    def save(self, folder: str | Path) -> None:
        """Write the split; the test rows go into a file of their own in the sub-folder ``test``."""
        rows = self._rows()
        is_test = pl.col("label").is_in(list(map(int, GROUPS["test"])))
        self._save(rows.filter(~is_test), rows.filter(is_test), Path(folder))

    @staticmethod
    @checked
    def load(folder: str | Path, reason: str) -> Split:
        """Read a saved split with its test part; the reason is logged. See
        :meth:`SealedSplit.load`.
        """
        return SealedSplit.load(folder).unseal(reason)


class SealedSplit(_Labelled):
    """A split whose test part cannot be read by mistake; :mod:`recgraph.data.split` says who may
    see it.

    Attributes:
        hash: that of the whole split.
        unsealed_reasons: the reasons given to :meth:`unseal`, in order.
    """

    _note = "The test part is sealed."

    def __init__(self, *args: Any, digest: str, reveal: Callable[[], Split] | None) -> None:
        super().__init__(*args)
        self.hash, self._reveal = digest, reveal
        self.unsealed_reasons: list[str] = []

    @cached_property
    def _sizes(self) -> dict[str, int]:
        sizes = sizes_of(self.labels)
        del sizes["test"]
        return sizes

    @property
    def test(self) -> Cases:
        """Refused: always a SealedTestError."""
        raise SealedTestError(
            "the test part is sealed; unseal(reason) opens it, once all choices are made"
        )

    def fit_part(self, which: FitPart) -> Part:
        """``"train"`` alone: a fit on more is the last one, made for the test or for serving."""
        if which != "train":
            raise SealedTestError(
                f"fitting on {which} leaves nothing to stop or tune on; unseal(reason) first"
            )
        return self.train

    def sealed(self) -> SealedSplit:
        """Itself."""
        return self

    @checked
    def unseal(self, reason: str) -> Split:
        """The whole split. The reason, which may not be empty, is logged and remembered.

        A SealedTestError where this copy cannot be unsealed, or in a block without test data.
        """
        if not reason.strip():
            raise ValueError(f"reason = {reason!r} must say why the test part is opened")
        check_open()
        if self._reveal is None:
            raise SealedTestError(
                "this copy of the split holds no test part; unseal the split that it was made from"
            )
        split = self._reveal()
        self.unsealed_reasons.append(reason)
        _log.warning("test part of split %s (%s) unsealed: %s", self.hash[:12], self.name, reason)
        return split

    def without_test(self) -> SealedSplit:
        """A copy that cannot be unsealed: what the trials of a study are given."""
        return SealedSplit(
            self.interactions,
            self.labels,
            self.strategy,
            self.name,
            self.seed,
            digest=self.hash,
            reveal=None,
        )

    def save(self, folder: str | Path) -> None:
        """:meth:`Split.save` without test rows, an older split's, too: a copy loaded from there has
        none to unseal.
        """
        self._save(self._rows(), None, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> SealedSplit:
        """Read a saved split; ``unseal`` alone opens its test file. A CorruptFileError where a file
        is damaged.
        """
        folder = Path(folder)
        check_manifest(folder, but=(_TEST,))
        head = read_object(folder / HEAD_OF_SPLIT)
        rows = read_frame(folder / _OPEN)
        frame, labels = _log_and_labels(rows)
        log = Interactions.load_with(frame, folder)
        strategy, name, seed = strategy_of(head["name"], head["params"]), head["name"], head["seed"]

        def reveal() -> Split:
            path = folder / _TEST
            check_manifest(folder, only=(_TEST,))
            frame, labels = _log_and_labels(pl.concat([rows, read_frame(path)]))
            split = Split(replace(log, log=frame), labels, strategy, name, seed)
            if split.hash != head["hash"]:
                raise CorruptFileError(
                    "the rows do not give the hash of the split; it was changed", path=path
                )
            return split

        has_test = _TEST in read_manifest(folder)
        return SealedSplit(
            log,
            labels,
            strategy,
            name,
            seed,
            digest=head["hash"],
            reveal=reveal if has_test else None,
        )


def _log_and_labels(rows: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
    """The log in the order of its rows, and the labels in that of ``Interactions.ordered``."""
    rows = order(rows)
    labels = torch.from_numpy(rows["label"].cast(pl.UInt8).to_numpy(writable=True))
    return rows.drop("label").sort("row"), labels
