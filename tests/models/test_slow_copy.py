"""The slow copy of contrastive models: what it holds, what the contrast reads of it, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, planted
from collaborative_cases import made as made_pairs
from test_metapath_models import SETTINGS, small
from torch import Tensor

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import SlowSides
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.slow_copy import ContrastiveModel
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer

SEQUENCE = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 8}
STILL = {"dropout": 0.0}
NODES = {**SETTINGS, **STILL}
#: model, its settings, the term of its contrast
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "cl4srec": ("cl4srec", {**SEQUENCE, **STILL, "attention_dropout": 0.0}, "cl1"),
    "cl4srec by prefixes": ("cl4srec", {**SEQUENCE, **STILL, "attention_dropout": 0.0, "regime": "prefix"}, "cl1"),
    "duorec": ("duorec", {**SEQUENCE, **STILL, "attention_dropout": 0.0}, "sup"),
    "mclrec": ("mclrec", {**SEQUENCE, **STILL, "attention_dropout": 0.0}, "cl1"),
    "a graph of items": (
        "cl4srec",
        {**SEQUENCE, **STILL, "attention_dropout": 0.0, "item_graph": "interactions"},
        "cl1",
    ),
    "sgl": ("sgl", {"candidates": "batch"}, "cl"),
    "sgl against all": ("sgl", {}, "cl"),
    "xsimgcl": ("xsimgcl", {"noise": 0.0}, "cl"),
    "ncl": ("ncl", {}, "cl"),
    "ncl by batches": ("ncl", {"candidates": "batch", "queue_size": 16}, "cl"),
    "meow": ("meow", {**NODES, "n_clusters": (4, 8)}, "info"),
    "adameow": ("adameow", NODES, "info"),
    "meow by batches": ("meow", {**NODES, "n_clusters": (4, 8), "mini_batch": True, "queue_size": 16}, "info"),
    "meowrec": ("meowrec", {**STILL, "n_clusters": (2, 3), "feature_mask": 0.0}, "info"),
    "heco": ("heco", {**STILL, "metapaths": SETTINGS["metapaths"], "hidden_dim": 8, "attention_dropout": 0.0}, "info"),
}


def built(name: str, settings: dict[str, Any]) -> ContrastiveModel:
    cls = registry.load("model", name)
    if name in ("meow", "adameow", "heco"):
        model = cls(**settings).build(small(), 0)
    elif "max_len" in cls.Config.model_fields:
        model = cls(**settings).build(Space(n_users=24, n_items=30), 0)
    else:
        model = made_pairs(name, **settings)
    assert isinstance(model, ContrastiveModel)
    return model.double()


def moved(model: ContrastiveModel) -> ContrastiveModel:
    """A model whose parameters are not those of its slow copy any more."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype))
    return model


def read(
    model: ContrastiveModel, term: str, monkeypatch: pytest.MonkeyPatch, moves: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor, SlowSides | None]]:
    """The term of a first batch, and the sides of the first contrast that it is made of."""
    train: Part = planted()[0]
    batch = next(iter(model.batches(train, 12, Generators(5)).epoch(0)))
    if moves:
        moved(model)
    seen: list[tuple[Tensor, Tensor, SlowSides | None]] = []
    forward = ContrastiveTerm.forward

    def spied(self: ContrastiveTerm, a: Tensor, b: Tensor, *args: Any, **how: Any) -> Tensor:
        seen.append((a, b, how.get("slow")))
        return forward(self, a, b, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(ContrastiveTerm, "forward", spied)
        loss = model.train()(batch, [term])[term]
    return loss, seen[0]


@pytest.mark.parametrize("case", CASES)
def test_candidates_are_what_a_model_of_the_slow_parameters_encodes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings, term = CASES[case]
    model = built(name, {**settings, "target_momentum": 0.9})
    slow_values = copy.deepcopy(dict(model.named_parameters()))
    loss, (anchors, candidates, slow) = read(model, term, monkeypatch, moves=True)
    # a model with a queue of its own joins it to the slow side before the term
    read_b = candidates if slow is None else slow.b
    twin = built(name, settings)
    with torch.no_grad():
        for key, parameter in twin.named_parameters():
            parameter.copy_(slow_values[key])
    twin_loss, (twin_anchors, twin_candidates, _) = read(twin, term, monkeypatch)
    torch.testing.assert_close(read_b, twin_candidates.detach(), rtol=1e-10, atol=1e-12)
    assert (read_b.requires_grad, anchors.requires_grad) == (False, True)
    assert not torch.allclose(anchors, twin_anchors)
    assert not torch.allclose(loss, twin_loss)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_moves_once_a_step(accumulate: int) -> None:
    model = built("mclrec", {**SEQUENCE, "target_momentum": 0.75, "schedule_of_phases": "joint"})
    assert model.slow is not None
    config = TrainConfig.of(metric="loss", accumulate=accumulate, learning_rate=0.01)
    generators = Generators(0)
    trainer = Trainer(
        moved(model),
        model.batches(planted()[0], 8, generators),
        config,
        generators,
        accelerator=make_accelerator("cpu"),
    )
    wanted = {name: value.detach().clone() for name, value in model.named_parameters()}
    batches = list(trainer.batches.epoch(0))
    assert len(batches) == 3
    for number, batch in enumerate(batches, 1):
        trainer.step(batch)
        trainer.progress.batch += 1
        if number % accumulate == 0 or number == len(batches):
            for name, parameter in model.named_parameters():
                wanted[name] = 0.75 * wanted[name] + 0.25 * parameter.detach()
        for name, value in model.slow.average.named_buffers():
            torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-15)
    assert {name for name, _ in model.slow.average.named_buffers()} == set(wanted)


def test_without_candidates_it_is_byol() -> None:
    settings = {**CASES["cl4srec"][1], "objective": "simsiam", "objective_options": {"projector": [6, 4]}}
    model = built("cl4srec", {**settings, "target_momentum": 0.9})
    batch = next(iter(model.batches(planted()[0], 12, Generators(5)).epoch(0)))
    twin = copy.deepcopy(model)
    loss = moved(model)(batch, ["cl1"])["cl1"]
    objective: Any = model.contrast.objective  # type: ignore[union-attr]
    views = [part.last for part in model.encode_together(model.draw_views(batch), batch)]  # type: ignore[operator]
    targets = [part.last for part in twin.encode_together(twin.draw_views(batch), batch)]  # type: ignore[operator]

    def head(layers: Any, x: Tensor) -> Tensor:
        """Linear layers with batch normalisation without gain, and ReLU, between them."""
        first, last = layers
        z = F.linear(x, first.weight)
        z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() + first.bias
        return last(z.relu())

    old: Any = twin.contrast.objective  # type: ignore[union-attr]
    predicted = [head(objective.predictor.layers, head(objective.projector.layers, view)) for view in views]
    projected = [head(old.projector.layers, view).detach() for view in targets]
    # the paper's loss, of both orders: ||normalised prediction - normalised target||^2 = 2 - 2 cos
    pairs = ((predicted[0], projected[1]), (predicted[1], projected[0]))
    paper = sum((F.normalize(q, dim=1) - F.normalize(z, dim=1)).square().sum(1).mean() for q, z in pairs)
    torch.testing.assert_close(loss, (paper - 4) / 4)
    loss.backward()
    for part in (objective.predictor, objective.projector):
        assert all(bool(parameter.grad.any()) for parameter in part.parameters() if parameter.dim() == 2)
    names = {name for name, _ in model.slow.average.named_buffers()}  # type: ignore[union-attr]
    assert "contrast.objective.projector.layers.0.weight" in names
    assert not any("predictor" in name for name in names)


def test_a_queue_holds_rows_of_the_slow_copy_as_they_were() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, slow, older = torch.randn(4, 6, 5, generator=draw, dtype=torch.float64)
    term = ContrastiveTerm(objective="info_nce", similarity="cosine", temperature=0.5, queue_size=8, dim=5).double()
    first, ids = torch.arange(6), torch.arange(6, 12)
    term(a, b, first, slow=SlowSides(None, older))
    loss = term(a, b, ids, slow=SlowSides(None, slow))
    # MoCo: the keys of the batch, and below them all of the queue
    keys = F.normalize(torch.cat([slow, older]), dim=1)
    oracle = F.cross_entropy(F.normalize(a, dim=1) @ keys.T / 0.5, torch.arange(6))
    torch.testing.assert_close(loss, oracle)
    assert torch.equal(term.queue.rows[term.queue.ids >= 6].sort(0).values, F.normalize(slow, dim=1).sort(0).values)  # type: ignore[union-attr]


@pytest.mark.parametrize("objective", ["simsiam", "barlow_twins", "vicreg"])
def test_without_candidates_the_other_side_is_the_slow_one(objective: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, slow_a, slow_b = torch.randn(4, 6, 5, generator=draw)
    term = ContrastiveTerm(objective=objective, objective_settings={"dim": 5})
    found = term(a, b, slow=SlowSides(slow_a, slow_b))
    if objective != "simsiam":
        torch.testing.assert_close(found, term(a, slow_b))
    # half precision of an encoder under autocast
    rounded = term(a, b, slow=SlowSides(slow_a, slow_b).to(torch.bfloat16))
    torch.testing.assert_close(rounded, found, rtol=0.05, atol=0.05)


def test_stages_move_the_copy_of_their_own() -> None:
    options = {"hidden_dim": 8, "target_momentum": 0.5, "candidates": "batch"}
    model: Any = registry.load("model", "multistage")(base="sgl", base_options=options, stages=2, stage_epochs=1)
    model.build(Space(n_users=24, n_items=30), 0)
    generators = Generators(0)
    batches = model.batches(planted()[0], 32, generators)
    trainer = Trainer(model, batches, TrainConfig.of(metric="loss"), generators, accelerator=make_accelerator("cpu"))
    before = [stage.slow.average.embedding.weight.clone() for stage in model.stages]
    trainer.step(next(batches.epoch(0)))
    same = [
        torch.equal(old, stage.slow.average.embedding.weight) for old, stage in zip(before, model.stages, strict=True)
    ]
    assert same == [False, True]


def test_tables_of_which_all_rows_move_are_not_sparse() -> None:
    settings = {**SEQUENCE, "loss": "sampled_softmax"}
    assert built("cl4srec", settings).row_sparse_tables
    assert not built("cl4srec", {**settings, "target_momentum": 0.9}).row_sparse_tables


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_momentum": 1.0}, "target_momentum"),
        ({"target_momentum": 0.9, "objective": "simsiam", "transform": "centre"}, "use transform = None"),
        (
            {"item_graph": "interactions", "item_contrast": 0.1, "item_contrast_options": {"target_momentum": 0.9}},
            "the contrast of items has no slow copy",
        ),
        (
            {
                "item_graph": "interactions",
                "item_contrast": 0.1,
                "item_contrast_options": {"candidates": "all", "queue_size": 5},
            },
            "use queue_size = 0 or candidates = 'batch'",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        built("cl4srec", {**SEQUENCE, **settings})


def test_queued_nodes_are_in_no_cluster_of_a_batch() -> None:
    settings = {"queue_size": 9, "similarity": "cosine"}
    with pytest.raises(ConfigError, match="use queue_size = 0 or weight = None"):
        made_pairs("meowrec", **settings)
    assert made_pairs("meowrec", **settings, weight=None).config.queue_size == 9
    # stages of a multistage model know the clusters of all nodes, the weight alone does not
    model = made_pairs("meowrec", **settings, weight="same_cluster")
    with pytest.raises(ConfigError, match=r"weight = 'same_cluster' reads the clusters of a batch.*use queue_size = 0"):
        model(first_batch(model), ["info"])
    for term, n in zip(model.contrasts, (SPACE.n_users, SPACE.n_items), strict=True):
        term.weight.keep(torch.arange(n)[None] % 2)
    for _ in range(2):
        assert bool(model(first_batch(model), ["info"])["info"].isfinite())
