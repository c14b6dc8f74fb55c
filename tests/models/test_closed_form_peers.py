"""EASE and implicit ALS against what other libraries make of MovieLens-100k."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.bench import environments  # noqa: E402
from recgraph.data.batches import Query  # noqa: E402
from recgraph.data.interactions import Interactions  # noqa: E402
from recgraph.data.part import Part  # noqa: E402
from recgraph.models.base import Space  # noqa: E402
from recgraph.models.closed_form.ials import IALS  # noqa: E402
from recgraph.models.closed_form.linear import EASE  # noqa: E402


@pytest.mark.peer
def test_rectools_ease_and_implicit_als_agree(shared: Path, tmp_path: Path) -> None:
    train = Interactions.from_recbole(shared / "data" / "ml-100k").split("ratio").train
    # what no user has, the peers do not know
    kept = train.item_counts() > 0
    train = Part(train.items.with_values((kept.cumsum(0) - 1)[train.items.values]), int(kept.sum()))
    space = Space(n_users=train.n_users, n_items=train.n_items)
    ease = EASE(l2=100.0).build(space).fit(train)
    als = IALS(hidden_dim=16, confidence=5.0, l2=20.0, n_iterations=4).build(space, seed=3).double()
    given, made = tmp_path / "given.npz", tmp_path / "made.npz"
    np.savez(
        given,
        rows=train.items.rows.numpy(),
        cols=train.items.values.numpy(),
        shape=np.array([train.n_users, train.n_items]),
        ease_l2=100.0,
        start=als._start().numpy(),
        confidence=5.0,
        als_l2=20.0,
        iterations=4,
    )
    python = environments.python_of("rectools-linear")
    script = ROOT / "experiments" / "bench" / "peers" / "closed_form.py"
    subprocess.run([str(python), str(script), str(given), str(made)], check=True, timeout=600)
    peer = np.load(made)
    np.testing.assert_allclose(ease.weights.numpy(), peer["ease"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(als.fit(train).item_vectors.numpy(), peer["als_items"], rtol=1e-6, atol=1e-8)
    # a user is folded in; the peer's users answer to the items before its last half-step
    before = IALS(als.config.model_copy(update={"n_iterations": 3})).build(space, seed=3).double().fit(train)
    users = before.encode_users(Query(torch.arange(train.n_users), train.items))
    np.testing.assert_allclose(users.numpy(), peer["als_users"], rtol=1e-6, atol=1e-8)
