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
            values = _tensor(getattr(self, part))
            if values.dtype == torch.bool:
                values = values.nonzero().flatten()
            object.__setattr__(self, part, values.long())

    @property
    def parts(self) -> dict[str, Tensor]:
        """``"train"``, ``"valid"`` and ``"test"`` -> its nodes."""
        return {part: getattr(self, part) for part in MASKS}

    def __repr__(self) -> str:
        return f"NodeSplit({', '.join(f'{len(nodes):,} {part}' for part, nodes in self.parts.items())})"


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
        is_known = labels >= 0
        if labels.dim() != 1 or not bool(is_known.any()) or bool((labels < -1).any()):
            raise ValueError(
                f"labels of {self.target!r} must be classes [N] from 0, and -1 where none is known"
            )
        splits = {str(name): split for name, split in self.splits.items()}
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "paths", tuple(self.paths))
        object.__setattr__(self, "splits", splits)
        for name, split in splits.items():
            for part, nodes in split.parts.items():
                is_wrong = (nodes < 0) | (nodes >= len(labels))
                is_wrong |= ~is_known[nodes.masked_fill(is_wrong, 0)]
                if bool(is_wrong.any()):
                    raise ValueError(
                        f"split {name!r}: {part} holds node {int(nodes[is_wrong][0])}, which has no "
                        f"known class among the {len(labels)} nodes of {self.target!r}"
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
            name: NodeSplit(places[split.train], places[split.valid], places[split.test])
            for name, split in self.splits.items()
        }
        return NodeTask(self.target, self.labels[order], splits, self.paths)

    @classmethod
    def from_columns(cls, target: str, columns: Mapping[str, Any]) -> NodeTask:
        """From the columns of nodes in PyTorch Geometric: ``y`` [N] or [N, 1]; ``train_mask``,
        ``val_mask`` and ``test_mask``, all or none, [N], the same for all splits, or [N, S]; and
        what :meth:`to_columns` adds."""
        labels = _tensor(columns["y"]).flatten()
        splits = {}
        missing = MASKS.values() - columns.keys()
        if len(missing) not in (0, len(MASKS)):
            raise GraphError(
                f"nodes of {target!r} have no {', '.join(sorted(missing))}; add the mask, e.g. by "
                "PyG's RandomNodeSplit"
            )
        if not missing:
            tables = [
                _tensor(columns[name]).bool().reshape(len(labels), -1) for name in MASKS.values()
            ]
            # [S, N] each
            train, valid, test = (
                table.t()
                for table in torch.broadcast_tensors(*tables)  # type: ignore[no-untyped-call]
            )
            names = columns.get("split_names") or _split_names(len(train))
            parts = zip(train, valid, test, strict=True)
            splits = {name: NodeSplit(*masks) for name, masks in zip(names, parts, strict=True)}
        return cls(target, labels, splits, tuple(columns.get("metapaths", ())))

    def to_columns(self, label: str = "y") -> dict[str, Any]:
        """Labels, under a name, and masks for :meth:`from_columns`: [N] of one split, [N, S] of
        several.

        A mask holds a node once and in the order of the nodes.
        """
        columns: dict[str, Any] = {label: self.labels}
        if self.splits:
            for part, name in MASKS.items():
                masks = torch.zeros(len(self.labels), len(self.splits), dtype=torch.bool)
                for number, split in enumerate(self.splits.values()):
                    masks[split.parts[part], number] = True
                columns[name] = masks.squeeze(1)
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
            for nodes in split.parts.values():
                state.update(tensor_bytes(nodes))
        return state.hexdigest()

    def save(self, folder: Path) -> None:
        """Write labels and splits."""
        tensors = {"labels": self.labels}
        for name, split in self.splits.items():
            tensors |= {f"{name}.{part}": nodes for part, nodes in split.parts.items()}
        write_tensors(tensors, folder / "node_task.safetensors")
        meta = {"target": self.target, "paths": [*self.paths], "splits": [*self.splits]}
        write_json(meta, folder / "node_task.json")

    @classmethod
    def load(cls, folder: Path) -> NodeTask:
        """Read what :meth:`save` wrote; a SealedTestError inside a block without test data (a trial
        of a study).
        """
        check_open()
        tensors = read_tensors(folder / "node_task.safetensors")
        meta = read_object(folder / "node_task.json")
        splits = {}
        for name in meta["splits"]:
            splits[name] = NodeSplit(**{part: tensors[f"{name}.{part}"] for part in MASKS})
        return cls(meta["target"], tensors["labels"], splits, tuple(meta["paths"]))


def _split_names(n: int) -> list[str]:
    """Names of splits whose masks alone are known."""
    if n == 1:
        return ["masks"]
    return [f"masks {number}" for number in range(n)]


def _tensor(values: Any) -> Tensor:
    """Values on the host."""
    if isinstance(values, Tensor):
        return to_host(values.detach())
    array = np.array(values)
    if not array.size:  # an empty list has no type of its own
        array = array.astype(np.int64)
    return torch.from_numpy(array)
