"""A split into train, valid and test, whole (``Split``) or without its test part (``SealedSplit``).

A split is a value with a hash. Its files (``save``, ``load``): :mod:`recgraph.data.split_files`; ids and features lie
beside the rows. Who may see the test part: :mod:`recgraph.data.sealing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import torch
from torch import Tensor

from recgraph.arguments import checked
from recgraph.data import split_files
from recgraph.data.errors import CorruptFileError
from recgraph.data.given_log import read_parts
from recgraph.data.ids import IdMap
from recgraph.data.labels import GROUPS, Label, Strategy, sizes_of
from recgraph.data.log import InteractionLog
from recgraph.data.masks import kept
from recgraph.data.part import Cases, Part, order
from recgraph.data.sealing import SealedTestError, check_open, refuse_to_unseal
from recgraph.data.strategies import GIVEN, STRATEGIES, strategy_of
from recgraph.files import check_manifest, read_frame, read_object, replacing_folder, write_frame, write_json
from recgraph.notebook import block

__all__ = ["SealedSplit", "SealedTestError", "Split"]

FitPart = Literal["train", "train+valid", "all"]
_log = logging.getLogger(__name__)


class _Labelled:
    """What both kinds of split share: labelled interactions, and the parts that training may see.

    Attributes:
        interactions: the log (of a sealed split: without the test part).
        labels: [T] uint8, the :class:`~recgraph.data.labels.Label` of each row of ``interactions.ordered``.
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
            write_frame(opened, new / split_files.OPEN_FILE)
            if test is not None:
                write_frame(test, new / split_files.TEST_FILE)
            self.interactions.write_all_but_log(new)
            head = {"name": self.name, "params": self.params, "seed": self.seed, "hash": self.hash}
            write_json({**head, "log_hash": self.log_hash}, new / split_files.HEAD_FILE)


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
        """Split a log; see :meth:`recgraph.data.interactions.Interactions.split`.

        Raises:
            ValueError: no such strategy, or a parameter that it does not have or allow.
        """
        made, labels = strategy_of(strategy, params).applied(interactions, seed)
        return cls(interactions, labels, made, strategy, int(seed) if made.draws else None)

    @classmethod
    @checked
    def from_parts(
        cls,
        train: str | Path | Any,
        valid: str | Path | Any = None,
        test: str | Path | Any = None,
        *,
        seed: int = 0,
        user_features: str | Path | Any = None,
        item_features: str | Path | Any = None,
        split: Mapping[str, Any] | None = None,
        **reading: Any,
    ) -> Split:
        """The parts as others have made them, as the strategy ``"given"`` (:class:`recgraph.data.given.Given`).

        What is odd of them is logged and kept in ``params["found"]``.

        Args:
            train, valid, test: each as files (path, folder, pattern) or as a frame. Without ``valid`` a tenth of each
                user's train interactions is drawn by ``seed``; without ``test`` nothing can be tested.
            user_features, item_features: side information: files or frames, one row an id.
            split: settings of the strategy, e.g. ``{"valid": 0.2}``.
            reading: how they are read, as of :func:`recgraph.data.loading.load_data`.

        Raises:
            ValueError: no train, nothing beside it, a setting that does not exist, or what is wrong with a part.
        """
        log = read_parts((train, valid, test), (user_features, item_features), **reading)
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
        columns = split_files.columns_of(self.interactions.ordered, self.labels)
        return split_files.split_hash(head, self.users, self.items, columns)

    @cached_property
    def log_hash(self) -> str:  # type: ignore[override]
        if "n_folds" not in self.params:
            return ""
        return split_files.split_hash({}, self.users, self.items, split_files.columns_of(self.interactions.ordered))

    def sealed(self) -> SealedSplit:
        """A handle for training, stopping and tuning, without the test rows."""
        keep_mask = ~self._has(GROUPS["test"])
        log, labels = self.interactions.masked(keep_mask.numpy()), kept(self.labels, keep_mask)
        return SealedSplit(log, labels, self.strategy, self.name, self.seed, self.hash, lambda: self, self.log_hash)

    def unseal(self, reason: str) -> Split:
        """Itself: nothing is sealed here."""
        return self

    def save(self, folder: str | Path) -> None:
        """Write the split; the test rows go into a file of their own in the sub-folder ``test``.

        Raises:
            FileExistsError: a file of others is in the place of one of these.
        """
        self._save(*split_files.open_and_test(self._rows()), Path(folder))

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
        """``"train"`` alone: a fit on more is the last one, made for the test or for serving.

        Raises:
            SealedTestError: ``which`` is another part.
        """
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
        if not (folder / split_files.HEAD_FILE).is_file():
            raise FileNotFoundError(f"folder {str(folder)!r} holds no saved split ({split_files.HEAD_FILE})")
        check_manifest(folder, but=(split_files.TEST_FILE,))
        head = read_object(folder / split_files.HEAD_FILE)
        rows = read_frame(folder / split_files.OPEN_FILE)
        frame, labels = split_files.log_and_labels(rows)
        log = InteractionLog.load_with(frame, folder)
        strategy = STRATEGIES[head["name"]].of(head["params"])

        def reveal() -> Split:
            path = folder / split_files.TEST_FILE
            if not path.is_file():
                return refuse_to_unseal()
            frame, labels = split_files.log_and_labels(pl.concat([rows, read_frame(path)]))
            split = Split(replace(log, log=frame), labels, strategy, head["name"], head["seed"])
            if split.hash != head["hash"]:
                raise CorruptFileError("the rows do not give the hash of the split; it was changed", path=path)
            return split

        own = (strategy, head["name"], head["seed"], head["hash"], reveal, head["log_hash"])
        return SealedSplit(log, labels, *own)

    def __repr__(self) -> str:
        return f"SealedSplit({self.name}: {self.n_users:,} users, {self.n_items:,} items, hash {self.hash[:12]})"
