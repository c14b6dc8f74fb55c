"""Node classification tasks: classes of nodes and published splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from recgraph.data.files import replace_bytes
from recgraph.data.sealing import check_open
from recgraph.graph.store import tensor_bytes

__all__ = ["NodeSplit", "NodeTask"]


@dataclass(frozen=True)
class NodeSplit:
    """Indices of target nodes, as published (IMDB's train parts hold some nodes twice)."""

    train: Tensor
    valid: Tensor
    test: Tensor


@dataclass(frozen=True)
class NodeTask:
    """A node classification task. Training reads none of it: labels are for the evaluation of what was trained.

    Attributes:
        target: the node type.
        labels: [N] int64, classes from 0.
        splits: labels a class (``"20"``) -> its parts.
        paths: the published meta-paths.
    """

    target: str
    labels: Tensor
    splits: Mapping[str, NodeSplit]
    paths: tuple[str, ...]

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
        replace_bytes(save_tensors(tensors, metadata=meta), folder / "node_task.safetensors")

    @classmethod
    def load(cls, folder: Path) -> NodeTask:
        """Read what :meth:`save` wrote.

        Raises:
            SealedTestError: inside a block without test data (a trial of a study): there are no labels then.
        """
        from safetensors import safe_open

        check_open()
        path = folder / "node_task.safetensors"
        tensors = load_tensors(path.read_bytes())
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        splits = {
            name: NodeSplit(*(tensors[f"{name}.{part}"] for part in ("train", "valid", "test")))
            for name in _lines(meta["splits"])
        }
        return cls(meta["target"], tensors["labels"], splits, tuple(_lines(meta["paths"])))


def _lines(text: str) -> list[str]:
    """The lines of a text; an empty text has none."""
    return text.split("\n") if text else []
