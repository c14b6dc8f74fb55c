"""Small settings for tests that go over all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recgraph.models.settings import saved_settings


def with_small(cls: Any, small: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the small ones that the model has and reads beside these."""
    both = {name: value for name, value in {**small, **settings}.items() if name in cls.Config.model_fields}
    with saved_settings():
        made = cls.Config.of(both)
        unread = made.unread().keys() | made.idle()
    return {name: value for name, value in both.items() if name not in unread} | dict(settings)
