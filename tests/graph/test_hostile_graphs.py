"""Graphs that a stranger made: names and shapes that no graph has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recgraph.data.errors import CorruptFileError
from recgraph.graph.hetero import HeteroGraph


@pytest.mark.parametrize(
    "edge", [["a", None, "b"], ["a", 3, "b"], ["a", ["x"], "b"], ["a", "b"], ["a", "to", "b", "c"], "atb", 1, None]
)
def test_an_edge_type_is_three_texts(edge: Any, tmp_path: Path) -> None:
    ends = torch.tensor([0]), torch.tensor([1])
    HeteroGraph.from_edge_lists({"a": 2, "b": 2}, {("a", "to", "b"): ends}).save(tmp_path)
    path = tmp_path / "graph.json"
    values = json.loads(path.read_text())
    values.pop("imprint")
    path.write_text(json.dumps({**values, "edges": [edge]}))
    with pytest.raises(CorruptFileError, match=r"edges .* are not of a source type") as refused:
        HeteroGraph.load(tmp_path)
    assert str(path) in str(refused.value)
