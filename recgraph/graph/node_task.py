"""Node classification tasks: classes of nodes and published splits."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.arguments import shown
from recgraph.bounded.files import check_memory, named
from recgraph.bounded.tensors import read_heads
from recgraph.data.imprint import load_tensors, replace_tensors
from recgraph.data.sealing import check_open
from recgraph.graph.schema import GraphError, LeftOutWarning
from recgraph.graph.store import tensor_bytes

__all__ = ["LABELS", "MASKS", "NodeSplit", "NodeTask"]

#: part of a split -> its mask, as PyTorch Geometric and DGL call it
MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}
#: attributes beside the labels that a task is made of
LABELS = (*MASKS.values(), "split_names", "metapaths")
#: more indices than this, all of them 0 or 1, are a mask of integers, and no two nodes again and again
_MOST_OF_TWO = 7


@dataclass(frozen=True)
class NodeSplit:
    """Indices of target nodes, as published (IMDB's train parts hold some nodes twice).

    Each part is given as indices or as a mask of booleans, in a tensor, an array or a list, and held as [n] int64.

    Raises:
        ValueError: a part is neither, or of uint8, which may be either; names it.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    #: the length of each part that was given as a mask
    lengths: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for part in MASKS:
            given = _tensor(f"split: {part}", getattr(self, part))
            if given.dtype == torch.uint8:
                raise ValueError(f"split: {part} is of uint8, a mask or indices: give booleans, or indices of int64")
            if given.dtype == torch.bool:
                self.lengths[part] = given.numel()
                given = given.nonzero().flatten()
            index = _integers(f"split: {part}", given)
            if len(index) > _MOST_OF_TWO and set(index.tolist()) == {0, 1}:
                raise ValueError(
                    f"split: {part} holds the nodes 0 and 1 again and again, {len(index):,} times: a mask of integers? "
                    "give booleans, or the indices of nodes"
                )
            object.__setattr__(self, part, index)


@dataclass(frozen=True)
class NodeTask:
    """A node classification task. Training reads none of it but what it is given by name
    (:func:`rg.fit_graph`, ``labels``): labels are for the evaluation of what was trained.

    Attributes:
        target: the node type.
        labels: [N] int64, classes from 0, and -1 for a node whose class is not known; given as a tensor, an array or a
            list.
        splits: name, e.g. labels a class (``"20"``; numbers become texts) -> its parts.
        paths: the published meta-paths.

    Raises:
        ValueError: labels that are no classes from 0, or a part of a split with a node that does not exist or whose
            class is not known; names the first.
    """

    target: str
    labels: Tensor
    splits: Mapping[str, NodeSplit] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = _integers("labels", _tensor("labels", self.labels))
        if not labels.numel() or int(labels.max()) < 0:
            raise ValueError(f"labels of {self.target!r}: there is no node whose class is known; give classes from 0")
        if int(labels.min()) < -1:
            row = int((labels < -1).nonzero()[0])
            raise ValueError(
                f"labels of {self.target!r}: node {row} has class {int(labels[row])}; give classes from 0, and -1 "
                "where the class is not known"
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "paths", tuple(self.paths))
        if not isinstance(self.splits, Mapping) or not all(isinstance(one, NodeSplit) for one in self.splits.values()):
            raise ValueError(
                f"splits = {shown(self.splits)} must be a mapping of names to NodeSplit(train, valid, test)"
            )
        object.__setattr__(self, "splits", {str(name): split for name, split in self.splits.items()})
        if wrong := [name for name in self.splits if not name or "\n" in name]:
            raise ValueError(f"splits: {wrong[0]!r} is no name; give one line of text, or a number")
        for name, split in self.splits.items():
            for part in MASKS:
                if (length := split.lengths.get(part, len(labels))) != len(labels):
                    raise ValueError(
                        f"split {name!r}: the mask of {part} is of {length:,} nodes, but there are {len(labels):,} of "
                        f"{self.target!r}"
                    )
                self._check_part(f"split {name!r}: {part}", getattr(split, part))

    def _check_part(self, what: str, index: Tensor) -> None:
        outside = (index < 0) | (index >= len(self.labels))
        if bool(outside.any()):
            raise ValueError(
                f"{what} holds node {int(index[outside][0])}, but there are {len(self.labels)} nodes of {self.target!r}"
            )
        unknown = self.labels[index] < 0
        if bool(unknown.any()):
            raise ValueError(f"{what} holds node {int(index[unknown][0])}, whose class is not known (-1)")

    def permuted(self, order: Tensor) -> NodeTask:
        """The task of a graph whose target node j is node ``order[j]`` of this one
        (:meth:`recgraph.graph.hetero.HeteroGraph.permuted`).

        Args:
            order: [N] integers, each node once.
        """
        order = torch.as_tensor(order)
        places = torch.argsort(order)
        splits = {
            name: NodeSplit(places[split.train], places[split.valid], places[split.test])
            for name, split in self.splits.items()
        }
        return NodeTask(self.target, self.labels[order], splits, self.paths)

    @classmethod
    def from_columns(cls, target: str, columns: Mapping[str, Any], label: str = "y") -> NodeTask:
        """From labels and masks as PyTorch Geometric and DGL hold them.

        Args:
            target: the node type.
            columns: the attributes of its nodes: ``label`` [N] or [N, 1]; ``train_mask``, ``val_mask`` and
                ``test_mask`` [N], or [N, S] of S splits; and, where :meth:`to_columns` has written them,
                ``split_names`` and ``metapaths``.
            label: the name of the labels.

        Raises:
            GraphError: labels or masks of another shape, or not all of the three masks.
        """
        labels = _tensor(f"{label} of {target!r}", columns[label])
        if labels.dim() == 2 and labels.shape[1] == 1:
            labels = labels.flatten()
        if labels.dim() != 1:
            raise GraphError(
                f"{label} of {target!r} has shape {tuple(labels.shape)}: a node has one class; give [N] classes from 0"
            )
        there = {part: mask for part, mask in MASKS.items() if columns.get(mask) is not None}
        if there and len(there) < len(MASKS):
            missing = ", ".join(mask for part, mask in MASKS.items() if part not in there)
            raise GraphError(
                f"nodes of {target!r} have {', '.join(there.values())} but no {missing}: probes are fitted to train "
                "nodes, chosen on valid nodes and scored on test nodes; add the mask, e.g. by PyG's RandomNodeSplit"
            )
        splits = _splits(target, {part: columns[mask] for part, mask in there.items()}, len(labels), columns)
        try:
            return cls(target, labels, splits, tuple(columns.get("metapaths") or ()))
        except GraphError:
            raise
        except ValueError as error:
            raise GraphError(f"{label} and masks of {target!r}: {error}") from None

    def to_columns(self, label: str = "y") -> dict[str, Any]:
        """Labels and masks for :meth:`from_columns`: [N] of one split, [N, S] of several.

        A mask holds a node once and in the order of the nodes; a warning names a part of which that is not true.
        """
        columns: dict[str, Any] = {label: self.labels}
        for part, name in MASKS.items():
            masks = []
            for split, parts in self.splits.items():
                index: Tensor = getattr(parts, part)
                mask = torch.zeros(len(self.labels), dtype=torch.bool)
                mask[index] = True
                masks.append(mask)
                if not torch.equal(mask.nonzero().flatten(), index):
                    warnings.warn(
                        f"split {split!r}: {part} holds nodes several times or in an order of its own, which a mask "
                        "cannot; the mask has each of them once",
                        LeftOutWarning,
                        stacklevel=3,
                    )
            if masks:
                columns[name] = masks[0] if len(masks) == 1 else torch.stack(masks, 1)
        if self.splits:
            columns["split_names"] = list(self.splits)
        if self.paths:
            columns["metapaths"] = list(self.paths)
        return columns

    @property
    def n_classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def hash(self) -> str:
        """64 hex digits of the target, the labels and the splits; the same on every machine."""
        state = hashlib.sha256(json.dumps({"version": 1, "target": self.target}).encode())
        state.update(tensor_bytes(self.labels))
        for name, split in self.splits.items():
            state.update(name.encode())
            for part in (split.train, split.valid, split.test):
                state.update(tensor_bytes(part))
        return state.hexdigest()

    def save(self, folder: Path) -> None:
        """Write labels and splits, atomically."""
        tensors = {"labels": self.labels}
        for name, split in self.splits.items():
            tensors |= {f"{name}.train": split.train, f"{name}.valid": split.valid, f"{name}.test": split.test}
        meta = {"target": self.target, "paths": "\n".join(self.paths), "splits": "\n".join(self.splits)}
        replace_tensors(tensors, folder / "node_task.safetensors", meta)

    @classmethod
    def load(cls, folder: Path) -> NodeTask:
        """Read what :meth:`save` wrote.

        Raises:
            SealedTestError: inside a block without test data (a trial of a study): there are no labels then.
            CorruptFileError: the file is damaged.
        """
        check_open()
        path = folder / "node_task.safetensors"
        tensors, meta = load_tensors(path), read_heads(path).metadata
        with named(path):
            splits = {
                name: NodeSplit(*(tensors[f"{name}.{part}"] for part in ("train", "valid", "test")))
                for name in _lines(meta["splits"])
            }
            task = cls(meta["target"], tensors["labels"], splits, tuple(_lines(meta["paths"])))
        check_memory(8 * task.n_classes, path)
        return task


def _lines(text: str) -> list[str]:
    """The lines of a text; an empty text has none."""
    return text.split("\n") if text else []


def _tensor(what: str, values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to("cpu")
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        text = str(array.flat[0])
        raise ValueError(
            f"{what}: {text!r} is no number; give integers, e.g. np.unique(values, return_inverse=True)[1]"
        )
    return torch.as_tensor(array.astype(np.int64) if array.size == 0 else array.copy())


def _integers(what: str, values: Tensor) -> Tensor:
    """[n] int64; floats that are whole count as integers."""
    if values.dim() != 1:
        raise ValueError(f"{what} must be a list of numbers, [n], not of shape {tuple(values.shape)}")
    made = values.to(torch.int64)
    if values.is_floating_point() and not bool((values == made).all()):
        row = int((values != made).nonzero()[0])
        raise ValueError(f"{what}: {float(values[row])} in row {row} (from 0) is no integer")
    return made


def _splits(target: str, masks: Mapping[str, Any], n: int, columns: Mapping[str, Any]) -> dict[str, NodeSplit]:
    """Name -> split, from masks [N] or [N, S]; a mask [N] beside others of [N, S] is that of all splits."""
    if not masks:
        return {}
    tables = {}
    for part, given in masks.items():
        table = _tensor(MASKS[part], given)
        table = table[:, None] if table.dim() == 1 else table
        if table.dim() != 2 or len(table) != n or table.dtype not in (torch.bool, torch.uint8):
            raise GraphError(
                f"{MASKS[part]} of {target!r} must be booleans, [{n}] or [{n}, S], not {table.dtype} of "
                f"{tuple(table.shape)}"
            )
        tables[part] = table.bool()
    width = max(table.shape[1] for table in tables.values())
    if any(table.shape[1] not in (1, width) for table in tables.values()):
        shapes = ", ".join(f"{MASKS[part]} {tuple(table.shape)}" for part, table in tables.items())
        raise GraphError(f"masks of {target!r} are of different numbers of splits: {shapes}")
    names = columns.get("split_names")
    if names and len(names) != width:
        raise GraphError(
            f"split_names of {target!r} are {len(names)}, and the masks of {width} splits; give a name each"
        )
    names = names or (["masks"] if width == 1 else [f"masks {number}" for number in range(width)])
    return {
        name: NodeSplit(**{part: table[:, min(number, table.shape[1] - 1)] for part, table in tables.items()})
        for number, name in enumerate(names)
    }
