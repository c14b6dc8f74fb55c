"""MEOW and AdaMEOW by batches: equal to the full graph where batches hide nothing, and trained
where they do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.graph.contexts import Layered
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW, MetaPathModel
from recgraph.models.heterogeneous.paths import MetaPathInputs
from recgraph.models.heterogeneous.sampling import _walk, share_of
from recgraph.ranks import WHOLE, Share
from recgraph.rng import Generators
from recgraph.sparse.spmm import spmm
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

N = 40
APART = ("paper-author-paper", "paper-subject-paper")
#: contexts of the target's own type, and two that begin alike
LONG = ("paper-author-paper-author-paper", "paper-author-paper")
SETTINGS: dict[str, Any] = {"hidden_dim": 8, "dropout": 0.0}
EVERYTHING: dict[str, Any] = {
    "sampling": {"fan_out": ((None,), (None,)), "context_fan_out": (None,)},
    "contrast": {"queue_size": 0},
    "mini_batch": True,
}
FACTORISED = {"form": "factorised"}
CASES: dict[str, dict[str, Any]] = {
    "factorised": {"metapaths": APART, "paths": FACTORISED},
    "composed": {"metapaths": APART, "paths": {"top_k": (4, 6)}},
    "long": {"metapaths": LONG, "paths": FACTORISED},
    "latent": {"metapaths": APART, "paths": FACTORISED, "twins": {"kind": "latent"}},
    "row": {"metapaths": APART, "paths": {"normalisation": "row", "top_k": 5}},
}


def graph() -> HeteroGraph:
    """Papers with dense features, subjects with sparse, authors with none; weighted edges, some of
    them repeated.
    """
    draw = torch.Generator().manual_seed(0)
    pairs = {
        ("paper", "by", "author"): (
            torch.arange(120) % N,
            torch.randint(25, (120,), generator=draw),
        ),
        ("paper", "on", "subject"): (torch.arange(N), torch.randint(5, (N,), generator=draw)),
    }
    features = {
        "paper": torch.rand(N, 12, generator=draw),
        "subject": torch.rand(5, 3, generator=draw),
    }
    weights = {
        name: torch.ones(len(rows), dtype=torch.float64) for name, (rows, _) in pairs.items()
    }
    counts = {"paper": N, "author": 25, "subject": 5}
    return HeteroGraph.from_edge_lists(counts, pairs, features=features, weights=weights)


def communities(n: int = 120) -> HeteroGraph:
    """Papers, authors and subjects of four kinds; edges stay within them, and features tell
    them.
    """
    draw = torch.Generator().manual_seed(0)
    kind = torch.arange(n) % 4
    by = torch.arange(3 * n) % n
    pairs = {
        ("paper", "by", "author"): (by, 4 * torch.randint(10, (3 * n,), generator=draw) + kind[by]),
        ("paper", "on", "subject"): (
            torch.arange(n),
            4 * torch.randint(2, (n,), generator=draw) + kind,
        ),
    }
    x = torch.rand(n, 12, generator=draw) + 2 * torch.eye(12)[kind]
    return HeteroGraph.from_edge_lists(
        {"paper": n, "author": 40, "subject": 8}, pairs, features={"paper": x}
    )


def made(cls: type[MetaPathModel], on: HeteroGraph | None = None, **settings: Any) -> MetaPathModel:
    clusters = {"prototypes": {"n_clusters": (4, 8)}} if cls is MEOW else {}
    return cls(**{**SETTINGS, **clusters, **settings}).build(on or graph(), seed=2)


def step(model: MetaPathModel, batch_size: int = N) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms of the first batch, and the gradients of their sum."""
    model = model.double().train()
    terms = model(
        next(iter(model.batches(None, batch_size, Generators(7)).epoch(0))),
        list(model.phases[0].terms),
    )
    torch.stack(list(terms.values())).sum().backward()
    return terms, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_a_batch_of_everything_equals_the_full_graph(cls: type[MetaPathModel], case: str) -> None:
    whole, whole_grads = step(made(cls, **CASES[case]))
    batched, grads = step(made(cls, **CASES[case], **EVERYTHING))
    for name, value in whole.items():
        torch.testing.assert_close(batched[name], value, rtol=1e-10, atol=1e-12)
    assert grads.keys() == whole_grads.keys()
    for name, grad in whole_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_the_full_graph(case: str) -> None:
    whole, batched = made(MEOW, **CASES[case]), made(MEOW, **CASES[case], mini_batch=True)
    torch.testing.assert_close(
        batched.double().eval().embed(), whole.double().eval().embed(), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("weight", [None, "cluster", "learned", "self_mask"])
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_batches_train(cls: type[MetaPathModel], weight: str | None, device: torch.device) -> None:
    settings = {
        **CASES["factorised"],
        "mini_batch": True,
        "contrast": {"weight": weight, "queue_size": 60},
    }
    model = made(cls, communities(), **settings).to(device)
    generators = Generators(1, device)
    batches = model.batches(None, 40, generators)
    assert len(batches) == 3
    config = TrainConfig(metric="loss", max_epochs=7, patience=None, learning_rate=5e-3)
    history = Trainer(model, batches, config, generators).fit()
    # in the first epoch the queue fills: fewer candidates, a lower loss
    assert min(row["info"] for row in history[4:]) < history[1]["info"] - 0.05


def test_the_sampled_product_is_unbiased() -> None:
    model = made(AdaMEOW, **CASES["factorised"], mini_batch=True).double()
    x = torch.rand(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nodes, rounds = torch.arange(6), 400
    draw, everyone = torch.Generator().manual_seed(1), torch.arange(N)
    for path in model._placed(model._inputs).paths:
        exact = torch.stack(
            [spmm(operator, x)[nodes] for operator in (path.adjacency, path.masked)]
        )
        walks = (_walk(path, nodes, (2, 1), draw, False).operators(everyone) for _ in range(rounds))
        found = torch.stack(
            [torch.stack([spmm(operator, x) for operator in both]) for both in walks]
        )
        error = found.std(0) / rounds**0.5
        assert bool(((found.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all())


def test_a_batch_depends_on_seed_epoch_and_number_alone(tmp_path: Path) -> None:
    config = TrainConfig(metric="loss", max_epochs=3, patience=None, checkpoint_every=2)
    kept = {"mini_batch": True, "contrast": {"queue_size": 24}}
    finished, halved = (
        made(MEOW, **{**CASES["factorised"], "dropout": 0.2}, **kept) for _ in range(2)
    )

    def trainer(model: MetaPathModel, name: str) -> Trainer:
        generators = Generators(5)
        return Trainer(
            model, model.batches(None, 10, generators), config, generators, folder=tmp_path / name
        )

    trainer(finished, "a").fit()
    first = trainer(halved, "b")
    count = 0
    step = first.step

    def until(batch: GraphBatch) -> None:
        nonlocal count
        count += 1
        if count == 8:  # within the second epoch, after the checkpoint of its second batch
            raise KeyboardInterrupt
        step(batch)

    first.step = until  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    resumed = made(MEOW, **{**CASES["factorised"], "dropout": 0.2}, **kept)
    second = trainer(resumed, "b")
    assert second.resume()
    assert second.progress.batch == 2
    second.fit()
    for name, value in finished.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("share", [Share((4, 3), 0), Share((4, 3), 1), Share((3, 2, 2), 2)])
@pytest.mark.parametrize("case", CASES)
def test_a_share_gives_its_rows_of_the_batch(case: str, share: Share) -> None:
    """Layers and contexts of the part that a rank has equal the rows of the whole."""
    model = made(MEOW, **CASES[case], mini_batch=True, contrast={"queue_size": 0}).double()
    batch = replace(
        next(iter(model.batches(None, 7, Generators(7)).epoch(0))), nodes=torch.arange(7) * 5
    )
    whole = model.train()._step_inputs(batch)
    part = share_of(whole, share)
    assert share_of(whole, WHOLE) is whole
    hidden, of_part = (_first(model, inputs) for inputs in (whole, part))
    for path, own in zip(whole.paths, part.paths, strict=True):
        for kind in ("adjacency", "masked"):
            x, y = hidden[f"{path.name} {kind}"], of_part[f"{path.name} {kind}"]
            torch.testing.assert_close(y, x[share.rows], rtol=1e-10, atol=1e-12)
        assert isinstance(own.adjacency, Layered)
        assert own.adjacency.share == share
    n_whole, n_part = (
        sum(layer.nnz for path in inputs.paths for layer in path.adjacency.layers)
        for inputs in (whole, part)
    )
    assert n_part < n_whole
    for name, x in part.features.items():
        assert len(x) <= len(whole.features[name])


def _first(model: MetaPathModel, inputs: MetaPathInputs) -> dict[str, Tensor]:
    """Of each path and its twin the products of all layers with the nodes' vectors and contexts."""
    vectors, _ = model._hidden(inputs, None)
    found = {}
    for path in inputs.paths:
        x = vectors[inputs.target]
        x = x if x.dim() == 2 else x.mean(0)
        for name, reached in path.contexts:
            h = vectors[name] if vectors[name].dim() == 2 else vectors[name].mean(0)
            x = x + spmm(reached, h) / reached.degrees.clamp(min=1)[:, None]
        for kind in ("adjacency", "masked"):
            z = x
            for layer in getattr(path, kind).layers:
                z = spmm(layer, z)
            found[f"{path.name} {kind}"] = z
    return found
