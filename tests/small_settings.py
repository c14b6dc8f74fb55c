"""Small settings for tests that go over all models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recgraph.config import known_settings, merged, put


def with_small(cls: Any, small: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the small ones, by dotted names, that the model has."""
    known = set(known_settings(cls.Config))
    found: dict[str, Any] = {}
    for name, value in small.items():
        if name in known:
            put(found, name.split("."), value)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found = merged(found, {name: value})
        else:
            put(found, name.split("."), value)
    return found
