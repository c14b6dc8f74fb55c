"""The code of the page "Why an item" runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_code_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "inspect.md").read_text(), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(code, "inspect.md", "exec", dont_inherit=True), scope)
    assert "Film" in (tmp_path / "why.html").read_text()
    assert scope["found"].recommendations[0].evidence  # type: ignore[attr-defined]
