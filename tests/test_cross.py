"""Every combination of views and weights on both lines, from the settings that docs/views-and-weights.md shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from small_settings import with_small
from torch import nn

from recgraph import registry
from recgraph.augment.latent import Augmenter
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import Cluster, Learned
from recgraph.data.part import Part
from recgraph.encoders.base import SequenceEncoder
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.rng import Generators
from recgraph.setting_texts import parse_settings
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

PAGE = Path(__file__).resolve().parents[1] / "docs" / "views-and-weights.md"
N_USERS, N_ITEMS = 24, 30
WEIGHTS = {"none": None, "cluster": Cluster, "learned": Learned}
#: sizes alone, and clusters for so few nodes
SMALL: dict[str, dict[str, Any]] = {
    "MEOW": {"metapaths": ("user-item-user",), "hidden_dim": 8, "embedding_dim": 8, "n_clusters": (3, 6)},
    "AdaMEOW": {"metapaths": ("user-item-user",), "hidden_dim": 8, "embedding_dim": 8},
    "MEOWRec": {"hidden_dim": 8, "n_clusters": (3, 6)},
    "AdaMEOWRec": {"hidden_dim": 8},
    "MCLRec": {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 8},
}


def documented() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """(model, views, weights, settings) for each line of the page's first table and each model of its header."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in re.search(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[0].splitlines()  # type: ignore[index]
    ]
    header, _, *lines = rows
    for column in (2, 3):
        for model in re.findall(r"`(\w+)`", header[column]):
            for line in lines:
                yield model, line[0], line[1], parse_settings(line[column].strip("`").split())


CROSS = list(documented())
MODELS = list(dict.fromkeys(model for model, *_ in CROSS))


def test_the_page_has_a_line_for_each_combination() -> None:
    wanted = {(m, v, w) for m in SMALL for v in ("masked", "latent") for w in WEIGHTS}
    assert {line[:3] for line in CROSS} == wanted
    assert len(CROSS) == len(wanted)


@cache
def interactions() -> Part:
    draw = torch.Generator().manual_seed(0)
    return Part(
        Ragged.from_lists([torch.randperm(N_ITEMS, generator=draw)[:6].tolist() for _ in range(N_USERS)]), N_ITEMS
    )


def space_of(model: TrainableModel) -> Space:
    if not model.reads_graph and "metapaths" not in type(model).Config.model_fields:
        return Space(n_users=N_USERS, n_items=N_ITEMS)
    part, items = interactions(), torch.arange(N_ITEMS)
    edges = {
        ("user", "interacts", "item"): (part.items.rows, part.items.values),
        ("item", "has", "genre"): (items, items % 3),
    }
    draw = torch.Generator().manual_seed(1)
    features = {} if model.reads_graph else {"user": torch.rand(N_USERS, 5, generator=draw)}
    graph = HeteroGraph.from_edge_lists({"user": N_USERS, "item": N_ITEMS, "genre": 3}, edges, features=features)
    targets = N_ITEMS if model.reads_graph else N_USERS  # what a model of nodes embeds takes the place of items
    return GraphSpace(n_users=N_USERS if model.reads_graph else 0, n_items=targets, graph=graph)


def built(name: str, settings: dict[str, Any]) -> TrainableModel:
    cls = registry.load("model", name)
    model: TrainableModel = cls(**with_small(cls, SMALL[name], settings))
    model.build(space_of(model), seed=0)
    return model.train()


def first_batch(model: TrainableModel) -> Any:
    return next(iter(model.batches(interactions(), 32, Generators(0)).epoch(0)))


def step(model: TrainableModel) -> dict[str, float]:
    """All phases of one step by gradient descent; phase -> its loss, and the gradients stay where the last phase of a
    group left them."""
    batch, losses, groups = first_batch(model), {}, model.parameter_groups()
    for phase in model.phases:
        with freeze_all_but(groups, phase.groups) as trained:
            for parameter in trained:
                parameter.grad = None
            loss = total_loss(model(batch, tuple(phase.terms)), phase)
            loss.backward()
        assert torch.isfinite(loss), phase
        losses[phase.name] = float(loss.detach())
        with torch.no_grad():
            for parameter in trained:
                if parameter.grad is not None:
                    assert bool(parameter.grad.isfinite().all())
                    parameter -= 0.01 * parameter.grad
    return losses


def learns(module: nn.Module) -> bool:
    """Whether a gradient that is not 0 reached every layer (a bias may have none: it can cancel out)."""
    matrices = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    return all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in matrices)


def used_terms(model: TrainableModel) -> list[ContrastiveTerm]:
    """The contrastive terms that weigh candidates, of those that a phase computes."""
    terms = [module for module in model.modules() if isinstance(module, ContrastiveTerm) and module.outcome is not None]
    return [term for term in terms if term is not getattr(model, "proto_contrast", None)]


@pytest.mark.parametrize(
    ("name", "views", "weights", "settings"), CROSS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_it_trains(name: str, views: str, weights: str, settings: dict[str, Any]) -> None:
    model = built(name, settings)
    step(model)
    terms = used_terms(model)
    assert terms
    for term in terms:
        kind = WEIGHTS[weights]
        assert term.weight is None if kind is None else isinstance(term.weight, kind)
        assert weights != "learned" or learns(term.weight)  # type: ignore[arg-type]
    augmenters = [module for module in model.modules() if isinstance(module, Augmenter)]
    assert augmenters or views == "masked"
    assert [learns(augmenter) for augmenter in augmenters] == [views == "latent"] * len(augmenters)


def encoders() -> list[str]:
    """The encoders that the page's table of them names."""
    (table,) = re.findall(r"^\| `encoder` \|.*\n.*\n((?:^\|.*\n)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"^\| `(\w+)`", table, re.MULTILINE)


def test_the_page_names_all_encoders_of_sequences() -> None:
    known = [name for name in registry.names("encoder") if issubclass(registry.load("encoder", name), SequenceEncoder)]
    assert sorted(map(registry.key, encoders())) == sorted(known)


@pytest.mark.parametrize("regime", ["prefix", "causal"])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("encoder", encoders())
def test_each_encoder_trains_with_each_weighting(encoder: str, weights: str, regime: str) -> None:
    if regime == "causal" and registry.load("encoder", encoder).ends_masked:
        with pytest.raises(ValueError, match="regime = 'causal' would show encoder"):
            built("MCLRec", {"encoder": encoder, "regime": regime})
        return
    options = {"alpha": 0.3} if encoder == "filtered_transformer" else {}
    chosen = {"encoder": encoder, "encoder_options": options, "regime": regime}
    model = built("MCLRec", {**chosen, "weight": None if weights == "none" else weights})
    step(model)
    assert type(model.encoder) is registry.load("encoder", encoder)
    assert learns(model.encoder)


def test_an_encoder_that_is_not_of_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match="encoder = 'gcn' is not one of sequences"):
        built("MCLRec", {"encoder": "gcn"})


def test_options_that_an_encoder_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encoder_options of 'transformer': unknown setting 'alpha'; known .*: none"):
        built("MCLRec", {"encoder_options": {"alpha": 0.3}})
    with pytest.raises(ValueError, match=r"n_layers = 3 is given by the model; write n_layers = 3 itself"):
        built("MCLRec", {"encoder_options": {"n_layers": 3}})
    with pytest.raises(ValueError, match=r"unknown setting 'beta'; known settings: alpha, c$"):
        built("MCLRec", {"encoder": "filtered_transformer", "encoder_options": {"beta": 1}})


@pytest.mark.parametrize("name", MODELS)
def test_they_differ(name: str) -> None:
    """With the same parameters and the same draws each combination has a loss of its own."""
    each = {line[1:3]: line[3] for line in CROSS if line[0] == name}
    whole = built(name, each["latent", "learned"])
    losses = {}
    for combination, settings in each.items():
        model = built(name, settings)
        missing = model.load_state_dict(whole.state_dict(), strict=False).missing_keys
        assert not missing
        losses[combination] = next(iter(step(model).values()))
    assert len({round(loss, 5) for loss in losses.values()}) == len(each), losses


def test_masked_views_alone_are_cl4srec() -> None:
    ours = built("MCLRec", {"latent_weight": 0, "view_weight": 0.1})
    theirs = registry.load("model", "CL4SRec")(**SMALL["MCLRec"], contrast_weight=0.1).build(space_of(ours)).train()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    assert list(step(ours).values()) == list(step(theirs).values())
