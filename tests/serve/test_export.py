"""Exports: onnxruntime and torch.export give the library's own vectors and scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from refusing import refused
from small_serving import ServedTowers, log, serve
from small_settings import with_small

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.evaluate.ranking import evaluating
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import ClosedFormModel, Model, Space
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.export import ExportError
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

N_USERS, N_ITEMS, MAX_LEN = 30, 40, 8
SMALL = {"hidden_dim": 16, "max_len": MAX_LEN, "encoder.inner_dim": 32, "loss.n_negatives": 24}
QUICK = {"sasrec", "ease", "bprmf"}
#: rank by two sparse products and a low-rank one, or by two stages, which no graph of a runtime has
NO_EXPORT = {"gfcf", "twostage"}
# those of the library: other tests register models of their own
CLASSES = {name: registry.load("model", name) for name in registry.names("model")}
RECOMMENDERS = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name, cls in sorted(CLASSES.items())
    if cls.__module__.startswith("recgraph.") and not issubclass(cls, GraphModel) and name not in NO_EXPORT
]


def recommender(name: str, **settings: Any) -> Recommender:
    data, cls = log(n_users=N_USERS, n_items=N_ITEMS), CLASSES[name]
    model = cls(**with_small(cls, SMALL, settings))
    sizes: dict[str, Any] = {"n_users": data.n_users, "n_items": data.n_items}
    items, rows = torch.arange(data.n_items), data.ordered.items
    edges = {("user", "interacts", "item"): (rows.rows, rows.values), ("item", "has", "genre"): (items, items % 3)}
    graph = HeteroGraph.from_edge_lists({"user": data.n_users, "item": data.n_items, "genre": 3}, edges)
    model.build(GraphSpace(**sizes, graph=graph) if cls.reads_graph else Space(**sizes), seed=1)
    part = data.split("leave-one-out").train
    if isinstance(model, ClosedFormModel):
        model.fit(part)
    elif isinstance(model, CollaborativeModel):
        model.setup(part)
    return Recommender(model, data.users, data.items, data.ordered.items, columns=data.columns)


def histories(n: int = 40) -> list[list[int]]:
    """Of all lengths, from none to longer than what is read."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, N_ITEMS, n % (MAX_LEN + 4)).tolist() for n in range(n)]


def padded(rows: list[list[int]], width: int) -> np.ndarray:
    kept = [[item + 1 for item in row][-width:] for row in rows]
    return np.array([row + [0] * (width - len(row)) for row in kept], dtype=np.int64)


def own(model: Model, rows: list[list[int]], gives: str) -> np.ndarray:
    query = Query(torch.full((len(rows),), -1), Ragged.from_lists(rows))
    with evaluating(model):
        return np.asarray(model.encode_users(query) if gives == "vectors" else model.score(query))


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_exports_give_the_librarys_numbers(name: str, tmp_path: Path) -> None:
    served, folder = recommender(name), tmp_path / "out"
    graph = served.export(folder)["graph"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    program = torch.export.load(folder / "model.pt2").module()
    (given,), (returned,) = graph["inputs"], graph["outputs"]
    assert [i.name for i in session.get_inputs()] == [given["name"]]
    assert [o.name for o in session.get_outputs()] == [returned["name"]]

    def check(value: np.ndarray, expected: np.ndarray) -> None:
        for found in (session.run(None, {given["name"]: value})[0], program(torch.from_numpy(value)).detach().numpy()):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    if graph["kind"] == "vectors to scores":
        with evaluating(served.model):
            scores = served.model.score(Query(torch.arange(N_USERS), served.seen))
        vectors = np.load(folder / "user_vectors.npy")
        assert json.loads((folder / "user_ids.json").read_text()) == served.users.values.to_list()
        for size in (1, 2, N_USERS):
            check(vectors[:size], np.asarray(scores[:size]))
        return
    least, greatest = given["length"]["least"], given["length"]["greatest"]
    for width in [least] if least == greatest else [least, 5, greatest or 15]:
        fitting = [row for row in histories() if len(row) <= width or width == greatest]
        for some in (fitting, fitting[:1]):
            check(padded(some, width), own(served.model, some, returned["name"]))


def test_time_gaps_are_an_input(tmp_path: Path) -> None:
    served = recommender("sasrec", time_gaps=True)
    with torch.no_grad():
        served.model.gap_embedding.weight[1:].normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, index, operator]
    graph = served.export(tmp_path / "out")["graph"]
    assert [given["name"] for given in graph["inputs"]] == ["history", "gaps"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    row, times = [3, 9, 4, 4, 7], np.array([5, 5, 6, 40, 10_000])
    rows = Ragged.from_lists([row])
    with evaluating(served.model):
        query = Query(torch.tensor([-1]), rows, rows.with_values(torch.from_numpy(times)))
        expected = np.asarray(served.model.encode_users(query))
    # as the manifest says
    gaps = [[0, 1, 2 + 0, 2 + int(np.log2(34)), 2 + int(np.log2(9960))]]
    given = {"history": padded([row], 5), "gaps": np.array(gaps, dtype=np.int64)}
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-5, atol=1e-5)


def test_what_is_in_the_folder(tmp_path: Path) -> None:
    served, folder = recommender("sasrec"), tmp_path / "out"
    before = served.recommend(users="all", k=5)
    recommender("popularity").export(folder)
    manifest = served.export(folder)  # in the place of the earlier one
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    items = pl.read_parquet(folder / "items.parquet")
    assert items.equals(served.item_vectors())
    assert json.loads((folder / "item_ids.json").read_text()) == items["what"].to_list()
    np.testing.assert_array_equal(np.load(folder / "item_vectors.npy"), items["vector"].to_numpy())
    assert served.recommend(users="all", k=5).equals(before)
    (folder / "precious").write_text("x")
    with pytest.raises(FileExistsError):
        served.export(folder)


class ScoresOnly(ServedTowers):
    """Ranks by score() alone."""

    has_vectors = False


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    for served in (serve(log(), ScoresOnly()), recommender("gfcf")):
        with refused(type(served.model).__name__, by=ExportError):
            served.export(tmp_path / "out")
    with_bias = serve(log(), SASRec(hidden_dim=16, encoder={"name": "hstu", "time_bias": True}))
    with refused("time_bias"):
        with_bias.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
