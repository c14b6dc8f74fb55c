"""Whose definition of a metric is meant. The versions are those whose values the definitions reproduce."""

from __future__ import annotations

from typing import Literal, get_args

Convention = Literal[
    "recgraph",
    "recbole",
    "rectools",
    "replay",
    "lenskit",
    "pyg",
    "torchmetrics",
    "ranx",
    "cornac",
    "recpack",
]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)

#: the library and version that each convention follows
VERSIONS: dict[Convention, str] = {
    "recbole": "RecBole 1.2.1",
    "rectools": "RecTools 0.19.0",
    "replay": "RePlay 0.22.0",
    "lenskit": "LensKit 2025.8.1",
    "pyg": "PyTorch Geometric 2.8.1",
    "torchmetrics": "TorchMetrics 1.9.0",
    "ranx": "ranx 0.3.21",
    "cornac": "Cornac 3.0.1",
    "recpack": "RecPack 0.3.6",
}

#: where a user without relevant items counts as 0; elsewhere the user is left out of the mean
COUNT_NO_TRUTH: frozenset[Convention] = frozenset({"replay", "torchmetrics", "ranx"})
#: where a user without a value counts as 0 in the mean, not as absent
COUNT_UNDEFINED: frozenset[Convention] = frozenset({"lenskit"})
