"""The graph line: epochs of models of nodes, their preparation, sparse products and contrasts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.bench.ours.training import NextBatches
from experiments.bench.work import product_bytes, step
from recgraph import registry
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster
from recgraph.data.catalog.cards import find_card
from recgraph.data.catalog.graphs import prepare_graph
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import spmm as product
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_TAU = 0.2


def read(folder: str) -> tuple[HeteroGraph, tuple[str, ...]]:
    """The graph of HeCo's folder ``acm``, ``dblp``, ..., and its meta-paths."""
    path = Path(folder)
    card = find_card(path.name)
    return prepare_graph(card, path, card.name)[0], tuple(card.paths)


def published(model: str, dataset: str) -> dict[str, Any]:
    """The settings of ``experiments/configs``, of model and training together."""
    return tomllib.loads((CONFIGS / f"{model.lower()}-{dataset}.toml").read_text())


def build(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, built on the graph and with initial weights, and the settings of its optimiser."""
    graph, paths = read(options["data"])
    known = published(options["model"], Path(options["data"]).name)
    cls = registry.load("model", options["model"])
    settings = {name: value for name, value in known.items() if name in cls.Config.model_fields}
    model = cls(**{"metapaths": paths, **settings}).build(graph, seed=0)
    return model, {name: known[name] for name in ("learning_rate", "weight_decay") if name in known}


def node_epoch(options: dict[str, Any]) -> Any:
    """Epochs of a model of nodes (one step on the whole graph each), through the library's
    trainer.
    """
    model, optimiser = build(options)
    generators = Generators(0, device=options["device"])
    batches = NextBatches(model.batches(None, 1, generators), contrastive=False)
    one = step(model, None)
    precision = options.get("precision", "no")
    config = TrainConfig(
        max_epochs=1, metric="loss", patience=None, precision=precision, **optimiser
    )

    def run(steps: int) -> dict[str, float]:
        batches.next(steps)
        accelerator = make_accelerator(options["device"], precision)
        Trainer(model, batches, config, generators, accelerator=accelerator).fit()
        return {"epochs": float(steps), **one.times(steps).counts()}

    return run


def pathsim(options: dict[str, Any]) -> Any:
    """From typed edges to the normalised top-k adjacencies of all meta-paths."""
    graph, paths = read(options["data"])
    top_k = published(options["model"], Path(options["data"]).name)["paths"]["top_k"]

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            for path, k in zip(paths, top_k, strict=True):
                MetaPath(path, top_k=k)(graph)
        return {"preparations": float(steps)}

    return run


def matrix(options: dict[str, Any]) -> Csr:
    """The matrix that both sides multiply with, with weights."""
    shape, n, draw = (
        (options["n_rows"], options["n_cols"]),
        options["n_entries"],
        torch.Generator().manual_seed(0),
    )
    rows, columns = (torch.randint(size, (n,), generator=draw) for size in shape)
    return Csr.from_coo(rows, columns, torch.rand(n, generator=draw), shape=shape).to(
        options["device"]
    )


def spmm(options: dict[str, Any]) -> Any:
    """Sparse times dense, forward or with its backward (a product with the transposed matrix), by a
    backend.
    """
    adj = matrix(options)
    x = torch.ones(
        options["n_cols"],
        options["width"],
        device=options["device"],
        requires_grad=options["backward"],
    )
    grad = torch.ones(options["n_rows"], options["width"], device=options["device"])
    n_rows = [options["n_rows"], *([options["n_cols"]] if options["backward"] else [])]
    gigabytes = (
        sum(product_bytes(count, options["n_entries"], options["width"]) for count in n_rows) / 1e9
    )

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            y = product(adj, x, options["backend"])
            if options["backward"]:
                y.backward(grad)
                x.grad = None
        return {"products": float(steps), "GB": steps * gigabytes}

    return run


def _rows(options: dict[str, Any]) -> tuple[Tensor, Tensor, torch.Generator]:
    """Two views of N rows, and what draws on."""
    draw = torch.Generator().manual_seed(0)
    shape = options["n_rows"], options["width"]
    a, b = (
        F.normalize(torch.randn(shape, generator=draw)).to(options["device"]).requires_grad_()
        for _ in range(2)
    )
    return a, b, draw


def contrast(options: dict[str, Any]) -> Any:
    """MEOW's InfoNCE with cluster weights over all rows, blockwise, with gradients; counted as its
    matrix products.
    """
    n, width, device = options["n_rows"], options["width"], options["device"]
    a, b, draw = _rows(options)
    weight = Cluster()
    weight.prepare(
        lambda: torch.stack([torch.randint(k, (n,), generator=draw) for k in (100, 300)]).to(device)
    )
    term = ContrastiveTerm(
        temperature=0.4, objective={"name": "info_nce", "count_positive": False}, weight=weight
    )

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.autograd.grad(term(a, b), (a, b))
        return {"GFLOP": steps * 3 * 2 * n * n * width / 1e9}

    return run


def contrast_parts(options: dict[str, Any]) -> Any:
    """A contrast of N rows with N by a term of any parts, with gradients; counted in pairs of the N
    rows.

    Rows of a queue are candidates besides: they are not counted.
    """
    n, device = options["n_rows"], options["device"]
    a, b, draw = _rows(options)
    if options["term"] is None:  # all pairs at once
        same = torch.arange(n, device=device)

        def loss() -> Tensor:
            return F.cross_entropy(F.normalize(a, dim=1) @ F.normalize(b, dim=1).t() / _TAU, same)
    else:
        settings = {
            "similarity": "cosine",
            "temperature": _TAU,
            "objective": "info_nce",
            **options["term"],
        }
        term = ContrastiveTerm(dim=options["width"], **settings).to(device)
        clusters = torch.stack([torch.randint(k, (n,), generator=draw) for k in (10, 30)]).to(
            device
        )
        if term.weight is not None:
            term.weight.prepare(lambda: clusters)
        ids, is_queued = torch.arange(n, device=device), "queue_size" in options["term"]

        def loss() -> Tensor:
            if is_queued:  # other rows than those of the step before
                ids.add_(n)
            value: Tensor = term(a, b, ids, generator=draw)
            return value

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            torch.autograd.grad(loss(), (a, b))
        return {"pairs": float(steps * n * n)}

    return run
