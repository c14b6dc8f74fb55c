"""MEOW and AdaMEOW: equal to the published code on the golden steps, views and weights in every combination."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW, MetaPathModel
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.meow_reference import CHECKS  # noqa: E402
from experiments.reference import GOLDEN, read  # noqa: E402


@pytest.mark.parametrize("drawn", ["shared", "separate"])
def test_the_dropout_of_contexts(drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MEOW(**SETTINGS, dropout=0.5, twins={"context_dropout": drawn}).build(small(), seed=0).train()
    inputs, widths = model._step_inputs(None), {"paper": 40, "author": 30, "subject": 5}
    hidden = {name: torch.full((n, 8), float(name != "paper")) for name, n in widths.items()}
    whole = [model.views._context(number, path, hidden, {}) for number, path in enumerate(inputs.paths)]
    seen: list[Tensor] = []
    monkeypatch.setattr(model.views, "_path", lambda adj, x, *_: (seen.append(x), x)[1])
    model.views._views(inputs, hidden, hidden["paper"], torch.Generator().manual_seed(0))
    for context, of_path, of_twin in zip(whole, seen[::2], seen[1::2], strict=True):
        assert torch.equal(of_path, of_twin) == (drawn == "shared")
        for one in (of_path, of_twin):
            assert torch.equal(one[one != 0], 2 * context[one != 0])


@pytest.mark.parametrize("step", ["a", "b"])
@pytest.mark.parametrize("check", CHECKS)
def test_golden_steps(check: str, step: str) -> None:
    """Graph, contexts, views, losses and gradients equal those of the published code."""
    golden = read(GOLDEN / f"meow_step_{step}.npz")
    for name, value in CHECKS[check](golden).items():
        torch.testing.assert_close(value, golden[name], rtol=1e-8, atol=1e-12)


def small(**features: Tensor | None) -> HeteroGraph:
    """A graph of 40 papers, 30 authors and 5 subjects, authors without features."""
    draw = torch.Generator().manual_seed(0)
    writes = torch.randint(30, (90,), generator=draw)
    pairs = {
        ("paper", "by", "author"): (torch.arange(90) % 40, writes),
        ("paper", "on", "subject"): (torch.arange(40), torch.randint(5, (40,), generator=draw)),
    }
    x = {"paper": torch.rand(40, 12, generator=draw), "subject": torch.rand(5, 3, generator=draw)}
    return HeteroGraph.from_edge_lists({"paper": 40, "author": 30, "subject": 5}, pairs, features=x)


PATHS = ("paper-author-paper", "paper-subject-paper")
SETTINGS: dict[str, Any] = {"metapaths": PATHS, "hidden_dim": 8, "paths": {"top_k": (4, 6)}}


def train(model: MetaPathModel, steps: int = 12, rate: float = 5e-3) -> list[float]:
    generators, losses = Generators(3), []
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for number in range(steps):
        batch = next(iter(model.batches(None, 1, generators).epoch(number)))
        terms = model(batch, list(model.phases[0].terms))
        loss = torch.stack([terms[name] * w for name, w in model.phases[0].terms.items()]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_masks_are_drawn_once_or_anew() -> None:
    batch = next(iter(MEOW(**SETTINGS).build(small()).batches(None, 1, Generators(0)).epoch(0)))
    for redraw in (False, True):
        model = MEOW(**SETTINGS, twins={"redraw": redraw}).build(small(), seed=1).train()
        drawn = [model._step_inputs(batch) for _ in range(2)]
        same = torch.equal(*(inputs.paths[0].masked.to_dense() for inputs in drawn))
        assert same is not redraw
        assert torch.equal(*(inputs.masked for inputs in drawn)) is not redraw
        model.eval()
        again = MEOW(**SETTINGS, twins={"redraw": redraw}).build(small(), seed=1).eval()
        assert torch.equal(model.embed(), again.embed())


def test_the_factorised_form_equals_the_composed_one() -> None:
    settings, latent = {"metapaths": PATHS, "hidden_dim": 8}, {"kind": "latent"}
    one, two = (
        MEOW(**settings, twins=latent, paths={"form": form}).build(small()).double().eval()
        for form in ("composed", "factorised")
    )
    # adjacencies are normalised in float32
    torch.testing.assert_close(one.embed(), two.embed(), rtol=1e-5, atol=1e-7)
    drop = {"augmentations": [{"name": "edge_drop", "ratio": 0.5}]}
    train(MEOW(**settings, twins=drop, paths={"form": "factorised"}).build(small()), 2)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_features_of_each_path(cls: type[MetaPathModel], sparse: bool) -> None:
    """Each path reads its own columns, the coarse view the mean; with equal matrices and weights that is one layer."""
    settings = {**SETTINGS, "raw_features": ("paper",), "dropout": 0.0}
    settings["twins"] = {"augmentations": ["edge_drop"]}
    x = small().features("paper")
    assert isinstance(x, Tensor)

    def graph(*parts: Tensor) -> HeteroGraph:
        both = torch.cat(parts, 1)
        return small().with_features({"paper": Csr.from_dense(both) if sparse else both})

    def built(*parts: Tensor) -> MetaPathModel:
        model = cls(**settings, features_per_path=True).build(graph(*parts))
        shared = cls(**settings).build(graph(x))
        state = shared.state_dict()
        for name in [name for name in state if name.startswith("type_layers.0.linear.")]:
            value = state.pop(name)
            end = name.removeprefix("type_layers.0.")
            state |= {f"type_layers.0.layers.{number}.{end}": value for number in (0, 1)}
        model.load_state_dict(state)
        return model.double().eval()

    def views(model: MetaPathModel) -> list[Tensor]:
        inputs = model._step_inputs(None)
        hidden, masked = model._hidden(inputs, None)
        return [*model.views._views(inputs, hidden, masked, None), model.both_views(inputs).coarse]

    shared = cls(**settings).build(graph(x)).double().eval()
    same, other = views(built(x, x)), views(built(x, 1 - x))
    for ours, theirs in zip(same, views(shared), strict=True):
        torch.testing.assert_close(ours, theirs)
    changed = [not torch.allclose(a, b) for a, b in zip(same, other, strict=True)]
    assert changed == [False, False, True, True, True]  # the second path, its twin, and the coarse view
    assert train(cls(**settings, features_per_path=True).build(graph(x, 1 - x)), 2)
