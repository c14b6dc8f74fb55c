"""Embeddings of a graph's nodes and the model that made them, kept in a bundle that works on its own."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import forging
import polars as pl
import pytest
import torch

import recgraph
from recgraph.data.ids import IdMap
from recgraph.data.imprint import load_json
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.serve import bundle
from recgraph.serve.bundle import BundleError
from recgraph.serve.embedder import Embedder
from recgraph.serve.recommender import Recommender
from recgraph.sparse.csr import Csr

N = 12


def graph() -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    by = torch.arange(24) % N, torch.randint(6, (24,), generator=draw)
    words = Csr.from_dense((torch.rand(N, 5, generator=draw) > 0.4).float())
    return HeteroGraph.from_edge_lists(
        {"paper": N, "author": 6},
        {("paper", "by", "author"): by},
        features={"paper": words},
        ids={"paper": IdMap(pl.Series([f"p{n}" for n in range(N)]))},
    )


def model(seed: int = 3) -> GraphModel:
    # masks are drawn when the model is built: only the right seed gives them again
    made = MEOW(metapaths=("paper-author-paper",), hidden_dim=4, n_clusters=(2, 3), feature_mask=0.5, edge_mask=0.5)
    return made.build(graph(), seed=seed)


def size_of_process() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Embedder.of(model(), "paper", {"seed": 3}).save(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_round_trip(folder: Path) -> None:
    there = recgraph.load(folder)
    assert isinstance(there, Embedder)
    frame = there.embeddings()
    assert frame.schema == {"paper": pl.String, "embedding": pl.Array(pl.Float32, 4)}
    assert frame["paper"].to_list() == [f"p{n}" for n in range(N)]
    assert (there.target, there.record) == ("paper", {"seed": 3})
    again = Embedder.of(there.model, "paper")  # type: ignore[arg-type]
    assert torch.equal(again.vectors, there.vectors)
    assert torch.equal(Embedder.of(model(), "paper").vectors, there.vectors)
    assert not torch.equal(Embedder.of(model(seed=4), "paper").vectors, there.vectors)


def test_a_loaded_bundle_can_be_saved_again(folder: Path, tmp_path: Path) -> None:
    Embedder.load(folder).save(tmp_path / "copy")
    assert recgraph.load(tmp_path / "copy").embeddings().equals(recgraph.load(folder).embeddings())  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nodes_without_ids_have_their_indices(folder: Path) -> None:
    assert Embedder.of(model(), "paper").embeddings()["paper"].dtype == pl.String
    plain = HeteroGraph({**graph().nodes, "paper": type(graph().nodes["paper"])(N)}, graph().edges)
    made = MEOW(metapaths=("paper-author-paper",), hidden_dim=4, n_clusters=(2,)).build(plain)
    assert Embedder.of(made, "paper").embeddings()["paper"].to_list() == list(range(N))


def test_damage_is_named(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert {"embeddings.parquet", "model.safetensors", "graph/edges_0.parquet", "graph/features_0.parquet"} <= set(
        names
    )
    for name in names:
        if name == "config.json":
            continue
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1])
        with pytest.raises(BundleError, match=f"{name} is damaged"):
            recgraph.load(folder)
        (folder / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            recgraph.load(folder)
        (folder / name).write_bytes(content)
    recgraph.load(folder)


def test_a_file_outside_of_the_bundle_is_refused(folder: Path) -> None:
    config = load_json(folder / "config.json")
    config["files"]["../../secret"] = "0"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="outside of the bundle"):
        recgraph.load(folder)


@pytest.mark.parametrize("width", [2**26, 2**31, 10**30])
def test_settings_that_ask_for_more_than_the_weights_hold(width: int, folder: Path) -> None:
    """They are refused before memory is asked for, which the system might not give."""
    forging.with_config(folder, ("model", "config", "hidden_dim"), width)
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size_of_process() + (1 << 30), most))
    try:
        with pytest.raises(BundleError, match="does not fit MEOW"):
            _ = recgraph.load(folder).model
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def test_a_recommender_is_not_made_of_it(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no recommender: it holds embeddings of nodes; see recgraph\.load"):
        Recommender.load(folder)
    assert bundle.holds(folder) == "embedder"


def test_what_is_not_built_for_a_graph() -> None:
    with pytest.raises(ValueError, match="not built for a graph"):
        Embedder.of(MEOW(metapaths=("paper-author-paper",)), "paper")


def test_a_model_of_another_bundle_than_the_embeddings_is_refused(folder: Path) -> None:
    there = Embedder.load(folder)
    Embedder.of(model(seed=4), "paper").save(folder)
    with pytest.raises(BundleError, match=r"another bundle has taken the place of .*bundle while it was read; load it"):
        _ = there.model
