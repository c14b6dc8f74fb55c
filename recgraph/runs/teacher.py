"""Give a model that distils the teacher that its settings name, where both were made on the same data."""

from __future__ import annotations

from recgraph.data.split import SealedSplit
from recgraph.models.base import Model
from recgraph.models.distil import DistilConfig, Teacher
from recgraph.serve.loading import load
from recgraph.serve.recommender import Recommender

__all__ = ["give_teacher"]


def give_teacher(model: Model, split: SealedSplit, fit_on: str) -> None:
    """Read the teacher of a built model; nothing where it has none.

    Raises:
        ValueError: the teacher is no recommender, was fitted on another split or part, or has other users or items.
        BundleError: the folder cannot be read.
    """
    config = model.config
    if not isinstance(config, DistilConfig) or config.teacher is None:
        return
    served, name = load(config.teacher), f"teacher = {config.teacher!r}"
    if not isinstance(served, Recommender):
        raise ValueError(f"{name} embeds nodes and ranks no items; give the run of a recommender")
    theirs = served.record.get("data", {}).get("split_hash")
    if theirs != split.hash:
        raise ValueError(
            f"{name} was fitted on another split ({theirs}, this one is {split.hash}): it may know what is "
            "asked for in validation or test; fit a teacher on this split"
        )
    if (part := served.record.get("fitted_on")) != fit_on:
        raise ValueError(f"{name} was fitted on {part!r}, and this model is fitted on {fit_on!r}; both must be alike")
    if served.items.digest() != split.items.digest() or served.users.digest() != split.users.digest():
        raise ValueError(f"{name} has other users or items than this split; fit a teacher on this split")
    model.teacher = Teacher(served.model, config.distil_candidates)
