"""Parts of contrastive sequence models by configuration: every objective, weight and augmentation, with options."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from pydantic import Field
from small_settings import with_small

from recgraph import registry
from recgraph.augment import AugmentationConfig, SequenceAugmentation
from recgraph.augment.latent import Augmenter, Variant
from recgraph.augment.sequence import Crop, Mask
from recgraph.config import ConfigError, to_json
from recgraph.contrast.objectives import InfoNCE
from recgraph.contrast.weights import Cluster
from recgraph.data.part import Part
from recgraph.encoders.base import SequenceEncoder
from recgraph.encoders.transformer import FilteredTransformer
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.plan import jobs_of
from recgraph.models.base import Space
from recgraph.models.sequence.contrastive import ContrastiveSequenceModel
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import total_loss

N_ITEMS = 20
SMALL = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 8}


class ReverseConfig(AugmentationConfig):
    ratio: Annotated[float, Field(ge=0, le=1, description="the share of the rows that is reversed")] = 1.0


class Reverse(SequenceAugmentation):
    Config = ReverseConfig

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        chosen = torch.rand(sequences.n_rows, generator=generator) < self.config.ratio
        last = sequences.offsets[1:] - 1
        mirrored = last[sequences.rows] - sequences.positions
        places = torch.where(chosen[sequences.rows], mirrored, torch.arange(mirrored.numel()))
        return sequences.with_values(sequences.values[places])


class Scale(Augmenter):
    def __init__(self, hidden_dim: int, variant: Variant = "row", start: float = 1.0) -> None:
        super().__init__(hidden_dim, variant)
        self.factor = torch.nn.Parameter(torch.full((hidden_dim,), start))

    def _augment(self, hidden: torch.Tensor, states: Ragged | None) -> torch.Tensor:
        return hidden * self.factor


class Bag(SequenceEncoder):
    """The mean of the tokens' embeddings up to each place."""

    def __init__(self, hidden_dim: int, max_len: int, dropout: float, power: float = 1.0) -> None:
        super().__init__(hidden_dim, max_len, dropout)
        self.power = power
        self.scale = torch.nn.Parameter(torch.ones(hidden_dim))

    def _encode(self, sequences: Any, table: Any, generator: Any, last_only: bool) -> torch.Tensor:
        padded = table[sequences.to_padded()].cumsum(1)
        mean = padded / torch.arange(1, padded.shape[1] + 1)[:, None] ** self.power
        states: torch.Tensor = mean[sequences.rows, sequences.positions] * self.scale
        return states[sequences.offsets[1:] - 1] if last_only else states


@pytest.fixture(autouse=True)
def _own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register("augmentation")(Reverse)
    registry.register("augmenter")(Scale)
    registry.register("encoder")(Bag)


def train() -> Part:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 10, (24,), generator=draw)
    return Part(Ragged.from_lengths(torch.randint(0, N_ITEMS, (int(lengths.sum()),), generator=draw), lengths), N_ITEMS)


def step(name: str, settings: dict[str, Any]) -> ContrastiveSequenceModel:
    """One step of all phases of a model that is made from plain settings."""
    cls = registry.load("model", name)
    model: ContrastiveSequenceModel = cls(**with_small(cls, SMALL, settings))
    model.build(Space(n_users=24, n_items=N_ITEMS), seed=0)
    batch = next(iter(model.batches(train(), 12, Generators(0)).epoch(0)))
    for phase in model.phases:
        loss = total_loss(model(batch, tuple(phase.terms)), phase)
        loss.backward()
        assert torch.isfinite(loss), phase
    return model


OBJECTIVES: dict[str, dict[str, Any]] = {"nt_xent": {"block_rows": 5}, "info_nce": {"both_directions": True}}
WEIGHTS: dict[str | None, dict[str, Any]] = {
    None: {},
    "cluster": {"n_clusters": [2]},
    "learned": {"normalise": True},
    "same_target": {},
}


@pytest.mark.parametrize(
    ("name", "objective", "weight"), list(product(("MCLRec", "CL4SRec", "DuoRec"), OBJECTIVES, WEIGHTS))
)
def test_any_objective_with_any_weight_and_an_augmentation_of_ones_own(
    name: str, objective: str, weight: str | None
) -> None:
    model = step(
        name,
        {
            # the views of DuoRec are twins
            **({} if name == "DuoRec" else {"augmentations": ["mask", {"name": "reverse", "ratio": 0.5}]}),
            "objective": objective,
            "objective_options": OBJECTIVES[objective],
            "weight": weight,
            "weight_options": WEIGHTS[weight],
        },
    )
    assert registry.key_of("objective", type(model.contrast.objective)) == registry.key(objective)
    kind = None if model.contrast.weight is None else registry.key_of("weight", type(model.contrast.weight))
    assert kind == (weight and registry.key(weight))
    for option, value in OBJECTIVES[objective].items():
        assert getattr(model.contrast.objective.config, option) == value


def test_parts_of_ones_own_get_their_options() -> None:
    model = step(
        "MCLRec",
        {
            "encoder": "bag",
            "encoder_options": {"power": 0.5},
            "augmenter": "scale",
            "augmenter_options": {"start": 2.0},
            "loss": "sampled_softmax",
            "loss_options": {"log_q": False},
            "n_negatives": 7,
        },
    )
    assert isinstance(model.encoder, Bag)
    assert model.encoder.power == 0.5
    augmenters = [module for module in model.modules() if isinstance(module, Augmenter)]
    assert [type(augmenter) for augmenter in augmenters] == [Scale, Scale]
    assert model.loss.config.log_q is False
    assert model.loss.config.n_negatives == 7
    assert all(parameter.grad is not None for augmenter in augmenters for parameter in augmenter.parameters())


def test_an_instance_is_the_same_as_its_specification() -> None:
    made = MCLRec(augmentations=("crop", Crop(ratio=0.3), Reverse()))
    assert made.config.augmentations == ("crop", {"name": "crop", "ratio": 0.3}, {"name": "reverse"})
    assert made.config == MCLRec.Config.model_validate_json(to_json(made.config))


def test_an_instance_of_a_class_that_is_not_registered_is_refused() -> None:
    class Unknown(Mask): ...

    with pytest.raises(ConfigError, match="Unknown is not registered; decorate the class"):
        MCLRec(augmentations=("crop", Unknown()))


def test_the_earlier_name_and_the_addresses_stay() -> None:
    named = MCLRec.Config.of({"views": ["crop", "mask"]})
    assert named == MCLRec.Config.of(augmentations=("crop", "mask"))
    identity = named.identity()
    assert identity["views"] == ["crop", "mask"]
    assert not set(identity) & {"augmentations", "augmenter_options", "objective", "objective_options"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"augmentations": ["mask", {"name": "crop", "size": 3}]},
            "augmentation Crop has no setting size",
        ),
        ({"augmentations": ["mask", {"ratio": 0.3}]}, "must be a name or have one"),
        ({"augmentations": ["mask", "edge_drop"]}, "'edge_drop' is not an augmentation of sequences"),
        (
            {"augmenter_options": {"depth": 3}},
            "augmenter_options of 'mlp': unknown setting 'depth'; known settings: none",
        ),
        (
            {"loss_options": {"depth": 3}},
            "loss_options of 'full_softmax': unknown setting 'depth'; known settings: block_rows",
        ),
    ],
)
def test_what_a_part_does_not_have_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step("MCLRec", settings)


BOARD = """
title = "Parts"
seeds = [0]
metrics = ["ndcg@10"]

[protocol]
cutoffs = [10]

[training]
max_epochs = 1

[[models]]
model = "mclrec"

[models.settings]
augmentations = ["reverse", { name = "crop", ratio = 0.3 }]
encoder = "filtered_transformer"
encoder_options = { alpha = 0.3 }
objective = "info_nce"
weight = "cluster"
weight_options = { n_clusters = [2] }
"""


def test_a_board_chooses_the_parts(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "synthetic.toml").write_text(BOARD)
    (sheet,) = load_board(folder).sheets
    (job,) = jobs_of(sheet, sheet.models[0])
    settings = {name: value for name, value in job.settings.items() if name in MCLRec.Config.model_fields}
    model = step("MCLRec", settings)
    assert isinstance(model.encoder, FilteredTransformer)
    assert isinstance(model.contrast.objective, InfoNCE)
    assert isinstance(model.contrast.weight, Cluster)
    assert [type(augmentation) for augmentation in model._two_views.augmentations] == [Reverse, Crop]  # type: ignore[union-attr]
