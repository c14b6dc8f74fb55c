"""recgraph: graph and sequential recommendation on one contrastive core.

The public names are imported when they are first used: ``import recgraph`` does not import torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# what is logged is shown where the application says so
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from recgraph import augment, contrast, encoders, evaluate, explain, leaderboard, losses, models
    from recgraph.contrast.term import Contrast
    from recgraph.data.catalog import load_dataset, load_split
    from recgraph.data.split import Interactions, Split, folds, load_data
    from recgraph.registry import import_file, register
    from recgraph.serve.bundle import Embedder
    from recgraph.serve.recommender import Recommender, load
    from recgraph.serve.rules import Rules
    from recgraph.train.fit import fit, fit_graph
    from recgraph.train.run import Run
    from recgraph.tuning.study import tune

_WHERE = {
    "Contrast": "recgraph.contrast.term",
    "Embedder": "recgraph.serve.bundle",
    "Interactions": "recgraph.data.split",
    "Recommender": "recgraph.serve.recommender",
    "Rules": "recgraph.serve.rules",
    "Run": "recgraph.train.run",
    "Split": "recgraph.data.split",
    "fit": "recgraph.train.fit",
    "fit_graph": "recgraph.train.fit",
    "folds": "recgraph.data.split",
    "import_file": "recgraph.registry",
    "load": "recgraph.serve.recommender",
    "load_data": "recgraph.data.split",
    "load_dataset": "recgraph.data.catalog",
    "load_split": "recgraph.data.catalog",
    "register": "recgraph.registry",
    "tune": "recgraph.tuning.study",
}
_MODULES = ("augment", "contrast", "encoders", "evaluate", "explain", "leaderboard", "losses", "models")

__all__ = [
    "Contrast",
    "Embedder",
    "Interactions",
    "Recommender",
    "Rules",
    "Run",
    "Split",
    "__version__",
    "augment",
    "contrast",
    "encoders",
    "evaluate",
    "explain",
    "fit",
    "fit_graph",
    "folds",
    "import_file",
    "leaderboard",
    "load",
    "load_data",
    "load_dataset",
    "load_split",
    "losses",
    "models",
    "register",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"recgraph.{name}")
    raise AttributeError(f"module 'recgraph' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
