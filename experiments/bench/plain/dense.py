"""The graph line as one would write it on dense matrices: N x N adjacencies, similarities and
weights.

The step of MEOW and AdaMEOW is an oracle of the library's models, too. It takes a model's
parameters and what it has read from its graph, made dense; all else, forward to loss, is its own,
on plain tensors and torch's autograd. Only the k-means is the library's. AdaMEOW's published form
holds N x N x 64 numbers several times over (16 GB on ACM): here the first layer is split, which
leaves N x N x 16, and that in blocks of rows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.ours import graphs

Array = npt.NDArray[np.float64]
#: anchors whose N x 16 hidden units are held at once
_ROWS = 512


class DenseStep:
    """The loss of a built model on the whole graph, from dense copies of its parameters and inputs.

    Attributes:
        parameters: the copies, by the model's names; :meth:`backward` fills their gradients.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config
        self.parameters = {
            name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()
        }
        like = next(iter(self.parameters.values()))
        inputs = model._inputs.to(like.device, like.dtype)
        self.target = model.types.index(inputs.target)
        self.features = [
            self._dense(inputs.features[name], layer) for name, layer in self._layers()
        ]
        self.masked = self._dense(inputs.masked, model.type_layers[self.target])
        self.adjacencies = [path.adjacency.to_dense().to(like.dtype) for path in inputs.paths]
        self.masked_adjacencies = [path.masked.to_dense().to(like.dtype) for path in inputs.paths]
        self.mean_adjacency = torch.stack(self.adjacencies).mean(0)
        self.contexts = [
            [
                (model.types.index(name), _mean(reached.to_dense().to(like.dtype)))
                for name, reached in path.contexts
            ]
            for path in inputs.paths
        ]

    def _layers(self) -> list[tuple[str, Any]]:
        return list(zip(self.model.types, self.model.type_layers, strict=True))

    def _dense(self, features: Any, layer: Any) -> Tensor:
        weight = layer.linear.weight
        if features is None:
            return torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
        return (features if isinstance(features, Tensor) else features.to_dense()).to(weight.dtype)

    def backward(self, training: bool = True) -> Tensor:
        """The loss, detached; gradients are left at the parameters."""
        coarse, fine = self.views(training)
        if hasattr(self.model, "prototypes"):
            loss = self._meow(coarse, fine)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()
        return self._adameow(fine, coarse)

    def views(self, training: bool = False) -> tuple[Tensor, Tensor]:
        """[N, D] twice: the projected coarse and fine view."""
        p = self.parameters
        hidden = [self._hidden(x, k, training) for k, x in enumerate(self.features)]
        h, masked = hidden[self.target], self._hidden(self.masked, self.target, training)
        stack = []
        for n, contexts in enumerate(self.contexts):
            reached = [
                mean @ hidden[k] @ p[f"views.context_layers.{n}.{s}.weight"].t()
                for s, (k, mean) in enumerate(contexts)
            ]
            context = self._drop(torch.stack(reached).sum(0), training)
            for adjacency, own in ((self.adjacencies[n], h), (self.masked_adjacencies[n], masked)):
                stack.append(
                    F.normalize(self._gcn(adjacency, F.elu(own + context), training), dim=1)
                )
        views = torch.stack(stack)
        weight, bias = p["views.attention.fc.weight"], p["views.attention.fc.bias"]
        scores = torch.tanh(views @ weight.t() + bias).mean(1) @ self._drop(
            p["views.attention.att"][0], training
        )
        fine = (torch.softmax(scores, 0)[:, None, None] * views).sum(0)
        return self._head(self._gcn(self.mean_adjacency, h, training)), self._head(fine)

    def _drop(self, x: Tensor, training: bool) -> Tensor:
        return F.dropout(x, self.config.dropout, training)

    def _hidden(self, x: Tensor, k: int, training: bool) -> Tensor:
        weight, bias = (
            self.parameters[f"type_layers.{k}.linear.{name}"] for name in ("weight", "bias")
        )
        return F.elu(self._drop(x @ weight.t() + bias, training))

    def _gcn(self, adjacency: Tensor, x: Tensor, training: bool) -> Tensor:
        p = self.parameters
        x = adjacency @ self._drop(x @ p["views.encoder.weights.0"], training)
        x = F.prelu(x, p["views.encoder.activations.0.weight"])
        x = adjacency @ self._drop(x @ p["views.encoder.weights.1"], training)
        return (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()

    def _head(self, z: Tensor) -> Tensor:
        return F.normalize(
            torch.tanh(
                z @ self.parameters["views.project.weight"].t()
                + self.parameters["views.project.bias"]
            ),
            dim=1,
        )

    def _meow(self, coarse: Tensor, fine: Tensor) -> Tensor:
        clusterings = self.model.prototypes(fine.detach())
        weights = torch.full(
            (len(fine), len(fine)), float(len(clusterings)), dtype=fine.dtype, device=fine.device
        )
        for clustering in clusterings:
            members = clustering.assignments
            weights -= (members[:, None] == members).to(fine.dtype)
        similarity = coarse @ fine.t() / self.config.temperature
        info = -(similarity.diagonal().exp() / (weights * similarity.exp()).sum(1)).log().mean()
        proto = torch.stack(
            [self._proto(coarse, fine.detach(), clustering) for clustering in clusterings]
        ).mean()
        return info + self.config.proto_weight * proto

    def _proto(self, anchors: Tensor, members: Tensor, clustering: Any) -> Tensor:
        centroids, which = clustering.centroids, clustering.assignments
        root = (members * centroids[which]).sum(1).clamp(min=0).sqrt()
        is_in = F.one_hot(which, len(centroids)).to(root.dtype)
        sizes = is_in.sum(0)
        phi = is_in.t() @ root / sizes.clamp(min=1) / (sizes + 5).log()
        phi = torch.where(sizes > 1, phi, phi[sizes > 1].max())
        phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
        phi = phi * (self.config.temperature / phi.mean())
        return F.cross_entropy(anchors @ F.normalize(centroids, dim=1).t() / phi, which)

    def _adameow(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Blocks of rows add up their gradients at copies of the views, which then go backward
        once.
        """
        p, total = self.parameters, 0.0
        w, c = p["contrast.weight.first.weight"], p["contrast.weight.first.bias"]
        v, b = p["contrast.weight.second.weight"], p["contrast.weight.second.bias"]
        z, y = (view.detach().requires_grad_() for view in (fine, coarse))
        for start in range(0, len(z), _ROWS):
            rows = slice(start, start + _ROWS)
            hidden = torch.tanh((z[rows] @ w.t())[:, None] + (y @ w.t())[None] + c)
            weights = torch.sigmoid((hidden @ v[0]) + b)
            similarity = z[rows] @ y.t() / self.config.temperature
            positive = similarity.diagonal(start)
            losses = -(positive.exp() / (weights * similarity.exp()).sum(1)).log()
            loss = losses.sum() / len(z)
            loss.backward()
            total += float(loss.detach())
        torch.autograd.backward([fine, coarse], [z.grad, y.grad])
        return torch.tensor(total, dtype=z.dtype)


def _mean(reached: Tensor) -> Tensor:
    return reached / reached.sum(1, keepdim=True).clamp(min=1)


def dense_metapath(options: dict[str, Any]) -> Any:
    model, settings = graphs.build(options)
    model.to(options["device"])
    step = DenseStep(model)
    optimiser = torch.optim.Adam(
        step.parameters.values(),
        lr=settings["learning_rate"],
        weight_decay=settings.get("weight_decay", 0.0),
    )

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            optimiser.zero_grad()
            if not math.isfinite(float(step.backward())):
                raise ValueError("the loss is not finite")
            optimiser.step()
        return {"epochs": float(steps)}

    return run


def top_k(counts: Array, k: int) -> Array:
    """[N, N]: each row's k greatest ``2 A_ij / (A_ii + A_jj)`` with their counts; of equal ones the
    last.
    """
    diagonal = np.diag(counts)
    with np.errstate(invalid="ignore"):
        similarity = np.nan_to_num(2 * counts / (diagonal[:, None] + diagonal))
    similarity[counts == 0] = -1
    best = np.argsort(similarity, axis=1, kind="stable")[:, -k:]
    kept = np.zeros_like(counts)
    np.put_along_axis(kept, best, np.take_along_axis(counts, best, 1), 1)
    return kept


def normalise(adjacency: Array) -> Array:
    """``D^-1/2 A^T D^-1/2``, D the row sums."""
    sums = adjacency.sum(1)
    root = np.divide(1, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0)
    return root[:, None] * adjacency.T * root


def adjacency(halves: Any, k: int) -> Array:
    """The normalised top-k adjacency of a path, of which ``halves`` [N, M] is the first half."""
    return normalise(top_k((halves @ halves.T).toarray(), k))


def dense_pathsim(options: dict[str, Any]) -> Any:
    """PathSim's top-k: counts by scipy, the rest N x N in numpy."""
    graph, paths = graphs.read(options["data"])
    top = graphs.published(options["model"], Path(options["data"]).name)["paths"]["top_k"]
    halves: list[Any] = []
    for path in paths:
        names = path.split("-")
        kind = next(kind for kind in graph.edge_types if [kind[0], kind[2]] == names[:2])
        halves.append(sp.csr_array(graph.adjacency(kind).to_scipy(), dtype=np.float64))

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            for half, k in zip(halves, top, strict=True):
                adjacency(half, k)
        return {"preparations": float(steps)}

    return run
