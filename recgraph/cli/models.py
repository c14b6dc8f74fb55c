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
    from recgraph.experiment import parts_of

    if name is None:
        show([_summary(key) for key in registry.names("model")], form)
        return
    model = registry.load("model", name)
    note(_first_line(model))
    parts = {"model": model.Config, **parts_of(model)}
    show([row for part, config in parts.items() for row in _settings(part, config)], form)


def _summary(key: str) -> dict[str, Any]:
    from recgraph import registry

    model = registry.load("model", key)
    fields = [setting.name for setting in model.Config.describe()]
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
        for setting in config.describe()
    ]


def _first_line(model: type[Any]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "")
