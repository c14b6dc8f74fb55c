"""Random users, items and seen items: what the ranking benchmarks share. numpy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

#: seen items of a user
N_SEEN = 20


def users_and_items(options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n_users, width] and [n_items, width] float32, and [n_users, N_SEEN] int64 items, some more than once."""
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    return users, items, generator.integers(0, options["n_items"], (options["n_users"], N_SEEN))


def part(options: dict[str, Any], steps: int) -> slice:
    """The users of so many steps; ``options["steps"]`` of them are the first ``options["sample"]`` users."""
    return slice(0, options["sample"] * steps // options["steps"])
