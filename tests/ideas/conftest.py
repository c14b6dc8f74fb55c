"""The ideas are loaded as ``--import`` does it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from recgraph.registry import import_file

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "ideas"


@pytest.fixture(scope="session")
def idea() -> Callable[[str], ModuleType]:
    """The module of an idea by its name."""
    return lambda name: import_file(FOLDER / f"{name}.py")
