"""Classes of nodes and the splits on which they are to be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from recgraph.data.files import replace_bytes

__all__ = ["NodeSplit", "NodeTask"]


@dataclass(frozen=True)
class NodeSplit:
    """Indices of target nodes, as published (IMDB's train parts hold some nodes twice)."""

    train: Tensor
    valid: Tensor
    test: Tensor


@dataclass(frozen=True)
class NodeTask:
    """A node classification task.

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

    def save(self, folder: Path) -> None:
        """Write labels and splits, atomically."""
        tensors = {"labels": self.labels}
        for name, split in self.splits.items():
            tensors |= {f"{name}.train": split.train, f"{name}.valid": split.valid, f"{name}.test": split.test}
        meta = {"target": self.target, "paths": "\n".join(self.paths), "splits": "\n".join(self.splits)}
        replace_bytes(save_tensors(tensors, metadata=meta), folder / "node_task.safetensors")

    @classmethod
    def load(cls, folder: Path) -> NodeTask:
        """Read what :meth:`save` wrote."""
        from safetensors import safe_open

        path = folder / "node_task.safetensors"
        tensors = load_tensors(path.read_bytes())
        with safe_open(path, "pt") as file:
            meta = file.metadata()
        splits = {
            name: NodeSplit(*(tensors[f"{name}.{part}"] for part in ("train", "valid", "test")))
            for name in meta["splits"].split("\n")
        }
        return cls(meta["target"], tensors["labels"], splits, tuple(meta["paths"].split("\n")))
