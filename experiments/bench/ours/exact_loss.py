"""The exact loss of MEOW or AdaMEOW on all nodes of a generated graph, in row blocks: stages of one full-graph step.

The quadratic part is first measured on some anchors against all candidates, so that its time is known beforehand.
"""

from __future__ import annotations

from typing import Any

import large_graph
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.contrast.clustering import Clustering, concentration
from recgraph.contrast.weights import Cluster
from recgraph.rng import Generators

#: anchors of the calibration
_ANCHORS = 512


def prepare(options: dict[str, Any]) -> Any:
    graph, _ = large_graph.generate(options["n_targets"])
    model = registry.load("model", options["model"])(**options["settings"]).build(graph, seed=0).train()
    batch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
    n, kept = options["n_targets"], {}
    clusterings: list[Clustering] = []

    def views() -> dict[str, float]:
        both = model.both_views(model._step_inputs(batch), batch.generators["dropout"])
        kept["coarse"], kept["fine"] = model.views.head(both.coarse), model.views.head(both.fine)
        if isinstance(model.contrast.weight, Cluster):
            clusterings.extend(model.prototypes(kept["fine"]))
            model.contrast.weight.prepare(lambda: torch.stack([c.assignments for c in clusterings]))
        return {"nodes": float(n)}

    def loss_of(rows: slice) -> tuple[Tensor, list[Tensor]]:
        """The loss of some anchors against all candidates, and what it is differentiated by."""
        leaves = [kept[name].detach().requires_grad_() for name in ("coarse", "fine")]
        anchors, candidates = leaves if clusterings else leaves[::-1]
        anchors, ids = anchors[rows], torch.arange(n)
        loss = model.contrast(anchors, candidates, ids[rows], ids, ids[rows])
        for clustering in clusterings:
            phi = concentration(candidates.detach(), clustering, model.config.contrast.temperature)
            directions = F.normalize(clustering.centroids, dim=1)
            of_rows = clustering.assignments[rows]
            proto = model.proto_contrast(anchors, directions, positives=of_rows, temperatures=phi)
            loss = loss + model.config.proto_weight * proto / len(clusterings)
        return loss, leaves

    def calibrate() -> dict[str, float]:
        loss_of(slice(_ANCHORS))[0].backward()
        return {"anchors": float(_ANCHORS)}

    def loss() -> dict[str, float]:
        value, leaves = loss_of(slice(n))
        value.backward()
        kept["grads"] = [leaf.grad for leaf in leaves]
        return {"anchors": float(n), "loss": float(value.detach())}

    def backward() -> dict[str, float]:
        torch.autograd.backward([kept["coarse"], kept["fine"]], kept["grads"])
        return {"nodes": float(n)}

    stages = iter([views, calibrate, calibrate, loss, backward])

    def run(steps: int) -> dict[str, float]:
        return next(stages)() if steps else {}

    return run
