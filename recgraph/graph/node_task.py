"""Node classification tasks: classes of nodes and published splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgraph.data.split import check_open
from recgraph.files import read_object, read_tensors, write_json, write_tensors
from recgraph.graph.schema import GraphError, tensor_bytes
from recgraph.sparse.device import to_host

#: part of a split -> its mask, as PyTorch Geometric and DGL call it
MASKS = {"train": "train_mask", "valid": "val_mask", "test": "test_mask"}
#: attributes beside the labels that a task is made of
LABELS = (*MASKS.values(), "split_names", "metapaths")


@dataclass(frozen=True, repr=False)
class NodeSplit:
    """Indices of target nodes, as published (IMDB's train parts hold some nodes twice): [n] int64,
    given as indices or as a mask of booleans, in a tensor, an array or a list."""

    train: Tensor
    valid: Tensor
    test: Tensor

    def __post_init__(self) -> None:
        for part in MASKS:
            given = _tensor(getattr(self, part))
            object.__setattr__(
                self, part, given.nonzero().flatten() if given.dtype == torch.bool else given.long()
            )

    def __repr__(self) -> str:
        return f"NodeSplit({', '.join(f'{len(getattr(self, part)):,} {part}' for part in MASKS)})"


@dataclass(frozen=True, repr=False)
class NodeTask:
    """A node classification task. Training reads none of it but what it is given by name
    (:func:`rg.fit_graph`, ``labels``): labels are for the evaluation of what was trained.

    Attributes:
        target: the node type.
        labels: [N] int64, classes from 0, and -1 for a node whose class is not known, which is in
            no split; given as a tensor, an array or a list.
        splits: name, e.g. labels a class (``"20"``; numbers become texts) -> its parts.
        paths: the published meta-paths.
    """

    target: str
    labels: Tensor
    splits: Mapping[str, NodeSplit] = field(default_factory=dict)
    paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        labels = _tensor(self.labels).long()
        if (
            labels.dim() != 1
            or not labels.numel()
            or int(labels.max()) < 0
            or int(labels.min()) < -1
        ):
            raise ValueError(
                f"labels of {self.target!r} must be classes [N] from 0, and -1 where none is known"
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "paths", tuple(self.paths))
        object.__setattr__(
            self, "splits", {str(name): split for name, split in self.splits.items()}
        )
        for name, split in self.splits.items():
            for part in MASKS:
                index = getattr(split, part)
                wrong = (index < 0) | (index >= len(labels))
                wrong |= labels[index.masked_fill(wrong, 0)] < 0
                if bool(wrong.any()):
                    raise ValueError(
                        f"split {name!r}: {part} holds node {int(index[wrong][0])}, which has no known class among the "
                        f"{len(labels)} nodes of {self.target!r}"
                    )

    def __repr__(self) -> str:
        facts = [f"{len(self.labels):,} {self.target} of {int(self.labels.max()) + 1} classes"]
        facts += [f"{name}: {split!r}" for name, split in self.splits.items()]
        return f"NodeTask({'; '.join([*facts, *self.paths])})"

    def permuted(self, order: Tensor) -> NodeTask:
        """The task of a graph whose target node j is node ``order[j]`` of this one."""
        order = torch.as_tensor(order)
        places = torch.argsort(order)
        splits = {
            name: NodeSplit(*(places[getattr(split, part)] for part in MASKS))
            for name, split in self.splits.items()
        }
        return NodeTask(self.target, self.labels[order], splits, self.paths)

    @classmethod
    def from_columns(cls, target: str, columns: Mapping[str, Any]) -> NodeTask:
        """From the columns of nodes in PyTorch Geometric: ``y`` [N] or [N, 1]; ``train_mask``,
        ``val_mask`` and ``test_mask``, all or none, [N], the same for all splits, or [N, S]; and
        what :meth:`to_columns` adds."""
        masks = {
            part: _tensor(columns[mask]).bool()
            for part, mask in MASKS.items()
            if columns.get(mask) is not None
        }
        if masks and len(masks) < len(MASKS):
            missing = ", ".join(mask for part, mask in MASKS.items() if part not in masks)
            raise GraphError(
                f"nodes of {target!r} have no {missing}; add the mask, e.g. by PyG's RandomNodeSplit"
            )
        tables = {part: mask[:, None] if mask.dim() == 1 else mask for part, mask in masks.items()}
        width = max((table.shape[1] for table in tables.values()), default=0)
        names = columns.get("split_names") or (
            ["masks"] if width == 1 else [f"masks {n}" for n in range(width)]
        )
        splits = {
            name: NodeSplit(
                **{
                    part: table[:, min(number, table.shape[1] - 1)]
                    for part, table in tables.items()
                }
            )
            for number, name in enumerate(names)
        }
        return cls(
            target, _tensor(columns["y"]).flatten(), splits, tuple(columns.get("metapaths") or ())
        )

    def to_columns(self, label: str = "y") -> dict[str, Any]:
        """Labels, under a name, and masks for :meth:`from_columns`: [N] of one split, [N, S] of
        several.

        A mask holds a node once and in the order of the nodes.
        """
        columns: dict[str, Any] = {label: self.labels}
        for part, name in MASKS.items():
            masks = []
            for split in self.splits.values():
                mask = torch.zeros(len(self.labels), dtype=torch.bool)
                mask[getattr(split, part)] = True
                masks.append(mask)
            if masks:
                columns[name] = masks[0] if len(masks) == 1 else torch.stack(masks, 1)
        more = {"split_names": list(self.splits), "metapaths": list(self.paths)}
        return columns | {name: values for name, values in more.items() if values}

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
        """Write labels and splits."""
        tensors = {"labels": self.labels}
        for name, split in self.splits.items():
            tensors |= {f"{name}.{part}": getattr(split, part) for part in MASKS}
        write_tensors(tensors, folder / "node_task.safetensors")
        meta = {"target": self.target, "paths": [*self.paths], "splits": [*self.splits]}
        write_json(meta, folder / "node_task.json")

    @classmethod
    def load(cls, folder: Path) -> NodeTask:
        """Read what :meth:`save` wrote; a SealedTestError inside a block without test data (a trial
        of a study).
        """
        check_open()
        tensors, meta = (
            read_tensors(folder / "node_task.safetensors"),
            read_object(folder / "node_task.json"),
        )
        splits = {
            name: NodeSplit(*(tensors[f"{name}.{part}"] for part in MASKS))
            for name in meta["splits"]
        }
        return cls(meta["target"], tensors["labels"], splits, tuple(meta["paths"]))


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return to_host(values.detach())
    array = np.asarray(values)
    return torch.as_tensor(array.astype(np.int64) if array.size == 0 else array.copy())
