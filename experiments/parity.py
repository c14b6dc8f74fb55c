"""Models of this library beside those of others, from the same start and the same interactions:
``make reference``.

LightGCN beside PyTorch Geometric's own: both begin with the same vectors and take the same batches,
negatives and optimiser; PyG's model runs as its example does, on the normalised adjacency as CSR,
with its own loss, whose penalty of all three vectors of a sample at ``lambda_reg`` is this
library's ``l2 = 2 lambda_reg``. EASE beside RecTools' and iALS beside implicit's, which run in an
environment of their own, made when it is first needed.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.bench import environments
from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.data.split import load_data
from recgraph.models.base import Space
from recgraph.models.closed_form.ials import IALS
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.rng import Generators

SCRIPT = Path(__file__).resolve().parent / "bench" / "peers" / "closed_form.py"
#: quantity -> relative and absolute tolerance; EASE is float32 on both sides
TOLERANCES = {
    "ease_weights_rectools": (1e-4, 1e-6),
    "ials_items_implicit": (1e-6, 1e-8),
    "ials_users_implicit": (1e-6, 1e-8),
}


class Ours:
    """This library's LightGCN."""

    def __init__(self, train: Part, l2: float = 1e-4) -> None:
        generators = Generators(0)
        self.model = LightGCN(hidden_dim=16, n_layers=3, l2=l2)
        self.model.build(Space(n_users=train.n_users, n_items=train.n_items), generators.seed)
        self.l2 = l2
        self.batches = self.model.batches(train, 8192, generators)

    def loss(self, batch: PairBatch) -> Tensor:
        terms = self.model(batch, ("rec", "l2"))
        return terms["rec"] + self.l2 * terms["l2"]

    def nodes(self) -> Tensor:
        return self.model.nodes()


class Peer:
    """PyG's model, beginning with the vectors of ours."""

    def __init__(self, ours: Ours, train: Part) -> None:
        from torch_geometric.nn.conv.gcn_conv import gcn_norm
        from torch_geometric.nn.models import LightGCN as Published

        self.n_users, n_nodes = train.n_users, train.n_users + train.n_items
        self.lambda_reg = ours.l2 / 2
        users, items = train.items.rows, train.items.values + self.n_users
        pairs = torch.unique(torch.stack([users, items]), dim=1)
        edges, weights = gcn_norm(
            torch.cat([pairs, pairs.flip(0)], 1), None, n_nodes, add_self_loops=False
        )
        self.adjacency = (
            torch.sparse_coo_tensor(edges, weights, (n_nodes, n_nodes)).coalesce().to_sparse_csr()
        )
        self.model = Published(n_nodes, ours.model.config.hidden_dim, num_layers=3, normalize=False)
        with torch.no_grad():
            self.model.embedding.weight.copy_(ours.model.embedding.weight)

    def loss(self, batch: PairBatch) -> Tensor:
        items, negatives = batch.items + self.n_users, batch.negatives[:, 0] + self.n_users
        pairs = torch.stack([torch.cat([batch.users, batch.users]), torch.cat([items, negatives])])
        of_items, of_negatives = self.model(self.adjacency, pairs).chunk(2)
        nodes = torch.cat([batch.users, items, negatives])
        loss: Tensor = self.model.recommendation_loss(
            of_items, of_negatives, node_id=nodes, lambda_reg=self.lambda_reg
        )
        return loss

    def nodes(self) -> Tensor:
        nodes: Tensor = self.model.get_embedding(self.adjacency)
        return nodes


def lightgcn_parity(train: Part, epochs: int = 2) -> dict[str, float]:
    """How far losses and vectors are apart after some epochs of small vectors, and how far the loss
    has fallen.
    """
    ours = Ours(train)
    sides = (ours, Peer(ours, train))
    optimisers = [torch.optim.Adam(side.model.parameters(), lr=0.01) for side in sides]
    found = []
    for epoch in range(epochs):
        for batch in ours.batches.epoch(epoch):
            for side, optimiser in zip(sides, optimisers, strict=True):
                optimiser.zero_grad()
                loss = side.loss(batch)
                loss.backward()
                optimiser.step()
                found.append(float(loss.detach()))
    losses = torch.tensor(found).view(-1, 2)
    with torch.no_grad():
        vectors = float((sides[0].nodes() - sides[1].nodes()).abs().max())
    return {
        "n_steps": len(losses),
        "worst_difference_of_losses": float((losses[:, 0] - losses[:, 1]).abs().max()),
        "worst_difference_of_vectors": vectors,
        "last_loss_over_first": float(losses[-1, 0] / losses[0, 0]),
    }


def closed_form_parity(log: Path) -> Iterator[dict[str, Any]]:
    """One line a quantity, with the greatest difference and whether it is within the tolerance.

    Args:
        log: a folder of RecBole's atomic files.

    Raises:
        EnvironmentMissing: the peers cannot be installed.
    """
    train = load_data(log).split("ratio").train
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
    before = (
        IALS(als.config.model_copy(update={"n_iterations": 3}))
        .build(space, seed=3)
        .double()
        .fit(train)
    )
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
