"""Configuration: what is accepted, and that every refusal names the field, the value and what is allowed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field, field_validator

from recgraph import registry
from recgraph.config import (
    Added,
    Config,
    ConfigError,
    Search,
    configure,
    distribute,
    load_toml,
    to_json,
    unknown_key,
)
from recgraph.runs.settings import DataConfig
from recgraph.setting_texts import parse_settings


class Encoder(Config):
    hidden_dim: Annotated[int, Field(ge=1, le=4096, description="width of the vectors"), Search(16, 256, log=True)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    loss: Literal["full", "sampled"] = "full"
    loss_options: Annotated[dict[str, Any], Field(default_factory=dict)]
    views: tuple[str, ...] = ()

    @field_validator("hidden_dim")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Training(Config):
    max_epochs: Annotated[int, Field(ge=1)] = 100
    patience: Annotated[int | None, Field(ge=1)] = None
    options: Annotated[dict[str, int], Field(default_factory=dict)]


class Required(Config):
    n_items: Annotated[int, Field(gt=0)]


def test_defaults_and_keywords() -> None:
    config = Encoder.of({"dropout": 0.2}, hidden_dim=32)
    assert (config.hidden_dim, config.dropout, config.loss) == (32, 0.2, "full")


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Encoder().hidden_dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_dims": 64}, r"unknown setting 'hidden_dims'; did you mean hidden_dim\?"),
        ({"zzz": 1}, r"unknown setting 'zzz'; known settings: dropout, hidden_dim, loss, loss_options, views"),
        ({"dropout": 1.0}, r"dropout = 1\.0: .*less than 1.*\(allowed: >= 0 and < 1\)"),
        ({"hidden_dim": 0}, r"hidden_dim = 0: .*\(allowed: >= 1 and <= 4096\)"),
        ({"hidden_dim": "wide"}, r"hidden_dim = 'wide': .*integer"),
        ({"hidden_dim": 3}, r"hidden_dim = 3: must be even"),
        ({"loss": "bpr"}, r"loss = 'bpr': .*'full' or 'sampled'"),
        ({"loss": {"name": "full"}}, r"loss = .*'sampled'; its options are in loss_options$"),
        (
            {"loss": {"margin": 1, "name": "full", "kind": "a"}},
            r"; its options are in loss_options: loss_options\.margin=1 loss_options\.kind=\"a\"$",
        ),
        ({"loss.margin": 1}, r"^unknown setting 'loss\.margin'; did you mean loss_options\?$"),
        ({"loss_options": "margin=1"}, r"loss_options = 'margin=1': .*dictionary, as \{\"name\": value\}$"),
        ({"views": "crop, mask"}, r", as \[\"crop\", \"mask\"\]$"),
        ({"views": {"crop": {"ratio": 0.3}}}, r"tuple, as \[\{\"name\": value\}\]$"),
        ({"views": 3}, r"views = 3: .*tuple, as \[3\]$"),
        ({"lr": 3}, r"unknown setting 'lr'; known settings: "),
        ({"embedding_size": 3}, r"unknown setting 'embedding_size'; did you mean hidden_dim\?"),
        ({"views": "crop"}, r"views = 'crop': .*tuple, as \[\"crop\"\]$"),
    ],
)
def test_refusals_name_field_value_and_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Encoder.of(settings)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("sasrec", {"loss_options": {"name": "bce"}}, "loss_options = .* names a part; write loss = 'bce' instead"),
        ("mclrec", {"augmenter_options": {"name": "attention"}}, "write augmenter = 'attention' instead"),
        ("twostage", {"ranker_options": {"name": "logistic"}}, "write ranker = 'logistic' instead"),
        ("cl4srec", {"objective_options": {"name": "info_nce"}}, "write objective = 'info_nce' instead"),
        ("cl4srec", {"weight_options": {"bta": 1}}, "weight_options = .* has no effect without weight"),
        ("cl4srec", {"mixture_options": {"n_mixed": 1}}, "mixture_options = .* has no effect without mixture"),
        ("cl4srec", {"temperature_end": 0.1}, "temperature_end = 0.1 has no effect without a schedule"),
        (
            "sasrec",
            {"item_graph": "transitions", "item_contrast_options": {"temperature": 0.1}},
            "item_contrast_options = .* has no effect without item_contrast",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.load("model", model)(**settings)


def test_a_split_that_the_data_decide_has_options() -> None:
    assert DataConfig(split_options={"test": 0.3}).split is None
    with pytest.raises(ConfigError, match="write split = 'ratio' instead"):
        DataConfig(split="users", split_options={"name": "ratio"})


def test_options_of_every_setting_that_has_some_are_led_to_where_they_belong() -> None:
    found = set()
    configs = [DataConfig, *(cls.Config for _, cls in registry.classes("model"))]
    for config in configs:
        for options in [name for name in config.model_fields if name.endswith("_options")]:
            setting = options.removesuffix("_options")
            found.add(setting)
            given = parse_settings([f"{setting}.n_clusters=8"])
            is_there = setting in config.model_fields
            message = (
                f"its options are in {options}: {options}.n_clusters=8" if is_there else f"did you mean {options}?"
            )
            with pytest.raises(ConfigError, match=re.escape(message)):
                config.of(given)
    assert found >= {
        "weight",
        "encoder",
        "loss",
        "augmenter",
        "mixture",
        "transform",
        "objective",
        "item_graph",
        "split",
    }
    assert found >= {"aggregator", "base", "item_contrast", "ranker", "walk"}


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Encoder.of(dropout=2, nope=1)
    assert "dropout = 2" in str(caught.value)
    assert "unknown setting 'nope'" in str(caught.value)


def test_a_list_that_is_short_of_wrong_entries_alone_is_not_told() -> None:
    class Several(Config):
        entries: Annotated[tuple[Required, ...], Field(min_length=1)] = (Required(n_items=1),)

    with pytest.raises(ConfigError) as caught:
        Several.of({"entries": [{"n_item": 1}]})
    assert str(caught.value).splitlines() == [
        "entries.0.n_items: Field required",
        "unknown setting 'entries.0.n_item'; did you mean n_items?",
    ]
    with pytest.raises(ConfigError, match=r"^entries = \[\]: .*at least 1 item"):
        Several.of({"entries": []})


def test_missing_field() -> None:
    with pytest.raises(ConfigError, match=r"n_items: Field required \(allowed: > 0\)"):
        Required.of()


def test_settings_describe_the_fields() -> None:
    first, second, *_ = Encoder.describe()
    assert (first.name, first.type, first.default, first.allowed) == (
        "hidden_dim",
        "int",
        64,
        ">= 1 and <= 4096",
    )
    assert first.description == "width of the vectors"
    assert first.search == Search(16, 256, log=True)
    assert second.search is None
    assert Required.describe()[0].default == "required"
    assert Training.describe()[1].type == "int | None"
    assert Training.describe()[2].default == {}


def test_settings_show_the_range_of_an_optional_field() -> None:
    assert Training.describe()[1].allowed == ">= 1"


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('hidden_dim = 32\nloss = "sampled"\n')
    assert load_toml(path) == {"hidden_dim": 32, "loss": "sampled"}


def test_bad_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("x = 1\ny = = 2\n")
    with pytest.raises(ConfigError, match=r"a\.toml: the file is not valid TOML: .*line 2"):
        load_toml(path)
    path.write_bytes(b"x = '\xff'\n")
    with pytest.raises(ConfigError, match=r"a\.toml: the file is not valid TOML"):
        load_toml(path)
    with pytest.raises(ConfigError, match=r"none\.toml' does not exist"):
        load_toml(tmp_path / "none.toml")


def test_distribute_shares_out_one_namespace() -> None:
    parts = {"model": Encoder, "training": Training}
    shared = distribute({"max_epochs": 3, "dropout": 0.1}, parts)
    assert shared == {"model": {"dropout": 0.1}, "training": {"max_epochs": 3}}


def test_distribute_refuses_unknown_keys_and_collisions() -> None:
    with pytest.raises(ConfigError, match=r"'max_epoch'; did you mean max_epochs"):
        distribute({"max_epoch": 3}, {"model": Encoder, "training": Training})
    with pytest.raises(ConfigError, match="'hidden_dim' belongs to both a and b"):
        distribute({}, {"a": Encoder, "b": Encoder})


def test_json_is_stable_and_reads_back() -> None:
    text = to_json(Encoder())
    assert list(json.loads(text)) == ["dropout", "hidden_dim", "loss", "loss_options", "views"]
    assert Encoder.of(json.loads(text)) == Encoder()


def test_unknown_key_proposes_the_nearest() -> None:
    assert unknown_key("patiense", ["patience", "dropout"]) == "unknown setting 'patiense'; did you mean patience?"
    assert unknown_key("xyz", ["patience", "dropout"]) == "unknown setting 'xyz'; known settings: dropout, patience"


def test_configure_takes_a_value_or_settings() -> None:
    class Knob(Config):
        level: int = 1

    assert configure(None, Knob, None, {"level": 2}) == Knob(level=2)
    assert configure(None, Knob, Knob(level=3), {}) == Knob(level=3)
    with pytest.raises(ValueError, match=r"give int a config or settings, not both \(got \['level'\]\)"):
        configure(0, Knob, Knob(), {"level": 2})
    with pytest.raises(ConfigError, match="unknown setting 'levle'; did you mean level"):
        configure(None, Knob, None, {"levle": 2})
    for wrong in (64, {"level": 2}, Training()):
        with pytest.raises(ConfigError, match=r"int\(.*\): not a Knob; give settings by name, as int\(level=\.\.\.\)"):
            configure(0, Knob, wrong, {})  # type: ignore[arg-type]


class Renamed(Config):
    renamed: ClassVar[dict[str, str]] = {"views": "augmentations"}

    augmentations: tuple[str, ...] = ("crop",)
    objective: Annotated[str, Field(description="came later"), Added()] = "nt_xent"


def test_a_field_that_was_added_is_no_part_of_the_identity_at_its_default() -> None:
    assert Renamed().identity() == {"views": ["crop"]}
    assert Renamed(objective="info_nce").identity() == {"views": ["crop"], "objective": "info_nce"}


def test_the_earlier_name_of_a_field_is_read() -> None:
    assert Renamed.of({"views": ("mask",)}) == Renamed(augmentations=("mask",))
    assert distribute({"views": ("mask",)}, {"model": Renamed}) == {"model": {"views": ("mask",)}}
    with pytest.raises(ConfigError, match="views and augmentations are one setting"):
        Renamed.of(views=(), augmentations=())
