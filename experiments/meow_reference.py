"""MEOW and AdaMEOW beside their published code, on two golden steps: what our models compute from
the same inputs.

Each function takes a golden file's tensors (tests/golden/meow_step_*.npz; float64, no dropout) and
gives our values under the golden names. The masks are the published ones, so that nothing is drawn.
``make reference`` and tests/models/test_metapath_models.py compare them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.augment.graph import EdgeDrop
from recgraph.contrast.clustering import Clustering, concentration, nearest
from recgraph.contrast.prototypes import PrototypeSet, prototypes_of
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW, MetaPathModel
from recgraph.models.heterogeneous.paths import MetaPathInputs
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import normalise

__all__ = ["CHECKS", "adameow_step", "dblp_contexts", "meow_contexts", "meow_graph", "meow_step"]

Golden = dict[str, Tensor]
M = TypeVar("M", bound=MetaPathModel)
PATHS = ("pap", "psp")


def meow_graph(golden: Golden) -> Golden:
    """Top-k, normalisation and masks, from the incidence matrices alone."""
    model, _ = _model(MEOW, golden)
    got, ties, graph = {}, Generators(model._seed).fresh("ties"), _graph(golden)
    made = zip(
        PATHS, model.config.paths.made(model.config.metapaths), model._inputs.paths, strict=True
    )
    for name, metapath, path in made:
        plain = metapath.adjacency(graph, generator=ties)
        kept_mask = golden[f"kept_{name}"][plain.rows, plain.indices]
        masked = EdgeDrop().apply(plain, kept_mask)
        masked = masked.with_weights(masked.values(torch.float64))
        got |= {
            f"top_{name}": plain.to_dense(),
            f"norm_{name}": path.adjacency.to_dense(),
            f"masked_norm_{name}": normalise(masked, "meow").to_dense(),
        }
    return got


def meow_contexts(golden: Golden) -> Golden:
    """Transformed features, and the contexts of both paths with their masked twins."""
    model, inputs = _model(MEOW, golden)
    names = tuple(f"context_{name}" for name in PATHS)
    hidden, got = _contexts(model, inputs, golden["feat_p_masked"], names)
    return {"h_coarse": hidden, **got}


class _PublishedCentroids(MEOW):
    """MEOW whose clusters are those of given centroids, [k, D] of each granularity."""

    centroids: tuple[Tensor, ...]

    def clusterings(self, fine: Tensor) -> list[Clustering]:
        fine = fine.detach()
        return [Clustering(nearest(fine, rows)[1], rows, 0.0) for rows in self.centroids]

    def cluster(self, fine: Tensor) -> list[PrototypeSet]:
        return prototypes_of(self.clusterings(fine), fine, self.config.contrast.temperature)


def meow_step(golden: Golden) -> Golden:
    """Both views, clusters and concentrations from the given centroids, both losses, gradients of
    their sum.
    """
    model, model._inputs = _model(_PublishedCentroids, golden)
    model.centroids = golden["centroid_raw_0"], golden["centroid_raw_1"]
    views = model.both_views(model._inputs)
    coarse, fine = model.views.head(views.coarse), model.views.head(views.fine)
    batch = GraphBatch(len(fine), 0, Generators(0))
    losses = model.losses(batch, frozenset({"info", "proto"}))
    total = losses["info"] + losses["proto"]
    grads = torch.autograd.grad(total, [model.views.project.weight, model.views.encoder.weights[0]])
    clusterings = model.clusterings(fine)
    # the authors' ProtoNCE also carries N over the number of prototypes, a constant
    constants = [math.log(len(fine) / len(clustering.centroids)) for clustering in clusterings]
    got = {"z_fine": views.fine, "z_coarse": coarse, "z_fine_projected": fine}
    for t, clustering in enumerate(clusterings):
        got[f"cluster_{t}"] = clustering.assignments
        got[f"density_{t}"] = concentration(fine.detach(), clustering, float(golden["tau"]))
    got |= {"loss_info": losses["info"], "loss_proto": losses["proto"] + sum(constants) / 2}
    return got | {"grad_project": grads[0], "grad_gc1": grads[1]}


def adameow_step(golden: Golden) -> Golden:
    """Both views, the loss with learned weights, and its gradients."""
    model, inputs = _model(AdaMEOW, golden)
    views = model.both_views(inputs)
    coarse, fine = model.views.head(views.coarse), model.views.head(views.fine)
    loss = model.contrast(fine, coarse)
    grads = torch.autograd.grad(
        loss, [model.contrast.weight.first.weight, model.views.project.weight]
    )
    return {
        "ada_z_fine_projected": fine,
        "ada_z_coarse": coarse,
        "ada_loss": loss,
        "ada_grad_mlp0": grads[0],
        "ada_grad_project": grads[1],
    }


def dblp_contexts(golden: Golden) -> Golden:
    """Contexts of DBLP's paths, whose seven context layers follow from the paths alone."""
    features = {
        name: golden[f"dblp_feat_{name}"] for name in ("author", "paper", "term", "conference")
    }
    edges = {
        ("author", "writes", "paper"): golden["dblp_author_paper"],
        ("paper", "at", "conference"): golden["dblp_paper_conference"],
        ("paper", "has", "term"): golden["dblp_paper_term"],
    }
    pairs = {name: tuple(torch.nonzero(matrix, as_tuple=True)) for name, matrix in edges.items()}
    graph = HeteroGraph.from_edge_lists(
        {name: len(x) for name, x in features.items()}, pairs, features=features
    )
    paths = (
        "author-paper-author",
        "author-paper-conference-paper-author",
        "author-paper-term-paper-author",
    )
    dim = golden["dblp.model.fc_list.0.weight"].shape[0]
    model = (
        MEOW(metapaths=paths, hidden_dim=dim, raw_features=tuple(features))
        .build(graph)
        .double()
        .eval()
    )
    layers = [name for name in model.state_dict() if name.startswith("views.context_layers")]
    assert len(layers) == 7
    state = _type_layers(model, golden, "dblp.model", tuple(features))
    state |= {name: golden[f"dblp.model.agg.{number}.weight"] for number, name in enumerate(layers)}
    model.load_state_dict(model.state_dict() | state)
    names = tuple(f"dblp_context_{name}" for name in ("apa", "apcpa", "aptpa"))
    return _contexts(model, model._step_inputs(None), golden["dblp_feat_author_masked"], names)[1]


#: name in the report -> what computes it
CHECKS = {
    "meow_graph": meow_graph,
    "meow_contexts": meow_contexts,
    "meow": meow_step,
    "adameow": adameow_step,
    "meow_dblp_contexts": dblp_contexts,
}


def _model(cls: type[M], golden: Golden) -> tuple[M, MetaPathInputs]:
    """A model with the published weights, and what it reads: the published graph with the published
    masks.
    """
    hidden, dim = golden["model.Encoder.gc1.weight"].shape
    model = cls(
        metapaths=("paper-author-paper", "paper-subject-paper"),
        paths={"top_k": tuple(golden["topk"].tolist())},
        hidden_dim=hidden,
        embedding_dim=dim,
        contrast={"temperature": float(golden["tau"])},
        raw_features=("paper", "author", "subject"),
    )
    model.build(_graph(golden)).double().eval()
    _load(model, golden)
    inputs: MetaPathInputs = model._inputs
    paths = tuple(
        replace(path, masked=Csr.from_dense(golden[f"masked_norm_{name}"]))
        for path, name in zip(inputs.paths, PATHS, strict=True)
    )
    return model, replace(inputs, masked=golden["feat_p_masked"], paths=paths)


def _graph(golden: Golden) -> HeteroGraph:
    edges = {("paper", "pa", "author"): golden["pa"], ("paper", "ps", "subject"): golden["ps"]}
    features = {"paper": golden["feat_p"], "author": golden["feat_a"], "subject": golden["feat_s"]}
    made = {name: Csr.from_dense(matrix) for name, matrix in edges.items()}
    counts = {name: len(x) for name, x in features.items()}
    pairs = {name: (adj.rows, adj.indices) for name, adj in made.items()}
    weights = {name: adj.values() for name, adj in made.items()}
    return HeteroGraph.from_edge_lists(counts, pairs, features=features, weights=weights)


def _load(model: MetaPathModel, golden: Golden) -> None:
    """Load the published weights."""
    state = _type_layers(model, golden, "model", ("paper", "author", "subject"))
    state |= {f"views.context_layers.{k}.0.weight": golden[f"model.agg.{k}.weight"] for k in (0, 1)}
    state |= {
        f"views.encoder.weights.{k}": golden[f"model.Encoder.gc{k + 1}.weight"] for k in (0, 1)
    }
    state["views.encoder.activations.0.weight"] = golden["model.Encoder.gc1.act.weight"]
    state |= {
        f"views.attention.{name}": golden[f"model.att.{name}"]
        for name in ("att", "fc.weight", "fc.bias")
    }
    state |= {
        f"views.project.{name}": golden[f"model.project.{name}"] for name in ("weight", "bias")
    }
    if isinstance(model, AdaMEOW):
        for ours, theirs in (("first", "0"), ("second", "2")):
            state |= {
                f"contrast.weight.{ours}.{name}": golden[f"ada.MLP.{theirs}.{name}"]
                for name in ("weight", "bias")
            }
    model.load_state_dict(state)


def _type_layers(
    model: MetaPathModel, golden: Golden, prefix: str, types: tuple[str, ...]
) -> Golden:
    """The published layers of node types, in the published order of types, under our names."""
    state = {}
    for number, node_type in enumerate(types):
        ours = f"type_layers.{model.types.index(node_type)}.linear"
        state |= {
            f"{ours}.{name}": golden[f"{prefix}.fc_list.{number}.{name}"]
            for name in ("weight", "bias")
        }
    return state


def _contexts(
    model: MetaPathModel, inputs: MetaPathInputs, features_masked: Tensor, names: tuple[str, ...]
) -> tuple[Tensor, Golden]:
    """The target's transformed features, and each path's context x_P and its masked twin, in the
    order of the paths.
    """
    layers = dict(zip(model.types, model.type_layers, strict=True))
    hidden = {
        node_type: layer(inputs.features[node_type], None) for node_type, layer in layers.items()
    }
    target = hidden[model.types[0]]
    masked = model.type_layers[0](features_masked, None)
    got: Golden = {}
    means: dict[int, Tensor] = {}
    for number, name in enumerate(names):
        context = model.views._context(number, inputs.paths[number], hidden, means)
        got |= {name: F.elu(target + context), f"{name}_masked": F.elu(masked + context)}
    return target, got
