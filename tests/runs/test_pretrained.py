"""Item vectors to begin with: matched by id whatever the order, scaled, recorded, refused where they do not fit."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.data.catalog.synthetic import Synthetic, generate
from recgraph.data.ids import IdMap
from recgraph.data.split import Split
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space
from recgraph.runs import fit as experiment
from recgraph.runs.pretrained import initial_items
from recgraph.train.callbacks import Observer

TABLES = generate(Synthetic(n_users=60, n_items=40, n_groups=2, max_length=5, min_length=5))
SMALL = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 8}
ONCE = {"max_epochs": 1, "seed": 0, "progress": False}
#: items that the second log has and the first has not
NEW = (901, 902)


def split_of(log: pl.DataFrame, **more: Any) -> Split:
    log = rg.Interactions.from_frame(log, user="user_id", item="item_id", timestamp="timestamp", **more)
    return log.split("leave-one-out")


@pytest.fixture(scope="module")
def graph_split() -> Split:
    features = TABLES["items"].select("item_id", pl.col("group").cast(pl.String))
    return split_of(TABLES["interactions"], item_features=features)


@pytest.fixture(scope="module")
def split() -> Split:
    """The same shop later: rows in another order, so that indices differ, some items gone and two new ones."""
    log = TABLES["interactions"].filter(pl.col("item_id") > 3)
    new = pl.DataFrame({"user_id": [1, 2], "item_id": list(NEW), "timestamp": [10, 10]})
    return split_of(pl.concat([new, log]).sample(fraction=1.0, shuffle=True, seed=3))


class Began(Observer):
    """Keeps the table of items as it is before the first step."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        self.table = self.model.item_table().detach().clone()


def begun(split: Split, source: Any, **settings: Any) -> tuple[rg.Run, torch.Tensor]:
    model = rg.models.SASRec(**SMALL)
    watch = Began(model)
    return rg.fit(model, split, init_items=source, observers=(watch,), **ONCE, **settings), watch.table


@pytest.mark.parametrize("name", ["MEOWRec", "LightGCN"])
def test_a_graph_model_is_where_a_sequence_model_begins(
    name: str, graph_split: Split, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"n_clusters": (3, 5)} if name == "MEOWRec" else {}
    cls = getattr(rg.models, name)
    pretrained = rg.fit(cls(hidden_dim=8, **extra), graph_split, out=tmp_path / "graph", **ONCE)
    with torch.no_grad():
        vectors = pretrained.model.encode_items()
    theirs, ours = graph_split.items, split.items
    common = [item for item in ours.values if item not in NEW]
    assert [int(i) for i in theirs.index(common)] != [int(i) for i in ours.index(common)]

    with caplog.at_level(logging.WARNING):
        run, table = begun(split, tmp_path / "graph")
    assert f"vectors of {len(common)} of {len(ours)} items; 2 keep their random ones" in caplog.text
    assert "fitted on another split" in caplog.text

    random = rg.models.SASRec(**SMALL).build(Space(n_users=len(split.users), n_items=len(ours)), 0).item_table()
    given = vectors[torch.from_numpy(theirs.index(common))]
    factor = random.std(correction=0) / given.std(correction=0)
    torch.testing.assert_close(table[torch.from_numpy(ours.index(common))], given * factor)
    rows = torch.from_numpy(ours.index(list(NEW)))
    assert torch.equal(table[rows], random[rows])

    kept = run.record["init_items"]
    assert (kept["source"], kept["kind"], kept["n_found"]) == (str(tmp_path / "graph"), "recommender", len(common))
    assert kept["source_record"]["model"] == name.lower()
    assert kept["source_record"]["data"]["split_hash"] == graph_split.hash
    assert run.recommender.record["init_items"] == kept
    # the run itself, and its bundle, are the same source
    for same in (pretrained, pretrained.recommender, tmp_path / "graph" / "bundle"):
        assert initial_items(same, split.sealed()).record["digest"] == kept["digest"]


def test_frames_and_mappings_by_id_as_they_are(split: Split) -> None:
    draw = np.random.default_rng(0)
    ids = list(split.items.values)
    vectors = draw.normal(size=(len(ids), 8)).astype(np.float32)
    order = draw.permutation(len(ids))
    pd = pytest.importorskip("pandas")
    shuffled = {"vector": [vectors[i] for i in order], "item_id": [ids[i] for i in order]}
    sources = {
        "mapping": {ids[i]: vectors[i].tolist() for i in order},
        "tensors": {ids[i]: torch.from_numpy(vectors[i]) for i in order},
        "pandas": pd.DataFrame(shuffled),
        "polars": pl.DataFrame(shuffled),
        "arrow": pl.DataFrame(shuffled).to_arrow(),
    }
    for name, source in sources.items():
        found = initial_items(source, split.sealed(), "given")
        model = rg.models.BPRMF(hidden_dim=8).build(Space(n_users=3, n_items=len(ids)))
        users = model.embedding.weight[:3].clone()
        found.write(model)
        assert torch.equal(model.item_table(), torch.from_numpy(vectors)), name
        assert torch.equal(model.embedding.weight[:3], users)


def test_embeddings_of_nodes(split: Split, tmp_path: Path) -> None:
    ids = split.items.values.sort(descending=True)
    graph = HeteroGraph.from_edge_lists(
        {"item": len(ids), "genre": 2},
        {("item", "has", "genre"): (list(range(len(ids))), [i % 2 for i in range(len(ids))])},
        ids={"item": IdMap(ids)},
    )
    model = rg.models.AdaMEOW(metapaths=("item-genre-item",), hidden_dim=8, embedding_dim=8)
    nodes = rg.fit_graph(model, graph, seed=0, max_epochs=1, out=tmp_path / "nodes")
    _, table = begun(split, tmp_path / "nodes", init_items_scale="given")
    wanted = dict(nodes.embeddings().iter_rows())
    assert [list(row) for row in table.tolist()] == [list(wanted[item]) for item in split.items.values]
    assert initial_items(nodes, split.sealed()).record["source_record"]["model"] == "adameow"


def test_what_does_not_fit_is_refused(split: Split, tmp_path: Path) -> None:
    ids, sealed = list(split.items.values), split.sealed()
    good = {item: [float(n), 1.0, 0.5] for n, item in enumerate(ids)}
    cases = [
        ({-item: v for item, v in good.items()}, "none of which is one of the"),
        ({str(item): v for item, v in good.items()}, "are texts, but the log's ids are integers"),
        ({**good, ids[0]: [1.0]}, r"widths \[1, 3\]"),
        ({**good, ids[0]: [1.0, float("nan"), 0.0]}, f"the vector of {ids[0]} is not finite"),
        ({**good, ids[0]: "text"}, "no vector of numbers"),
        (pl.DataFrame({"i": [ids[0], ids[0]], "v": [[1.0], [2.0]]}), f"{ids[0]} twice"),
        (pl.DataFrame({"i": ids}), "give two: ids, and vectors"),
        (7, "init_items is a int; give a run"),
        (tmp_path, "no bundle"),
    ]
    for source, message in cases:
        with pytest.raises(ValueError, match=message):
            initial_items(source, sealed)
    popular = rg.fit("popularity", split, seed=0)
    with pytest.raises(ValueError, match="scores items without vectors"):
        initial_items(popular, sealed)
    with pytest.raises(ValueError, match="Popularity has no table of item vectors"):
        rg.fit("popularity", split, seed=0, init_items=good)
    with pytest.raises(ValueError, match="vectors of width 3, but the item table of SASRec has width 8"):
        rg.fit(rg.models.SASRec(**SMALL), split, init_items=good, out=tmp_path / "run", **ONCE)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="all alike"):
        initial_items(dict.fromkeys(ids, [1.0] * 8), sealed).write(
            rg.models.SASRec(**SMALL).build(Space(n_users=1, n_items=len(ids)))
        )
    with pytest.raises(ValueError, match="init_items_scale = 'unit'"):
        initial_items(good, sealed, "unit")  # type: ignore[arg-type]


def test_the_same_split_fitted_to_more_is_told(split: Split, caplog: pytest.LogCaptureFixture) -> None:
    more = rg.fit(rg.models.BPRMF(hidden_dim=8), split, fit_on="train+valid", metric="loss", **ONCE)
    with caplog.at_level(logging.WARNING):
        initial_items(more, split.sealed())
    assert "fitted on train+valid: it knows what is asked for in validation" in caplog.text


def test_it_is_a_setting_and_part_of_what_a_resumed_run_must_agree_in(
    monkeypatch: pytest.MonkeyPatch, split: Split, tmp_path: Path
) -> None:
    rg.fit(rg.models.BPRMF(hidden_dim=8), split, out=tmp_path / "bpr", **ONCE)
    monkeypatch.setattr(experiment.DataConfig, "split_of", lambda self, dataset: split)
    settings = {**SMALL, "max_epochs": 1, "init_items": str(tmp_path / "bpr")}
    run = experiment.train("SASRec", "synthetic", tmp_path / "run", settings=settings, seed=0)
    assert run.record["init_items"]["source"] == str(tmp_path / "bpr")
    again = {"settings": settings, "seed": 0, "resume": True}
    assert experiment.train("SASRec", "synthetic", tmp_path / "run", **again).record["init_items"]["digest"]
    with pytest.raises(ValueError, match="a run with another init_items"):
        experiment.train(
            "SASRec", "synthetic", tmp_path / "run", **{**again, "settings": {**settings, "init_items": None}}
        )
    with pytest.raises(ConfigError, match="init_items"):
        experiment.train("MEOW", "acm", None, settings={"init_items": "x"}, seed=0)


def test_a_study_takes_it_too(split: Split, tmp_path: Path) -> None:
    from recgraph.tuning.plan import Plan
    from recgraph.tuning.trial import fit

    rg.fit(rg.models.BPRMF(hidden_dim=8), split, out=tmp_path / "bpr", **ONCE)
    fixed = {**SMALL, "max_epochs": 1, "init_items": str(tmp_path / "bpr")}
    plan = Plan("s", rg.models.SASRec, ("ndcg@10",), 1, fixed, {"*": "fixed", "dropout": [0.1, 0.2]}, device="cpu")
    run = fit(plan, {**fixed, "dropout": 0.1}, split, 0, None)
    assert run.record["init_items"]["source"] == str(tmp_path / "bpr")


def test_the_code_of_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "views-and-weights.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(compile(code, "views-and-weights.md", "exec", dont_inherit=True), scope)
    assert (scope["run"].record["init_items"]["kind"], scope["run"].record["init_items"]["n_found"]) == ("mapping", 3)
