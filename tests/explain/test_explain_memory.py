"""What an explanation and a map take of memory is predicted, and refused before it is computed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from command_line import refused, works
from small_recommender import SETTINGS
from small_recommender import recommender as with_paths

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.explain import memory
from recgraph.graph.hetero import HeteroGraph
from recgraph.memory import Estimate, MemoryLimitError
from recgraph.models.base import Space
from recgraph.serve.recommender import Recommender


def recommender(n_users: int = 60, n_items: int = 40, width: int = 8, name: str = "bprmf") -> Recommender:
    users, items = torch.arange(3 * n_users) // 3, torch.arange(3 * n_users) * 7 % n_items
    frame = pl.DataFrame({"u": users.numpy(), "i": items.numpy(), "t": users.numpy()})
    data = Interactions.from_frame(frame, user="u", item="i", timestamp="t")
    model = rg.registry.load("model", name)(**({"hidden_dim": width} if name == "bprmf" else {}))
    return Recommender.for_log(model.build(Space(n_users=data.n_users, n_items=data.n_items)), data)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Estimate]:
    """The predictions, beyond what the process holds; nothing is refused."""
    made: list[Estimate] = []
    monkeypatch.setattr(memory, "resident", lambda: 0)
    monkeypatch.setattr(memory, "check_estimate", lambda estimate, *_: made.append(estimate))
    return made


def test_the_prediction_grows_with_items_widths_and_interactions(found: list[Estimate]) -> None:
    least = recommender()
    for one in (least, recommender(n_items=80), recommender(width=16), recommender(n_users=600)):
        memory.check_explanation(one)
    small, *larger = (estimate.peak for estimate in found)
    assert 0 < small < min(larger)
    memory.check_explanation(least, attributed=True)
    assert found[-1].peak - small == 16 * 256 * 40 + 22 * 40 * 8 - max(found[0].moments.values())


def test_what_a_model_does_not_have_is_not_counted(found: list[Estimate]) -> None:
    memory.check_explanation(recommender(name="itemknn"))
    assert found[0].moments["nearest items"] == 0  # it has no vectors
    model = with_paths(**SETTINGS)
    memory.check_explanation(model)
    graph = model.model.space.graph  # type: ignore[union-attr]
    assert found[1].moments["walks along paths"] == 35 * sum(edges.adj.nnz for edges in graph.edges.values())


def test_nodes_and_maps_are_predicted_by_their_sizes(found: list[Estimate]) -> None:
    edges = {("a", "to", "b"): (torch.arange(4), torch.arange(4) % 2)}
    graph = HeteroGraph.from_edge_lists({"a": 4, "b": 2}, edges)
    for n_vectors, width in ((4, 8), (400, 8), (4, 800)):
        memory.check_node_explanation(graph, n_vectors, width)
        memory.check_map(n_vectors, width)
    nodes, maps = (tuple(estimate.peak for estimate in found[first::2]) for first in (0, 1))
    for small, *larger in (nodes, maps):
        assert 0 < small < min(larger)


def test_what_does_not_fit_is_refused_before_it_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    served = recommender()
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "10MiB")
    monkeypatch.setattr(Recommender, "recommend", None)
    with pytest.raises(MemoryLimitError, match=r"the explanation of BPRMF would take .*; explain where there is more"):
        rg.explain.explain(served, 1)
    with pytest.raises(MemoryLimitError, match=r"the map would take .*; leave it out \(--map none\), or draw it where"):
        rg.explain.item_map(served)


def test_the_command_has_a_limit(tmp_path: Path) -> None:
    recommender().save(tmp_path / "bundle")
    ask = f"inspect {tmp_path / 'bundle'} --user 1 -k 2 --out {tmp_path / 'page.html'}"
    told = refused(f"{ask} --memory-limit 10MiB")
    assert "memory_limit = 10.0 MiB: the explanation of BPRMF would take" in told
    assert not (tmp_path / "page.html").exists()
    told = works(f"{ask} --memory-limit 64GiB").stderr
    assert "predicted memory of the explanation of BPRMF" in told
    assert "predicted memory of the map" in told
