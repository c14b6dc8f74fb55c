"""Configuration: what is accepted, and that every refusal names the field, the value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from refusing import refused

from recgraph.config import Added, Config, ConfigError, Search, configure, distribute, load_toml, to_json


class Encoder(Config):
    hidden_dim: Annotated[int, Field(ge=1, le=4096, description="width of the vectors"), Search(16, 256, log=True)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    loss: Literal["full", "sampled"] = "full"
    views: tuple[str, ...] = ()


class Training(Config):
    max_epochs: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int | None, Field(ge=1)] = None
    options: Annotated[dict[str, int], Field(default_factory=dict)]


class Required(Config):
    n_items: Annotated[int, Field(gt=0)]


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
        ({"dropout": 1.0}, ["dropout = 1.0", ">= 0 and < 1"]),
        ({"hidden_dim": "wide"}, ["hidden_dim = 'wide'"]),
        ({"loss": "bpr"}, ["loss = 'bpr'", "'full' or 'sampled'"]),
        ({"dropout": float("nan")}, ["dropout"]),
        ({"dropout": 2, "nope": 1}, ["dropout = 2", "nope"]),  # all at once
    ],
)
def test_refusals_name_field_value_and_range(settings: dict[str, object], names: list[str]) -> None:
    with refused(*names, by=ConfigError):
        Encoder.of(settings)


def test_a_part_of_a_configuration_is_named_by_its_place() -> None:
    class Several(Config):
        entries: tuple[Required, ...] = ()

    with refused("entries.0.n_items", "entries.0.n_item", by=ConfigError):
        Several.of({"entries": [{"n_item": 1}]})


def test_settings_describe_the_fields() -> None:
    first, second, *_ = Encoder.describe()
    assert (first.name, first.type, first.default, first.allowed) == ("hidden_dim", "int", 64, ">= 1 and <= 4096")
    assert first.description == "width of the vectors"
    assert first.search == Search(16, 256, log=True)
    assert second.search is None
    assert Required.describe()[0].default == "required"
    assert [each.type for each in Training.describe()] == ["int", "int | None", "dict[str, int]"]


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('hidden_dim = 32\nloss = "sampled"\n')
    assert load_toml(path) == {"hidden_dim": 32, "loss": "sampled"}
    path.write_text("x = 1\ny = = 2\n")
    with refused("a.toml", "line 2", by=ConfigError):
        load_toml(path)
    with refused("none.toml", by=ConfigError):
        load_toml(tmp_path / "none.toml")


def test_distribute_shares_out_one_namespace() -> None:
    parts: dict[str, type[Config]] = {"model": Encoder, "training": Training}
    shared = distribute({"max_epochs": 3, "dropout": 0.1}, parts)
    assert shared == {"model": {"dropout": 0.1}, "training": {"max_epochs": 3}}
    with refused("max_epoch", by=ConfigError):
        distribute({"max_epoch": 3}, parts)


def test_json_is_stable_and_reads_back() -> None:
    text = to_json(Encoder())
    assert list(json.loads(text)) == ["dropout", "hidden_dim", "loss", "views"]
    assert Encoder.of(json.loads(text)) == Encoder()


def test_configure_takes_a_value_or_settings() -> None:
    assert configure(None, Training, None, {"max_epochs": 2}) == Training(max_epochs=2)
    assert configure(None, Training, Training(max_epochs=3), {}) == Training(max_epochs=3)
    with refused("max_epochs"):
        configure(3, Training, Training(), {"max_epochs": 2})
    wrong: Any = "3"
    with refused("'3'", by=ConfigError):
        configure(3, Training, wrong, {})


def test_a_field_that_was_added_keeps_addresses_at_its_default() -> None:
    class Grown(Config):
        old: int = 1
        new: Annotated[int, Added()] = 2

    assert Grown().identity() == {"old": 1}
    assert Grown(new=3).identity() == {"old": 1, "new": 3}
