"""A split into train, valid and test, whole (``Split``) or without its test part (``SealedSplit``).

A split is a value with a hash. On disk ``open.parquet`` holds the rows of train and valid, ``test/test.parquet`` those
of test, ``split.json`` the strategy and the hash; ids and features lie beside them. Who may see the test part:
:mod:`recgraph.data.sealing`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor

from recgraph.config import checked
from recgraph.data.dataframe import FrameKind, frame_kind, names_of, table_of
from recgraph.data.errors import CorruptFileError
from recgraph.data.ids import IdMap
from recgraph.data.log import HEAD_OF_SPLIT, InteractionLog, encode
from recgraph.data.log_file import LogFile, given_apart
from recgraph.data.part import Cases, OrderedLog, Part, kept, order
from recgraph.data.reading import Reading
from recgraph.data.sealing import SealedTestError, check_open, refuse_to_unseal
from recgraph.data.strategies import GIVEN, GROUPS, STRATEGIES, Label, Strategy, sizes_of, strategy_of
from recgraph.files import (
    check_file,
    check_manifest,
    read_frame,
    read_manifest,
    read_object,
    reading,
    replacing_folder,
    write_frame,
    write_json,
)
from recgraph.pages import block

__all__ = ["GIVEN", "SealedSplit", "SealedTestError", "Split"]

FitPart = Literal["train", "train+valid", "all"]
_OPEN, _TEST = "open.parquet", "test/test.parquet"
_PARTS = ("train", "valid", "test")
#: name of a column -> the type in which its values are hashed
_TYPES = {"offsets": "<i8", "items": "<i4", "labels": "u1", "times": "<i8", "weights": "<f8", "ratings": "<f8"}
_log = logging.getLogger(__name__)


class _Labelled:
    """What both kinds of split share: labelled interactions, and the parts that training may see.

    Attributes:
        interactions: the log (of a sealed split: without the test part).
        labels: [T] uint8, the :class:`~recgraph.data.strategies.Label` of each row of ``interactions.ordered``.
        strategy: the strategy with its settings.
        name: of the strategy.
        seed: of its draws; None where it draws nothing.
    """

    hash: str
    #: of a fold: a hash of the log alone, which all folds share; empty where there are none, or where it is not known
    log_hash: str

    def __init__(
        self, interactions: InteractionLog, labels: Tensor, strategy: Strategy, name: str, seed: int | None
    ) -> None:
        self.interactions = interactions
        self.labels = labels
        self.strategy = strategy
        self.name = name
        self.seed = seed

    @property
    def params(self) -> dict[str, Any]:
        """The settings of the strategy."""
        return self.strategy.identity()

    @property
    def facts(self) -> str:
        """What protocols say of the parts beside the hash, as JSON; empty where there is nothing."""
        return self.strategy.facts

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
        """[T] bool: whether a row has one of the labels."""
        mask = torch.zeros_like(self.labels, dtype=torch.bool)
        for label in labels:
            mask |= self.labels == int(label)
        return mask

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """The interactions in each part that there are rows of; counted once."""
        sizes = sizes_of(self.labels)
        return sizes if isinstance(self, Split) else {name: n for name, n in sizes.items() if name != "test"}

    def _repr_html_(self) -> str:
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            **self._sizes,
            "settings": self.params or None,
            "seed": self.seed,
            "hash": self._known_hash or None,
        }
        note = "" if isinstance(self, Split) else "The test part is sealed."
        return block(f"{type(self).__name__} {self.name}", facts, note=note)

    @property
    def _known_hash(self) -> str:
        """The beginning of the hash; empty where it was not computed yet, which takes a pass over the log."""
        return f"{vars(self).get('hash', '')}"[:12]

    def _part(self, labels: Iterable[Label]) -> Part:
        return self.interactions.ordered.part.filter(self._has(labels))

    def _cases(self, truth: Label, history: Iterable[Label]) -> Cases:
        asked, past = self._part((truth,)), self._part(history)
        wanted = asked.items.lengths > 0
        if self.strategy.new_users == "drop":
            wanted &= past.items.lengths > 0
        users = torch.nonzero(wanted).flatten()
        column = {"rating": asked.ratings, "weight": asked.weights, None: None}[self.strategy.grades]
        grades = None if column is None else asked.items.with_values(column).take(users).values
        times = None if past.times is None else past.items.with_values(past.times).take(users)
        return Cases(users, past.items.take(users), asked.items.take(users), asked.n_items, grades, times)

    def _rows(self) -> pl.DataFrame:
        """The log by user and time, with the column ``label``."""
        return order(self.interactions.log).with_columns(pl.Series("label", self.labels.numpy()))

    def _save(self, opened: pl.DataFrame, test: pl.DataFrame | None, folder: Path) -> None:
        """Write all but the log, and ``split.json``; an earlier split, or log, in the folder is replaced."""
        with replacing_folder(folder) as new:
            write_frame(opened, new / _OPEN)
            if test is not None:
                write_frame(test, new / _TEST)
            self.interactions.write_all_but_log(new)
            head = {"name": self.name, "params": self.params, "seed": self.seed, "hash": self.hash}
            write_json({**head, "log_hash": self.log_hash}, new / HEAD_OF_SPLIT)


class Split(_Labelled):
    """Interactions in three parts.

    The history of a valid case is what its user did in train, that of a test case what its user did in train and valid.
    Users without history are not asked unless the strategy says so (``new_users="keep"``). Items that occur in no train
    row stay in the catalogue and in the truth.
    """

    @classmethod
    def of(
        cls, interactions: InteractionLog, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any
    ) -> Split:
        """Split a log; see :meth:`recgraph.data.interactions.Interactions.split`."""
        made, labels = strategy_of(strategy, params).applied(interactions, seed)
        return cls(interactions, labels, made, strategy, int(seed) if made.draws else None)

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
        """The parts as others have made them, as the strategy ``"given"`` (:class:`recgraph.data.strategies.Given`).

        What is odd of them is logged and kept in ``params["found"]``.

        Args:
            train, valid, test: each as files (path, folder, pattern), as a frame, or as a scipy sparse matrix or its
                ``.npz`` file, whose rows are users, columns items, and entries interactions. Without ``valid`` a tenth
                of each user's train interactions is drawn by ``seed``; without ``test`` nothing can be tested.
            user_features, item_features: side information: files or frames, one row an id.
            split: settings of the strategy, e.g. ``{"valid": 0.2}``.
            reading: how they are read, as of :func:`recgraph.load_data`.

        Raises:
            ValueError: no train, nothing beside it, a setting that does not exist, or what is wrong with a part.
        """
        log = _read_parts(
            (train, valid, test), {"user_features": user_features, "item_features": item_features}, reading
        )
        return cls.of(log, GIVEN, seed=seed, **(split or {}))

    @property
    def test(self) -> Cases:
        """The test cases; their history is train and valid."""
        check_open()
        return self._test

    @cached_property
    def _test(self) -> Cases:
        return self._cases(Label.TEST, (Label.TRAIN, *GROUPS["valid"], Label.TEST_HISTORY))

    def fit_part(self, which: FitPart) -> Part:
        """What a model is fitted on.

        Args:
            which: ``"train"``; ``"train+valid"`` for the last fit before the test; ``"all"`` for the fit that serves,
                of which no part can be evaluated, and which a block without test data refuses (SealedTestError).
        """
        _check_which(which)
        if which != "all":
            return self.train if which == "train" else self._part((Label.TRAIN, *GROUPS["valid"]))
        check_open()
        return self._part(Label)

    @cached_property
    def hash(self) -> str:  # type: ignore[override]
        """64 hex digits from ids, ordered log, labels and parameters; the same on every machine."""
        head = {"name": self.name, "params": self.params, "seed": self.seed}
        return _hash(head, self.users, self.items, self.interactions.ordered, self.labels)

    @cached_property
    def log_hash(self) -> str:  # type: ignore[override]
        if "n_folds" not in self.params:
            return ""
        return _hash({}, self.users, self.items, self.interactions.ordered)

    def sealed(self) -> SealedSplit:
        """A handle for training, stopping and tuning, without the test rows."""
        keep_mask = ~self._has(GROUPS["test"])
        log, labels = self.interactions.masked(keep_mask.numpy()), kept(self.labels, keep_mask)
        return SealedSplit(log, labels, self.strategy, self.name, self.seed, self.hash, lambda: self, self.log_hash)

    def unseal(self, reason: str) -> Split:
        """Itself: nothing is sealed here."""
        return self

    def save(self, folder: str | Path) -> None:
        """Write the split; the test rows go into a file of their own in the sub-folder ``test``."""
        rows = self._rows()
        is_test = pl.col("label").is_in([int(label) for label in GROUPS["test"]])
        self._save(rows.filter(~is_test), rows.filter(is_test), Path(folder))

    @staticmethod
    @checked
    def load(folder: str | Path, reason: str) -> Split:
        """Read a saved split with its test part; the reason is logged. See :meth:`SealedSplit.load`."""
        return SealedSplit.load(folder).unseal(reason)

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {name}" for name, n in self._sizes.items())
        known = f", hash {self._known_hash}" if self._known_hash else ""
        return f"Split({self.name}: {self.n_users:,} users, {self.n_items:,} items, {counts}{known})"


def _check_which(which: str) -> None:
    if which not in get_args(FitPart):
        raise ValueError(f"which = {which!r} must be one of {', '.join(map(repr, get_args(FitPart)))}")


class SealedSplit(_Labelled):
    """A split whose test part cannot be read by mistake; see :mod:`recgraph.data.sealing`.

    Attributes:
        hash: that of the whole split.
        unsealed_reasons: the reasons given to :meth:`unseal`, in order.
    """

    def __init__(
        self,
        interactions: InteractionLog,
        labels: Tensor,
        strategy: Strategy,
        name: str,
        seed: int | None,
        digest: str,
        reveal: Callable[[], Split],
        log_hash: str = "",
    ) -> None:
        super().__init__(interactions, labels, strategy, name, seed)
        self.hash, self.log_hash = digest, log_hash
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
        """``"train"`` alone: a fit on more is the last one, made for the test or for serving."""
        _check_which(which)
        if which != "train":
            raise SealedTestError(f"fitting on {which} leaves nothing to stop or tune on; unseal(reason) first")
        return self.train

    def sealed(self) -> SealedSplit:
        """Itself."""
        return self

    def unseal(self, reason: str) -> Split:
        """The whole split. The reason is logged and remembered.

        Raises:
            ValueError: the reason is empty.
            SealedTestError: this copy cannot be unsealed, or the code runs in a block without test data.
            CorruptFileError: the saved test part is damaged or was changed.
        """
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"reason = {reason!r} must say why the test part is opened")
        check_open()
        split = self._reveal()
        self.unsealed_reasons.append(reason)
        _log.warning("test part of split %s (%s) unsealed: %s", self.hash[:12], self.name, reason)
        return split

    def without_test(self) -> SealedSplit:
        """A copy that cannot be unsealed: what the trials of a study are given."""
        own = (self.interactions, self.labels, self.strategy, self.name, self.seed, self.hash)
        return SealedSplit(*own, refuse_to_unseal, self.log_hash)

    def save(self, folder: str | Path) -> None:
        """:meth:`Split.save` without test rows, an older split's, too: a copy loaded from there has none to unseal."""
        self._save(self._rows(), None, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> SealedSplit:
        """Read a saved split; ``unseal`` alone opens its test file.

        Raises:
            FileNotFoundError: the folder holds no split.
            CorruptFileError: a file is damaged.
        """
        folder = Path(folder)
        if not (folder / HEAD_OF_SPLIT).is_file():
            raise FileNotFoundError(f"folder {str(folder)!r} holds no saved split ({HEAD_OF_SPLIT})")
        check_manifest(folder, but=(_TEST,))
        head = read_object(folder / HEAD_OF_SPLIT)
        rows = read_frame(folder / _OPEN)
        frame, labels = _log_and_labels(rows)
        log = InteractionLog.load_with(frame, folder)
        strategy = STRATEGIES[head["name"]].of(head["params"])

        def reveal() -> Split:
            path, digest = folder / _TEST, read_manifest(folder).get(_TEST)
            if digest is None:
                return refuse_to_unseal()
            check_file(path, digest)
            frame, labels = _log_and_labels(pl.concat([rows, read_frame(path)]))
            split = Split(replace(log, log=frame), labels, strategy, head["name"], head["seed"])
            if split.hash != head["hash"]:
                raise CorruptFileError("the rows do not give the hash of the split; it was changed", path=path)
            return split

        own = (strategy, head["name"], head["seed"], head["hash"], reveal, head["log_hash"])
        return SealedSplit(log, labels, *own)

    def __repr__(self) -> str:
        return f"SealedSplit({self.name}: {self.n_users:,} users, {self.n_items:,} items, hash {self.hash[:12]})"


def _log_and_labels(rows: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
    """The log in the order of its rows, and the labels in that of ``InteractionLog.ordered``."""
    rows = order(rows)
    labels = torch.from_numpy(rows["label"].cast(pl.UInt8).to_numpy(writable=True))
    return rows.drop("label").sort("row"), labels


def _hash(head: Mapping[str, Any], users: IdMap, items: IdMap, log: OrderedLog, labels: Tensor | None = None) -> str:
    """64 hex digits from ids, ordered log, labels and parameters; the same on every machine."""
    state = hashlib.sha256(json.dumps({**head, "version": 1}, sort_keys=True).encode())
    state.update(users.digest())
    state.update(items.digest())
    columns = {"offsets": log.items.offsets, "items": log.items.values, "labels": labels}
    columns |= {"times": log.times, "weights": log.weights, "ratings": log.ratings}
    for name, values in columns.items():
        if values is not None:
            state.update(f"{name}:{values.numel()}:".encode())
            state.update(np.ascontiguousarray(values.numpy(), dtype=_TYPES[name]).data)
    return state.hexdigest()


def _read_parts(parts: tuple[Any, ...], features: Mapping[str, Any], options: Mapping[str, Any]) -> InteractionLog:
    """One log of the parts train, valid and test, with the column ``part``."""
    given = {name: _of_matrix(part) for name, part in zip(_PARTS, parts, strict=True) if part is not None}
    if "train" not in given or len(given) == 1:
        raise ValueError(f"{' and '.join(given) or 'nothing'} is given; give train=, and valid= or test= or both")
    are_files = {isinstance(part, str | Path) for part in given.values()}
    if len(are_files) > 1:
        raise ValueError(f"{', '.join(given)} are files and frames; give all as files, or all as frames")
    paths = {name: str(file) for name, file in features.items() if isinstance(file, str | Path)}
    how = Reading.of({name: value for name, value in options.items() if value is not None}, **paths)
    kind: FrameKind = "polars"
    if are_files == {True}:
        beside = {name: str(path) for name, path in given.items() if name != "train"}
        files = LogFile(str(given["train"]), how.model_copy(update=beside))
        table = files.read()
    else:
        files = LogFile("", how)
        kind = frame_kind(given["train"], "train")
        columns = how.columns_of(names_of(given["train"]), "train")
        tables = [table_of(given[name], columns) if name in given else None for name in _PARTS]
        table = given_apart(tables)
        table = replace(table, features=files.features(columns))
    log, users, items, unit = encode(table, how.time_format, how.missing_ids)
    data = InteractionLog(log, users, items, table.columns, unit, table.source, kind, time_format=how.time_format)
    data = data.with_feature_files(table.features, files.feature_files())
    if files.path:
        data = replace(data, files=files.found(table.columns))
    return data.with_features(**{name: each for name, each in features.items() if name not in paths})


def _of_matrix(part: Any) -> Any:
    """The entries of a scipy sparse matrix, or of the ``.npz`` file of one, as a frame; all else as it is."""
    if isinstance(part, str | Path) and Path(part).suffix == ".npz":
        with reading(Path(part)):
            part = sp.load_npz(part)
    if not sp.issparse(part):
        return part
    entries: Any = sp.coo_array(part)  # type: ignore[call-overload]
    held = entries.data != 0
    frame = pl.DataFrame({"user_id": entries.row[held], "item_id": entries.col[held], "weight": entries.data[held]})
    return frame.with_columns(pl.col("user_id", "item_id").cast(pl.Int64))
