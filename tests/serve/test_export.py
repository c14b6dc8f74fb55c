"""Exports: onnxruntime and torch.export give the library's own vectors and scores."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from small_settings import with_small
from test_recommender import log, serve

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.imprint import load_json
from recgraph.data.interactions import Interactions
from recgraph.encoders.base import SequenceEncoder
from recgraph.evaluate.ranking import evaluating
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import ClosedFormModel, Model, Space
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve.export import ExportError
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

N_USERS, N_ITEMS, MAX_LEN = 30, 40, 8
SMALL = {"hidden_dim": 16, "max_len": MAX_LEN, "inner_dim": 32, "n_negatives": 24}
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


def relations(data: Interactions) -> HeteroGraph:
    items = torch.arange(data.n_items)
    edges = {
        ("user", "interacts", "item"): (data.ordered.items.rows, data.ordered.items.values),
        ("item", "has", "genre"): (items, items % 3),
    }
    return HeteroGraph.from_edge_lists({"user": data.n_users, "item": data.n_items, "genre": 3}, edges)


def recommender(name: str, **settings: Any) -> Recommender:
    data, cls = log(n_users=N_USERS, n_items=N_ITEMS), CLASSES[name]
    model = cls(**with_small(cls, SMALL, settings))
    sizes = {"n_users": data.n_users, "n_items": data.n_items}
    model.build(GraphSpace(**sizes, graph=relations(data)) if cls.reads_graph else Space(**sizes), seed=1)
    part = data.split("leave-one-out").train
    if isinstance(model, ClosedFormModel):
        model.fit(part)
    elif isinstance(model, CollaborativeModel):
        model.setup(part)
    return Recommender(model, data.users, data.items, data.ordered.items, columns=data.columns)


@dataclass(frozen=True)
class Exported:
    """A recommender, and what its export has written; both are only read."""

    served: Recommender
    folder: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Of a model by its name; each is exported once."""

    @cache
    def made(name: str) -> Exported:
        served, folder = recommender(name), tmp_path_factory.mktemp("exported") / name
        return Exported(served, folder, served.export(folder))

    return made


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
def test_exports_give_the_librarys_numbers(name: str, exported: Callable[[str], Exported]) -> None:
    made = exported(name)
    served, folder, graph = made.served, made.folder, made.manifest["graph"]
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
            index = torch.arange(N_USERS)
            scores = served.model.score(Query(index, served.seen))
        vectors = np.load(folder / "user_vectors.npy")
        ids = json.loads((folder / "user_ids.json").read_text())
        assert ids == served.users.values.to_list()
        for size in (1, 2, N_USERS):
            check(vectors[:size], np.asarray(scores[:size]))
        return
    least, greatest = given["length"]["least"], given["length"]["greatest"]
    rows = histories()
    widths = [least] if least == greatest else [least, 5, greatest or 15]
    for width in widths:
        fitting = [row for row in rows if len(row) <= width or width == greatest]
        for some in (fitting, fitting[:1], fitting[-2:]):
            check(padded(some, width), own(served.model, some, returned["name"]))


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_the_program_of_the_readme_recommends_what_the_library_does(
    name: str, exported: Callable[[str], Exported]
) -> None:
    served, folder = exported(name).served, exported(name).folder
    page = (folder / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    lines = [line for line in program.splitlines() if line.strip()]
    imports = {line.split()[1] for line in lines if line.startswith(("import", "from"))}
    assert imports == {"json", "pathlib", "numpy", "onnxruntime"}
    assert len(lines) - len(imports) <= 16
    user = served.users.values[3]
    history = served.items.ids(served.seen.row(3)).to_list()
    best = json.loads(ran(folder, program, f"HISTORY = {history!r}\nUSER = {user!r}\n").stdout)
    wanted = served.recommend(users=[user], k=10)
    assert len(best) == 10
    if name == "popularity":  # counts, of which many are equal
        assert best == wanted["what"].to_list()
    # rounding may order scores that are nearly equal otherwise
    scores = dict(zip(*served.recommend(users=[user], k=N_ITEMS).select("what", "score"), strict=True))
    np.testing.assert_allclose([scores[item] for item in best], wanted["score"].to_list(), rtol=1e-5, atol=1e-5)


def ran(folder: Path, program: str, head: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{head}{program}\nprint(json.dumps(best))"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        check=succeeds,
    )


@pytest.mark.parametrize("name", ["popularity", "bprmf"])
def test_the_program_lists_no_seen_items_where_few_are_left(name: str, exported: Callable[[str], Exported]) -> None:
    served, folder = exported(name).served, exported(name).folder
    history = served.items.values.to_list()[:-4]
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    best = json.loads(ran(folder, program, f"HISTORY = {history!r}\nUSER = {served.users.values[3]!r}\n").stdout)
    assert sorted(best) == sorted(served.items.values.to_list()[-4:])


IDS: dict[str, tuple[Callable[[int], Any], str]] = {
    "floats": (lambda item: item + 0.5, "numbers"),
    "dates": (lambda item: dt.date(2020, 1, 1) + dt.timedelta(item), "texts"),
    "texts": (lambda item: f"item {item}", "texts"),
}


@pytest.mark.parametrize("form", IDS)
def test_the_program_finds_items_of_every_type(form: str, tmp_path: Path) -> None:
    made, ids_are = IDS[form]
    rows = [(user, made((user * 5 + step) % 12), step) for user in range(9) for step in range(4)]
    frame = pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")
    served = serve(Interactions.from_frame(frame, user="who", item="what", timestamp="when"), CLASSES["popularity"]())
    manifest = served.export(tmp_path / "out")
    assert manifest["tables"]["items"]["ids_are"] == ids_are
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"of column `what`; in JSON they are {ids_are} |" in page
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    history = served.items.ids(served.seen.row(2)).to_list()
    written = [str(item) if form == "dates" else item for item in history]
    best = json.loads(ran(tmp_path / "out", program, f"HISTORY = {written!r}\n").stdout)
    assert best == [str(item) if form == "dates" else item for item in served.recommend([2], k=10)["what"]]
    failed = ran(tmp_path / "out", program, "HISTORY = [b'no item']\n", succeeds=False)
    example = json.loads((tmp_path / "out" / "item_ids.json").read_text())[0]
    assert failed.stderr.strip() == f"no item of HISTORY is known; ids are written like {example!r}"


def test_time_gaps_are_an_input(tmp_path: Path) -> None:
    served = recommender("sasrec", time_gaps=True)
    with torch.no_grad():
        served.model.gap_embedding.weight[1:].normal_(generator=torch.Generator().manual_seed(0))
    graph = served.export(tmp_path / "out")["graph"]
    assert [given["name"] for given in graph["inputs"]] == ["history", "gaps"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    generator = np.random.default_rng(1)
    (program,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.S)
    for row in histories():
        times = np.cumsum(generator.integers(0, 3, len(row)) * generator.integers(0, 10**6, len(row)))
        rows = Ragged.from_lists([row])
        query = Query(torch.tensor([-1]), rows, rows.with_values(torch.from_numpy(times)))
        with evaluating(served.model):
            expected = np.asarray(served.model.encode_users(query))
        # the program's own inputs, up to the point where it would run the graph
        head = (
            program.partition("scores =")[0]
            .replace('Path("', f'Path("{tmp_path}/out/')
            .replace('"model.onnx"', repr(str(tmp_path / "out" / "model.onnx")))
        )
        scope: dict[str, Any] = {"HISTORY": served.items.ids(row).to_list(), "TIMES": times.tolist()}
        exec(head, scope)
        np.testing.assert_allclose(scope["user"], expected[0], rtol=1e-5, atol=1e-5)
        assert scope["row"].shape == scope["gaps"].shape
    assert session.get_inputs()[1].name == "gaps"


def test_item_features_are_in_the_table(tmp_path: Path) -> None:
    import recgraph as rg

    films = pl.DataFrame({"what": range(N_ITEMS), "genre": [["a", "b", "c"][: i % 4] for i in range(N_ITEMS)]})
    data = log(n_users=N_USERS, n_items=N_ITEMS).with_features(item_features=films)
    model = rg.models.SASRec(item_features="all", **{key: SMALL[key] for key in ("hidden_dim", "max_len", "inner_dim")})
    run = rg.fit(model, data.split("leave-one-out"), seed=0, max_epochs=1)
    run.export(tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    rows = [[item for item in row if item < run.split.n_items] for row in histories()]
    found = session.run(None, {"history": padded(rows, MAX_LEN)})[0]
    np.testing.assert_allclose(found, own(run.recommender.model, rows, "vectors"), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "item_vectors.npy"), run.item_vectors()["vector"].to_numpy()
    )


def test_what_is_in_the_folder(exported: Callable[[str], Exported]) -> None:
    made = exported("sasrec")
    served, folder, manifest = made.served, made.folder, made.manifest
    assert load_json(folder / "manifest.json") == manifest
    assert {path.name for path in folder.iterdir()} == {*manifest["files"], "manifest.json"}
    items = pl.read_parquet(folder / "items.parquet")
    assert items.equals(served.item_vectors())
    assert json.loads((folder / "item_ids.json").read_text()) == items["what"].to_list()
    np.testing.assert_array_equal(np.load(folder / "item_vectors.npy"), items["vector"].to_numpy())
    assert manifest["graph"]["inputs"][0]["shape"] == ["batch", "length"]
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["model"]["config"]["max_len"] == MAX_LEN


def test_an_export_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    recommender("ease").export(tmp_path / "out")
    recommender("popularity").export(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["model"]["key"] == "popularity"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    with pytest.raises(ExportError, match="exists and is no export"):
        recommender("popularity").export(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


@pytest.mark.parametrize("is_nested", [True, False])
def test_what_others_have_put_into_an_export_is_not_deleted(is_nested: bool, tmp_path: Path) -> None:
    made = recommender("popularity")
    made.export(tmp_path / "out")
    if is_nested:
        made.export(tmp_path / "out" / "x" / "y")
    else:
        (tmp_path / "out" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ExportError, match=r"(x/y/README.md|notes.txt) is no part of the export in .*out and would be"):
        made.export(tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@registry.register("model")
class ScoresOnly(Model):
    """Ranks by score() alone."""

    def _build(self, space: Space) -> None:
        self.register_buffer("counts", torch.ones(space.n_items))

    def score(self, query: Query) -> torch.Tensor:
        return self.counts.expand(len(query), -1)


class Unpadded(SequenceEncoder):
    """An encoder without a padded form."""


def test_what_cannot_be_exported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ScoresOnly cannot be exported: it ranks by score\(\) alone"):
        serve(log(), ScoresOnly()).export(tmp_path / "out")
    for name in NO_EXPORT:
        with pytest.raises(ExportError, match=r"cannot be exported: it ranks by score\(\) alone"):
            recommender(name).export(tmp_path / "out")
    served = serve(log(), SASRec(hidden_dim=16))
    served.model.encoder = Unpadded(16, 50, 0.0)
    with pytest.raises(ExportError, match=r"SASRec cannot be exported: .*define padded\(inputs, lengths\) in Unpadded"):
        served.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_none_is_refused() -> None:
    run = rg.fit(CLASSES["popularity"](), log(), seed=0)
    with pytest.raises(ValueError, match=r"folder = None must be a text or a path"):
        run.export(None)  # type: ignore[arg-type]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'recgraph\[export\]'"):
        serve(log(), EASE()).export(tmp_path / "out")


def test_the_model_is_as_before(tmp_path: Path) -> None:
    served = recommender("bprmf")
    before = served.recommend(users="all", k=5)
    parameters = [p.requires_grad for p in served.model.parameters()]
    served.export(tmp_path / "out")
    assert served.recommend(users="all", k=5).equals(before)
    assert [p.requires_grad for p in served.model.parameters()] == parameters


@pytest.mark.parametrize("form", ["seconds", "us"])
def test_the_unit_of_time_gaps_is_named(form: str, tmp_path: Path) -> None:
    rows = [(user, (user + step) % 8, 1e9 + 3600.5 * step) for user in range(6) for step in range(5)]
    frame = pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")
    if form == "us":
        frame = frame.with_columns(pl.from_epoch((pl.col("when") * 1e6).cast(pl.Int64), "us"))
    data = Interactions.from_frame(frame, user="who", item="what", timestamp="when")
    assert data.time_unit == form
    model = SASRec(hidden_dim=8, n_layers=1, n_heads=1, inner_dim=8, max_len=4, time_gaps=True)
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    with torch.no_grad():
        model.gap_embedding.weight[1:].normal_(generator=torch.Generator().manual_seed(0))
    served = Recommender.for_log(model, data)
    gaps = served.export(tmp_path / "out")["graph"]["inputs"][1]
    assert "of whole numbers in microseconds" in gaps["padding"]
    page = (tmp_path / "out" / "README.md").read_text()
    assert "of whole numbers in microseconds" in page
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    head = program.partition("scores =")[0]
    for name in ("manifest.json", "item_ids.json", "model.onnx"):
        head = head.replace(f'"{name}"', repr(str(tmp_path / "out" / name)))
    own = data.to_frame().filter(pl.col("who") == 2)
    times = [int(1e15 + 3600.5e6 * step) for step in range(5)]
    scope: dict[str, Any] = {"HISTORY": own["what"].to_list(), "TIMES": times}
    exec(head, scope)
    expected = np.asarray(served.user_vectors(users=[2])["vector"].to_list())[0]
    np.testing.assert_allclose(scope["user"], expected, rtol=1e-5, atol=1e-5)
