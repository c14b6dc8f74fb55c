"""Small settings for tests that go over all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_small(cls: Any, small: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the small ones that the model has; tables of both are joined."""
    made = {name: value for name, value in small.items() if name in cls.Config.model_fields}
    for name, value in settings.items():
        held = made.get(name)
        made[name] = {**held, **value} if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return made
