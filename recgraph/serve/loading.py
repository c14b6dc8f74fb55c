"""Read a bundle of either kind."""

from __future__ import annotations

from pathlib import Path

import torch

from recgraph.arguments import checked
from recgraph.serve.bundle import holds
from recgraph.serve.checks import bundle_of
from recgraph.serve.embedder import Embedder
from recgraph.serve.recommender import Recommender

__all__ = ["bundle_of", "load"]


@checked
def load(folder: str | Path, device: torch.device | str = "cpu") -> Recommender | Embedder:
    """Read what a run saved: a recommender, or the embeddings of a graph's nodes.

    Args:
        folder: of a bundle, or of a run that has one.
        device: where the model is to compute.

    Raises:
        BundleError: the folder holds no bundle, a file is missing or damaged, or this version cannot read it.
    """
    folder = bundle_of(folder)
    if holds(folder) == "embedder":
        return Embedder.load(folder, device)
    return Recommender.load(folder, device)
