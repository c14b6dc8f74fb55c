"""Generated interactions with planted structure, on which the best possible ranking is known.

Items form groups of equal size, and each group is a cycle: a hidden order of its items. A user
belongs to one group, starts at a random item of it and then jumps forward along the cycle, ``j``
places with probability proportional to ``decay ** j``, ``j = 1 .. reach``. All that can be known of
the next item is how far it is from the last one: the best ranking sorts by the probability of the
jump, and its NDCG@k is the sum of p_j / log2(1 + j) over j <= k.
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from recgraph.config import Config
from recgraph.rng import numpy_generator

# Users are drawn in blocks with a generator each.
_BLOCK = 65_536
_START = 1_000_000_000
_HOUR = 3_600


class Synthetic(Config):
    """The parameters of the generator. A sequence never comes back to an item, so keeping and
    excluding seen items have the same best possible ranking."""

    n_users: int = Field(600, ge=1)
    n_items: int = Field(300, ge=2)
    n_groups: int = Field(6, ge=1, description="must divide n_items")
    min_length: int = Field(5, ge=1, description="fewest interactions of a user")
    max_length: int = Field(12, ge=1, description="most interactions of a user")
    reach: int = Field(4, ge=1, description="the longest jump")
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.4
    skew: Annotated[float, Field(ge=0)] = 0.5
    seed: int = 7

    @model_validator(mode="after")
    def _fits(self) -> Self:
        longest = (self.max_length - 1) * self.reach
        if (
            self.n_items % self.n_groups
            or self.max_length < self.min_length
            or longest >= self.group_size
        ):
            raise ValueError(
                "n_groups must divide n_items; (max_length - 1) * reach be less than n_items / n_groups"
            )
        return self

    @property
    def group_size(self) -> int:
        return self.n_items // self.n_groups


def jump_probabilities(config: Synthetic) -> npt.NDArray[np.float64]:
    """[reach]: the probabilities of jumps of 1, 2, ... places; strictly decreasing."""
    weights: npt.NDArray[np.float64] = config.decay ** np.arange(
        1, config.reach + 1, dtype=np.float64
    )
    p: npt.NDArray[np.float64] = weights / weights.sum()
    return p


def generate(config: Synthetic) -> dict[str, pl.DataFrame]:
    """The tables ``interactions`` (user, item, timestamp), ``items`` (from 1, with the place on
    their group's cycle) and ``users`` (with their group)."""
    # neither group nor place can be read off the id
    slots = np.argsort(
        numpy_generator(config.seed, "synthetic", "places").random(config.n_items), kind="stable"
    )
    group, place, numbers = (
        slots // config.group_size,
        slots % config.group_size,
        np.arange(1, config.n_items + 1),
    )
    titles = [f"Item {number} (group {of})" for number, of in zip(numbers, group, strict=True)]
    items = pl.DataFrame({"item_id": numbers, "title": titles, "group": group, "place": place})
    at = np.empty(config.n_items, dtype=np.int64)
    at[slots] = numbers
    firsts = range(0, config.n_users, _BLOCK)
    blocks = [_block(config, at, first, min(_BLOCK, config.n_users - first)) for first in firsts]
    logs, users = zip(*blocks, strict=True)
    return {"interactions": pl.concat(logs), "items": items, "users": pl.concat(users)}


def _block(
    config: Synthetic, at: npt.NDArray[np.int64], first: int, n_users: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    # only uniform doubles are drawn: their stream is the same in every version of numpy
    random = numpy_generator(config.seed, "synthetic", "users", first).random
    spread = config.max_length - config.min_length + 1
    lengths = config.min_length + (random(n_users) * spread).astype(np.int64)
    popularity = np.arange(1, config.n_groups + 1, dtype=np.float64) ** -config.skew
    groups = _draw(popularity / popularity.sum(), random(n_users))
    starts = (random(n_users) * config.group_size).astype(np.int64)
    begins = _START + (random(n_users) * _HOUR * 24 * 365).astype(np.int64)

    ends = np.cumsum(lengths)
    steps = 1 + _draw(jump_probabilities(config), random(int(ends[-1])))
    row_of = np.repeat(np.arange(n_users), lengths)
    walked = np.cumsum(steps)
    # the jump that leads to a user's first item does not count
    offset = walked - np.repeat(walked[ends - lengths], lengths)
    place = (starts[row_of] + offset) % config.group_size
    order = np.arange(row_of.size) - np.repeat(ends - lengths, lengths)
    log = pl.DataFrame(
        {
            "user_id": first + 1 + row_of,
            "item_id": at[groups[row_of] * config.group_size + place],
            "timestamp": begins[row_of] + order * _HOUR,
        }
    )
    return log, pl.DataFrame({"user_id": first + 1 + np.arange(n_users), "group": groups})


def _draw(p: npt.NDArray[np.float64], uniform: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Inverse transform: index ``i`` with probability ``p[i]``."""
    return np.minimum(np.searchsorted(np.cumsum(p), uniform, side="right"), p.size - 1)
