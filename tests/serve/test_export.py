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
from small_serving import RECOMMENDERS, SMALL, ServedTowers, log, of_model, serve

from recgraph.data.batches import Query
from recgraph.evaluate.ranking import evaluating
from recgraph.models.base import Model
from recgraph.models.sequence.sasrec import SASRec
from recgraph.sparse.ragged import Ragged

pytest.importorskip(
    "onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'"
)
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

N_ITEMS, MAX_LEN = 40, SMALL["max_len"]
QUICK = {"sasrec", "ease", "bprmf"}
#: rank by sparse products, or by two stages, which no graph of a runtime has
NO_EXPORT = {"bspm", "gfcf", "transitions", "turbocf", "twostage"}


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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in RECOMMENDERS
        if name not in NO_EXPORT
    ],
)
def test_exports_give_the_librarys_numbers(name: str, tmp_path: Path) -> None:
    served, folder = of_model(name), tmp_path / "out"
    graph = served.export(folder)["graph"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    program = torch.export.load(folder / "model.pt2").module()
    (given,), (returned,) = graph["inputs"], graph["outputs"]
    assert [i.name for i in session.get_inputs()] == [given["name"]]
    assert [o.name for o in session.get_outputs()] == [returned["name"]]

    def check(value: np.ndarray, expected: np.ndarray) -> None:
        for found in (
            session.run(None, {given["name"]: value})[0],
            program(torch.from_numpy(value)).detach().numpy(),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    if graph["kind"] == "vectors to scores":
        users = json.loads((folder / "user_ids.json").read_text())
        assert users == served.user_vectors()["who"].to_list()
        index = torch.from_numpy(served.users.index(users))
        with evaluating(served.model):
            scores = served.model.score(Query(index, served.seen.take(index)))
        vectors = np.load(folder / "user_vectors.npy")
        for size in (1, 2, len(users)):
            check(vectors[:size], np.asarray(scores[:size]))
        return
    least, greatest = given["length"]["least"], given["length"]["greatest"]
    for width in [least] if least == greatest else [least, 5, greatest or 15]:
        fitting = [row for row in histories() if len(row) <= width or width == greatest]
        for some in (fitting, fitting[:1]):
            check(padded(some, width), own(served.model, some, returned["name"]))


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_time_gaps_are_an_input(name: str, tmp_path: Path) -> None:
    served = of_model(name, time_gaps=True)
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
    served, folder = of_model("sasrec"), tmp_path / "out"
    before = served.recommend(users="all", k=5)
    of_model("popularity").export(folder)
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
    for served in (serve(log(), ScoresOnly()), of_model("gfcf")):
        with refused(type(served.model).__name__):
            served.export(tmp_path / "out")
    with_bias = serve(log(), SASRec(hidden_dim=16, encoder={"name": "hstu", "time_bias": True}))
    with refused("time_bias"):
        with_bias.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
