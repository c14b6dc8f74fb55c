"""``recgraph models``: what models there are and what can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.output import FormatOption, note, show

if TYPE_CHECKING:
    from recgraph.config import Config


def models(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Show this one in detail.")] = None,
    form: FormatOption = None,
) -> None:
    """List the models; with MODEL, all settings that a run of it takes."""
    from recgraph import registry

    if name is None:
        show([_summary(key) for key in registry.names("model")], form)
        return
    model = registry.load("model", name)
    note(_first_line(model))
    show([*_settings("model", model.Config), *_training(model), *_data()], form)


def _summary(key: str) -> dict[str, Any]:
    from recgraph import registry

    model = registry.load("model", key)
    fields = [setting.name for setting in model.Config.settings()]
    return {"model": key, "what": _first_line(model), "settings": fields}


def _settings(part: str, config: type[Config]) -> list[dict[str, Any]]:
    return [
        {
            "of": part,
            "setting": setting.name,
            "default": "none" if setting.default is None else str(setting.default),
            "type": setting.type,
            "allowed": setting.allowed,
            "meaning": setting.description,
        }
        for setting in config.settings()
    ]


def _training(model: type[Any]) -> list[dict[str, Any]]:
    from recgraph.models.base import TrainableModel
    from recgraph.train.config import TrainConfig

    return _settings("training", TrainConfig) if issubclass(model, TrainableModel) else []


def _data() -> list[dict[str, Any]]:
    from recgraph.run import DataConfig

    return _settings("data", DataConfig)


def _first_line(model: type[Any]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "")
