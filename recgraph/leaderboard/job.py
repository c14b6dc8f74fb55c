"""One job of a board: one model with one seed on one data set, and its address."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from recgraph import registry
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, split_metric
from recgraph.leaderboard.board import is_of_nodes
from recgraph.leaderboard.repeats import Repeat, repeat_of
from recgraph.models.base import TrainableModel
from recgraph.runs.pretrained import input_digests
from recgraph.setting_texts import setting_text

__all__ = ["TITLES", "Job", "digest", "without_fold"]


#: convention of seen items -> title of its table
TITLES = {"keep": "seen kept", "exclude": "seen excluded"}


@dataclass(frozen=True)
class Job:
    """One model with one seed on one data set.

    Attributes:
        dataset: a card.
        model: its name in the registry.
        settings: those that are not defaults, in one flat namespace, as for ``recgraph train``.
        seed, cutoffs: of the training; list lengths of the test.
        identity: the fields that identify a job and decide its numbers: the resolved configuration, the model's
            revision, the card and the protocol, paths from the board's file on. The hash of the data is compared
            separately.
        metrics: full names of the metrics beyond the default ones; a record without them is made again, under the same
            address.
        modules: those that register these metrics; a worker imports them.
        imports: what the board's file imports; files by their absolute paths.
        fit_on: the parts that the tested model learns from; a trained one is fitted to more than ``train`` a second
            time, for as many epochs as were best on the validation part, or at once with ``metric = "last"``.
        earlier: the identity that earlier versions gave the job, with paths of this machine; None: the same.
        fold: of the split, where the board has folds.
    """

    dataset: str
    model: str
    settings: dict[str, Any]
    seed: int
    cutoffs: tuple[int, ...]
    identity: dict[str, Any]
    metrics: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    fit_on: Literal["train", "train+valid"] = "train"
    earlier: dict[str, Any] | None = None
    fold: int | None = None

    @property
    def before(self) -> Job | None:
        """The job at the address that earlier versions gave it; None where that is the same."""
        return None if self.earlier is None else replace(self, identity=self.earlier, earlier=None)

    @cached_property
    def entry(self) -> str:
        """The address of the configuration: 16 hexadecimal digits, equal for all seeds."""
        return digest(self.identity)

    @property
    def repeat(self) -> Repeat:
        """Its seed and its fold."""
        return repeat_of(self.fold, self.seed)

    @cached_property
    def of_all_folds(self) -> str:
        """The address of the configuration, equal for all folds, too."""
        if self.fold is None:
            return self.entry
        return digest({**self.identity, "data": without_fold(self.identity["data"])})

    @cached_property
    def inputs(self) -> dict[str, str]:
        """The digests of the runs and bundles that its training reads, see :mod:`recgraph.runs.inputs`."""
        return input_digests(self.settings)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of all metrics that are computed, without cutoffs."""
        return tuple(dict.fromkeys((*DEFAULT_METRICS, *(split_metric(metric)[0] for metric in self.metrics))))

    @property
    def refit(self) -> bool:
        """Whether the number of epochs is chosen first, and the model is then fitted anew to more."""
        chooses = self.fit_on != "train" and self.settings.get("metric") != "last"
        return chooses and issubclass(registry.load("model", self.model), TrainableModel)

    @property
    def stem(self) -> str:
        """The name of its files without suffix."""
        return f"{self.model}-{self.entry}-seed{self.seed}"

    def command(self, seed: str | None = None, threads: int = 1, device: str = "cpu") -> str:
        """The two commands that reproduce this job's numbers.

        Args:
            seed: text in place of the job's seed, e.g. ``"$seed"``.
        """
        number = f"{self.seed}" if seed is None else seed
        sets = [f"--set {shlex.quote(setting_text(*each))}" for each in self.settings.items()]
        model, data = shlex.quote(self.model), shlex.quote(self.dataset)
        folder = f"runs/{model}-{self.entry}-seed{number}"
        own = "".join(f" --import {shlex.quote(each)}" for each in self.imports)
        part = "" if self.fit_on == "train" else f" --fit-on {self.fit_on}{' --refit' if self.refit else ''}"
        train = [
            f"recgraph train {model} --dataset {data} --seed {number} --device {device}{part}{own}",
            *sets,
            f"--out {folder}",
        ]
        cutoffs = "" if is_of_nodes(self.dataset) else "".join(f" --cutoff {each}" for each in self.cutoffs)
        metrics = "".join(f" --metric {shlex.quote(name)}" for name in self.metric_names) if self.metrics else ""
        evaluate = f"recgraph evaluate {folder}{cutoffs}{metrics}{own} --format json"
        return f"export OMP_NUM_THREADS={threads}\n" + " \\\n    ".join(train) + f"\n{evaluate}"

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON values, see :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """The job of :meth:`to_dict`."""
        lists = {name: tuple(values[name]) for name in ("cutoffs", "metrics", "modules", "imports")}
        return cls(**{**values, **lists})


def without_fold(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a fold without the number that says which one it is."""
    options = {name: value for name, value in settings["split_options"].items() if name != "fold"}
    return {**settings, "split_options": options}


def digest(values: Any) -> str:
    """A hash of JSON values, 16 hexadecimal digits; equal values have equal digests on every machine."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
