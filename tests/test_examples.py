"""The examples of docs/examples run and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mclrec_learns() -> None:
    curve, ndcg = load("mclrec").main(epochs=6)
    assert curve[-1] < 0.8 * curve[0]
    # the expectation at chance is 10 of 300 items
    assert ndcg > 0.1


def test_meow_learns() -> None:
    curve, accuracy = load("meow").main()
    assert curve[-1] < 0.95 * curve[0]
    assert accuracy > 0.8


def test_each_example_fits_on_a_screen() -> None:
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(lengths) == {"mclrec.py", "meow.py"}
    assert max(lengths.values()) <= 110
