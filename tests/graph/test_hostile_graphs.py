"""Graphs that a stranger made: names and shapes that no graph has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_array

import recgraph as rg
from recgraph.data.errors import CorruptFileError
from recgraph.graph import store
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.schema import FeatureError, GraphError, Nodes, UnknownTypeError
from recgraph.sparse.csr import Csr

BY = ("paper", "by", "author")
PAIRS = (torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]))


def made(**more: Any) -> HeteroGraph:
    return HeteroGraph.from_edge_lists({"paper": 3, "author": 2}, {BY: PAIRS}, **more)


def test_path_counts_of_weights_of_half_precision_do_not_overflow() -> None:
    """300 * 300 is above what float16 holds."""
    weights = torch.tensor([300.0, 300.0, 1.0])
    half, single = (made(weights={BY: weights.to(dtype)}) for dtype in (torch.float16, torch.float32))
    path = MetaPath("paper-author-paper")
    for of in (path.counts, path):
        assert torch.equal(of(half).to_dense(), of(single).to_dense())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bfloat16])
def test_features_and_weights_are_floating_point_numbers(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(FeatureError, match=rf"features of 'paper' are {name}; make them float32"):
        HeteroGraph({"paper": Nodes(3, None, torch.ones(3, 3, dtype=dtype))})
    adj = Csr.from_coo(*PAIRS, shape=(3, 2)).with_weights(torch.ones(3, dtype=dtype))
    with pytest.raises(GraphError, match=rf"the weights are {name}; make them float32"):
        made().with_edges({BY: adj})


def test_what_is_no_number_is_refused_by_its_name() -> None:
    with pytest.raises(FeatureError, match="features of 'paper' are no numbers"):
        made(features={"paper": np.array([["a"], ["b"], ["c"]], dtype=object)})
    with pytest.raises(FeatureError, match="features of 'paper' are no numbers"):
        made().with_features({"paper": np.array([["a"], ["b"], ["c"]])})
    with pytest.raises(GraphError, match="weights are no numbers"):
        made(weights={BY: ["a", "b", "c"]})
    with pytest.raises(GraphError, match="ids are a list; give an IdMap"):
        made(ids={"paper": ["u", "v", "w"]})
    with pytest.raises(FeatureError, match="features of 'paper' are no numbers: they are complex"):
        made(features={"paper": np.ones((3, 2)) * 1j})
    with pytest.raises(GraphError, match="they are complex"):
        HeteroGraph.from_scipy({BY: csr_array(np.ones((3, 2)) * 1j)})
    with pytest.raises(GraphError, match="matrix is a ndarray; give a scipy sparse one"):
        HeteroGraph.from_scipy({BY: np.ones((3, 2))})
    with pytest.raises(ValueError, match=r"must be an InteractionLog.*; rg.fit_graph\(model, graph, seed=0\) fits"):
        rg.fit("MEOW", made(), seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("abc", r"the pairs = 'abc'; indices must be integers"),
        ({"p": 1}, r"the pairs = \{'p': 1\}; indices must be integers"),
        (None, "the pairs = None; indices must be integers"),
        ((["x", "y"], [0, 1]), r"the sources = \['x', 'y'\]; indices must be integers"),
        (([[0], [1, 2]], [0, 1]), r"the sources = \[\[0\], \[1, 2\]\]; indices must be integers"),
        ([[0, 1], [1]], r"the pairs = \[\[0, 1\], \[1\]\]; indices must be integers"),
        (([0, 1], np.array([1j, 0])), "the targets are complex128; indices must be integers"),
        (
            (np.array([[0], [1]]), np.array([[0], [1]])),
            r"the sources have shape \(2, 1\); give a list of one dimension",
        ),
        (([0, 1], np.array([[0, 1]])), r"the targets have shape \(1, 2\); give a list of one dimension"),
        (([0, 1], np.array([0, 2**64 - 1], dtype=np.uint64)), "the targets have 18446744073709551615, which is out of"),
        (torch.zeros(2, 3, dtype=torch.int64), r"have shape \(2, 3\); they must be \(sources, targets\)"),
    ],
)
def test_what_is_no_pair_of_indices_is_named_with_its_edges(pairs: Any, message: str) -> None:
    with pytest.raises(GraphError, match=rf"edges \('paper', 'by', 'author'\).*{message}"):
        HeteroGraph.from_edge_lists({"paper": 3, "author": 2}, {BY: pairs})


@pytest.mark.parametrize(
    ("count", "message"), [(-1, "not be negative"), (3.0, "be an integer"), ("3", "be an integer")]
)
def test_counts_are_checked_before_edges(count: Any, message: str) -> None:
    with pytest.raises(GraphError, match=rf"node type 'paper': count = {count!r} must {message}"):
        HeteroGraph.from_edge_lists({"paper": count, "author": 2}, {BY: PAIRS})
    with pytest.raises(GraphError, match=f"count = {count!r} must {message}"):
        Nodes(count)


def test_names_of_types_are_texts() -> None:
    for key in ("paper", ("paper", "author"), ("paper", 1, "author")):
        with pytest.raises(UnknownTypeError, match=r"edge type .* must be \(source type, relation, target type\)"):
            HeteroGraph.from_scipy({key: csr_array(np.ones((3, 2)))})  # type: ignore[dict-item]
        with pytest.raises(UnknownTypeError, match=r"edge type .* must be \(source type, relation, target type\)"):
            HeteroGraph(made().nodes, {key: made().edges[BY]})  # type: ignore[dict-item]
    with pytest.raises(UnknownTypeError, match="node type 1 must be a text; name it '1'"):
        HeteroGraph.from_edge_lists({1: 3}, {})  # type: ignore[dict-item]
    with pytest.raises(UnknownTypeError, match="node type None must be a text"):
        HeteroGraph({None: Nodes(3)})  # type: ignore[dict-item]


def test_complex_weights_and_features_name_their_type() -> None:
    with pytest.raises(GraphError, match=r"edges \('paper', 'by', 'author'\): weights are complex; give real ones"):
        made(weights={BY: [1j, 0, 0]})
    data = HeteroGraph.to_pyg(made())
    data["author"].x = torch.ones(2, 2, dtype=torch.complex64)
    with pytest.raises(FeatureError, match="features of 'author' are no numbers: they are complex"):
        HeteroGraph.from_pyg(data)


def test_times_as_numpy_has_them(tmp_path: Path) -> None:
    dates = np.array(["2024-01-02", "2024-01-03", "2024-01-04"], dtype="datetime64[D]")
    frame = pl.DataFrame({"p": [0, 1, 2], "a": [0, 0, 1], "time": dates})
    times = made(times={BY: dates}).edges[BY].times
    from_frame = HeteroGraph.from_frames({BY: frame}).edges[BY].times
    assert times is not None
    assert from_frame is not None
    assert torch.equal(times, from_frame)
    booleans = made(times={BY: np.array([True, False, True])})
    booleans.save(tmp_path)
    assert HeteroGraph.load(tmp_path).hash == booleans.hash


def test_times_of_a_zone_are_moments() -> None:
    there = pd.date_range("2024-01-02", periods=3, tz="Europe/Berlin")
    moments = [1704150000000000 + 86_400_000_000 * day for day in range(3)]
    for times in (there, pd.Series(there)):
        assert made(times={BY: times}).edges[BY].times.tolist() == moments  # type: ignore[union-attr]


@pytest.mark.parametrize("as_series", [False, True])
def test_missing_times_are_refused(as_series: bool) -> None:
    times = np.array(["2024-01-02", "NaT", "2024-01-04"], dtype="datetime64[s]")
    with pytest.raises(GraphError, match=r"\), row 1 \(from 0\): the time is missing \(1 such edges\)"):
        made(times={BY: pd.Series(times) if as_series else times})


@pytest.mark.filterwarnings("error")
def test_arrays_that_are_read_backwards_or_not_to_be_written_to() -> None:
    sources, weights, x = np.array([2, 1, 0]), np.array([3.0, 2.0, 1.0]), np.arange(6.0).reshape(3, 2)
    counts = {"paper": 3, "author": 2}
    backwards = HeteroGraph.from_edge_lists(
        counts, {BY: (sources[::-1], [0, 0, 1])}, {"paper": x[::-1]}, weights={BY: weights[::-1]}
    )
    assert backwards.adjacency(BY).to_dense().tolist() == [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]
    assert backwards.features("paper").tolist() == x[::-1].tolist()  # type: ignore[union-attr]
    for array in (sources, weights, x):
        array.flags.writeable = False
    sealed = HeteroGraph.from_edge_lists(counts, {BY: (sources, [1, 0, 0])}, {"paper": x}, weights={BY: weights})
    assert sealed.adjacency(BY).to_dense().tolist() == [[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]


def test_what_is_written_into_arrays_later_is_not_in_the_graph() -> None:
    pairs, weights, times = np.array([[0, 0], [1, 0], [2, 1]]), np.ones(3), np.arange(3)
    dense, sparse = np.ones((3, 2)), csr_array(np.ones((2, 2)))
    matrix = csr_array(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    graphs = [
        HeteroGraph.from_edge_lists(
            {"paper": 3, "author": 2}, {BY: pairs}, {"paper": dense, "author": sparse}, {BY: weights}, {BY: times}
        ),
        made().with_features({"paper": dense}),
        HeteroGraph.from_scipy({BY: matrix}, {"paper": dense}),
    ]
    before = [store.digest(graph.nodes, graph.edges) for graph in graphs]
    for array in (pairs, weights, times, dense, sparse.data, matrix.data, matrix.indices):
        array[:] = 0
    assert [store.digest(graph.nodes, graph.edges) for graph in graphs] == before


def test_what_is_written_into_tensors_later_is_not_in_the_graph() -> None:
    dense, whole = torch.ones(3, 2), torch.ones(3, 2, dtype=torch.int64)
    sparse = Csr.from_dense(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    sources, weights, times = torch.tensor([0, 1, 2]), torch.ones(3), torch.arange(3)
    data = made(features={"paper": dense}).to_pyg()
    data["paper"].x = dense
    graphs = [
        HeteroGraph.from_edge_lists(
            {"paper": 3, "author": 2}, {BY: (sources, PAIRS[1])}, {"paper": dense}, {BY: weights}, {BY: times}
        ),
        *(made().with_features({"paper": values}) for values in (dense, whole, sparse)),
        HeteroGraph.from_scipy({BY: csr_array(np.ones((3, 2)))}, {"paper": dense}),
        HeteroGraph.from_pyg(data),
    ]
    before = [graph.hash for graph in graphs]
    assert sparse.weights is not None
    for tensor in (dense, whole, sparse.weights, sparse.indices, sources, weights, times):
        tensor[:] = 0
    assert [store.digest(graph.nodes, graph.edges) for graph in graphs] == before


def test_names_that_say_nothing_are_refused() -> None:
    frame = pl.DataFrame({"p": [0, 1], "a": [0, 1], "strength": [1.0, 2.0], "when": [5, 6]})
    plain = HeteroGraph.from_frames({BY: frame})
    assert plain.adjacency(BY).weights is None
    named = HeteroGraph.from_frames({BY: frame, ("a", "b", "c"): frame[["p", "a"]]}, weight="strength", time="when")
    assert named.adjacency(BY).values().tolist() == [1.0, 2.0]
    with pytest.raises(GraphError, match=r"weight = 'strengt': no frame of edges .* there are 'strength', 'when'"):
        HeteroGraph.from_frames({BY: frame}, weight="strengt")
    with pytest.raises(GraphError, match="time = 'p': no frame of edges has such a column behind its two of ids"):
        HeteroGraph.from_frames({BY: frame}, time="p")
    log = rg.Interactions.from_frame(frame, user="p", item="a")
    for role in ("item", "user"):
        with pytest.raises(ValueError, match=rf"{role}_relations = 'genre' is one text; give a list .*\['genre'\]"):
            HeteroGraph.from_interactions(log, **{f"{role}_relations": "genre"})  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_ids_are_refused(missing: float | None) -> None:
    whole, holed = pl.DataFrame({"id": [0.0, 1.5]}), pl.DataFrame({"id": [0.0, missing]})
    edges = pl.DataFrame({"p": [0.0, 1.5], "a": [0.0, missing]})
    with pytest.raises(GraphError, match=r"node type 'author', row 1 \(from 0\): the id id is missing"):
        HeteroGraph.from_frames({BY: pl.DataFrame({"p": [0.0], "a": [0.0]})}, {"paper": whole, "author": holed})
    with pytest.raises(GraphError, match=r"edges .*, row 1 \(from 0\): the id a is missing"):
        HeteroGraph.from_frames({BY: edges}, {"paper": whole})


def test_frames_of_a_type_that_is_no_triple_and_a_split_for_its_part() -> None:
    frame = pl.DataFrame({"p": [0, 1], "a": [0, 1]})
    with pytest.raises(UnknownTypeError, match=r"must be \(source type, relation, target type"):
        HeteroGraph.from_frames({("paper", "author"): frame})  # type: ignore[dict-item]
    log = rg.Interactions.from_frame(frame, user="p", item="a")
    with pytest.raises(TypeError, match="part is a Split; give a part of a split"):
        HeteroGraph.from_interactions(log, log.split("ratio", test=0.5))  # type: ignore[arg-type]


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
