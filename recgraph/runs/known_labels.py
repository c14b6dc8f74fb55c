"""The labels that training may read: those of the train nodes of one split of a node task."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.graph.node_task import NodeTask
from recgraph.models.heterogeneous.base import GraphModel

__all__ = ["KnownLabels", "known_labels", "refuse_without_labels", "unread_splits"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownLabels:
    """Classes of some nodes of a type.

    Attributes:
        target: the type.
        labels: [N] int64, -1 for all nodes but the train nodes of the split.
        split: its name.
    """

    target: str
    labels: Tensor
    split: str

    @property
    def record(self) -> dict[str, Any]:
        """What identifies them, as JSON values."""
        digest = hashlib.sha256(self.labels.contiguous().numpy().tobytes()).hexdigest()
        return {"split": self.split, "n_labels": int((self.labels >= 0).sum()), "digest": digest}

    def give(self, model: GraphModel, target: str, n_nodes: int) -> None:
        """Give them to a model of ``n_nodes`` nodes of the type ``target``.

        Raises:
            ValueError: they are of other nodes.
        """
        if (self.target, len(self.labels)) != (target, n_nodes):
            raise ValueError(
                f"task has classes of {len(self.labels)} {self.target!r} nodes, but the model embeds {n_nodes} "
                f"{target!r}; give the task of the same graph"
            )
        _log.warning("classes of the train nodes of split %r are read for training", self.split)
        model.known_labels = self.labels


def known_labels(model: GraphModel, task: NodeTask | None, split: str | None) -> KnownLabels | None:
    """The labels of the train nodes of a split; None where the model reads none.

    Raises:
        ValueError: the model reads labels and there are none, or the other way round; there is no such split; or a
            class is not among the model's.
    """
    n_classes, reader = getattr(model.labels_config, "n_classes", 0), _reader(model)
    if reader is None:
        if task is not None or split is not None:
            raise ValueError(
                f"{type(model).__name__} reads no labels with n_classes = 0; leave task and labels out, or set it"
            )
        return None
    if task is None or split is None:
        raise ValueError(f"{reader}; give task=... and labels='a split of it'")
    if split not in task.splits:
        raise ValueError(
            f"labels = {split!r} is no split of the task; it has {', '.join(sorted(task.splits)) or 'none'}"
        )
    known = _of_train(task, split)
    if n_classes and (last := int(known.labels.max())) >= n_classes:
        raise ValueError(
            f"n_classes = {n_classes} is too small for class {last} of the train nodes; give at least {last + 1}"
        )
    return known


def _reader(model: GraphModel) -> str | None:
    """What of a model reads labels, and for what; None: nothing does."""
    config = model.labels_config
    if n_classes := getattr(config, "n_classes", 0):
        return f"n_classes = {n_classes} learns classes from labels"
    return None


def _of_train(task: NodeTask, split: str) -> KnownLabels:
    train = task.splits[split].train
    labels = torch.full((len(task.labels),), -1, dtype=torch.int64)
    labels[train] = task.labels[train]
    return KnownLabels(task.target, labels, split)


def unread_splits(record: Mapping[str, Any] | None, task: NodeTask) -> list[str]:
    """The splits on which a run can be measured, as it was trained with the class of no node of their test parts.

    Train nodes of one split may be test nodes of another one; the log names those that are left out.

    Args:
        record: of the labels that the run has read (:attr:`KnownLabels.record`); None: it has read none.
        task: that it is to be measured on.

    Raises:
        ValueError: the labels are not those of the task.
    """
    if record is None:
        return list(task.splits)
    name = f"{record.get('split')}"
    if name not in task.splits or _of_train(task, name).record != record:
        raise ValueError(
            f"the run has read the classes of the train nodes of split {name!r}, and task has not the same; give the "
            "task that it was fitted with"
        )
    known = task.splits[name].train
    read = [other for other, split in task.splits.items() if bool(torch.isin(split.test, known).any())]
    if read:
        _log.warning(
            "not measured: split %s, whose test nodes are in part train nodes of %s, whose classes the run has read",
            ", ".join(read),
            name,
        )
    return [split for split in task.splits if split not in read]


def refuse_without_labels(model: GraphModel) -> None:
    """Refuse a model that needs labels where none are given.

    Raises:
        ValueError: it is such a model.
    """
    if (reader := _reader(model)) is not None:
        raise ValueError(
            f"{reader}: give labels='a split of the data set', in Python rg.fit_graph(model, graph, task=..., "
            "labels='a split of it')"
        )
