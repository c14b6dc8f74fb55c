"""Give a model that distils the teacher that its settings name, where both were made on the same data."""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

from recgraph.data.split import SealedSplit
from recgraph.models.base import Model
from recgraph.models.distil import DistilConfig, Teacher
from recgraph.serve.bundle import BundleError, bundle_of, digest
from recgraph.serve.recommender import Recommender, load

__all__ = ["give_teacher", "teacher_of", "teacher_record", "without_teacher"]

_log = logging.getLogger(__name__)


def teacher_of(model: Model) -> str | None:
    """The folder of the teacher that a model's settings name, or None."""
    return model.config.teacher if isinstance(model.config, DistilConfig) else None


def teacher_record(model: Model) -> dict[str, Any] | None:
    """The teacher of a model as JSON values: the folder, and a digest of what is in it; None where there is none."""
    found = _found(model)
    return None if found is None else {"source": model.config.teacher, "digest": found[0]}


def _found(model: Model) -> tuple[str, int] | None:
    """The digest and the bytes of a model's teacher. A folder without one is refused where it is read."""
    folder = teacher_of(model)
    if folder is None:
        return None
    try:
        return digest(bundle_of(folder)), 0
    except BundleError:
        return None


def give_teacher(model: Model, split: SealedSplit, fit_on: str) -> None:
    """Read the teacher of a built model; nothing where it has none.

    Raises:
        ValueError: the teacher is no recommender, was fitted on another split or part, or has other users or items.
        BundleError: the folder cannot be read; names the setting.
    """
    folder = teacher_of(model)
    if folder is None:
        return
    name = f"teacher = {folder!r}"
    try:
        served = load(folder)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error
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
    model.teacher = Teacher(served.model, model.config.distil_candidates)


def without_teacher(recommender: Recommender) -> Recommender:
    """The recommender with a model that does not learn from a teacher: a teacher knows no new users and items."""
    folder = teacher_of(recommender.model)
    if folder is None:
        return recommender
    _log.warning("teacher = %r knows none of the new users and items: training goes on without it", folder)
    found, model = copy(recommender), copy(recommender.model)
    model.config = model.config.model_copy(update={"teacher": None})
    found.model = model
    return found
