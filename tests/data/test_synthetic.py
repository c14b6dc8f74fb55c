"""Generated data: its structure, its reproducibility, and that it can be learned."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from recgraph.data.catalog.synthetic import Synthetic, generate, jump_probabilities
from recgraph.data.split import Interactions

CONFIG = Synthetic()


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return generate(CONFIG)


def _jumps(tables: dict[str, pl.DataFrame], config: Synthetic = CONFIG) -> pl.DataFrame:
    """Each step: user, group before and after, and the distance along the cycle."""
    log = tables["interactions"].join(tables["items"], on="item_id", maintain_order="left")
    before = pl.col("place").shift(1).over("user_id")
    return log.with_columns(
        jump=(pl.col("place") - before) % config.group_size,
        last=pl.col("timestamp") == pl.col("timestamp").max().over("user_id"),
    ).filter(pl.col("jump").is_not_null())


def test_sizes_ids_and_order(tables: dict[str, pl.DataFrame]) -> None:
    log = tables["interactions"]
    lengths = log.group_by("user_id").len()["len"]
    assert log["user_id"].n_unique() == CONFIG.n_users == len(tables["users"])
    assert (lengths.min(), lengths.max()) == (CONFIG.min_length, CONFIG.max_length)
    assert set(log["item_id"]) == set(range(1, CONFIG.n_items + 1)) == set(tables["items"]["item_id"])
    assert log.equals(log.sort("user_id", "timestamp"))
    assert not log.select("user_id", "item_id").is_duplicated().any(), "nobody comes back to an item"


def test_jumps_have_their_probabilities(tables: dict[str, pl.DataFrame]) -> None:
    jumps = _jumps(tables)["jump"].to_numpy()
    seen = np.bincount(jumps, minlength=CONFIG.reach + 1)[1:]
    assert len(seen) == CONFIG.reach
    expected = jump_probabilities(CONFIG) * len(jumps)
    chi2 = float(((seen - expected) ** 2 / expected).sum())
    assert chi2 < 16.3  # 0.999 quantile at 3 degrees of freedom


def test_the_same_seed_gives_the_same_data(tables: dict[str, pl.DataFrame]) -> None:
    again, other = generate(CONFIG), generate(Synthetic(seed=8))
    assert all(tables[name].equals(again[name]) for name in tables)
    assert not tables["interactions"].equals(other["interactions"])


def test_the_structure_can_be_learned_from_the_train_part(tables: dict[str, pl.DataFrame]) -> None:
    """Counting what follows what in train comes near the best possible ranking on test; popularity does not."""
    data = Interactions.from_frame(tables["interactions"], user="user_id", item="item_id", timestamp="timestamp")
    split = data.split("leave-one-out")
    follows = np.zeros((data.n_items, data.n_items))
    popular = split.train.item_counts().numpy() / 1e6
    for row in range(split.train.n_users):
        items = split.train.items.row(row).numpy()
        np.add.at(follows, (items[:-1], items[1:]), 1.0)
    last = np.array([int(split.test.history.row(row)[-1]) for row in range(len(split.test))])
    truth = split.test.truth.values.numpy()

    def ndcg(scores: np.ndarray) -> float:
        place = 1 + (scores > scores[np.arange(len(truth)), truth][:, None]).sum(1)
        return float(np.where(place <= 10, 1 / np.log2(1 + place), 0).mean())

    p, gains = jump_probabilities(CONFIG), 1 / np.log2(np.arange(2, CONFIG.reach + 2))
    best = float(p @ gains)
    error = math.sqrt((float(p @ gains**2) - best**2) / CONFIG.n_users)
    assert 0.8 * best < ndcg(follows[last] + popular) < best + 4 * error
    assert ndcg(np.broadcast_to(popular, (len(truth), data.n_items))) < 0.2 * best
