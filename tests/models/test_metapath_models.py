"""MEOW and AdaMEOW: equal to the published code on the golden steps, views and weights in every combination."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW
from recgraph.models.heterogeneous.node_model import MetaPathModel
from recgraph.models.heterogeneous.paths import MetaPathInputs
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum, normalise

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.meow_reference import CHECKS  # noqa: E402
from experiments.reference import GOLDEN, read  # noqa: E402


@pytest.mark.parametrize("drawn", ["shared", "separate"])
def test_the_dropout_of_contexts(drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MEOW(**SETTINGS, dropout=0.5, context_dropout=drawn).build(small(), seed=0).train()
    inputs, widths = model._step_inputs(None), {"paper": 40, "author": 30, "subject": 5}
    hidden = {name: torch.full((n, 8), float(name != "paper")) for name, n in widths.items()}
    whole, seen = [*model.views.contexts(inputs, hidden)], list[Tensor]()
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
SETTINGS = {"metapaths": PATHS, "hidden_dim": 8, "top_k": (4, 6)}


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


@pytest.mark.parametrize("weight", [None, "cluster", "learned"])
@pytest.mark.parametrize("twin", ["masked", "latent"])
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_every_combination_of_views_and_weights_trains(cls: type[MetaPathModel], twin: str, weight: str | None) -> None:
    extra = {"n_clusters": (4, 8)} if cls is MEOW else {}
    model = cls(**SETTINGS, twin=twin, weight=weight, dropout=0.0, **extra).build(small())
    losses = train(model)
    assert losses[-1] < losses[0]
    assert model.eval().embed().shape == (40, 8)


def test_masks_are_drawn_once_or_anew() -> None:
    batch = next(iter(MEOW(**SETTINGS).build(small()).batches(None, 1, Generators(0)).epoch(0)))
    for redraw in (False, True):
        model = MEOW(**SETTINGS, redraw_masks=redraw).build(small(), seed=1).train()
        drawn = [model._step_inputs(batch) for _ in range(2)]
        same = torch.equal(*(inputs.paths[0].masked.to_dense() for inputs in drawn))
        assert same is not redraw
        assert torch.equal(*(inputs.masked for inputs in drawn)) is not redraw
        model.eval()
        again = MEOW(**SETTINGS, redraw_masks=redraw).build(small(), seed=1).eval()
        assert torch.equal(model.embed(), again.embed())


def test_the_factorised_form_equals_the_composed_one() -> None:
    settings = {**SETTINGS, "top_k": None, "twin": "latent"}
    one, two = (MEOW(**settings, form=form).build(small()).double().eval() for form in ("composed", "factorised"))
    # adjacencies are normalised in float32
    torch.testing.assert_close(one.embed(), two.embed(), rtol=1e-5, atol=1e-7)
    masked = MEOW(**{**settings, "twin": "masked", "feature_mask": 0.0, "edge_mask": 0.5}, form="factorised").build(
        small()
    )
    train(masked, 2)


def held(inputs: MetaPathInputs) -> dict[int, int]:
    """Bytes of each storage behind the matrices of the paths."""
    found: dict[int, int] = {}
    for path in inputs.paths:
        for operator in (path.plain, path.adjacency, path.masked, *(reached for _, reached in path.contexts)):
            for matrix in matrices_of(operator):
                for tensor in (matrix.indptr, matrix.indices, matrix.weights):
                    if tensor is not None:
                        found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
    return found


def matrices_of(operator: object) -> list[Csr]:
    if isinstance(operator, Csr):
        return [operator]
    parts = operator.terms if isinstance(operator, Sum) else operator.factors if isinstance(operator, Chain) else ()
    return [matrix for part in parts for matrix in matrices_of(part)]


@pytest.mark.parametrize("redraw", [False, True])
@pytest.mark.parametrize("form", ["composed", "factorised"])
def test_inputs_take_on_a_device_what_they_take_on_the_host(form: str, redraw: bool) -> None:
    """Plain matrices, adjacencies, twins and contexts that share tensors share them there; ``meta`` stands for any."""
    top_k = None if form == "factorised" else SETTINGS["top_k"]
    model = MEOW(**{**SETTINGS, "top_k": top_k}, form=form, redraw_masks=redraw).build(small())
    here = model._inputs
    there = here.to(torch.device("meta"), torch.float32)
    for before, after in zip(here.paths, there.paths, strict=True):
        assert (after.plain is after.adjacency) is (before.plain is before.adjacency)
        assert after.adjacency.shape == before.adjacency.shape
    assert sum(held(there).values()) <= sum(held(here).values())


@pytest.mark.parametrize("setting", [{"features": {"papr": "one-hot"}}, {"raw_features": ("papr",)}])
def test_a_type_that_is_not_there_is_named(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no node type 'papr'; did you mean paper"):
        MEOW(**{**SETTINGS, **setting}).build(small())


@pytest.mark.parametrize("sparse", [False, True])
def test_negative_features_are_not_divided_by_their_sums(sparse: bool) -> None:
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    graph = small().with_features({"paper": Csr.from_dense(x) if sparse else x})
    with pytest.raises(ValueError, match=r"features of 'paper' hold negative values.*add 'paper' to raw_features"):
        MEOW(**SETTINGS).build(graph)
    read = MEOW(**SETTINGS, raw_features=("paper",)).build(graph)._inputs.features["paper"]
    assert isinstance(read, Csr) == sparse
    assert torch.equal(read.to_dense() if isinstance(read, Csr) else torch.as_tensor(read), x)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_features_of_each_path(cls: type[MetaPathModel], sparse: bool) -> None:
    """Each path reads its own columns, the coarse view the mean; with equal matrices and weights that is one layer."""
    settings = {**SETTINGS, "raw_features": ("paper",), "dropout": 0.0, "feature_mask": 0.0}
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


def test_without_features_each_path_has_a_table() -> None:
    model = MEOW(**SETTINGS, features_per_path=True).build(small().with_features({"paper": None}))
    assert [layer.linear.weight.shape for layer in model.type_layers[0].layers] == [(8, 40), (8, 40)]
    losses = train(model)
    assert losses[-1] < losses[0]
    with pytest.raises(ValueError, match="13 features are not 2 matrices of equal width"):
        MEOW(**SETTINGS, features_per_path=True).build(small().with_features({"paper": torch.rand(40, 13)}))


def test_equal_rows_are_held_once() -> None:
    """The masked twin of a path with few distinct rows is a difference, with the values of the matrix itself."""
    pairs = {("paper", "on", "subject"): (torch.arange(60), torch.arange(60) % 3)}
    graph = HeteroGraph.from_edge_lists({"paper": 60, "subject": 3}, pairs)
    model = MEOW(metapaths=("paper-subject-paper",), hidden_dim=4, edge_mask=0.2, redraw_masks=True).build(graph)
    path, (view,) = model._inputs.paths[0], model._masks.edges[0]
    assert isinstance(path.plain, Csr)
    assert isinstance(path.masked, Sum)
    assert path.adjacency.nnz < path.plain.nnz / 4
    torch.testing.assert_close(path.adjacency.to_dense().float(), normalise(path.plain, "meow").to_dense())
    keep_mask = view.draw(path.plain, view.stream(Generators(model._seed), path.name))
    whole = normalise(view.apply(path.plain, keep_mask), "meow").to_dense()
    torch.testing.assert_close(path.masked.to_dense().float(), whole)
    once = MEOW(metapaths=("paper-subject-paper",), hidden_dim=4, edge_mask=0.2).build(graph)._inputs.paths[0]
    assert once.plain is once.adjacency
    torch.testing.assert_close(once.masked.to_dense(), path.masked.to_dense())


def test_warm_start_is_part_of_the_state() -> None:
    model = MEOW(**SETTINGS, n_clusters=(4, 8), warm_start=True).build(small())
    train(model, 2)
    assert bool(model.state_dict()["prototypes.last_0"].any())


def test_settings_of_paths_are_checked() -> None:
    with pytest.raises(ValueError, match="has 3 values for 2 meta-paths"):
        MEOW(**{**SETTINGS, "top_k": (1, 2, 3)}).build(small())
    with pytest.raises(ValueError, match="must name at least one path, such as 'paper-author-paper'"):
        MEOW().build(small())
    with pytest.raises(ValueError, match="all must begin and end"):
        MEOW(metapaths=("paper-author-paper", "author-paper-author")).build(small())
