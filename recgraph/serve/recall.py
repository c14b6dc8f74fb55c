"""Recall of approximate lists against exact ones."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recgraph.arguments import checked
from recgraph.rng import Generators
from recgraph.serve.checks import check_positive
from recgraph.serve.recommender import Recommender

__all__ = ["recall_of_lists"]


@checked
def recall_of_lists(recommender: Recommender, k: int = 10, n_users: int = 256, seed: int = 0) -> float:
    """Recall of a recommender's approximate lists: the share of the items of exact lists that they contain.

    Args:
        recommender: after :meth:`~recgraph.serve.recommender.Recommender.use_ann`.
        k: the length of the lists.
        n_users: the size of the sample of users with a history, drawn with ``seed``; all of them where there are fewer.

    Raises:
        ValueError: the recommender has no index, no user has a history, the sampled users have seen every item, the
            model cannot rank for one of them (:class:`recgraph.serve.request.NoHistoryError`), or a number is below 1.
    """
    check_positive(k=k, n_users=n_users)
    if recommender.ann is None:
        raise ValueError("the recommender has no index; call use_ann() first")
    near, exact = copy.copy(recommender), copy.copy(recommender)
    near.kind = exact.kind = "polars"
    exact.ann = None
    with_history = recommender.seen.lengths.nonzero().flatten()
    if not len(with_history):
        raise ValueError("no user of the recommender has a history")
    drawn = torch.randperm(len(with_history), generator=Generators(seed).fresh("users"))[:n_users]
    users = recommender.users.ids(with_history[drawn])
    found, wanted = (_pairs(recommender, each.recommend(users=users, k=k)) for each in (near, exact))
    if not len(wanted):
        raise ValueError("the exact lists are empty: the sampled users have seen every item")
    return float(np.isin(wanted, found).mean())


def _pairs(recommender: Recommender, answer: Any) -> npt.NDArray[np.int64]:
    """[N] a number for each pair of a user and an item: polars joins no columns of Python objects, as UUIDs are."""
    user, item = (answer[name] for name in answer.columns[:2])
    return recommender.users.index(user) * len(recommender.items) + recommender.items.index(item)
