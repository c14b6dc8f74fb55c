"""EASE and implicit ALS against what other libraries make of MovieLens-100k."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.closed_form_parity import TOLERANCES, closed_form_parity  # noqa: E402


@pytest.mark.peer
def test_rectools_ease_and_implicit_als_agree(shared: Path) -> None:
    lines = {line["name"]: line for line in closed_form_parity(shared / "data" / "ml-100k")}
    assert set(lines) == set(TOLERANCES)
    assert [line for line in lines.values() if not line["ok"]] == []
