"""Configuration: what is accepted, and that every refusal names the field, the value and what is
allowed.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from refusing import refused

from recgraph import encoders, registry
from recgraph.config import (
    Config,
    ConfigError,
    PartConfig,
    Search,
    assignments,
    merged,
    parse_settings,
    setting_text,
    walk,
)
from recgraph.registry import part
from recgraph.train.config import distribute


class Encoder(Config):
    hidden_dim: Annotated[
        int, Field(ge=1, le=4096, description="width of the vectors"), Search(16, 256, log=True)
    ] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    loss: Literal["full", "sampled"] = "full"
    views: tuple[str, ...] = ()


class Training(Config):
    max_epochs: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int | None, Field(ge=1)] = None
    options: Annotated[dict[str, int], Field(default_factory=dict)]


def test_defaults_and_keywords() -> None:
    config = Encoder.of({"dropout": 0.2}, hidden_dim=32)
    assert (config.hidden_dim, config.dropout, config.loss) == (32, 0.2, "full")
    with refused("frozen"):
        config.hidden_dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"hidden_dims": 64}, ["hidden_dims", "hidden_dim"]),  # the nearest name
        ({"embedding_size": 64}, ["embedding_size", "hidden_dim"]),  # what other libraries call it
        ({"dropout": 1.0}, ["dropout = 1.0", "1"]),
        ({"hidden_dim": "wide"}, ["hidden_dim = 'wide'"]),
        ({"loss": "bpr"}, ["loss = 'bpr'", "'full' or 'sampled'"]),
        ({"dropout": float("nan")}, ["dropout"]),
        ({"dropout": 2, "hidden_dim": 0}, ["dropout = 2", "hidden_dim = 0"]),  # all at once
    ],
)
def test_refusals_name_field_value_and_range(settings: dict[str, object], names: list[str]) -> None:
    with refused(*names, by=ConfigError):
        Encoder.of(settings)


def test_distribute_divides_settings_by_their_fields() -> None:
    parts: dict[str, type[Config]] = {"model": Encoder, "training": Training}
    shared = distribute({"max_epochs": 3, "dropout": 0.1}, parts)
    assert shared == {"model": {"dropout": 0.1}, "training": {"max_epochs": 3}}
    with refused("max_epoch", by=ConfigError):
        distribute({"max_epoch": 3}, parts)


# -- a tree of settings


class Model(Config):
    hidden_dim: Annotated[int, Field(ge=1)] = 4
    encoder: Annotated[PartConfig, part("encoder")] = encoders.GRU(n_layers=3)
    weight: Annotated[PartConfig | None, part("weight")] = None
    augmentations: tuple[Annotated[PartConfig, part("augmentation")], ...] = ()
    training: Training = Training(max_epochs=5)


def test_a_part_is_given_as_a_value_a_name_or_a_table() -> None:
    made = Model(
        encoder=encoders.BSA(alpha=0.5),
        weight="hardness",
        augmentations=["crop", {"name": "mask", "ratio": 0.2}],
    )
    again = Model.of(json.loads(json.dumps(made.model_dump(mode="json"))))
    assert again == made
    assert (again.encoder.alpha, again.augmentations[1].ratio) == (0.5, 0.2)
    assert (
        type(
            again.encoder.build(hidden_dim=8, max_len=5, dropout=0.1, causal=True, n_tokens=9)
        ).__name__
        == "BSA"
    )
    # without a name a table changes the default, of a plain configuration too
    changed = Model.of({"encoder": {"inner_dim": 7}, "training": {"patience": 2}})
    assert (changed.encoder.n_layers, changed.encoder.inner_dim) == (3, 7)
    assert (changed.training.max_epochs, changed.training.patience) == (5, 2)
    assert Model(encoder="gru").encoder.n_layers == 1, "a name has the part's own defaults"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"encoder": "grue"}, ["encoder", "gru"]),
        ({"encoder": {"n_layer": 2}}, ["encoder", "n_layer", "n_layers"]),
        ({"n_layers": 2}, ["encoder.n_layers"]),  # where it is
        ({"weight": {"name": "hardness", "beta": -1}}, ["weight", "beta = -1"]),
        (
            {"augmentations": ["crop", {"name": "mask", "ratio": 3}]},
            ["augmentations.1", "ratio = 3"],
        ),
    ],
)
def test_refusals_within_parts_name_the_place(settings: dict[str, Any], names: list[str]) -> None:
    with refused(*names, by=ConfigError):
        Model.of(settings)


def test_settings_of_a_tree_have_dotted_names() -> None:
    made = Model.of({"weight": "hardness", "augmentations": ["crop"]})
    names = [name for name, _, _ in walk(made)]
    assert {"encoder.n_layers", "weight.beta", "augmentations.crop.ratio", "training.patience"} <= {
        *names
    }
    assert "encoder.n_layers" in {name for name, _, _ in walk(Model)}
    tree = made.model_dump(mode="json")
    texts = [setting_text(*each) for each in assignments(tree)]
    assert parse_settings(texts) == {**tree, "weight": tree["weight"]}
    assert merged(tree, {"encoder": {"n_layers": 9}})["encoder"] == {
        **tree["encoder"],
        "n_layers": 9,
    }
    assert merged(tree, {"encoder": {"name": "bsa"}})["encoder"] == {"name": "bsa"}
    for pairs in (
        ["encoder=bsa", "encoder.alpha=0.5"],
        ["encoder.alpha=0.5", "encoder=bsa"],
    ):  # in any order
        assert parse_settings(pairs) == {"encoder": {"name": "bsa", "alpha": 0.5}}


def test_a_part_of_ones_own_is_a_member_by_being_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @registry.register("encoder")
    class Mine:
        def __init__(self, hidden_dim: int, width: Annotated[int, Field(ge=2)] = 3) -> None:
            self.size = hidden_dim * width

    made = Model(encoder={"name": "mine", "width": 5})
    assert made.model_dump()["encoder"] == {"name": "mine", "width": 5}
    assert made.encoder.build(hidden_dim=2, max_len=9).size == 10
    with refused("encoder", "width = 1", by=ConfigError):
        Model(encoder={"name": "mine", "width": 1})


# -- settings as texts


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("64", 64), ("1e-3", 1e-3), ("+3", 3), ("1_000", 1000), ("007", "007"), ('"64"', "64")),
        *(
            ("true", True),
            ("none", None),
            ("null", None),
            ("full", "full"),
            ("NaN", "NaN"),
            ("a,b", "a,b"),
        ),
        ("[1, 2]", [1, 2]),
        ('["crop", {"name": "mask", "ratio": 0.3}]', ["crop", {"name": "mask", "ratio": 0.3}]),
        ('{name = "mask", ratio = 0.3}', {"name": "mask", "ratio": 0.3}),
    ],
)
def test_values_on_the_command_line(text: str, value: object) -> None:
    (parsed,) = parse_settings([f"key = {text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("pairs", [["lr"], ["=1"], ["a.=1"], ["a=3", "a.b=1"], ["a={b"]])
def test_what_is_no_setting_is_refused(pairs: list[str]) -> None:
    with refused(pairs[-1], by=ConfigError):
        parse_settings(pairs)


def test_an_entry_of_a_dictionary() -> None:
    assert parse_settings(["a.b.c=x", "a.b.d=y"]) == {"a": {"b": {"c": "x", "d": "y"}}}
    assert parse_settings(["a={b=1, c=2}", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
    base: dict[str, Any] = {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}
    assert parse_settings(["a.b.x=5", "e={h=6}"], base) == {
        "a": {"b": {"c": 1, "x": 5}, "d": 2},
        "e": {"h": 6},
        "g": 4,
    }
    assert base == {"a": {"b": {"c": 1}, "d": 2}, "e": {"f": 3}, "g": 4}


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, "true", "64", "full", ".5", "[a]", "{", 'a"b', 1e-3, math.inf),
        *(
            [".5", "None", {"a": "1."}],
            {"a b": {"c": [1, 2.5, "x", False]}},
            {"a": None, "b": [None]},
        ),
    ],
)
def test_a_text_of_a_setting_is_read_as_its_value(value: object) -> None:
    assert parse_settings([setting_text("key", value)]) == {"key": value}
    assert setting_text("loss", "full") == "loss=full"
