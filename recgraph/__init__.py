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
    from recgraph import augment as augment
    from recgraph import contrast as contrast
    from recgraph import encoders as encoders
    from recgraph import evaluate as evaluate
    from recgraph import explain as explain
    from recgraph import leaderboard as leaderboard
    from recgraph import losses as losses
    from recgraph import models as models
    from recgraph.contrast.term import Contrast as Contrast
    from recgraph.data.catalog import load_dataset as load_dataset
    from recgraph.data.catalog import load_split as load_split
    from recgraph.data.split import Interactions as Interactions
    from recgraph.data.split import Split as Split
    from recgraph.data.split import folds as folds
    from recgraph.data.split import load_data as load_data
    from recgraph.registry import import_file as import_file
    from recgraph.registry import register as register
    from recgraph.serve.bundle import Embedder as Embedder
    from recgraph.serve.recommender import Recommender as Recommender
    from recgraph.serve.recommender import load as load
    from recgraph.serve.rules import Rules as Rules
    from recgraph.train.fit import fit as fit
    from recgraph.train.fit import fit_graph as fit_graph
    from recgraph.train.run import Run as Run
    from recgraph.tuning.study import tune as tune

#: module -> its public names; none: the module itself
_NAMES = {
    "augment": "",
    "contrast": "",
    "contrast.term": "Contrast",
    "data.catalog": "load_dataset load_split",
    "data.split": "Interactions Split folds load_data",
    "encoders": "",
    "evaluate": "",
    "explain": "",
    "leaderboard": "",
    "losses": "",
    "models": "",
    "registry": "import_file register",
    "serve.bundle": "Embedder",
    "serve.recommender": "Recommender load",
    "serve.rules": "Rules",
    "train.fit": "fit fit_graph",
    "train.run": "Run",
    "tuning.study": "tune",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split() or [module]}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'recgraph' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = importlib.import_module(f"recgraph.{_WHERE[name]}")
    return module if name == _WHERE[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
