"""Every model of the registry at a small size, built for data that have what data have: what
contract tests share.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import torch
from collaborative_cases import with_relations
from small_settings import with_small

from recgraph import registry
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, NodeModel
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

SPACE = Space(n_users=24, n_items=30)
# small sizes for the settings that models share, where a model has them
SMALL = {"hidden_dim": 16, "max_len": 8, "encoder.inner_dim": 32, "loss.n_negatives": 24}
SMALL_ON_GRAPHS = {
    "metapaths": ("paper-author-paper", "paper-subject-paper"),
    "hidden_dim": 8,
    "prototypes.n_clusters": (3, 6),
    "paths.top_k": (4, 9),
}
N_PAPERS = 30

#: of typed graphs, whose nodes they embed; those that are trained
OF_NODES = [
    name for name in registry.names("model") if issubclass(registry.load("model", name), NodeModel)
]
TRAINED_OF_NODES = [
    name for name in OF_NODES if issubclass(registry.load("model", name), GraphModel)
]
RECOMMENDERS = [name for name in registry.names("model") if name not in OF_NODES]
TRAINABLE = [
    name for name in RECOMMENDERS if issubclass(registry.load("model", name), TrainableModel)
]
CLOSED_FORM = [
    name for name in RECOMMENDERS if issubclass(registry.load("model", name), ClosedFormModel)
]


def recommender(
    name: str, device: torch.device | str = "cpu", seed: int = 0, **settings: object
) -> Model:
    cls = registry.load("model", name)
    model: Model = cls(**with_small(cls, SMALL, settings))
    return model.build(with_relations(part()) if cls.reads_graph else SPACE, seed=seed).to(device)


def regimes_of(name: str) -> tuple[str, ...]:
    """What the setting ``regime`` of a model may be; none where it has no such setting."""
    field = registry.load("model", name).Config.model_fields.get("regime")
    return () if field is None else get_args(field.annotation)


def part() -> Part:
    """Users of 0 to 14 items; the last item is in no history."""
    draw = np.random.default_rng(4)
    lengths = [0, 1, 2, *draw.integers(2, 15, SPACE.n_users - 3)]
    rows = [draw.choice(SPACE.n_items - 1, n, replace=False).tolist() for n in lengths]
    return Part(Ragged.from_lists(rows), SPACE.n_items)


def graph() -> HeteroGraph:
    """Dense, sparse and no features; a paper that no author wrote."""
    draw = torch.Generator().manual_seed(0)
    by = torch.arange(60) % (N_PAPERS - 1), torch.randint(20, (60,), generator=draw)
    on = torch.arange(N_PAPERS), torch.randint(4, (N_PAPERS,), generator=draw)
    dense = torch.rand(N_PAPERS, 9, generator=draw)
    sparse = Csr.from_dense((torch.rand(4, 6, generator=draw) > 0.5).float())
    return HeteroGraph.from_edge_lists(
        {"paper": N_PAPERS, "author": 20, "subject": 4},
        {("paper", "by", "author"): by, ("paper", "on", "subject"): on},
        features={"paper": dense, "subject": sparse},
    )


def of_nodes(
    name: str,
    device: torch.device | str = "cpu",
    seed: int = 0,
    of: HeteroGraph | None = None,
    **settings: object,
) -> Any:
    """A model of nodes, built for a graph (default: :func:`graph`), and fitted where that is one
    step.
    """
    cls = registry.load("model", name)
    model = (
        cls(**with_small(cls, SMALL_ON_GRAPHS, settings)).build(of or graph(), seed=seed).to(device)
    )
    return model.fit(None) if isinstance(model, ClosedFormModel) else model
