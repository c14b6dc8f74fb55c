"""Every metric and convention against what nine libraries computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments.metric_parity import metric_parity  # noqa: E402


def test_peers_agree(shared: Path) -> None:
    wrong: list[tuple[Any, ...]] = []

    def report(record: dict[str, Any], error: float) -> None:
        wrong.append((record["peer"], record["metric"], record["params"], record["case"], record["k"], error))

    lines = list(metric_parity(shared / "golden" / "metrics", report))
    assert wrong == []
    assert len(lines) == 9
    assert all(line["ok"] for line in lines)
    assert sum(line["n_records"] for line in lines) == 14_359
    assert sum(line["n_left_out"] for line in lines) == 313
