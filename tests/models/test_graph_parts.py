"""Parts of graph models by configuration: objectives, weights, encoders, and augmentations of one's own."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from collaborative_cases import first_batch, made
from pydantic import Field
from test_metapath_models import PATHS, SETTINGS, small, train

from recgraph import registry
from recgraph.augment.graph import EdgeDrop, GraphAugmentation, GraphAugmentationConfig, NodeDrop
from recgraph.contrast.objectives import NTXent
from recgraph.contrast.weights import Learned
from recgraph.encoders.graph import GCN, Propagation
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.plan import jobs_of
from recgraph.models.base import Terms
from recgraph.models.collaborative.contrastive import SGL
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW
from recgraph.models.heterogeneous.node_model import MetaPathModel
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr


class EveryOtherConfig(GraphAugmentationConfig):
    start: Annotated[int, Field(ge=0, le=1, description="the first entry that is left out")] = 0


class EveryOther(GraphAugmentation):
    """Leaves every other entry out, and adds self-loops to square matrices."""

    Config = EveryOtherConfig

    def __call__(self, value: Csr, generator: torch.Generator) -> Csr:
        kept = value.select(torch.arange(value.nnz) % 2 != self.config.start)
        return kept.with_weights(None).with_diagonal(1.0) if value.shape[0] == value.shape[1] else kept


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._registered, ("augmentation", "everyother"), EveryOther)


WEIGHTS: dict[str | None, dict[str, Any]] = {
    None: {},
    "cluster": {},
    "learned": {"normalise": True},
    "self_mask": {},
}
MINI: dict[str, Any] = {"mini_batch": True, "queue_size": 0}


@pytest.mark.parametrize("more", [{}, MINI], ids=["whole", "batches"])
@pytest.mark.parametrize(("objective", "weight"), list(product(("nt_xent", "info_nce"), WEIGHTS)))
@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_any_objective_with_any_weight_and_augmentation(
    cls: type[MetaPathModel], objective: str, weight: str | None, more: dict[str, Any], own: None
) -> None:
    settings: dict[str, Any] = {
        **SETTINGS,
        **more,
        "objective": objective,
        "objective_options": {"block_rows": 16},
        "weight": weight,
        "weight_options": WEIGHTS[weight],
        "augmentations": ["feature_mask", {"name": "every_other", "start": 1}],
    }
    model = cls(**settings, **({"n_clusters": (4, 8)} if cls is MEOW else {})).build(small())
    assert registry.key_of("objective", type(model.contrast.objective)) == registry.key(objective)
    assert model.contrast.objective.config.block_rows == 16
    # NT-Xent counts its positive, as published, whatever MEOW's InfoNCE does
    assert model.contrast.objective.config.count_positive == (objective == "nt_xent" or cls is AdaMEOW)
    generators = Generators(3)
    model.train()
    for batch in model.batches(None, 20, generators).epoch(0):
        terms = model(batch, list(model.phases[0].terms))
        torch.stack(list(terms.values())).sum().backward()
        assert all(bool(value.isfinite()) for value in terms.values())
    assert model.eval().embed().shape == (40, 8)


def test_the_twin_is_what_the_augmentation_makes(own: None) -> None:
    settings = {"augmentations": ["every_other"], "feature_mask": 0.0, "normalisation": "row", "redraw_masks": True}
    whole = MEOW(**SETTINGS, **settings).build(small())
    path, _ = whole._inputs.paths
    assert isinstance(path.plain, Csr)
    expected = EveryOther()(path.plain, torch.Generator()).to_dense()
    expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(path.masked.to_dense().float(), expected)
    assert torch.equal(torch.as_tensor(whole._inputs.masked), torch.as_tensor(whole._inputs.features["paper"]))
    sampled = MEOW(**SETTINGS, **settings, mini_batch=True).build(small())._inputs.whole()
    torch.testing.assert_close(sampled.paths[0].masked.to_dense().float(), expected)


def test_defaults_are_the_augmentations_by_name() -> None:
    one = MEOW(**SETTINGS, edge_mask=(0.1, 0.5)).build(small(), seed=4)
    two = MEOW(**SETTINGS, edge_mask=(0.1, 0.5), augmentations=("feature_mask", "edge_drop")).build(small(), seed=4)
    for a, b in zip(one._inputs.paths, two._inputs.paths, strict=True):
        assert torch.equal(a.masked.to_dense(), b.masked.to_dense())
    assert torch.equal(torch.as_tensor(one._inputs.masked), torch.as_tensor(two._inputs.masked))
    assert "augmentations" not in one.config.identity()
    dropped = MEOW(**SETTINGS, augmentations=(NodeDrop(ratio=0.5),)).build(small())._inputs.paths[0]
    # nodes that are left out keep themselves alone
    assert int((dropped.masked.to_dense().count_nonzero(1) == 1).sum()) >= 20


def test_encoders_by_name() -> None:
    one = MEOW(**SETTINGS, encoder_options={"n_layers": 1}).build(small())
    assert isinstance(one.views.encoder, GCN)
    assert len(one.views.encoder.weights) == 1
    plain = MEOW(**SETTINGS, encoder="propagation", n_clusters=(4, 8)).build(small())
    assert isinstance(plain.views.encoder, Propagation)
    losses = train(plain)
    assert losses[-1] < losses[0]
    three = {"encoder_options": {"n_layers": 3}, "mini_batch": True, "fan_out": ((3,), (2,), (2,))}
    deep = AdaMEOW(**SETTINGS, **three).build(small())
    deep(next(deep.batches(None, 20, Generators(0)).epoch(0)), ["info"])["info"].backward()
    recommender = made("meowrec", view_encoder="propagation")
    assert isinstance(recommender, MetaPathRecommender)
    recommender(first_batch(recommender), ["info"])["info"].backward()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "nt_xent", "mini_batch": True},
            r"objective = 'nt_xent'.*queue_size = 2048 gives.*queue_size = 0",
        ),
        (
            {**MINI, "encoder": "propagation"},
            "encoder = 'propagation' has no layers; use encoder = 'gcn' or mini_batch",
        ),
        (
            {**MINI, "encoder_options": {"n_layers": 1}},
            r"fan_out = .* is of 2 layers, and encoder = 'gcn' has 1; give one",
        ),
        ({"encoder": "gru"}, "encoder = 'gru' is not a convolution over graphs"),
        ({"encoder_options": {"out_dim": 5}}, "encoder_options: out_dim = 5 is given by the model; leave it out"),
        ({"encoder": "propagation", "embedding_dim": 4}, "embedding_dim = 4 must be hidden_dim = 8"),
        ({"augmentations": ["crop"]}, "'crop' is not an augmentation of graphs"),
        ({"objective_options": {"gamma": 1}}, "gamma"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MEOW(**SETTINGS, **settings).build(small())


def test_recommenders_and_sgl_refuse_what_they_do_not_read() -> None:
    with pytest.raises(ValueError, match="recommenders mask the vectors of nodes by feature_mask"):
        made("meowrec", augmentations=("feature_mask",))
    with pytest.raises(ValueError, match="FeatureMask is of features, which SGL does not read"):
        made("sgl", augmentations=("feature_mask",))
    with pytest.raises(ValueError, match=r"objective = 'nt_xent'.*candidates = 'all' gives.*candidates = 'batch'"):
        made("sgl", objective="nt_xent")


@pytest.mark.parametrize("name", ["meowrec", "adameowrec", "ncl", "sgl", "simgcl", "xsimgcl"])
@pytest.mark.parametrize(("objective", "weight"), list(product(("nt_xent", "info_nce"), WEIGHTS)))
def test_recommenders_take_any_objective_and_weight(name: str, objective: str, weight: str | None, own: None) -> None:
    more: dict[str, Any] = {} if name.endswith("rec") else {"candidates": "batch"}
    if name in ("sgl", "meowrec", "adameowrec"):
        more["augmentations"] = ("every_other",)
    model = made(name, objective=objective, weight=weight, weight_options=WEIGHTS[weight], **more)
    model.train()
    terms = model(first_batch(model), list(model.phases[0].terms))
    torch.stack(list(terms.values())).sum().backward()
    assert all(bool(value.isfinite()) for value in terms.values())


def test_an_augmentation_of_ones_own_makes_the_subgraphs_of_sgl(own: None) -> None:
    model = made("sgl", augmentations=({"name": "every_other", "start": 1}, EdgeDrop(ratio=0.0)), drop_rate=0.0)
    assert isinstance(model, SGL)
    (first, *_), second = model._subgraphs(first_batch(model))
    edges = model.encoder.edges
    expected = model.encoder.subgraph(edges.select(torch.arange(edges.nnz) % 2 != 1))
    assert torch.equal(first.to_dense(), expected.to_dense())
    assert torch.equal(second[0].to_dense(), expected.to_dense())


class Weighted(MEOW):
    """MEOW with one more term."""

    def terms(self, batch: Any, asked: frozenset[str]) -> Terms:
        return {**super().terms(batch, asked), "norm": lambda: self.type_layers[0].linear.weight.square().sum()}  # type: ignore[union-attr, operator]


def test_one_more_term_simply_works() -> None:
    model = Weighted(**SETTINGS, n_clusters=(4, 8)).build(small())
    batch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
    assert list(model(batch, ["norm", "info"])) == ["info", "norm"]
    assert list(model(batch, ["norm"])) == ["norm"]


BOARD = f"""
dataset = "acm"
title = "Parts"
metrics = ["macro_f1"]
seeds = [0]

[[models]]
model = "meow"
name = "MEOW, NT-Xent"

[models.settings]
metapaths = {list(PATHS)}
hidden_dim = 8
objective = "nt_xent"
weight = "learned"
encoder = "gcn"
encoder_options = {{n_layers = 1}}
augmentations = ["feature_mask", {{name = "every_other", start = 1}}]
"""


def test_a_board_chooses_the_parts(tmp_path: Path, own: None) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "acm.toml").write_text(BOARD)
    (sheet,) = load_board(folder).sheets
    (job,) = jobs_of(sheet, sheet.models[0])
    settings = {name: value for name, value in job.settings.items() if name in MEOW.Config.model_fields}
    model = MEOW(**settings).build(small())
    assert isinstance(model.contrast.objective, NTXent)
    assert isinstance(model.contrast.weight, Learned)
    assert [type(one) for one in model._masks.edges[0]] == [EveryOther]
    train(model, 1)
