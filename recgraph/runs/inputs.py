"""The runs and bundles that settings name: what item vectors begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recgraph.serve.bundle import BundleError, bundle_of, digest

__all__ = ["INPUTS", "input_digests"]

#: the settings that are the folder of a run or bundle
INPUTS = ("init_items",)


def input_digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting and folder -> digest of the bundle there: paths alone do not tell that it has been trained anew.

    Args:
        settings: a setting may also be a list of choices. A folder without a bundle is refused where it is read.
    """
    found = {}
    for name in INPUTS:
        given = settings.get(name)
        for path in given if isinstance(given, list | tuple) else [given]:
            if isinstance(path, str):
                try:
                    found[f"{name} {path}"] = digest(bundle_of(path))
                except (BundleError, OSError):
                    continue
    return found
