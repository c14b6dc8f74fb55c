"""Augmentations of sequences, graphs and encoded rows; a name of a member, as ``augment.Crop``, is
its settings.
"""

from __future__ import annotations

from typing import Any

from recgraph.registry import find_part


def __getattr__(name: str) -> Any:
    return find_part(name, "augmentation", "augmenter")
