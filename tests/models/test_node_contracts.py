"""The contract of every model of typed graphs that the registry finds; a new model inherits it by
being there.
"""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from every_model import N_PAPERS, OF_NODES, TRAINED_OF_NODES, graph, of_nodes
from refusing import refused

import recgraph as rg
from recgraph import registry
from recgraph.graph.metapath import propose
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.models.base import Space
from recgraph.models.heterogeneous.base import GraphBatch, GraphModel
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

#: further settings in which models compute with other types
MIXED: list[tuple[str, dict[str, object]]] = [
    ("meow", {"prototypes": {"method": "scikit-learn"}}),
    ("meow", {"mini_batch": True}),
    ("meow", {"prototypes": {"warm_start": True}}),
]


def trained(model: GraphModel) -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters that a first step trains; of a model in stages those of the first."""
    named = list(model.named_parameters())
    return [
        (name, one)
        for name, one in named
        if not name.startswith("stages.") or name.startswith("stages.0.")
    ]


def training(
    name: str, device: torch.device | str, **settings: object
) -> tuple[GraphModel, GraphBatch]:
    model: GraphModel = of_nodes(name, device, **settings)
    batch = next(iter(model.batches(None, 16, Generators(5, device)).epoch(0))).to(device)
    return model.train(), batch


def embedded(model: GraphModel) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model.embed()


@pytest.mark.parametrize("name", OF_NODES)
def test_a_space_of_users_and_items_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        registry.load("model", name)(metapaths=("a-b-a",)).build(Space(n_users=1, n_items=1))


@pytest.mark.parametrize("name", OF_NODES)
def test_embeds(name: str, device: torch.device) -> None:
    model = of_nodes(name, device)
    z = embedded(model)
    assert z.shape == (N_PAPERS, model.embedding_dim)
    assert z.device.type == device.type
    assert bool(z.isfinite().all())
    assert torch.equal(z, embedded(model)), "embedding must not draw random numbers"
    assert embedded(model.double()).dtype == torch.float64


@pytest.mark.parametrize("name", OF_NODES)
def test_state_goes_through_safetensors(name: str, device: torch.device) -> None:
    model, other = of_nodes(name, device), of_nodes(name, device, seed=0)
    for value in other.parameters() if name in TRAINED_OF_NODES else other.buffers():
        value.data.add_(1)
    state = safetensors.torch.load(safetensors.torch.save(model.state_dict()))
    other.load_state_dict(state)
    assert torch.equal(embedded(model), embedded(other))


@pytest.mark.parametrize("name", OF_NODES)
def test_build_depends_on_its_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first = embedded(of_nodes(name, seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(1)
    assert torch.equal(first, embedded(of_nodes(name, seed=3)))
    assert not torch.equal(first, embedded(of_nodes(name, seed=4)))
    with pytest.raises(ValueError):
        of_nodes(name).build(graph())


@pytest.mark.parametrize("name", TRAINED_OF_NODES)
def test_terms_and_gradients(name: str, device: torch.device) -> None:
    model, batch = training(name, device)
    grouped = [id(p) for group in model.parameter_groups().values() for p in group]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    for phase in model.phases:
        for asked in (list(phase.terms), *([term] for term in phase.terms)):
            terms = model(batch, asked)
            assert set(terms) == set(asked)
            assert all(value.shape == () and bool(value.isfinite()) for value in terms.values())
        terms = model(batch, phase.terms)
        torch.stack([phase.terms[term] * value for term, value in terms.items()]).sum().backward()
    for parameter_name, parameter in trained(model):
        assert parameter.grad is not None, f"{parameter_name} gets no gradient"
        assert bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("name", TRAINED_OF_NODES)
def test_training_draws_from_the_generators_alone(name: str, device: torch.device) -> None:
    seen = []
    for _ in range(2):
        model, batch = training(name, device)
        before = torch.random.get_rng_state()
        seen.append(model(batch, model.phases[0].terms))
        assert torch.equal(before, torch.random.get_rng_state()), (
            "draws from torch's global generator"
        )
    assert all(torch.equal(value, seen[1][term]) for term, value in seen[0].items())


@pytest.mark.parametrize(("name", "settings"), [*((name, {}) for name in TRAINED_OF_NODES), *MIXED])
def test_a_step_of_mixed_precision(
    name: str, settings: dict[str, object], device: torch.device
) -> None:
    model, batch = training(name, device, **settings)
    (phase,) = model.phases
    exact = model(batch, phase.terms)
    model, batch = training(name, device, **settings)
    with torch.autocast(device.type, torch.bfloat16):
        terms = model(batch, phase.terms)
        loss = torch.stack([phase.terms[term] * value for term, value in terms.items()]).sum()
    loss.backward()
    for term, value in terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[term], rtol=0.2, atol=0.02)
    for parameter_name, parameter in trained(model):
        assert parameter.grad is not None, f"{parameter_name} gets no gradient"
        assert bool(parameter.grad.isfinite().all())


@pytest.mark.parametrize("name", TRAINED_OF_NODES)
def test_the_trainer_trains_it(name: str) -> None:
    model = of_nodes(name, dropout=0.0)
    config = TrainConfig(metric="loss", max_epochs=25, patience=None, learning_rate=3e-3)
    generators = Generators(1)
    history = Trainer(model, model.batches(None, 1, generators), config, generators).fit()
    assert len(history) == 25
    assert min(row["loss"] for row in history) < history[0]["loss"]


def test_a_graph_of_pyg_is_fitted_and_negative_features_stay_as_they_are() -> None:
    data = graph().to_pyg()
    data["paper"].x -= 0.5
    data["paper"].y = torch.arange(N_PAPERS) % 3
    model = registry.load("model", "heco")(metapaths=("paper-author-paper",), hidden_dim=4)
    run = rg.fit_graph(model, data, seed=0, max_epochs=1)
    assert run.embeddings().height == N_PAPERS
    assert set(run.evaluate(data).clusters) == {"nmi", "ari"}
    assert run.record.resolved is not None
    assert run.record.resolved["raw_features"] == ("paper",)
    assert torch.equal(model._inputs.features["paper"], data["paper"].x)


@pytest.mark.parametrize(
    "metapaths", [(), ("paper-cites-paper",), ("papers-author-papers",), ("paper-by-paper",)]
)
def test_a_path_that_is_not_there_is_answered_by_those_that_are(metapaths: tuple[str, ...]) -> None:
    for offered in ("paper-author-paper", "paper-subject-paper"):
        with refused(offered, "paper>by>author" if "paper-by-paper" in metapaths else ""):
            of_nodes("meow", metapaths=metapaths)


def test_a_task_and_the_paths_of_a_type_print_on_a_line() -> None:
    split = {"20": NodeSplit([0, 1], [2], [3])}
    task = NodeTask("paper", torch.arange(N_PAPERS) % 3, split)
    assert "2 train" in repr(task)
    for each in (task, *propose(graph(), "paper")):
        assert len(repr(each)) < 120, each
