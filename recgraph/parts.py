"""Parts that settings choose by name: of which kind they are, and which options they take.

A setting has the name of its kind in the registry, or the plural of it where it chooses several parts.
"""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

from pydantic.fields import FieldInfo

from recgraph import registry


def kind_of(setting: str) -> str | None:
    """The registry's kind of the parts that a setting chooses; None where it chooses none."""
    return next((kind for kind in (setting, setting.removesuffix("s")) if kind in registry.kinds()), None)


def is_list(setting: str) -> bool:
    """Whether a setting chooses several parts."""
    return kind_of(setting) not in (None, setting)


def options_of(part: type[Any]) -> dict[str, FieldInfo]:
    """The options of a part: the fields of its ``Config``, else the parameters of its constructor."""
    config = getattr(part, "Config", None)
    if config is not None:
        return dict(config.model_fields)
    hints = get_type_hints(part.__init__, include_extras=True)
    parameters = inspect.signature(part).parameters
    return {
        name: FieldInfo.from_annotation(hints.get(name, Any))
        if parameters[name].default is inspect.Parameter.empty
        else FieldInfo.from_annotated_attribute(hints.get(name, Any), parameters[name].default)
        for name in registry.settings_of(part)
    }
