"""EASE and iALS of this library beside RecTools' EASE and implicit's ALS, on the interactions of MovieLens-100k.

    python -m experiments.closed_form_parity

The peers run in an environment of their own, which is made when it is first needed. A JSON object for each quantity.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.bench import environments
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.models.base import Space
from recgraph.models.closed_form.ials import IALS
from recgraph.models.closed_form.linear import EASE

SCRIPT = Path(__file__).resolve().parent / "bench" / "peers" / "closed_form.py"
#: quantity -> relative and absolute tolerance; EASE is float32 on both sides
TOLERANCES = {
    "ease_weights_rectools": (1e-4, 1e-6),
    "ials_items_implicit": (1e-6, 1e-8),
    "ials_users_implicit": (1e-6, 1e-8),
}


def closed_form_parity(log: Path) -> Iterator[dict[str, Any]]:
    """One line a quantity, with the greatest difference and whether it is within the tolerance.

    Args:
        log: a folder of RecBole's atomic files.

    Raises:
        EnvironmentMissing: the peers cannot be installed.
    """
    train = Interactions.read(log).split("ratio").train
    # the peers do not know items that no user has
    kept = train.item_counts() > 0
    train = Part(train.items.with_values((kept.cumsum(0) - 1)[train.items.values]), int(kept.sum()))
    space = Space(n_users=train.n_users, n_items=train.n_items)
    ease = EASE(l2=100.0).build(space).fit(train)
    als = IALS(hidden_dim=16, confidence=5.0, l2=20.0, n_iterations=4).build(space, seed=3).double()
    peer = _run_peers(
        rows=train.items.rows.numpy(),
        cols=train.items.values.numpy(),
        shape=np.array([train.n_users, train.n_items]),
        ease_l2=100.0,
        start=als._start().numpy(),
        confidence=5.0,
        als_l2=20.0,
        iterations=4,
    )
    items = als.fit(train).item_vectors
    # a user is folded in; the peer's users answer to the items before its last half-step
    before = IALS(als.config.model_copy(update={"n_iterations": 3})).build(space, seed=3).double().fit(train)
    users = before.encode_users(Query(torch.arange(train.n_users), train.items))
    pairs = {
        "ease_weights_rectools": (ease.weights, peer["ease"]),
        "ials_items_implicit": (items, peer["als_items"]),
        "ials_users_implicit": (users, peer["als_users"]),
    }
    for name, (ours, theirs) in pairs.items():
        relative, absolute = TOLERANCES[name]
        yield {
            "name": name,
            "greatest_difference": float(np.abs(ours.numpy() - theirs).max()),
            "relative_tolerance": relative,
            "absolute_tolerance": absolute,
            "ok": bool(np.allclose(ours.numpy(), theirs, rtol=relative, atol=absolute)),
        }


def _run_peers(**given: Any) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("given.npz", "made.npz")]
        np.savez(paths[0], **given)
        python = environments.python_of("rectools-linear")
        subprocess.run([str(python), str(SCRIPT), *map(str, paths)], check=True, timeout=600)
        with np.load(paths[1]) as made:
            return dict(made)


if __name__ == "__main__":
    from experiments.reference import SHARED

    for line in closed_form_parity(SHARED / "data" / "ml-100k"):
        print(json.dumps(line), flush=True)
